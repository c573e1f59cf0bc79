"""The lines of a crawl's files."""

from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import numpy as np
import pyarrow.json
import pytest

from tokfluence_async import InvalidPostError, NotFoundError, Post, TokfluenceError
from tokfluence_async._wire.lines import failure_line


class Text(str):
    def __str__(self) -> str:
        return "something else"


class Number(int):
    pass


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Odd:
    def __repr__(self) -> str:
        return "<Odd \ud83d>"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("1", "1"),
        (1, 1),
        (Text("1"), "1"),
        (Number(1), 1),
        (np.str_("nothing"), "nothing"),
        (np.int64(-1), -1),
        (Post(post_id="7"), "7"),
        ("so \ud83d", "so \ufffd"),
        (Odd(), "<Odd \ufffd>"),
        (Mute(), "<Mute>"),
        (None, "None"),
        (b"\xff", r"b'\xff'"),
        ([1], "[1]"),
        ("x" * 5000, "x" * 4095 + "…"),
        (2**64, str(2**64)),
        (10**5000, "an integer of 16610 bits"),
        (float("nan"), "nan"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failure_line_can_be_written_for_any_object(given: Any, shown: object) -> None:
    """One odd input ended a crawl at every run: its line could not be written."""
    line = failure_line(given, None, InvalidPostError(given, "no"))

    assert json.loads(line)["input"] == shown
    assert msgspec.json.decode(line)["input"] == shown
    assert pyarrow.json.read_json(io.BytesIO(line)).num_rows == 1
    assert line.count(b"\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        TokfluenceError("half \ud83d"),
        NotFoundError(404, Text("code"), Text("half \ud83d")),
        NotFoundError(404, None, "a\nb"),
    ],
    ids=str,
)
def test_a_failure_line_holds_any_error(error: TokfluenceError) -> None:
    """What it says is written as text that every reader takes."""
    line = failure_line("1", "1", error)

    assert msgspec.json.decode(line)["error"]["message"] in ("half \ufffd", "a\nb")
    assert line.count(b"\n") == 1
