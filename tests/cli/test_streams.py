"""Standard streams as they are in the field: full disks, readers that are slow or gone, streams
that are closed.

Each test runs the command as a user does. What was paid for is what the sandbox has charged.
"""

from __future__ import annotations

import asyncio
import os
import pty
import resource
import signal
import termios
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tokfluence_async import Sandbox

from .support import ENV, URLS, command_line, json_file, json_lines

pytestmark = pytest.mark.real_time

IDS = [f"72345678901234500{n:02}" for n in range(1, 13)]
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


class Ended(NamedTuple):
    status: int
    out: bytes
    err: str


async def run(
    sandbox: Sandbox,
    *args: object,
    redirect: str = "",
    env: dict[str, str] | None = None,
    limit: Callable[[], None] | None = None,
    **streams: Any,
) -> Ended:
    """Run the command against `sandbox`; `redirect` is what a shell puts behind it."""
    pipe = asyncio.subprocess.PIPE
    command = command_line(*args)
    if redirect:
        command = ["sh", "-c", f'exec "$@" {redirect}', "sh", *command]
    process = await asyncio.create_subprocess_exec(
        *command,
        env=ENV | address(sandbox) | (env or {}),
        preexec_fn=limit,
        **({"stdin": asyncio.subprocess.DEVNULL, "stdout": pipe, "stderr": pipe} | streams),
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Ended(process.returncode, out or b"", (err or b"").decode())


def address(sandbox: Sandbox) -> dict[str, str]:
    return {"TOKFLUENCE_TOKEN": sandbox.token, "TOKFLUENCE_BASE_URL": sandbox.url}


# --- standard output ------------------------------------------------------------------------------


@needs_full
@pytest.mark.parametrize(
    ("form", "unbuffered"), [("jsonl", ""), ("jsonl", "1"), ("csv", "1"), ("parquet", "")]
)
async def test_a_full_disk_is_one_line_and_a_status(
    sandbox: Sandbox, form: str, unbuffered: str
) -> None:
    """The status was 120 with a traceback of the interpreter's own."""
    ended = await run(
        sandbox,
        *("post", *IDS[:3], "--format", form, "-q"),
        env={"PYTHONUNBUFFERED": unbuffered},
        redirect=">/dev/full",
    )

    assert ended.status == 2
    [line] = ended.err.splitlines()
    assert line.startswith("standard output: No space left on device")


@pytest.mark.parametrize(("form", "unbuffered"), [("jsonl", "1"), ("csv", "")])
async def test_a_disk_that_fills_up_is_told(
    sandbox: Sandbox, tmp_path: Path, form: str, unbuffered: str
) -> None:
    """A write that was taken in part was taken for a whole one; the status was 0."""
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, 20_000))
    popular = most_commented(sandbox)
    with (tmp_path / "out").open("wb") as out:
        ended = await run(
            sandbox,
            *("comments", popular, "--format", form),
            env={"PYTHONUNBUFFERED": unbuffered, "PYTHONDONTWRITEBYTECODE": "1"},
            limit=limit,
            stdout=out,
        )

    assert ended.status == 2
    assert "standard output: File too large" in ended.err
    assert f"{sandbox.credits_spent} credits spent" in ended.err
    assert (tmp_path / "out").stat().st_size == 20_000


@pytest.mark.parametrize(
    ("form", "unbuffered"), [("jsonl", ""), ("jsonl", "1"), ("csv", "1"), ("parquet", "")]
)
async def test_every_row_passes_a_pipe_that_does_not_block(
    sandbox: Sandbox, form: str, unbuffered: str
) -> None:
    """What a full pipe did not take was lost, with status 0."""
    popular = most_commented(sandbox)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        job = asyncio.create_task(
            run(
                sandbox,
                *("comments", popular, "--format", form),
                env={"PYTHONUNBUFFERED": unbuffered},
                stdout=writing,
            )
        )
        await until(lambda: sandbox.credits_spent > 0)
        os.close(writing)
        data = await asyncio.to_thread(read_slowly, reading)
        ended = await job
    finally:
        os.close(reading)

    assert ended.status == 0, ended.err
    assert rows(form, data) == sandbox.world.total_comments(popular)


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
async def test_a_reader_who_leaves_is_no_error(sandbox: Sandbox, form: str) -> None:
    """`| head`: not a word, and the status of a tool that SIGPIPE has ended."""
    reading, writing = os.pipe()
    os.close(reading)

    ended = await run(sandbox, "post", *IDS, "--format", form, "-q", stdout=writing)

    os.close(writing)
    assert (ended.status, ended.err) == (141, "")


@pytest.mark.parametrize("args", [["post", *IDS[:2]], ["comments", IDS[0]], ["analyze", URLS]])
async def test_rows_for_a_closed_stream_are_not_bought(sandbox: Sandbox, args: list[Any]) -> None:
    """It was an AttributeError."""
    ended = await run(sandbox, *args, redirect=">&-")

    assert ended.status == 2
    assert ended.err == "standard output is closed: the rows have nowhere to go\n"
    assert sandbox.requests_received == 0


@needs_full
async def test_help_and_version_on_a_full_disk_have_no_traceback(sandbox: Sandbox) -> None:
    """Whoever writes them to a file sees one line."""
    for args in (["--version"], ["crawl", "--help"]):
        ended = await run(sandbox, *args, redirect=">/dev/full")

        assert ended.status == 2
        assert ended.err == "standard output: No space left on device\n"


# --- standard error -------------------------------------------------------------------------------


def gone() -> int:
    """A terminal that has gone: writing to it is EIO."""
    ours, theirs = pty.openpty()
    os.close(ours)
    return theirs


def stuck() -> int:
    """A pipe that is full and that nobody reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while True:
        try:
            os.write(writing, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    KEPT.append(reading)
    return writing


KEPT: list[int] = []


def full() -> int:
    return os.open(FULL, os.O_WRONLY)


def left() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize(("json_logs", "log"), [(False, "debug"), (True, "")])
@pytest.mark.parametrize("broken", [gone, stuck, pytest.param(full, marks=needs_full), left])
async def test_messages_that_cannot_be_written_end_nothing(
    sandbox: Sandbox, broken: Callable[[], int], log: str, json_logs: bool
) -> None:
    """Standard error is for people: its failure is not the job's. The status was 120."""
    stderr = broken()

    ended = await run(
        sandbox,
        *("post", *IDS[:3], "nope", *(["--json-logs"] if json_logs else [])),
        env={"TOKFLUENCE_LOG": log},
        stderr=stderr,
    )

    os.close(stderr)
    while KEPT:
        os.close(KEPT.pop())
    assert ended.status == 1  # for the malformed one
    assert {post["post_id"] for post in json_lines(ended.out.decode())} == set(IDS[:3])


@pytest.mark.parametrize("broken", [gone, stuck, pytest.param(full, marks=needs_full), left])
async def test_a_crawl_without_its_screen_is_done(
    sandbox: Sandbox, broken: Callable[[], int], tmp_path: Path
) -> None:
    """With a display that redraws itself, where the terminal has gone."""
    (tmp_path / "ids").write_text("\n".join(IDS))
    stderr = broken()

    ended = await run(
        sandbox,
        *("crawl", tmp_path / "ids", "-o", tmp_path / "out"),
        env={"TERM": "xterm"},
        stderr=stderr,
    )

    os.close(stderr)
    while KEPT:
        os.close(KEPT.pop())
    assert ended.status == 0
    assert {post["post_id"] for post in json_file(tmp_path / "out/posts.jsonl")} == set(IDS)
    assert sandbox.credits_spent == len(IDS)


@pytest.mark.parametrize(
    ("closed", "fast"),
    [
        *((closed, True) for closed in ("2>&-", ">&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-")),
        ("<&- >&- 2>&-", False),
    ],
)
async def test_a_crawl_with_closed_streams_is_done(
    sandbox: Sandbox, closed: str, fast: bool, tmp_path: Path
) -> None:
    """uvloop aborted the process as it met a socket with the number of a standard stream; without
    it, messages went into the file that had taken the number."""
    if fast:
        pytest.importorskip("uvloop")
    (tmp_path / "ids").write_text("\n".join([*IDS, "nope"]))
    without = tmp_path / "without"
    without.mkdir()
    (without / "uvloop.py").write_text("raise ImportError")
    path = os.pathsep.join(filter(None, [str(without), os.environ.get("PYTHONPATH", "")]))

    ended = await run(
        sandbox,
        *("crawl", tmp_path / "ids", "-o", tmp_path / "out", "--format", "csv"),
        redirect=closed,
        env={} if fast else {"PYTHONPATH": path},
    )

    assert ended.status == 1  # for the malformed one
    assert ended.out == b""
    assert {post["post_id"] for post in json_file(tmp_path / "out/posts.jsonl")} == set(IDS)
    assert rows("csv", (tmp_path / "out/posts.csv").read_bytes()) == len(IDS)
    assert sandbox.credits_spent == len(IDS)


async def test_messages_do_not_come_among_the_data(sandbox: Sandbox) -> None:
    """`2>&-` put them on standard output."""
    ended = await run(sandbox, "post", *IDS[:2], "nope", redirect="2>&-")

    assert ended.status == 1
    assert {post["post_id"] for post in json_lines(ended.out.decode())} == set(IDS[:2])


async def test_wrong_usage_with_nobody_to_tell_is_still_status_2(sandbox: Sandbox) -> None:
    """The message has nowhere to go; the status has."""
    for redirect in ("2>&-", "2>/dev/full"):
        ended = await run(sandbox, "post", "--nonsense", redirect=redirect)

        assert (ended.status, ended.out) == (2, b"")


# --- standard input -------------------------------------------------------------------------------


async def test_a_non_blocking_standard_input_is_read_to_its_end(sandbox: Sandbox) -> None:
    """Nothing there yet was taken for an error."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    job = asyncio.create_task(run(sandbox, "analyze", "-", stdin=reading))

    await asyncio.to_thread(os.write, writing, f"{IDS[0]}\n".encode())
    await until(lambda: sandbox.credits_spent == 25)
    await asyncio.to_thread(os.write, writing, f"{IDS[1]}\n".encode())
    os.close(writing)
    ended = await job

    os.close(reading)
    assert ended.status == 0, ended.err
    assert {row["postId"] for row in json_lines(ended.out.decode())} == set(IDS[:2])


@pytest.mark.parametrize("args", [["analyze", "-"], ["crawl", "-", "-o", "out"]])
async def test_a_closed_standard_input_is_wrong_usage(
    sandbox: Sandbox, args: list[str], tmp_path: Path
) -> None:
    """Not an empty list, which is done at once."""
    ended = await run(sandbox, *args, redirect="<&-", cwd=tmp_path)

    assert ended.status == 2
    assert ended.err == "standard input is closed: there is nothing to read\n"
    assert sandbox.requests_received == 0


# --- the terminal goes ----------------------------------------------------------------------------


@pytest.mark.sandbox(seconds_per_url=1.0, indexed=0.0)
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGHUP])
async def test_what_is_paid_for_is_written_when_the_terminal_goes(
    sandbox: Sandbox, which: signal.Signals, tmp_path: Path
) -> None:
    """SIGHUP threw away 32 of 32 rows; SIGTERM none."""
    (tmp_path / "ids").write_text("".join(f"{n}\n" for n in range(1, 2001)))
    process = await asyncio.create_subprocess_exec(
        *command_line("analyze", tmp_path / "ids", "--batch-size", "1"),
        env=ENV | address(sandbox),
        preexec_fn=hear_hangups,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    await until(lambda: sandbox.credits_spent > 0)
    process.send_signal(which)

    out, err = await process.communicate()

    assert process.returncode == 128 + which, err
    charged = sandbox.times_charged(to="POST /v1/posts/analyze")
    assert {row["postId"] for row in json_lines(out.decode())} == set(charged)
    assert 0 < len(charged) < 2000


@pytest.mark.sandbox(seconds_per_url=0.2, indexed=0.0)
async def test_who_asked_for_nohup_gets_it(sandbox: Sandbox, tmp_path: Path) -> None:
    """A SIGHUP that is ignored stays ignored."""
    (tmp_path / "ids").write_text("\n".join(IDS))
    process = await asyncio.create_subprocess_exec(
        *command_line("analyze", tmp_path / "ids", "--batch-size", "1"),
        env=ENV | address(sandbox),
        preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_IGN),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    await until(lambda: sandbox.credits_spent > 0)
    process.send_signal(signal.SIGHUP)

    out, err = await process.communicate()

    assert process.returncode == 0, err
    assert {row["postId"] for row in json_lines(out.decode())} == set(IDS)


async def test_a_terminal_that_goes_away_ends_a_crawl_in_order(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A window is closed in mid-crawl: SIGHUP, and EIO from then on."""
    (tmp_path / "ids").write_text("".join(f"{n}\n" for n in range(1, 2001)))
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *command_line("crawl", tmp_path / "ids", "-o", tmp_path / "out"),
        env=ENV | address(sandbox) | {"TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: take_terminal(),
    )
    os.close(theirs)
    await until(lambda: sandbox.credits_spent > 10)
    os.close(ours)

    status = await asyncio.wait_for(process.wait(), 60)

    assert status == 128 + signal.SIGHUP
    assert len(json_file(tmp_path / "out/posts.jsonl")) == sandbox.credits_spent < 2000


def hear_hangups() -> None:
    """The tests themselves may run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def take_terminal() -> None:
    """Make standard input the controlling terminal of this session."""
    hear_hangups()
    import fcntl

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


# --- what the tests share -------------------------------------------------------------------------


def most_commented(sandbox: Sandbox) -> str:
    """A post whose comments are far more than a pipe holds."""
    return next(str(n) for n in range(1, 1000) if sandbox.world.total_comments(str(n)) > 2500)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # it becomes true in another process
            await asyncio.sleep(0.01)


def read_slowly(descriptor: int) -> bytes:
    """Everything, in small pieces."""
    return b"".join(iter(lambda: os.read(descriptor, 5000), b""))


def rows(form: str, data: bytes) -> int:
    if form == "jsonl":
        return len(json_lines(data.decode()))
    if form == "csv":
        import csv
        import io

        return len(list(csv.DictReader(io.StringIO(data.decode(), newline=""))))
    import io

    import pyarrow.parquet as pq

    return int(pq.read_table(io.BytesIO(data)).num_rows)
