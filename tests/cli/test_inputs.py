"""FILE and standard input."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokfluence_async._cli.inputs import FileLines, StreamLines, UsageError, open_inputs

from .support import (
    ENV,
    ID,
    Run,
    command_line,
)


def test_a_file_knows_its_length_and_its_malformed_lines(tmp_path: Path) -> None:
    """For the progress, and for who has to mend them."""
    path = tmp_path / "urls.txt"
    path.write_text("1\n\nnope\n# x\n2")

    inputs = open_inputs(str(path), "tokfluence crawl -")

    assert isinstance(inputs, FileLines)
    assert len(inputs) == 3
    assert list(inputs) == ["1", "nope", "2"]
    assert [(bad.line, bad.text) for bad in inputs.malformed] == [(3, "nope")]


def test_lines_end_as_they_do_for_open(tmp_path: Path) -> None:
    """Spreadsheets on a Mac end them with a carriage return alone. All of it was one line, which
    named no post, and the reason did not say why."""
    path = tmp_path / "urls.txt"
    # A chunk ends between the two halves of a line's end.
    path.write_bytes(b"#" * 65_531 + b"\r1\r2\r\n3\n\rx\r\n4\r")
    inputs = FileLines(path)
    assert list(inputs) == ["1", "2", "3", "x", "4"]
    assert [malformed.line for malformed in inputs.malformed] == [6]


def test_a_spreadsheets_lines_are_told_what_they_are(run: Run, tmp_path: Path) -> None:
    """They are what goes wrong most often, and what is to be done differs."""
    (tmp_path / "export.csv").write_text(f"7.23E+18\n{ID},wwe\n")

    told = run("crawl", tmp_path / "export.csv", "-o", tmp_path / "out", "--dry-run").stderr

    assert "it looks like a number that a spreadsheet has rounded" in told
    assert "it looks like a row of a CSV file" in told


def test_a_stopped_input_ends(tmp_path: Path) -> None:
    """After Ctrl-C nothing new is begun."""
    path = tmp_path / "urls.txt"
    path.write_text("1\n2\n3\n")
    inputs = open_inputs(str(path), "tokfluence crawl -")
    assert isinstance(inputs, FileLines)
    read: Iterator[str] = iter(inputs)

    first = next(read)
    inputs.stop()

    assert (first, list(read)) == ("1", [])


@pytest.mark.real_time
async def test_a_named_pipe_is_read_as_it_arrives(tmp_path: Path) -> None:
    """`tokfluence crawl <(zcat ids.gz)`: it has no length, and can be read once."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    inputs = open_inputs(str(path), "tokfluence crawl -")
    assert isinstance(inputs, StreamLines)
    read = aiter(inputs)
    opened = asyncio.ensure_future(anext(read))
    writer = await asyncio.to_thread(os.open, path, os.O_WRONLY)

    os.write(writer, b"1\n# no\n")
    first = await opened
    os.write(writer, b"nope\n2")
    second = await anext(read)
    os.close(writer)
    rest = [line async for line in read]

    assert (first, second, rest) == ("1", "nope", ["2"])
    assert [(bad.line, bad.text) for bad in inputs.malformed] == [(3, "nope")]


@pytest.mark.real_time
async def test_a_pipe_that_is_stopped_ends_without_another_line(tmp_path: Path) -> None:
    """Ctrl-C must not wait for somebody to write."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    inputs = open_inputs(str(path), "tokfluence crawl -")
    assert isinstance(inputs, StreamLines)
    read = aiter(inputs)
    waiting = asyncio.ensure_future(anext(read, "ended"))
    writer = await asyncio.to_thread(os.open, path, os.O_WRONLY)

    inputs.stop()

    assert await waiting == "ended"
    os.close(writer)


@pytest.mark.real_time
async def test_a_stream_that_breaks_is_wrong_usage(tmp_path: Path) -> None:
    """Told with the system's own words; a folder stands in for a failing disk here."""
    with pytest.raises(UsageError, match="Is a directory"):
        [line async for line in StreamLines("input", tmp_path)]


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told with the system's own words."""
    path = tmp_path / "urls.txt"
    path.write_text("1")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)

    with pytest.raises(UsageError, match="Permission denied"):
        open_inputs(str(path), "tokfluence crawl -")


@pytest.mark.real_time
def test_lines_are_worked_as_they_arrive() -> None:
    """`tail -f | tokfluence analyze -`: the first answer comes while the input is still open."""
    with subprocess.Popen(
        command_line("analyze", "-", "--sandbox"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENV,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"1\n")
        process.stdin.flush()
        first = process.stdout.readline()
        process.stdin.write(b"2")
        process.stdin.close()
        rest = process.stdout.read()

    assert json.loads(first)["postId"] == "1"
    assert json.loads(rest)["postId"] == "2"
    assert process.returncode == 0
