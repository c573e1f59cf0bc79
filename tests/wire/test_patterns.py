"""Every regular expression of the package, on its worst megabyte.

A pattern that goes back and forth holds the event loop for hours, and no timeout gets a turn. All
patterns are found by themselves, so a new one is tried too, in the way its module asks it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

import tokfluence_async

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


def patterns() -> Iterator[tuple[str, re.Pattern[Any], str]]:
    """Each pattern of the package's modules, and how its module asks it."""
    for module in pkgutil.walk_packages(tokfluence_async.__path__, "tokfluence_async."):
        if module.name.endswith("__main__"):
            continue
        try:
            found = importlib.import_module(module.name)
        except ImportError:  # of an extra that is not installed
            continue
        source = inspect.getsource(found)
        for name, value in vars(found).items():
            for pattern in _patterns_in(value):
                ways = set(re.findall(rf"\b{name}\.(\w+)\(", source))
                # What is only asked at the beginning of a text may be slow in its middle.
                way = "findall" if ways - {"match", "fullmatch"} else min(ways, default="match")
                yield f"{module.name.removeprefix('tokfluence_async.')}.{name}", pattern, way


def _patterns_in(value: Any) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _patterns_in(part)


FOUND = list(patterns())


@pytest.mark.parametrize(("name", "pattern", "way"), FOUND, ids=[name for name, *_ in FOUND])
def test_a_pattern_is_linear_in_its_worst_megabyte(
    name: str, pattern: re.Pattern[Any], way: str
) -> None:
    """A quadratic one takes minutes for the first of these; a linear one takes seconds for all."""
    ask = getattr(pattern, way)
    started = time.process_time()

    for fragment in FRAGMENTS:
        for head in ("", '"'):
            text = head + fragment * (MEGABYTE // len(fragment)) + "\x01"
            ask(text.encode("latin-1") if isinstance(pattern.pattern, bytes) else text)

    assert time.process_time() - started < 60


def test_patterns_are_found_with_the_way_they_are_asked() -> None:
    """By themselves; two of each kind, so that one is missed if that breaks."""
    ways = {name: way for name, _, way in FOUND}

    assert ways["_wire.nearly_json._TOKEN"] == ways["_http.log._TOKEN"] == "findall"
    assert ways["_wire.ids._HOST"] == ways["_wire.prices._PRICES"] == "match"
    assert ways["_wire.repair._NUMBER"] == "fullmatch"
