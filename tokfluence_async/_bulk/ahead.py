"""Pages of a walk that are asked for ahead.

They are placed by the stride seen so far. What cannot be foreseen makes such a page useless; then
the window closes, and opens again only after pages that were all foretold. It grows by one with
every page consumed, so a reader who stops early has never caused more pages to be bought than it
has read.

`docs/design/comments.md` has the rules, and their measurements.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from .._http.engine import ClosedError
from .._tasks import end

__all__ = ["PagesAhead"]

# Foretold pages in a row that open the window again after a page ahead was useless, and how many
# times as many after the next one.
_WARY = 2
_WARIER = 4


class PagesAhead:
    """The pages of one walk that are under way, in their order.

    Args:
        most: Pages that may be under way ahead of the one that is read.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pages: deque[tuple[int, asyncio.Task[Any]]] = deque()
        self._stride = 0  # how far the last page reached; 0 as long as that is not known
        self._foretold = 0  # pages in a row that reached as far as the one before
        self._wary = 0  # of those, how many are asked for before the window opens

    def reached(self, stride: int) -> None:
        """The page that was read reached so far."""
        foretold = stride == self._stride or not self._stride
        self._foretold = self._foretold + 1 if foretold else 0
        self._stride = stride

    def top_up(
        self, ask: Callable[[int], asyncio.Task[Any]], cursor: int, total: int, left: int | None
    ) -> None:
        """Have as many pages under way, from the one at `cursor` on, as are foreseen, wanted and of
        use.

        Args:
            ask: Asks for the page at a cursor. It is not kept: a walk that is left half-read goes
                at once, and its client with it.
            total: Comments in the list.
            left: Comments that are wanted, None for all.
        """
        ahead = min(self._foretold - self._wary, self._most)
        if ahead <= 0:
            return
        wanted = ahead + 1
        if left is not None:
            wanted = min(wanted, -(-left // self._stride))
        if self._pages:
            cursor = self._pages[-1][0] + self._stride
        while len(self._pages) < wanted and cursor < total:
            self._pages.append((cursor, ask(cursor)))
            cursor += self._stride

    async def take(self, cursor: int) -> Any:
        """The answer at `cursor`; None if it was not asked for."""
        if not self._pages:
            return None
        if self._pages[0][0] != cursor:
            await self.drop()
            self._beware()
            return None
        return await _result(self._pages.popleft()[1])

    def was_useless(self) -> None:
        """What was taken has to be asked for again."""
        if self._foretold > self._wary:  # else it was under way when the window closed
            self._beware()
        self._foretold = 0

    def _beware(self) -> None:
        """More pages have to be foretold before the window opens again."""
        self._wary = max(_WARY, _WARIER * self._wary)

    def wind_up(self) -> bool:
        """Ask for nothing more; whether a page is left that is under way, or was bought."""
        self._most = 0
        return bool(self._pages)

    async def drop(self) -> None:
        """End what is under way."""
        tasks = [task for _, task in self._pages]
        self._pages.clear()
        await end(tasks)


async def _result(task: asyncio.Task[Any]) -> Any:
    try:
        return await task
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if task.cancelled() and not (current and current.cancelling()):
            raise ClosedError from None
        raise  # the page is cancelled with who waits for it
