"""Every regular expression of the package, on its worst megabyte.

A pattern that goes back and forth holds the event loop for hours, and no timeout gets a turn. All
patterns are found by themselves, so a new one is tried too: with `findall`, unless it stands in
`ANCHORED`.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

import tokfluence_async

# Patterns that are only ever asked with `match` or `fullmatch`, at the beginning of a text. All
# others may be asked anywhere.
ANCHORED = {
    "_client._TOKEN": "match",
    "_sandbox.endpoints._NUMBER": "fullmatch",
    "_sandbox.ledger._TOKEN": "fullmatch",
    "_sandbox.world._ID": "fullmatch",
    "_sandbox.world._URL": "fullmatch",
    "_throttle.retry_after._SECONDS": "fullmatch",
    "_wire.calls._PATH": "match",
    "_wire.ids._BLANK": "match",
    "_wire.ids._HOST": "match",
    "_wire.ids._ID": "match",
    "_wire.ids._ROUNDED": "match",
    "_wire.ids._SCHEME": "match",
    "_wire.ids._USER": "match",
    "_wire.ids._USUAL": "match",
    "_wire.nearly_json._NOT_FINITE": "fullmatch",
    "_wire.nearly_json._NUMBER": "fullmatch",
    "_wire.nearly_json._UTF_8_MARKS": "match",
    "_wire.prices._PRICES": "match",
    "_wire.repair._NAIVE": "fullmatch",
    "_wire.repair._NUMBER": "fullmatch",
    "_wire.request_ids._REQUEST_ID": "match",
}

MEGABYTE = 2**20
# What the patterns are made of: repeated, and with an end that none of them takes.
FRAGMENTS = [
    *'"\\[{,.:;/ ?#%@aA1-_\n\t\x00é~*,;',
    '\\"',
    "\\\\",
    '""',
    '"[',
    "\\u",
    "\\ud83d",
    "\\ud83d\\ude02",
    "\xed\xa0\x80",
    "\xf0\x9f\x98",
    "\xef\xbb\xbf",
    "1.",
    "1e",
    "1,",
    "NaN",
    "Infinity",
    "1.#QNAN",
    '"next_cursor":',
    '"next_cursor" ',
    "tkf_live_",
    "tkf_live_abcd",
    "tkc_",
    "/tkc_0",
    "/1",
    "/v1/posts/",
    "%2e",
    "/%2e",
    "a.",
    "tiktok.com.",
    "https://",
    "@user/video/",
    "2026-01-01T00:00:00.",
    "share/video/",
    "Link: ",
]
HEADS = ["", '"']


def patterns() -> Iterator[tuple[str, re.Pattern[Any]]]:
    for module in pkgutil.walk_packages(tokfluence_async.__path__, "tokfluence_async."):
        if module.name.endswith("__main__"):
            continue
        try:
            found = vars(importlib.import_module(module.name))
        except ImportError:  # of an extra that is not installed
            continue
        for name, value in found.items():
            parts = value if isinstance(value, tuple) else (value,)
            for part in (
                inner for each in parts for inner in (each if isinstance(each, tuple) else (each,))
            ):
                if isinstance(part, re.Pattern):
                    yield f"{module.name.removeprefix('tokfluence_async.')}.{name}", part


@pytest.mark.parametrize(
    ("name", "pattern"), [pytest.param(*each, id=each[0]) for each in patterns()]
)
def test_a_pattern_is_linear_in_its_worst_megabyte(name: str, pattern: re.Pattern[Any]) -> None:
    """A quadratic one takes minutes for the first of these; all of them take a linear one seconds
    at most."""
    ask = getattr(pattern, ANCHORED.get(name, "findall"))
    started = time.process_time()

    for fragment in FRAGMENTS:
        for head in HEADS:
            text = head + fragment * (MEGABYTE // len(fragment)) + "\x01"
            ask(text.encode("latin-1") if isinstance(pattern.pattern, bytes) else text)

    assert time.process_time() - started < 60


def test_all_patterns_are_found() -> None:
    """And none that is excused is gone."""
    found = {name for name, _ in patterns()}

    assert set(ANCHORED) <= found
    assert {"_wire.nearly_json._TOKEN", "_http.log._TOKEN", "_text._UNSAFE"} <= found
