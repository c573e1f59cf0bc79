"""How far a bulk call may run ahead of its reader.

A reader may stop at any outcome, and keep the generator. So what was sent and not yet read counts
against what may be sent: it is never more than what was read, or eight posts at the start. Who
stops early has not paid for more in vain. A reader who keeps reading is not held back for long, as
the window doubles each time that it is read through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

__all__ = ["Window"]

# Posts that may be under way before any was read: one for each batch that is sent at once.
_FIRST = 8


class Window:
    """Counts posts from before they are sent until their outcome is read.

    Args:
        at_least: Posts that may be under way in any case: a whole batch, where its size was asked
            for.
    """

    def __init__(self, at_least: int = 0) -> None:
        self._first = max(_FIRST, at_least)
        self._read = 0
        self._reserved = 0
        self._held: set[int] = set()
        self._changed = asyncio.Event()

    @property
    def size(self) -> int:
        """Posts that may be under way or unread at once."""
        return max(self._first, self._read)

    @property
    def room(self) -> int:
        """Posts that may be added to them now."""
        return self.size - self._reserved - len(self._held)

    async def change(self) -> None:
        """Return when there is more room than now."""
        self._changed.clear()
        await self._changed.wait()

    async def reserve(self, count: int) -> None:
        """Wait until there is room for so many posts, and keep it."""
        while self.room < count:
            await self.change()
        self._reserved += count

    def hold(self, reserved: int, indexes: Iterable[int]) -> None:
        """These posts are sent now, out of so many that were reserved."""
        self._held.update(indexes)
        self._reserved -= reserved
        self._changed.set()

    def was_read(self, index: int) -> None:
        """An outcome was handed to the reader."""
        self._read += 1
        self._held.discard(index)
        self._changed.set()
