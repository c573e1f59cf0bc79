"""Inputs seen through a journal: what an earlier run has recorded need not be done again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .._journal.journal import Journal
from .._journal.records import Entry
from .sources import Item, Source

__all__ = ["RememberedSource"]


class RememberedSource:
    """A source that asks the journal about each item: what was analyzed need not be analyzed again.

    Args:
        skip: Whether an item is to be left out, given what is known of its post. Those left out are
            counted in `skipped`.
    """

    def __init__(
        self,
        source: Source,
        journal: Journal,
        skip: Callable[[Item, Entry], Awaitable[bool]] | None = None,
    ) -> None:
        self._source = source
        self._journal = journal
        self._skip = skip
        self._known: dict[str, Entry] = {}
        self._new: bool | None = None
        self.skipped = 0

    @property
    def error(self) -> Exception | None:
        return self._source.error

    @property
    def total(self) -> int | None:
        """Items there will be at most, those left out among them."""
        return self._source.total

    @property
    def left(self) -> int | None:
        return self._source.left

    async def next(self) -> Item | None:
        while (item := await self._source.next()) is not None:
            if item.ref is None:
                return item
            if self._new is None:
                self._new = await self._journal.is_new()
            if self._new:
                # The source gives each post once, so what a new journal learns from now on is never
                # asked for.
                return item
            entry = await self._journal.look_up(item.ref.post_id)
            if entry is not None:
                if self._skip is not None and await self._skip(item, entry):
                    self.skipped += 1
                    continue
                if entry.status is not None:
                    self._known[item.ref.post_id] = entry
            return item
        return None

    def remembered(self, item: Item) -> Entry | None:
        """What is known of the item's analysis; told once."""
        return (
            self._known.pop(item.ref.post_id, None)
            if self._known and item.ref is not None
            else None
        )

    def age(self, at: float | None) -> float:
        return self._journal.age(at)
