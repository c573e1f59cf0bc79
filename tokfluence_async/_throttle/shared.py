"""All budgets of one service, shared with other processes through a store.

Promises: the waiting line, its order and its gates are those of `origin`; only where slots come
from is another. Slots are leased few at a time, and given back when nobody waits for them any more.
When the store goes away, the process goes on alone at its part of the limit, says so once, and
comes back by itself. A store that never worked ends the calls that wait, with the reason.

Relies on: `store.Store.request`, which answers at once (a file) or later in the same loop (Redis).

Hard: an answer is old when it arrives. So gates are only moved later by it, except by a newer
version of the gate; and what it does not know yet is told again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import random
from functools import partial

from .._errors import ConfigurationError
from .budget import KeyLane, Lane
from .leased import LeasedPacer
from .origin import Origin
from .queue import first_awake
from .store import Answer, Ask, Store, StoreError

__all__ = ["SharedOrigin"]

_log = logging.getLogger("tokfluence_async")

# Who waits looks at the gates that often, at least: seconds, or a number of slots if that is less.
_LOOK = 0.25
_LOOK_SLOTS = 10
# Seconds. Who waits for nothing, or at a gate, says that often that it is alive.
_HEARTBEAT = 2.5
# For how long a process that asks for nothing says so: what it has sent counts for a window.
_KEEP = 60.0
# How long a store that has never worked may take to be there.
_START = 8.0
# Between two tries to reach it after that: as many slots, and so many seconds at least and at most.
# As long as some are back and others alone, all together send a little too much.
_RETRY = 10
_RETRY_SECONDS = (0.1, 1.0)
# And at the start.
_RETRY_AT_START = 0.3
# Leases that all processes together hold at most, apart from one each.
_MOST_AHEAD = 20


class _SharedLane(Lane):
    """A lane whose slots come from the store."""

    kind = LeasedPacer

    @property
    def leased(self) -> LeasedPacer:
        """The pacer."""
        assert isinstance(self.pacer, LeasedPacer)
        return self.pacer


class _SharedKeyLane(_SharedLane, KeyLane):
    """The lane of a key, with what its process has asked for."""

    def __init__(self, label: str, forked: bool, named: bytes) -> None:
        super().__init__(label, forked)
        #: Its name in the store.
        self.named = named
        #: Slots asked for in each loop and not here yet.
        self.asked: dict[asyncio.AbstractEventLoop, int] = {}
        #: When somebody waited last.
        self.used = -math.inf

    def expected(self, loop: asyncio.AbstractEventLoop) -> int:
        """Slots that are on their way to `loop` and to those that run. One that stands still, as a
        notebook's does between two cells, may never fetch its answer."""
        return sum(n for at, n in self.asked.items() if at is loop or at.is_running())

    def configure(self, now: float) -> None:
        super().configure(now)
        if self.leased.leases is None:
            self.leased.leases = []
            self.leased.expire(now)


class SharedOrigin(Origin):
    """All budgets of one service, shared.

    Args:
        name: `https://host`.
        real: Its times are those of the operating system's clock.
        forked: This process is a forked child.
        store: Where the schedules are.
        ip: The name of the address that this process leaves by.
        process: What tells this process from others.
    """

    def __init__(
        self, name: str, real: bool, forked: bool, store: Store, ip: str, process: bytes
    ) -> None:
        super().__init__(name, real, forked)
        self.ip = self.address = _SharedLane("ip", forked)
        self.store = store
        self.process = process
        self.named = self._name("ip", ip.encode("utf-8", "surrogatepass"))
        self.alone = False
        #: The store has answered at least once.
        self.worked = False
        #: How many share, as last seen.
        self.processes = 1
        self._beats: dict[asyncio.AbstractEventLoop, asyncio.TimerHandle] = {}
        self._trip = 0.0  # seconds, smoothed
        self._told_at = -math.inf  # the last answer
        self._retry_at = -math.inf
        self._trouble_since: float | None = None
        self._inside = False  # a request that answers at once is under way

    def _name(self, kind: str, name: bytes) -> bytes:
        text = f"{kind} {self.name} ".encode()
        return hashlib.blake2b(text + name, digest_size=16).digest()

    @property
    def shared(self) -> bool:
        """Whether slots come from the store at present."""
        return self.worked and not self.alone

    def make_key(self, name: bytes, label: str) -> KeyLane:
        """A lane whose slots come from the store."""
        return _SharedKeyLane(label, self.forked, self._name("key", name))

    def _lanes(self) -> list[_SharedKeyLane]:
        return [key for key in self.keys.values() if isinstance(key, _SharedKeyLane)]

    # ---------------------------------------------------------------- granting

    def dispatch(self, now: float, loop: asyncio.AbstractEventLoop) -> None:
        """Grant what is due, and ask the store for what comes next."""
        for key in self._lanes():
            key.leased.expire(now)
        super().dispatch(now, loop)
        while self._lease(now, loop):
            now = self.now(loop)
            super().dispatch(now, loop)
        self._keep_beating(now, loop)

    def settle(self, now: float, loop: asyncio.AbstractEventLoop) -> None:
        """Give back what nobody waits for now, and tell the store of a refusal."""
        if self._lease(now, loop):
            self.dispatch(self.now(loop), loop)
        super().settle(now, loop)

    def next_opening(self, now: float, loop: asyncio.AbstractEventLoop) -> float:
        """When the next slot opens, or a gate behind which slots can be asked for."""
        if self.alone:
            return super().next_opening(now, loop)
        # Whatever is not in the future has been asked for already: its answer is waited for.
        opens = self._retry_at if self._retry_at > now else math.inf
        for key in self._lanes():
            if not any(first_awake(q, loop) for q in self.line.queues_of(key)):
                continue
            gate = max(key.pacer.gate.opens, self.ip.pacer.gate.opens)
            if key.leased.leases:
                opens = min(opens, max(gate, key.leased.leases[0][0]))
            elif gate > now:
                opens = min(opens, gate)
        return opens

    def _lease(self, now: float, loop: asyncio.AbstractEventLoop) -> bool:
        """Ask for what is missing, give back what is not needed, tell what is new. True if slots
        came at once."""
        if self.alone or now < self._retry_at:
            return False
        came = False
        for key in self._lanes():
            pacer = key.leased
            wanted = 0
            if key.waiting:
                key.used = now
                if self.closed_for(key, now) == 0.0:
                    held = len(pacer.leases or ()) + key.expected(loop)
                    wanted = max(0, min(key.waiting, self._ahead(key, now)) - held)
            back = pacer.surplus(key.waiting)
            if wanted or back or pacer.has_news or self.address.leased.has_news:
                came |= self._ask(key, loop, wanted, back)
        return came

    def _ahead(self, key: _SharedKeyLane, now: float) -> int:
        """How many leases to hold: one, and as many as open during a trip."""
        pace = min(self.address.leased.pace(now), key.pacer.pace(now)) / self.processes
        during = math.ceil(self._trip * pace - 0.1) if pace < math.inf else 0
        return max(1, min(1 + during, _MOST_AHEAD // self.processes))

    # ---------------------------------------------------------------- trips

    def _ask(
        self,
        key: _SharedKeyLane,
        loop: asyncio.AbstractEventLoop,
        slots: int = 0,
        back: tuple[int, ...] = (),
        leaving: bool = False,
    ) -> bool:
        """One trip to the store; True if it brought slots at once."""
        now = self.now(loop)
        ask = Ask(
            process=self.process,
            ip=self.address.leased.ask(self.named, now),
            key=key.leased.ask(key.named, now),
            slots=slots,
            back=back,
            leaving=leaving,
        )
        key.asked[loop] = key.asked.get(loop, 0) + slots
        before = len(key.leased.leases or ())
        outer, self._inside = self._inside, True
        try:
            done = partial(self._arrived, key, ask, loop)
            self.store.request(ask, loop, partial(self.now, loop), done)
        finally:
            self._inside = outer
        return len(key.leased.leases or ()) > before

    def _arrived(
        self,
        key: _SharedKeyLane,
        ask: Ask,
        loop: asyncio.AbstractEventLoop,
        answer: Answer | StoreError | None,
        at: float,
    ) -> None:
        """A trip is over. Takes the lock."""
        message = None
        with self.lock:
            now = self.now(loop)
            key.asked[loop] = key.asked.get(loop, 0) - ask.slots
            if isinstance(answer, Answer):
                self._learn(key, answer, at, now, loop)
            else:
                self.address.leased.untold(ask.ip)
                key.leased.untold(ask.key)
                if answer is not None and not ask.leaving:
                    message = self._trouble(answer, now, loop)
            if not self._inside and answer is not None:
                self.dispatch(now, loop)
                self.wake(loop)
        # Without the lock: a log handler may ask for statistics.
        if message is not None:
            loop.call_soon(_log.warning, "%s", message)

    def _learn(
        self,
        key: _SharedKeyLane,
        answer: Answer,
        at: float,
        now: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.worked = True
        self._trouble_since = None
        self._retry_at = -math.inf
        self._told_at = now
        self._trip += (2.0 * (now - at) - self._trip) / 4
        if self.alone:
            self._go_alone(now, False)
            loop.call_soon(_log.info, "The shared throttle is back: %r.", self.store)
        self.address.leased.load(answer.ip, at, bool(answer.leases))
        key.leased.load(answer.key, at, bool(answer.leases))
        self.processes = max(answer.ip.processes, answer.key.processes, 1)
        key.leased.put(answer.leases, at)
        for other in self.keys.values():
            if other.waiting and self.closed_for(other, now) > other.patience:
                self.send_away(other, loop)

    def _trouble(
        self, error: StoreError, now: float, loop: asyncio.AbstractEventLoop
    ) -> str | None:
        """The store did not answer; what is to be said of it."""
        if self._trouble_since is None:
            self._trouble_since = now
        since = now - self._trouble_since
        if not self.worked:
            self._retry_at = now + _RETRY_AT_START
            if error.lasting or since >= _START:
                self._trouble_since = None
                self._retry_at = -math.inf
                for key in self._lanes():
                    self.send_away(
                        key,
                        loop,
                        partial(
                            ConfigurationError,
                            f"The shared throttle does not work, so nothing was sent: {error}.",
                        ),
                    )
            return None
        self._retry_at = now + self._slots(_RETRY, *_RETRY_SECONDS) * random.uniform(0.8, 1.2)
        if self.alone or (not error.lasting and since < self.store.patience):
            if not self.alone:
                self._retry_at = now + self.store.patience / 20
            return None
        self._go_alone(now, True)
        return (
            f"The shared throttle is away ({error}). This process goes on alone, at its part of "
            f"the limit ({self.processes} shared it), and comes back by itself."
        )

    def _slots(self, count: int, least: float, most: float) -> float:
        """Seconds in which so many slots open, for all who share."""
        pace = min(lane.pacer.pace(-math.inf) for lane in (self.address, *self._lanes()))
        if self.alone:
            pace *= self.processes
        return min(most, max(least, count / pace))

    def _go_alone(self, now: float, alone: bool) -> None:
        self.alone = alone
        for leased in (self.address.leased, *(key.leased for key in self._lanes())):
            leased.go_alone(now, alone)

    # ---------------------------------------------------------------- being alive

    def _keep_beating(self, now: float, loop: asyncio.AbstractEventLoop) -> None:
        for gone in [known for known in self._beats if known.is_closed()]:
            del self._beats[gone]
        for key in self._lanes():
            for gone in [known for known in key.asked if known.is_closed()]:
                del key.asked[gone]
        if self.line.waiting or any(now - key.used < _KEEP for key in self._lanes()):
            busy = any(key.waiting and not self.closed_for(key, now) for key in self._lanes())
            pause = self._slots(_LOOK_SLOTS, 0.05, _LOOK) if busy else _HEARTBEAT
            if self.alone:
                pause = max(self._retry_at - now, 0.0)
            when = loop.time() + pause
            timer = self._beats.get(loop)
            if timer is None or timer.when() > when:
                if timer is not None:
                    timer.cancel()
                self._beats[loop] = loop.call_at(when, self._beat, loop)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        """A loop's second timer: looks at the gates, says that the process is alive, tries to reach
        a store that is away. Takes the lock."""
        with self.lock:
            self._beats.pop(loop, None)
            now = self.now(loop)
            for key in self._lanes():
                if key.expected(loop) or not (key.waiting or now - key.used < _KEEP):
                    continue
                if self.alone:
                    if now >= self._retry_at:
                        self._retry_at = now + self._slots(_RETRY, *_RETRY_SECONDS)
                        self._ask(key, loop)
                    continue
                open_line = key.waiting and self.closed_for(key, now) == 0.0
                pause = self._slots(_LOOK_SLOTS, 0.05, _LOOK) if open_line else _HEARTBEAT
                if now - self._told_at >= pause * 0.9:
                    self._ask(key, loop)
            self.dispatch(self.now(loop), loop)

    async def aclose(self) -> None:
        """The running loop needs no slots for the time being: give back what is leased, and close
        what belongs to the loop."""
        loop = asyncio.get_running_loop()
        with self.lock:
            timer = self._beats.pop(loop, None)
            if timer is not None:
                timer.cancel()
            if not self.line.waiting and self.shared:
                for key in self._lanes():
                    if key.used > -math.inf:
                        key.used = -math.inf
                        self._ask(key, loop, back=key.leased.surplus(0), leaving=True)
        await self.store.aclose()
