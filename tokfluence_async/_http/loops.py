"""What a client has in one event loop: connections, concurrency limits, counts, background tasks.

Promises: a client works in several loops, one after another and at once in several threads. Nothing
of one loop is touched from another. Connections are closed with their loop, quietly, also where
nobody closed the client.

Relies on `loop.shutdown_asyncgens`, which `asyncio.run` and `asyncio.Runner` call before a loop
ends: it closes the async generators that were begun in the loop. One of them, `_until_the_end`,
stands for the client.

Hard: forks. A child has copies of its parent's sockets and of its selector. To close a connection
there would take it out of the parent's selector. So a child keeps what it inherited, untouched.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiolimiter import AsyncLimiter

from .concurrency import BatchConcurrency, ClosedGate

if TYPE_CHECKING:
    from .._throttle.lanes import Lanes
    from .._throttle.throttle import Throttle
    from .._wire.secret import Secret
    from .transport import Transport

__all__ = ["Counts", "LoopState", "States", "close_elsewhere"]

States = dict[asyncio.AbstractEventLoop, "LoopState"]

# What forked children have inherited: kept to their end, so that nothing finalizes it.
_inherited: list[LoopState] = []


class Counts:
    """Counts of one event loop. One thread writes each, so no lock is needed and no count is
    lost."""

    __slots__ = ("bytes_received", "rate_limited", "requests", "retries", "throttled_seconds")

    def __init__(self) -> None:
        self.requests = 0
        self.retries = 0
        self.throttled_seconds = 0.0
        self.rate_limited = 0
        self.bytes_received = 0


class LoopState:
    """What a client has in the running event loop.

    Attributes:
        tasks: Background tasks, which end with the client.
        calls: The tasks of whoever is in a call now.
        ended: Those whose call `aclose` has ended.
        looking: Held by the call that asks what is left in the wallet.
    """

    __slots__ = (
        "__weakref__",
        "_buckets",
        "_closed",
        "_concurrency",
        "_end",
        "_gates",
        "_of_batches",
        "_pid",
        "calls",
        "counts",
        "ended",
        "looking",
        "loop",
        "tasks",
        "transport",
    )

    def __init__(self, states: States, transport: Transport, counts: Counts) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport = transport
        self.counts = counts
        self.tasks: set[asyncio.Task[Any]] = set()
        self.calls: set[asyncio.Task[Any]] = set()
        self.ended: set[asyncio.Task[Any]] = set()
        self.looking = asyncio.Lock()
        self._closed = False
        self._pid = os.getpid()
        self._concurrency: dict[tuple[bool, int, str], asyncio.Semaphore] = {}
        self._of_batches: dict[str, BatchConcurrency] = {}
        self._buckets: dict[str, AsyncLimiter | None] = {}
        self._gates: dict[str, ClosedGate] = {}
        # Begun by hand, up to its `yield`, as there is no await here.
        self._end = _until_the_end(states, self)
        with suppress(StopIteration):
            self._end.__anext__().send(None)

    @property
    def inherited(self) -> bool:
        """Whether this process is a child that was forked after this was made."""
        return os.getpid() != self._pid

    def gate(self, token: Secret, lanes: Lanes) -> ClosedGate:
        gate = self._gates.get(token)
        if gate is None:
            gate = self._gates[token] = ClosedGate(lanes)
        return gate

    def concurrency(self, batch: bool, limit: int, token: Secret) -> asyncio.Semaphore:
        """The concurrency slots of one key. Those who wait for the throttle hold one, and a key
        that is refused must not hold another's."""
        slots = self._concurrency.get((batch, limit, token))
        if slots is None:
            # anyio's looks for a cancellation at every turn, 1.5 µs. Waiting here is first come,
            # first served as well.
            slots = self._concurrency[batch, limit, token] = asyncio.Semaphore(limit)
        return slots

    def batch_concurrency(self, token: Secret) -> BatchConcurrency:
        found = self._of_batches.get(token)
        if found is None:
            found = self._of_batches[token] = BatchConcurrency()
        return found

    def bucket(self, token: Secret, throttle: Throttle) -> AsyncLimiter | None:
        """The token bucket that a key's analyze batches pass before they wait for a slot; None
        without a limit.

        Batches take every other slot before waiting reads. Hundreds at once, if a caller says so,
        or batches that come back `fresh` in no time, would leave the reads half of the slots. So
        they are let into the throttle's queue by a burst and then at the pace of the tighter
        budget.
        """
        bucket = self._buckets.get(token)
        if bucket is None and token not in self._buckets:
            limit = min(
                (n for n in (throttle.per_ip, throttle.per_key) if n is not None), default=None
            )
            if limit is not None:
                bucket = AsyncLimiter(
                    throttle.burst, throttle.burst * (throttle.period + throttle.jitter) / limit
                )
            self._buckets[token] = bucket
        return bucket

    async def aclose(self) -> None:
        """End the background tasks and the calls, and close the connections. Idempotent."""
        await self._close()
        with suppress(RuntimeError):  # the loop is ending, and is at it already
            await self._end.aclose()

    async def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        here = asyncio.current_task()
        tasks = [task for task in self.tasks if task is not here]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        # Whoever awaits a call now gets `ClosedError`, however long it would still wait: as
        # `asyncio.timeout` does it, by a cancellation that is turned into an error before it leaves
        # the call.
        for task in list(self.calls):
            self.ended.add(task)
            task.cancel()
        await self.transport.aclose()

    def close_soon(self) -> None:
        """As `aclose`, for nobody who waits for it. Only in its own loop."""
        closing = self.loop.create_task(self.aclose())
        self.tasks.add(closing)
        closing.add_done_callback(self.tasks.discard)


async def _until_the_end(states: States, state: LoopState) -> AsyncGenerator[None, None]:
    """Close `state` when its loop ends."""
    try:
        yield
    finally:
        if states.get(state.loop) is state:
            del states[state.loop]
        await state._close()


def close_elsewhere(states: States) -> None:
    """Let the states of loops that do not run here close, each in its own loop. Callable in any
    thread, at any time, also at exit."""
    for loop, state in states.items():
        if state.inherited:
            _inherited.append(state)
            continue
        if not loop.is_running():
            state.transport.detach()
        with suppress(RuntimeError):  # closed: asyncio closed what was its own
            loop.call_soon_threadsafe(state.close_soon)
    states.clear()
