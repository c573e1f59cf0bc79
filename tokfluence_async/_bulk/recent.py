"""The ids that a walk gave last, so that a comment comes once although arrivals shift the offsets.
Values in, values out.

A walk's speed hangs on this. There are three ways to know that a comment is new, and the cheapest
one that is certain is taken: ids that go on in order (no set is needed), a set of the last few
hundred, and, where comments may have arrived, as far back as told. `docs/design/comments.md` has
their costs.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, TypeVar

import msgspec

__all__ = ["NEAR", "REMEMBERED", "Recent"]

C = TypeVar("C")

# Comments that may arrive between two pages without one being given twice, and of those how many
# are always looked at.
REMEMBERED = 10_000
NEAR = 400
# And how many more where a page looks as if it had been shifted.
_SUSPECTED = 1_000

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[str]).decode


class Recent:
    """Tells which comments of a page are new; forgets by whole pages.

    Args:
        size: Ids that are remembered, to a page less.
        near: Those of them that are always looked at.
    """

    __slots__ = (
        "_counts",
        "_edges",
        "_edges_of",
        "_goes_on",
        "_held",
        "_ids",
        "_last",
        "_near",
        "_packed",
        "_pages",
        "_size",
    )

    def __init__(self, size: int = REMEMBERED, near: int = NEAR) -> None:
        self._size = size
        self._near = near
        # The new ids of each page, packed while they are warm, and how many they are.
        self._packed: deque[bytes] = deque()
        self._counts: deque[int] = deque()
        self._held = 0
        # The ids each of them begins and ends with, and all of these.
        self._edges_of: deque[list[str]] = deque()
        self._edges: set[str] = set()
        # While all are in order: the last one, and how the next has to compare with it; None as
        # long as that is open.
        self._last: str | None = None
        self._goes_on: Any = None
        # Once they are not: the last `near`, and page by page.
        self._ids: set[str] | None = None
        self._pages: deque[list[str]] = deque()

    def new(self, items: list[C], ids: list[str], *, back: int = 0) -> list[C]:
        """The items whose id, at the same place in `ids`, was not given before; they now count as
        given.

        Args:
            back: How many ids before the `near` ones to look at as well, at least.
        """
        if self._ids is None:
            if self._in_order(ids):
                self._remember(ids)
                return items
            self._ids = self._brought_near()
            back = max(back, _SUSPECTED)
        elif back < _SUSPECTED and not self._edges.isdisjoint(ids):
            back = _SUSPECTED
        seen = self._ids
        before = len(seen)
        seen.update(ids)
        if len(seen) < before + len(ids) or back:
            seen = self._ids = set(chain.from_iterable(self._pages))
            given = seen.union(self._earlier(back))
            fresh: dict[str, C] = {}
            for comment_id, item in zip(ids, items, strict=True):
                if comment_id not in given:
                    fresh.setdefault(comment_id, item)
            ids = list(fresh)
            items = list(fresh.values())
            seen.update(ids)
        self._remember(ids)
        self._pages.append(ids)
        while len(seen) > self._near and len(self._pages) > 1:
            seen.difference_update(self._pages.popleft())
        return items

    def _in_order(self, ids: list[str]) -> bool:
        if not ids:
            return True
        row = ids if self._last is None else [self._last, *ids]
        if len(row) > 1:
            if self._goes_on is None:
                self._goes_on = operator.lt if row[0] < row[1] else operator.gt
            if not all(map(self._goes_on, row, islice(row, 1, None))):
                return False
        self._last = row[-1]
        return True

    def _brought_near(self) -> set[str]:
        """The set to look up in from now on: what was given last."""
        near: set[str] = set()
        for packed in reversed(self._packed):
            if len(near) >= self._near:
                break
            page = _unpack(packed)
            self._pages.appendleft(page)
            near.update(page)
        return near

    def _earlier(self, back: int) -> Iterator[str]:
        """As many ids from before the `near` ones, by whole pages."""
        pages = zip(reversed(self._packed), reversed(self._counts), strict=True)
        for packed, count in islice(pages, len(self._pages), None):
            if back <= 0:
                return
            back -= count
            yield from _unpack(packed)

    def _remember(self, ids: list[str]) -> None:
        self._packed.append(_pack(ids))
        self._counts.append(len(ids))
        self._held += len(ids)
        edges = [ids[0], ids[-1]] if ids else []
        self._edges_of.append(edges)
        self._edges.update(edges)
        while self._held > self._size and len(self._packed) > 1:
            self._packed.popleft()
            self._edges.difference_update(self._edges_of.popleft())
            self._held -= self._counts.popleft()
