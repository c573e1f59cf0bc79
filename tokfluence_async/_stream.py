"""Background work behind an async generator, without a task group or a cancel scope across a `yield` (PEP 789).

The work is one task that belongs to the client; it may open task groups of its own. It hands results over through a
bounded stream, so the consumer's pace is the producer's. The generator's `finally` ends the task and waits for it:
breaking out early, closing from another task, or collecting the generator leave nothing behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar, cast

import anyio

if TYPE_CHECKING:
    from ._engine import Engine

__all__ = ["CLOSED", "Emit", "stream", "unwrapped"]

T = TypeVar("T")

Emit = Callable[[T], Awaitable[None]]

CLOSED = "The client was closed while this was being iterated."


async def stream(engine: Engine, work: Callable[[Emit[T]], Awaitable[None]], buffer: int) -> AsyncGenerator[T, None]:
    """Yield what `work` emits, at most `buffer` items ahead; raise what it raises after everything it emitted."""
    send, receive = anyio.create_memory_object_stream[T](buffer)

    async def run() -> None:
        with send:
            await unwrapped(work(send.send))

    task = engine.spawn(run())
    try:
        async for item in receive:
            yield item
        await asyncio.wait([task])
        if task.cancelled():
            raise RuntimeError(CLOSED)
        task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # raised above, or nobody is listening any more
        send.close()
        receive.close()


async def unwrapped(work: Awaitable[T]) -> T:
    """Await `work`; a group of a single error, which a task group makes of one child's, becomes that error."""
    try:
        return await work
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            inner = cast("tuple[BaseException, ...]", error.exceptions)
            if len(inner) != 1:
                break
            error = inner[0]
        raise error from error.__cause__
