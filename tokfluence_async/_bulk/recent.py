"""The ids that a walk gave last, so that a comment comes once although arrivals shift the offsets.
Values in, values out."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

__all__ = ["Recent"]

C = TypeVar("C")

# Comments that may arrive between two pages without one being given twice: 1.5 MB a walk.
_REMEMBERED = 10_000


class Recent:
    """Tells which comments of a page are new; forgets by whole pages.

    Args:
        size: Ids that are remembered, to a page less.
    """

    def __init__(self, size: int = _REMEMBERED) -> None:
        self._size = size
        self._ids: set[str] = set()
        self._pages: deque[list[str]] = deque()

    def new(self, items: list[C], ids: list[str]) -> list[C]:
        """The items whose id, at the same place in `ids`, was not given before; they now count as
        given."""
        if len(set(ids)) < len(ids) or not self._ids.isdisjoint(ids):
            fresh: dict[str, C] = {}
            for comment_id, item in zip(ids, items, strict=True):
                if comment_id not in self._ids:
                    fresh.setdefault(comment_id, item)
            ids = list(fresh)
            items = list(fresh.values())
        self._ids.update(ids)
        self._pages.append(ids)
        while len(self._ids) > self._size:
            self._ids.difference_update(self._pages.popleft())
        return items
