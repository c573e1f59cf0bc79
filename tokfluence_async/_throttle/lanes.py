"""What a client calls: its two budgets, the IP's and the key's, from any event loop and thread.

Promises: waiting is first come, first served. Cancelling is safe at any moment: the slot goes to
the next in line. The handle outlives loops and forks, as it finds the running loop's budgets anew.

Relies on: the caller takes a slot right before its bytes leave, and reports every 429.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Generator
from contextlib import contextmanager

from . import registry
from .budget import KeyLane, LaneName
from .limits import Limits
from .origin import Origin
from .queue import NO_SLOT, Waiter

__all__ = ["GateClosedError", "Lanes"]


class GateClosedError(Exception):
    """A gate is closed for longer than somebody in its line has patience for. No slot was taken,
    after `waited` seconds."""

    def __init__(self, waited: float) -> None:
        super().__init__(waited)
        self.waited = waited


class Lanes:
    """A client's handle to its two budgets; see `Throttle.lanes`.

    For each physical request: `try_acquire()`, and where that is False `await grant()`, after the
    concurrency slot and right before the bytes leave. Then `answered()`, or `refused()` for a 429.
    """

    _loop: asyncio.AbstractEventLoop | None
    _origin: Origin
    _lane: KeyLane

    def __init__(self, limits: Limits, origin: str, key: str) -> None:
        self._limits = limits
        self._origin_name = origin
        self._key = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        self._registry: registry.Registry | None = None
        self._loop = None

    def __repr__(self) -> str:
        return f"<Lanes of {self._origin_name}>"

    def _bind(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Find, or make, the lanes on this loop's clock."""
        found = registry.current
        origin = found.origin(self._origin_name, loop, self._limits)
        # What statistics call it: salted, so that nobody can try tokens against it.
        label = hashlib.blake2b(self._key, key=found.salt, digest_size=4).hexdigest()
        with origin.lock:
            lane = origin.key(self._key, label)
            if self._limits not in lane.throttles:
                origin.ip.throttles.add(self._limits)
                lane.throttles.add(self._limits)
                origin.configure(origin.now(loop))
        self._registry, self._loop = found, loop
        self._origin, self._lane = origin, lane

    def _at(self, loop: asyncio.AbstractEventLoop | None) -> tuple[Origin, KeyLane]:
        """The budgets on this loop's clock."""
        if loop is not self._loop or self._registry is not registry.current:
            self._bind(loop)
        return self._origin, self._lane

    def try_acquire(self) -> bool:
        """Take a slot of both lanes if that needs no waiting; False when somebody waits or none is
        free. Only within a running loop."""
        loop = asyncio.get_running_loop()
        origin, key = self._at(loop)
        with origin.lock:
            return origin.try_take(key, origin.now(loop))

    async def acquire(self, *, priority: bool = False, patience: float = math.inf) -> float:
        """`try_acquire` and `grant` in one, for whoever wants only the seconds it took; 0.0 when a
        slot was free."""
        if self.try_acquire():
            return 0.0
        began = self._origin.now(self._loop)
        return max(0.0, await self.grant(priority=priority, patience=patience) - began)

    async def grant(self, *, priority: bool = False, patience: float = math.inf) -> float:
        """Wait for a slot of both lanes and return when it was granted: a loop that is late runs
        the caller some time after that.

        Only after `try_acquire` said no.

        Args:
            priority: For calls that are few and long (analyze). They pass the reads, but never
                twice in a row while a read could go.
            patience: Seconds. When a gate of this key is closed for longer, its whole line is
                emptied, those with more patience included. They can come back when it opens, and
                hold nothing until then.
        Raises:
            GateClosedError: That happened, or is so already.
            ConfigurationError: The store of a shared throttle does not work.
        """
        loop = asyncio.get_running_loop()
        origin, key = self._origin, self._lane
        waiter: Waiter = loop.create_future()
        with origin.lock:
            began = origin.now(loop)
            if origin.throttles != len(origin.ip.throttles):
                origin.configure(began)
            if origin.closed_for(key, began) > patience:
                raise GateClosedError(0.0)
            origin.line.join(key, waiter, loop, priority, patience)
            origin.dispatch(began, loop)
        try:
            granted = waiter.result() if waiter.done() else await waiter
        except asyncio.CancelledError:
            origin.cancelled(key, waiter, loop)
            raise
        if granted is NO_SLOT:
            raise GateClosedError(origin.now(loop) - began)
        return granted

    @contextmanager
    def waiting_outside(self) -> Generator[None]:
        """Count whoever waits inside the `with` among those who wait for a slot."""
        origin, key = self._at(registry.running_loop())
        with origin.lock:
            key.outside += 1
        try:
            yield
        finally:
            with origin.lock:
                key.outside -= 1

    def forfeit(self, age: float) -> None:
        """Give back the slot taken `age` seconds ago, when its request never left, as connecting
        failed."""
        loop = registry.running_loop()
        origin, key = self._at(loop)
        with origin.lock:
            now = origin.now(loop)
            origin.give_back(key, now - age, now)
            if loop is not None:
                origin.dispatch(now, loop)

    def answered(self) -> None:
        """A request was answered, and not with 429."""
        if self._registry is registry.current:  # else it was sent before a fork
            self._origin.answered(self._lane, registry.running_loop())

    def refused(
        self, retry_after: float | None, lane: LaneName | None = None, *, lower: bool = True
    ) -> bool:
        """A request got 429: close the gate, only ever for longer, and lower the pace. True if this
        refusal lowered it.

        Args:
            retry_after: Seconds, see `parse_retry_after`; never shortened. None pauses 1, 2, 4, ...
                seconds by refusals in a row, at most a period.
            lane: Which budget refused, where that is known.
            lower: Whether it says anything about the pace; not where the service takes no more at
                once.
        """
        loop = registry.running_loop()
        origin, key = self._at(loop)
        return origin.refused(key, retry_after, lane, lower, loop)

    async def aclose(self) -> None:
        """The running loop needs no more slots for the time being: what is leased from a shared
        store is given back, and the connection to it closed. Slots may be asked for again."""
        if self._registry is registry.current and self._loop is registry.running_loop():
            await self._origin.aclose()

    @property
    def slot_lifetime(self) -> float:
        """Seconds for which a slot stays good, from its grant on: half the jitter; the other half
        is the network's. 20 ms at least.

        A request that is ready to leave later than that gives its slot up and takes another.
        Without a floor, `jitter=0` would have every request take two: between the slot and the
        bytes some microseconds always pass.
        """
        return max(self._limits.jitter / 2, 0.02)

    @property
    def gate_closed_for(self) -> float:
        """Seconds until both gates are open; 0.0 when they are. Only within a running loop."""
        loop = asyncio.get_running_loop()
        origin, key = self._at(loop)
        with origin.lock:
            return origin.closed_for(key, origin.now(loop))
