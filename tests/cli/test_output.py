"""Rows on standard output."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import pty
import subprocess
import sys
import threading
from typing import Any

import pytest

from tokfluence_async import Comment, Sandbox
from tokfluence_async._cli.inputs import UsageError
from tokfluence_async._cli.output import Output

from .support import (
    ENV,
    ID,
    STEERING,
    Run,
    Terminal,
    command_line,
    read_all,
)


def test_csv_on_standard_output_is_safe_for_spreadsheets(
    run: Run, sandboxes: dict[str, Any]
) -> None:
    """The sandbox's people write formulas, too."""
    sandboxes["options"] = {"comments_per_post": 400}

    result = run("comments", ID, "--sandbox", "--format", "csv")

    rows = list(csv.DictReader(io.StringIO(result.stdout_bytes.decode(), newline="")))
    assert len(rows) == 400
    assert any(row["text"].startswith("'=SUM") for row in rows)
    assert not any(row["text"].lstrip(" ").startswith(("=", "+", "-", "@")) for row in rows)


def test_parquet_on_standard_output(run: Run, sandboxes: dict[str, Any]) -> None:
    """A pipe takes it: nothing is written out of order."""
    import pyarrow.parquet as pq

    result = run("post", ID, "--sandbox", "--format", "parquet")

    assert pq.read_table(io.BytesIO(result.stdout_bytes)).column("post_id").to_pylist() == [ID]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
async def test_data_is_escaped_on_a_terminal(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As text and as CSV."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Terminal(raw))
    async with Output(form, Comment) as output:
        await output.write([Comment(comment_id="1", text="\x1b[2J\x9b2J")])

    shown = raw.getvalue().decode()
    assert "\\u001b[2J\\u009b2J" in shown
    assert not set(shown) & {"\x1b", "\x9b"}


@pytest.mark.parametrize("form", ["jsonl", "csv"])
async def test_no_character_that_steers_reaches_a_terminal_and_every_one_a_pipe(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """U+009B begins a sequence as ESC [ does; each of the 76 is tried. Only a row's line break is
    left, and a tab in CSV."""
    comment = Comment(comment_id="1", text=f"x{STEERING}\u200f\U0001f469\u200d\U0001f680")
    written: list[str] = []
    for kind in (Terminal, io.TextIOWrapper):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", kind(raw))
        async with Output(form, Comment) as output:
            await output.write([comment])
        written.append(raw.getvalue().decode())

    shown, piped = written
    assert len(STEERING) == 65 + 2 + 9
    assert set(shown) & set(STEERING) == ({"\n"} if form == "jsonl" else {"\n", "\t"})
    assert (
        "\u200f\U0001f469\u200d\U0001f680" in shown
    )  # a direction mark, and what an astronaut is made of
    if form == "jsonl":
        assert json.loads(piped)["text"] == json.loads(shown)["text"] == comment.text
        assert set(STEERING[32:]) <= set(piped)
    else:
        [row] = csv.DictReader(io.StringIO(piped, newline=""))
        assert row["text"] == comment.text


def test_parquet_is_refused_by_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be noise; the message says what to do."""
    monkeypatch.setattr(sys, "stdout", Terminal(io.BytesIO()))

    with pytest.raises(UsageError, match="not for a terminal"):
        Output("parquet", Comment)


@pytest.mark.real_time
def test_a_reader_who_leaves_ends_the_command_quietly() -> None:
    """`tokfluence … | head` is the most usual thing to do; the status is that of every tool killed
    by SIGPIPE."""
    world = Sandbox().world
    popular = next(
        str(n) for n in range(1, 1000) if world.total_comments(str(n)) > 2500
    )  # far more than a pipe holds
    with subprocess.Popen(
        command_line("comments", popular, "--sandbox", "-q"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENV,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()

    assert errors == b""
    assert process.returncode == 141


@pytest.mark.real_time
def test_a_terminal_gets_escaped_data_and_a_pipe_the_text_itself() -> None:
    """The data is the same JSON; a terminal is only not told what to do by it."""
    body = json.dumps(
        {"data": {"post_id": "1", "caption": "\x9b2J\u202e"}}, ensure_ascii=False
    ).encode()
    answered = threading.Event()
    piped, shown = _with_canned_answer(body, answered)

    assert "\x9b2J\u202e" in piped
    assert "\x9b" not in shown
    assert "\\u009b2J\\u202e" in shown
    assert json.loads(shown.strip())["caption"] == json.loads(piped)["caption"]


def _with_canned_answer(body: bytes, answered: threading.Event) -> tuple[str, str]:
    """The output of `tokfluence post 1` to a pipe and to a terminal, from a server that answers
    `body`."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            answered.set()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        env = ENV | {
            "TOKFLUENCE_TOKEN": "x",
            "TOKFLUENCE_BASE_URL": f"http://127.0.0.1:{server.server_port}",
        }
        command = command_line("post", "1", "--quiet")
        piped = subprocess.run(command, env=env, capture_output=True, check=True).stdout.decode()
        ours, theirs = pty.openpty()
        with subprocess.Popen(command, env=env, stdout=theirs) as process:
            os.close(theirs)
            shown = read_all(ours)
        assert process.returncode == 0
        return piped, shown
    finally:
        server.shutdown()
        server.server_close()


class Sluggish(io.RawIOBase):
    """Takes a few bytes at a time, and sometimes says that it takes none."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = b""
        self._turn = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int | None:
        self._turn += 1
        if self._turn % 3 == 0:
            return None
        piece = bytes(data)[:1000]
        self.taken += piece
        return len(piece)


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
async def test_what_write_returns_is_looked_at(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unbuffered stream takes a part, or says None where it would have to wait."""
    raw = Sluggish()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw))  # type: ignore[arg-type]
    comments = [Comment(comment_id=str(n), text=f"{n}" * 50) for n in range(100)]

    async with Output(form, Comment) as output:
        await output.write(comments[:50])
        await output.write(comments[50:])

    if form == "parquet":
        import pyarrow.parquet as pq

        ids = pq.read_table(io.BytesIO(raw.taken)).column("comment_id").to_pylist()
    elif form == "csv":
        lines = io.StringIO(raw.taken.decode(), newline="")
        ids = [row["comment_id"] for row in csv.DictReader(lines)]
    else:
        ids = [json.loads(line)["comment_id"] for line in raw.taken.splitlines()]
    assert ids == [comment.comment_id for comment in comments]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("closing", [False, True])
async def test_rows_are_written_although_who_wrote_them_was_cancelled(
    form: str, closing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are paid for; and what Parquet holds back for a row group is written at the end."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw))
    output = Output(form, Comment)

    written = asyncio.Event()

    async def write() -> None:
        async with output:
            await output.write([Comment(comment_id="1", text="paid for")])
            written.set()

    task = asyncio.create_task(write())
    await (written.wait() if closing else asyncio.sleep(0))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert b"paid for" in raw.getvalue()
    if form == "parquet":
        assert raw.getvalue().endswith(b"PAR1")
