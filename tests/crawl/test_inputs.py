"""A crawl and whatever people give it: places, and inputs of any kind."""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.json
import pytest

from tokfluence_async import (
    ConfigurationError,
    InvalidPostError,
    Sandbox,
    TokfluenceClient,
    crawl,
)
from tokfluence_async._wire.lines import failure_line

IDS = [str(7234567890123456789 + n) for n in range(6)]


# --- places ---------------------------------------------------------------------------------------


async def test_a_program_may_change_its_folder_during_a_crawl(
    tmp_path: Path, client: TokfluenceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative folder is the one it was when the crawl began."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    def inputs() -> Iterator[str]:
        yield from IDS[:2]
        os.chdir(tmp_path / "elsewhere")
        yield from IDS[2:]
        yield "nonsense"

    report = await crawl(client, inputs(), "out")

    assert (report.posts, report.failed) == (6, 1)
    assert len((tmp_path / "out" / "posts.jsonl").read_bytes().splitlines()) == 6
    assert len((tmp_path / "out" / "failures.jsonl").read_bytes().splitlines()) == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_a_tilde_is_the_home(
    tmp_path: Path, client: TokfluenceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the name `~` is what nobody means."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))

    await crawl(client, IDS, "~/out", journal="~/journal.sqlite")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal.sqlite", "out"]
    assert len((tmp_path / "out" / "posts.jsonl").read_bytes().splitlines()) == 6


@pytest.mark.parametrize("place", ["~nobody-of-that-name/out", "out"])
async def test_a_place_that_cannot_be_found_is_one_clear_error(
    place: str,
    tmp_path: Path,
    sandbox: Sandbox,
    client: TokfluenceClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A home that is not known; a working directory that is gone."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    with pytest.raises(ConfigurationError, match="Nothing was sent"):
        await crawl(client, IDS, place)

    assert sandbox.requests_received == 0


# --- inputs ---------------------------------------------------------------------------------------


class Loud(str):
    """A str that stays one of its kind, as those of lxml, BeautifulSoup and Jinja do."""

    __slots__ = ()

    def strip(self, *_: Any) -> Loud:
        return self

    def __str__(self) -> str:
        raise RuntimeError("no text of mine")


class Number(int):
    def __str__(self) -> str:
        return "seven"

    __repr__ = __str__


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no picture of mine")


class Odd:
    def __repr__(self) -> str:
        return Loud("half an emoji: \ud83d")


class Id(enum.IntEnum):
    ONE = 1


ODD: list[Any] = [
    np.str_("no post"),
    np.int64(-1),
    np.float64("nan"),
    np.array([1, 2]),
    "half an emoji \ud83d",
    "two halves the wrong way round \ude00\ud83d",
    Loud("no post"),
    Number(-5),
    Id.ONE - 2,
    Broken(),
    Odd(),
    b"\xff\xfe",
    bytearray(b"x"),
    10**22,
    -(10**50),
    True,
    None,
    float("nan"),
    float("inf"),
    {"a": object()},
    ["7234567890123456789"],
    "x" * 5000,
    "\ud83d" * 5000,
    "\0\x1b[2J\r\n\u2028",
    type("Long", (), {"__repr__": lambda _: "y" * 10**6})(),
]


@pytest.mark.parametrize("given", ODD, ids=lambda given: type(given).__name__)
async def test_an_odd_input_is_a_failure_and_ends_nothing(
    tmp_path: Path, client: TokfluenceClient, given: Any
) -> None:
    """At every run it ended the crawl, whatever else was to be done."""
    for journal in (None, tmp_path / "own.sqlite"):
        report = await crawl(client, [given, *IDS], tmp_path / f"out-{bool(journal)}")
        assert (report.posts, report.failed) == (6, 1)

    [line] = (tmp_path / "out-False" / "failures.jsonl").read_bytes().splitlines()
    assert json.loads(line)["error"]["type"] == "InvalidPostError"


@pytest.mark.parametrize("given", ODD, ids=lambda given: type(given).__name__)
def test_a_failure_line_can_be_written_for_any_object(given: Any) -> None:
    """And is read by everything that reads JSON."""
    line = failure_line(given, None, InvalidPostError(given, "no"))

    assert line.count(b"\n") == 1
    assert len(line) < 20_000
    assert json.loads(line)["input"] == msgspec.json.decode(line)["input"]
    table = pyarrow.json.read_json(pyarrow.BufferReader(line))
    assert table.column_names == ["input", "post_id", "error"]


@pytest.mark.parametrize("kind", [Loud, np.str_, Number, np.int64, np.uint64])
async def test_a_kind_of_text_or_number_that_names_a_post_is_one(
    tmp_path: Path, client: TokfluenceClient, kind: Any
) -> None:
    """Also with a journal, which keeps plain texts only."""
    report = await crawl(client, [kind(post_id) for post_id in IDS], tmp_path / "out")

    assert (report.posts, report.failed) == (6, 0)
