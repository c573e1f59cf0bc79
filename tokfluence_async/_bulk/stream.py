"""Background work behind an async generator, without a task group or a cancel scope across a
`yield` (PEP 789).

The work is one task that belongs to the client; it may open task groups of its own. It hands
results over through a bounded stream, so the consumer's pace is the producer's. The generator's
`finally` ends the task and waits for it: breaking out early, closing from another task, or
collecting the generator leave nothing behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from .._errors import JournalError
from .._http.engine import ClosedError
from .._tasks import end

if TYPE_CHECKING:
    from .._http.engine import Engine

__all__ = ["Emit", "hand_over", "stream", "take_over", "unwrapped"]

T = TypeVar("T")
V = TypeVar("V")

Emit = Callable[[T], Awaitable[None]]


async def hand_over(send: MemoryObjectSendStream[T], item: T) -> None:
    """`send.send(item)`; where there is room for it, without a turn of the loop, which costs more
    than all the rest (10 µs)."""
    try:
        send.send_nowait(item)
    except anyio.WouldBlock:
        await send.send(item)


async def take_over(receive: MemoryObjectReceiveStream[T]) -> T:
    """`receive.receive()`; where an item is waiting, without a turn of the loop. A buffer bounds
    how many come so in a row."""
    try:
        return receive.receive_nowait()
    except anyio.WouldBlock:
        return await receive.receive()


async def stream(
    engine: Engine,
    work: Callable[[Emit[T]], Awaitable[None]],
    buffer: int,
    deliver: Callable[[T], V],
) -> AsyncGenerator[V, None]:
    """Yield what `deliver` makes of what `work` emits, at most `buffer` items ahead; raise what
    `work` raises after everything it emitted. `deliver` is called when the reader takes an item."""
    send, receive = anyio.create_memory_object_stream[T](buffer)

    async def run() -> None:
        with send:
            await unwrapped(work(partial(hand_over, send)))

    # Closed also where the wait below is cut short, as it is in a loop that ends.
    with send, receive:
        task = engine.spawn(run())
        # For a task that is cancelled before its first step, which never comes to its `with`.
        task.add_done_callback(lambda _: send.close())
        try:
            while True:
                try:
                    item = await take_over(receive)
                except anyio.EndOfStream:
                    break
                yield deliver(item)
            await asyncio.wait([task])
            if task.cancelled():
                raise ClosedError
            task.result()
        finally:
            await end([task])


async def unwrapped(work: Awaitable[T]) -> T:
    """Await `work`; a group of a single error, which a task group makes of one child's, becomes
    that error.

    So does a group of nothing but `ClosedError`, which a closed client is to each child alike; one
    whose children all met one and the same error; and one of nothing but `JournalError`, as with a
    full disk, which every child that writes meets anew.
    """
    try:
        return await work
    except BaseExceptionGroup as group:
        first, *others = _leaves(group)
        if group.split(ClosedError)[1] is None:
            raise first from None
        if all(other is first for other in others) or group.split(JournalError)[1] is None:
            raise first from first.__cause__
        raise


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
    return [leaf for each in inner for leaf in _leaves(each)]
