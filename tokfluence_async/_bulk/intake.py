"""Cutting batches from a stream of items."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from .planner import Planner
from .requests import Requests
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
        counted: Whether somebody else counts in the call's window what is taken.
    """

    def __init__(
        self,
        requests: Requests,
        planner: Planner,
        receive: MemoryObjectReceiveStream[Item],
        left: Callable[[], int | None],
        *,
        counted: bool,
    ) -> None:
        self._planner = planner
        self._receive = receive
        self._left = left
        self._workers = requests.options.analyze_concurrency
        self._window = requests.window
        self._counter = None if counted else requests.window
        self._turn = asyncio.Lock()

    async def take(self) -> list[Item]:
        """The next batch; empty at the end."""
        async with self._turn:
            most = await self._reserve()
            items: list[Item] = []
            try:
                await self._collect(items, most)
            finally:
                if self._counter is not None:
                    self._counter.hold(most, (item.index for item in items))
            self._planner.cut()
        return items

    async def _reserve(self) -> int:
        """Wait for room for as large a batch as the planner wants now."""
        size = self._size(0)
        if self._counter is not None:
            while self._counter.room < size:
                await self._counter.change()
                size = self._size(0)
            await self._counter.reserve(size)
        return size

    async def _collect(self, items: list[Item], most: int) -> None:
        with anyio.CancelScope() as scope:
            try:
                while len(items) < min(self._size(len(items)), most):
                    items.append(await take_over(self._receive))
                    if len(items) == 1:
                        scope.deadline = anyio.current_time() + _LINGER
            except anyio.EndOfStream:
                pass

    def _size(self, taken: int) -> int:
        left = self._unsent(taken)
        if self._window is None:
            return self._planner.next_size(left)
        # As many batches as there are workers should fit into the window. Two URLs at least where
        # more may be to come: a quick source is not sent a request for each.
        share = math.ceil(self._window.size / self._workers)
        return self._planner.next_size(left, max(2, share) if left is None else share)

    def _unsent(self, taken: int) -> int | None:
        left = self._left()
        if left is None:
            return None
        return left + taken + self._receive.statistics().current_buffer_used
