"""Cutting batches from a stream of items."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from .planner import Planner
from .sources import Item
from .stream import take_over

__all__ = ["Intake"]

# Seconds a batch waits for more input from a stream that is still open, once it holds something.
_LINGER = 0.25


class Intake:
    """Cuts batches, one worker at a time.

    A batch leaves when it is as large as the planner wants, when the stream has ended, or when the
    next item is long in coming.

    Args:
        left: How many items are still to come into the stream, or None if that is not known.
    """

    def __init__(
        self,
        planner: Planner,
        receive: MemoryObjectReceiveStream[Item],
        left: Callable[[], int | None],
    ) -> None:
        self._planner = planner
        self._receive = receive
        self._left = left
        self._turn = asyncio.Lock()

    async def take(self) -> list[Item]:
        """The next batch; empty at the end."""
        items: list[Item] = []
        async with self._turn:
            with anyio.CancelScope() as scope:
                try:
                    while len(items) < self._planner.next_size(self._unsent(len(items))):
                        items.append(await take_over(self._receive))
                        if len(items) == 1:
                            scope.deadline = anyio.current_time() + _LINGER
                except anyio.EndOfStream:
                    pass
            self._planner.cut()
        return items

    def _unsent(self, taken: int) -> int | None:
        left = self._left()
        if left is None:
            return None
        return left + taken + self._receive.statistics().current_buffer_used
