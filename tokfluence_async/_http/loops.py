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

from msgspec import Struct

from .._tasks import end, finish
from .foreign_server import ForeignServer
from .keys import KeyState
from .outage import Outage

if TYPE_CHECKING:
    from .transport import Transport

__all__ = ["Counts", "LoopState", "States", "close_elsewhere"]

States = dict[asyncio.AbstractEventLoop, "LoopState"]

# What forked children have inherited: kept to their end, so that nothing finalizes it.
_inherited: list[LoopState] = []


class Counts(Struct):
    """Counts of one event loop. One thread writes each, so no lock is needed and no count is
    lost."""

    requests: int = 0
    retries: int = 0
    throttled_seconds: float = 0.0
    rate_limited: int = 0
    bytes_received: int = 0


class LoopState:
    """What a client has in the running event loop.

    Attributes:
        keys: By token.
        tasks: Background tasks, which end with the client.
        calls: The tasks of whoever is in a call now.
        ended: Those whose call `aclose` has ended.
        looking: Held by the call that asks what is left in the wallet.
    """

    def __init__(
        self,
        states: States,
        transport: Transport,
        counts: Counts,
        outage: Outage,
        foreign_server: ForeignServer,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport = transport
        self.counts = counts
        self.outage = outage
        self.foreign_server = foreign_server
        self.tasks: set[asyncio.Task[Any]] = set()
        self.calls: set[asyncio.Task[Any]] = set()
        self.ended: set[asyncio.Task[Any]] = set()
        self.looking = asyncio.Lock()
        self._closed = False
        self._pid = os.getpid()
        self.keys: dict[str, KeyState] = {}
        # Begun by hand, up to its `yield`, as there is no await here.
        self._end = _until_the_end(states, self)
        with suppress(StopIteration):
            self._end.__anext__().send(None)

    @property
    def inherited(self) -> bool:
        """Whether this process is a child that was forked after this was made."""
        return os.getpid() != self._pid

    async def aclose(self, caller: asyncio.Task[Any] | None = None) -> None:
        """End the background tasks and the calls, and close the connections. Idempotent.

        Args:
            caller: Who waits for this, if in another task; it may be one of the background tasks,
                which then ends by itself.
        """
        await self.close_now(caller)
        with suppress(RuntimeError):  # the loop is ending, and is at it already
            await self._end.aclose()

    async def close_now(self, caller: asyncio.Task[Any] | None = None) -> None:
        if self._closed:
            return
        self._closed = True
        here = (caller, asyncio.current_task())
        try:
            await end(task for task in self.tasks if task not in here)
        finally:
            # Whoever awaits a call now gets `ClosedError`, however long it would still wait: as
            # `asyncio.timeout` does it, by a cancellation that is turned into an error before it
            # leaves the call.
            for task in list(self.calls):
                self.ended.add(task)
                task.cancel()
            await finish(self.transport.aclose())

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
        await state.close_now()


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
