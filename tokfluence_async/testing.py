"""What a user's tests need beside `Sandbox`: an event loop whose clock is a number.

`VirtualLoop` is an ordinary selector loop, so real sockets work in it, but `time()` is a number
that jumps to the next timer whenever no socket is ready: fifty cold URLs at four seconds each, or
an hour of throttling, pass in milliseconds, and in the same order every time. Everything that reads
the loop's clock follows: `asyncio.sleep`, `asyncio.timeout`, aiohttp's time limits, aiolimiter,
this package's throttle and a `Sandbox` in the same loop.

With pytest-asyncio, in a `conftest.py`:

    def pytest_asyncio_loop_factories(config, item):
        return {"virtual": VirtualLoop}

Elsewhere: `with asyncio.Runner(loop_factory=VirtualLoop) as runner: runner.run(main())`.

Three traps, all met here:

- Each turn of the loop costs a nanosecond. Frozen time makes whatever waits for "a little later
  than now" spin.
- Threads do not hold this clock back. Jobs given to `run_in_executor` (and so `asyncio.to_thread`)
  are counted, and the clock stands still while one is at work; threads started by other means are
  not seen.
- Another process is not seen either: both ends of a connection have to live in this loop. Connect
  to `127.0.0.1`, as a name is resolved in a thread.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

__all__ = ["VirtualLoop"]

_Args = TypeVarTuple("_Args")
_R = TypeVar("_R")

_TURN = 1e-9
# How long, in real seconds, a wait for sockets may take before the clock is allowed to jump past
# it. Loopback delivers within the sending system call almost always; this is for the rest.
_GRACE = 50e-6
# While a thread is at work the clock stands still, but not for ever: a thread that itself waits for
# this loop's clock would never end.
_THREAD_PATIENCE = 0.25


class _JumpingSelector(selectors.DefaultSelector):
    """The default selector, except that a wait nothing interrupts moves the loop's clock and takes
    no time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.jobs = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += _TURN
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None:
            return super().select(None)
        if self.jobs:
            ready = super().select(_THREAD_PATIENCE)
        elif len(self.get_map()) > 1:  # more than the loop's own wake-up pipe
            ready = super().select(_GRACE)
        if not ready:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A selector loop on a virtual clock; see the module's docstring for what that means and what
    it cannot see."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds on the virtual clock. It starts at 1000 and has nothing to do with the time of
        day."""
        return self._jumping.now

    def advance(self, seconds: float) -> None:
        """Move the clock forward by hand, as if the machine had slept. Timers that are due run on
        the next turn."""
        if seconds < 0:
            raise ValueError("the clock only goes forward")
        self._jumping.now += seconds

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Args], _R], *args: *_Args
    ) -> asyncio.Future[_R]:
        """As the base class; the clock stands still until the job is done."""
        future = super().run_in_executor(executor, func, *args)
        self._jumping.jobs += 1
        future.add_done_callback(self._job_done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """As the base class, without its time limit (3.12 and later): nothing counts the thread
        that joins the others, so this clock would jump past any limit at once."""
        await super().shutdown_default_executor()

    def _job_done(self, _: asyncio.Future[Any]) -> None:
        self._jumping.jobs -= 1
