"""What is in `examples/` runs, as it stands there."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import nbformat
import pytest
from aiohttp import web
from nbclient import NotebookClient

from tokfluence_async import InvalidPostError, Sandbox
from tokfluence_async._sandbox.ledger import COMMENTS, POST
from tokfluence_async._wire.ids import parse_post_id

EXAMPLES = Path(__file__).parent.parent / "examples"
ID = "7234567890123456789"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_inputs_are_of_every_shape() -> None:
    """At least sixty lines as people paste them, exactly two of them malformed, and the file's own
    head tells the truth."""
    text = (EXAMPLES / "urls.txt").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    ids: Counter[str] = Counter()
    malformed = []
    for line in lines:
        try:
            ids[parse_post_id(line)] += 1
        except InvalidPostError:
            malformed.append(line)

    assert len(lines) >= 60
    assert len(malformed) == 2
    assert f"{len(ids)} distinct posts" in text
    assert ids.total() - len(ids) == 8
    for shape in ("//www.", "//m.", "\nwww.", "?", "/photo/", "WWW.", "\n7", "\n\n", "\n#"):
        assert shape in text


def _run_notebook(name: str, folder: Path) -> tuple[list[Any], Counter[str]]:
    """The outputs of every cell, run in a kernel, and how many there are of each kind."""
    path = EXAMPLES / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "saved with its outputs"
    NotebookClient(
        notebook,
        timeout=100,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    assert not [output for output in outputs if output.output_type in ("error", "stream")]
    return outputs, Counter(kind for output in outputs for kind in output.get("data", {}))


@pytest.mark.real_time
def test_the_notebook_tells_its_story(tmp_path: Path) -> None:
    """Every cell runs in a kernel; two plots, a progress bar and the objects' own tables are in its
    output; nothing is left over."""
    outputs, kinds = _run_notebook("quickstart", tmp_path)

    text = json.dumps(outputs)
    assert kinds["image/png"] == 2
    assert "<progress" in text
    assert "200 comments of" in text
    assert re.search(r"<b>(<bdi>)?Usage<", text)


@pytest.mark.real_time
def test_the_analysis_draws_four_charts(tmp_path: Path) -> None:
    """From a crawl's folder, which it makes where there is none; the second time it only reads."""
    shutil.copy(EXAMPLES / "urls.txt", tmp_path)

    outputs, kinds = _run_notebook("analysis", tmp_path)
    again, _ = _run_notebook("analysis", tmp_path)

    assert kinds["image/png"] == 4
    assert "<progress" in json.dumps(outputs)
    assert "<progress" not in json.dumps(again)
    assert (tmp_path / "out-analysis" / "posts.jsonl").read_text("utf-8").count("\n") == 59


@pytest.mark.sandbox(comments_per_post=450, indexed={ID})
async def test_the_service_shares_one_client(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its callers get data, errors they understand, and together they reuse connections."""
    monkeypatch.setenv("TOKFLUENCE_TOKEN", sandbox.token)
    monkeypatch.setenv("TOKFLUENCE_BASE_URL", sandbox.url)
    runner = web.AppRunner(_load("shared_client").build())
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as session:

            async def get(path: str) -> tuple[int, str]:
                async with session.get(base + path) as response:
                    return response.status, await response.text()

            several = await asyncio.gather(*(get(f"/posts/{ID}") for _ in range(5)))
            found = await get(f"/posts/{ID}/comments?max_items=300")
            none = await get(f"/posts/{ID}/comments?max_items=0")
            missing = await get("/posts/2")
            missing_comments = await get("/posts/2/comments")
            malformed = await get("/posts/nope")
            malformed_comments = await get("/posts/nope/comments")
            usage = json.loads((await get("/usage"))[1])
    finally:
        await runner.cleanup()

    assert [status for status, _ in several] == [200] * 5
    assert {json.loads(body)["post_id"] for _, body in several} == {ID}
    assert (found[0], len(found[1].splitlines())) == (200, 300)
    assert none == (200, "")
    assert [missing[0], missing_comments[0], malformed[0], malformed_comments[0]] == [
        404,
        404,
        400,
        400,
    ]
    assert sandbox.token not in missing[1]
    assert len(sandbox.times(to=POST)) == 6
    assert len(sandbox.times(to=COMMENTS)) == 3
    assert usage["credits_spent"] == sandbox.credits_spent
    assert any(entry.connection for entry in sandbox.requests)  # requests it had carried before


def run_without_a_token(program: str, *args: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / program), *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
        env={
            name: value for name, value in os.environ.items() if not name.startswith("TOKFLUENCE_")
        },
    )


@pytest.mark.real_time
def test_the_service_is_told_in_one_line_that_it_has_no_token(tmp_path: Path) -> None:
    """As the crawler is."""
    done = run_without_a_token("shared_client.py", folder=tmp_path)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "TOKFLUENCE_TOKEN" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.sandbox(seconds_per_url=1.0, indexed=0.0)
async def test_the_crawler_ends_like_the_command_after_a_signal(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: signal.Signals
) -> None:
    """128 and the signal's number is what shells and supervisors read."""
    monkeypatch.setenv("TOKFLUENCE_TOKEN", sandbox.token)
    monkeypatch.setenv("TOKFLUENCE_BASE_URL", sandbox.url)
    main: Any = _load("million_lines").main
    path = tmp_path / "ids.txt"
    path.write_text("".join(f"{n}\n" for n in range(1, 301)))
    asyncio.get_running_loop().call_later(0.5, os.kill, os.getpid(), which)

    status = await main(path, tmp_path / "out")

    assert status == 128 + which
    assert 0 < sandbox.credits_spent < 300 * 25


async def test_the_crawler_of_many_lines(
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It goes on where it ended, and says so."""
    monkeypatch.setenv("TOKFLUENCE_TOKEN", sandbox.token)
    monkeypatch.setenv("TOKFLUENCE_BASE_URL", sandbox.url)
    main: Any = _load("million_lines").main
    path = tmp_path / "ids.txt"
    path.write_text("# ids\n\n" + "".join(f"{n}\n" for n in range(1, 301)))

    stopped = await main(path, tmp_path / "out", max_credits=100)
    done = await main(path, tmp_path / "out")

    assert (stopped, done) == (1, 0)
    assert sandbox.credits_spent == 300
    assert len((tmp_path / "out" / "posts.jsonl").read_text().splitlines()) == 300
    told = capsys.readouterr().out
    assert "stopped by budget" in told
    assert "100 done earlier" in told


@pytest.mark.real_time
def test_the_crawler_runs_as_a_program(tmp_path: Path) -> None:
    """With nothing but Python and the package."""
    path = tmp_path / "ids.txt"
    path.write_text("1\n2\n3\n")

    done = subprocess.run(
        [
            sys.executable,
            str(EXAMPLES / "million_lines.py"),
            str(path),
            str(tmp_path / "out"),
            "--sandbox",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 posts, 0 done earlier, 0 failed")


@pytest.mark.real_time
@pytest.mark.parametrize("given", ["nope.txt", ".", "ids.txt"])
def test_the_crawler_is_told_in_one_line_what_is_missing(given: str, tmp_path: Path) -> None:
    """The file, or the token; and it makes no folder for nothing."""
    (tmp_path / "ids.txt").write_text("1\n")

    done = run_without_a_token("million_lines.py", given, "out", folder=tmp_path)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert given in done.stderr or "TOKFLUENCE_TOKEN" in done.stderr
    assert not (tmp_path / "out").exists()
