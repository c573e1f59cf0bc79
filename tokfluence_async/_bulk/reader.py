"""Reading an async iterator in one task, from its first item to its end.

What a generator keeps across a `yield` belongs to the task that advances it: context variables,
cancel scopes, task groups, the current span. So one task reads it for the whole call, and closes
it. It reads on demand: nothing is read ahead.

A scope or a task group inside the generator may cancel that task while the generator is suspended
at a `yield`. The cancellation is then the generator's to see, so it is thrown into it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from .._tasks import finish, wait

__all__ = ["Reader", "cancelled_elsewhere"]


def cancelled_elsewhere(cancelled: asyncio.CancelledError) -> RuntimeError:
    """What a call tells of an iterator that raised `CancelledError`. As it is, it would end tasks
    of the call without a word."""
    error = RuntimeError("the inputs were cancelled, and not by this call")
    error.__cause__ = cancelled
    return error


class Reader:
    """Reads `inputs`, one item for each call of `next`."""

    def __init__(self, inputs: AsyncIterator[Any]) -> None:
        self._inputs = inputs
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._ready = asyncio.Event()
        self._given: Any = None
        self._begun = False
        self._ended = False
        self._stopped = False
        self._error: Exception | None = None

    async def next(self) -> Any:
        """The next item. Several tasks may call it; each item goes to one of them.

        Raises:
            StopAsyncIteration: The iterator has ended.
            Exception: What it raised; then it has ended.
        """
        async with self._turn:
            if self._task is None and not self._ended:
                self._task = asyncio.get_running_loop().create_task(self._read())
            if not self._ready.is_set():
                self._wanted.set()
                await self._ready.wait()
            if self._ended:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            given, self._given = self._given, None
            self._ready.clear()
            return given

    def stop(self) -> None:
        """Read nothing more, not even what is being waited for."""
        if not self._stopped:
            self._stopped = True
            if self._task is None:
                self._end(None)
            elif self._begun:  # else its first step sees that it is stopped
                self._task.cancel()

    async def aclose(self) -> None:
        """Stop, and return when the iterator has been closed. Raises what its closing raised."""
        self.stop()
        if self._task is None:
            await finish(self._close())
            return
        await wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    async def _read(self) -> None:
        error: Exception | None = None
        self._begun = True
        try:
            while not self._stopped:
                self._give(await self._one())
        except StopAsyncIteration:
            pass
        except asyncio.CancelledError as cancelled:
            if not self._stopped:
                error = cancelled_elsewhere(cancelled)
        except Exception as raised:  # the caller's own iterator; told to whoever asks for the next
            error = raised
        try:
            await self._close()
        finally:
            self._end(error)

    async def _one(self) -> Any:
        try:
            await self._wanted.wait()
        except asyncio.CancelledError as cancelled:
            throw = getattr(self._inputs, "athrow", None)
            if self._stopped or throw is None:
                raise
            return await throw(cancelled)
        return await anext(self._inputs)

    def _give(self, given: Any) -> None:
        self._given = given
        self._wanted.clear()
        self._ready.set()

    def _end(self, error: Exception | None) -> None:
        self._ended = True
        self._error = error
        self._given = None
        self._ready.set()

    async def _close(self) -> None:
        close = getattr(self._inputs, "aclose", None)
        if close is not None:
            await close()
