"""The waiting round `_pace`: one IP lane per origin, one lane per key under it, shared by the whole
process.

What is hard here is who waits where, not the arithmetic:

- **Two budgets, one grant.** A request needs a slot of its key's lane and one of the IP lane. Both
  are taken in one step, when both are free, so nobody sits on one while waiting for the other.
  Where the IP lane is at least as strict (600 against 1200), it implies the key's, which then keeps
  only its gate.
- **Order.** Within a key, first come, first served. Keys that wait for the IP lane take turns.
  Calls with priority (analyze: few and long) pass the reads, but never twice in a row while a read
  could go.
- **Loops and threads.** Budgets belong to the process, futures to an event loop. One lock per
  origin guards its state, no code waits while holding it, and each loop with waiters has one timer
  of its own. Whichever timer fires first grants all that is due, to waiters of other loops too;
  those of a closed loop are dropped, those of a loop that stands still are passed over and keep
  their place.
- **The free slot.** Nearly every process has one thread with one loop, and there a lock would cost
  more than all the rest. So a free slot is taken without it until a second thread comes along; see
  `_Origin.share`.
- **Clocks.** Loops on the operating system's clock share their budgets. A loop with a clock of its
  own (`testing.VirtualLoop`) has budgets of its own, as its times mean nothing elsewhere.
- **Forks.** A child starts with nothing: no lanes, and the first slot of a new one only after one
  interval.

aiolimiter's `AsyncLimiter` is the token bucket that `_pace` is held to in the tests: while nothing
is saved, repaid or refused, both grant at the same times. It does not stand in this path. It
belongs to one event loop (and warns at the second), it starts full, it knows no gate, no lower
pace, no slot given back and no window beyond its level, and its waiters are a heap that re-arms a
timer for each grant: twice the cost of waking as many sleeping tasks, where 1.2 is the goal
(benchmarks/throttle.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import secrets
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from time import monotonic
from typing import Literal, TypeAlias

from .._errors import ConfigurationError
from .._platform import after_fork_in_child
from .pacer import Pacer, plan_pause

__all__ = ["GateClosedError", "LaneStatistics", "Lanes", "Throttle", "ThrottleStatistics"]

_log = logging.getLogger("tokfluence_async")

LaneName: TypeAlias = Literal["ip", "key"]
# Its result is when the slot was granted, or `_NO_SLOT`.
_Waiter: TypeAlias = "asyncio.Future[float]"
# For those who are sent away: no exception, as nobody may come for it any more.
_NO_SLOT = math.nan

# `call_later` takes any number, but a selector does not, and a gate may be closed for years.
_LONGEST_TIMER = 3600.0
# The way without the lock counts on one thread's stores being seen by the next in their order, as
# under the GIL.
_FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()
# In periods: a service that goes on refusing is reported once, and again after this long.
_QUIET = 10
# Cancelled waiters stay in the line until their turn, as long as they are few.
_FEW = 64


class GateClosedError(Exception):
    """A gate is closed for longer than somebody in its line has patience for. No slot was taken,
    after `waited` seconds."""

    def __init__(self, waited: float) -> None:
        super().__init__(waited)
        self.waited = waited


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """One budget as it stands.

    Attributes:
        lane: "ip" or "key".
        origin: The service, as `https://host`.
        key: A name for the key that says nothing about it; None for an IP lane.
        limit: Requests per `period`; None where the lane is switched off.
        period: Seconds.
        waiting: Calls that wait for a slot of this lane.
        pace: Slots per second that open at present.
        slowed: Refusals have lowered the pace; it is on its way back.
        gate_closed_for: Seconds until the gate opens; 0.0 when it is open.
        refused: 429 answers counted against this lane so far.
    """

    lane: LaneName
    origin: str
    key: str | None
    limit: float | None
    period: float
    waiting: int
    pace: float
    slowed: bool
    gate_closed_for: float
    refused: int


@dataclass(frozen=True, slots=True)
class ThrottleStatistics:
    """What `Throttle.statistics` returns: all lanes in use, and the three figures that matter most.

    Attributes:
        waiting: Calls that wait for a slot.
        pace: Slots per second that open at present in the slowest lane; infinite without lanes.
        gate_closed_for: Seconds until the last gate opens; 0.0 when all are open.
        slowed: Whether refusals have lowered the pace of some lane.
        lanes: Every lane by itself.
    """

    waiting: int
    pace: float
    gate_closed_for: float
    slowed: bool
    lanes: tuple[LaneStatistics, ...]


class _Queue:
    """Waiters of one kind of one key, first come, first served, over all loops."""

    __slots__ = ("cancelled", "listed", "parked", "waiters")

    def __init__(self) -> None:
        self.waiters: deque[_Waiter] = deque()
        # Waiters of loops that stood still when it was their turn; they come back to the head.
        self.parked: dict[asyncio.AbstractEventLoop, deque[_Waiter]] = {}
        self.cancelled = 0
        # Whether the key stands among those that take turns.
        self.listed = False

    def forget_cancelled(self) -> None:
        """One more waiter left; when those who left are the most, the line is closed up."""
        self.cancelled += 1
        if self.cancelled > _FEW and self.cancelled * 2 > len(self.waiters):
            self.waiters = deque(waiter for waiter in self.waiters if not waiter.done())
            self.cancelled = 0


class _Lane:
    """One budget: its pacer, and for whom it is."""

    __slots__ = ("forked", "name", "pacer", "refusals", "throttles", "warned_at")

    # There from the first `configure` on, and always the same.
    pacer: Pacer

    def __init__(self, name: LaneName, forked: bool) -> None:
        self.name: LaneName = name
        self.throttles: weakref.WeakSet[Throttle] = weakref.WeakSet()
        self.refusals = 0  # in a row, without an answer between them
        self.warned_at = -math.inf
        self.forked = forked

    def configure(self, now: float) -> None:
        """The smallest of the numbers of the throttles in use, with that throttle's own period and
        the most careful margins."""
        throttles = list(self.throttles)
        limits = [
            (limit / throttle.period, limit, throttle.period)
            for throttle in throttles
            if (limit := throttle.per_ip if self.name == "ip" else throttle.per_key) is not None
        ]
        _, limit, period = min(limits, default=(0.0, None, throttles[0].period))
        burst = min(throttle.burst for throttle in throttles)
        jitter = max(throttle.jitter for throttle in throttles)
        if hasattr(self, "pacer"):
            self.pacer.configure(limit, period, burst=burst, jitter=jitter, now=now)
        else:
            self.pacer = Pacer(
                limit, period, burst=burst, jitter=jitter, now=now, empty=self.forked
            )


class _KeyLane(_Lane):
    __slots__ = (
        "answered_after",
        "label",
        "outside",
        "patience",
        "reads",
        "refused_as",
        "urgent",
        "waiting",
    )

    def __init__(self, label: str, forked: bool) -> None:
        super().__init__("key", forked)
        self.label = label
        self.reads = _Queue()
        self.urgent = _Queue()
        self.waiting = 0
        self.patience = math.inf  # seconds; the least of those who wait
        self.outside = (
            0  # who wait before they come here: at a closed gate, at a client's own bucket
        )
        # Refusals at the origin are numbered: this key's last, and the last before this key's
        # newest answer.
        self.refused_as = 0
        self.answered_after = 0


class _LoopTimer:
    """A loop's waiters at one origin, and the timer that serves them."""

    __slots__ = ("handle", "waiting", "when")

    def __init__(self) -> None:
        self.waiting = 0
        self.when = math.inf
        self.handle: asyncio.TimerHandle | None = None


class _Origin:
    """All budgets of one service: the IP lane and the keys under it. Unless said otherwise, methods
    want `lock` held."""

    def __init__(self, name: str, real: bool, forked: bool) -> None:
        self.name = name
        self.real = real
        self.forked = forked
        self.lock = threading.Lock()
        self.ip = _Lane("ip", forked)
        self.keys: dict[bytes, _KeyLane] = {}
        self.throttles = 0
        self.refusals = 0
        self.waiting = 0
        self.loops: dict[asyncio.AbstractEventLoop, _LoopTimer] = {}
        # Keys with waiters, in the order of their turns: analyze calls, reads.
        self.urgent: deque[_KeyLane] = deque()
        self.reads: deque[_KeyLane] = deque()
        self.urgent_last = False
        # Granted to another loop, not yet delivered there.
        self.in_transit: set[_Waiter] = set()
        # Cancelled meanwhile, and met by one of the two that have to know: the delivery, and the
        # waiter's own task.
        self.left: set[_Waiter] = set()
        # Loops that stood still when it was their turn.
        self.parked: set[asyncio.AbstractEventLoop] = set()
        self.thread = get_ident()
        self.shared = _FREE_THREADED
        self.busy = False

    def now(self, loop: asyncio.AbstractEventLoop | None) -> float:
        return monotonic() if self.real or loop is None else loop.time()

    def share(self) -> None:
        """From now on two threads are about, and everything takes the lock. Wants the registry's
        lock, not `lock`.

        The first thread says `busy`, then looks at `shared`; this one says `shared`, then looks at
        `busy`. At least one of them sees the other (Dekker's rule), so after this no free slot is
        being taken without the lock, and none will be.
        """
        self.shared = True
        while self.busy:
            time.sleep(0)

    # ---------------------------------------------------------------- numbers

    def configure(self, now: float) -> None:
        """Throttles came or went: the smallest numbers hold."""
        self.throttles = len(self.ip.throttles)
        self.ip.configure(now)
        ip = self.ip.pacer
        for lane in self.keys.values():
            if not lane.throttles:
                continue
            lane.configure(now)
            key = lane.pacer
            implied = (
                ip.limit is not None
                and (key.limit is None or (key.limit >= ip.limit and key.period == ip.period))
                and key.share(now) == 1.0
            )
            if key.implied and not implied:
                key.count_again(ip, now)
            key.implied = implied
            key.refresh(now)

    # ---------------------------------------------------------------- the line

    def join(
        self,
        key: _KeyLane,
        waiter: _Waiter,
        loop: asyncio.AbstractEventLoop,
        priority: bool,
        patience: float,
    ) -> None:
        queue, turns = (key.urgent, self.urgent) if priority else (key.reads, self.reads)
        queue.waiters.append(waiter)
        if not queue.listed:
            queue.listed = True
            turns.append(key)
        if patience < key.patience or not key.waiting:
            key.patience = patience
        key.waiting += 1
        self.waiting += 1
        timer = self.loops.get(loop)
        if timer is None:
            self.forget_closed_loops()
            timer = self.loops[loop] = _LoopTimer()
        timer.waiting += 1

    def leave(self, key: _KeyLane, loop: asyncio.AbstractEventLoop) -> None:
        key.waiting -= 1
        self.waiting -= 1
        self.loops[loop].waiting -= 1

    def closed_for(self, key: _KeyLane, now: float) -> float:
        return max(self.ip.pacer.gate_closed_for(now), key.pacer.gate_closed_for(now))

    def send_away(self, key: _KeyLane, loop: asyncio.AbstractEventLoop | None) -> None:
        """Empty the key's line: all its waiters leave without a slot, in their order."""
        for queue in (key.urgent, key.reads):
            line = [waiter for parked in queue.parked.values() for waiter in parked]
            line += queue.waiters
            queue.parked.clear()
            queue.waiters.clear()
            queue.cancelled = 0
            for waiter in line:
                if waiter.done():
                    continue
                owner = waiter.get_loop()
                self.leave(key, owner)
                if owner is loop:
                    waiter.set_result(_NO_SLOT)
                    continue
                self.in_transit.add(waiter)
                try:
                    owner.call_soon_threadsafe(self.deliver, key, waiter, _NO_SLOT)
                except RuntimeError:  # closed: nobody is there any more
                    self.in_transit.discard(waiter)

    def forget_closed_loops(self) -> None:
        """Waiters of a loop that was closed under them will never leave by themselves."""
        for loop in [loop for loop in self.loops if loop.is_closed()]:
            for key in self.keys.values():
                for queue in (key.urgent, key.reads):
                    line = [*queue.parked.pop(loop, ()), *queue.waiters]
                    for waiter in line:
                        if waiter.get_loop() is loop and not waiter.done():
                            self.leave(key, loop)
                    queue.waiters = deque(
                        w for w in line if w.get_loop() is not loop and not w.done()
                    )
                    queue.cancelled = 0
            self.parked.discard(loop)
            del self.loops[loop]

    def unpark(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop runs again: its waiters stand where they stood."""
        self.parked.discard(loop)
        for key in self.keys.values():
            for queue, turns in ((key.urgent, self.urgent), (key.reads, self.reads)):
                back = queue.parked.pop(loop, None)
                if back is not None:
                    queue.waiters.extendleft(reversed(back))
                    if not queue.listed:
                        queue.listed = True
                        turns.append(key)

    def head(self, key: _KeyLane, queue: _Queue, loop: asyncio.AbstractEventLoop) -> _Waiter | None:
        """The first waiter who can be woken, still in its place."""
        waiters = queue.waiters
        while waiters:
            waiter = waiters[0]
            if not waiter.done():
                owner = waiter.get_loop()
                if owner is loop or owner.is_running():
                    return waiter
                if owner.is_closed():
                    self.leave(key, owner)
                else:
                    queue.parked.setdefault(owner, deque()).append(waiter)
                    self.parked.add(owner)
            else:
                queue.cancelled -= 1
            waiters.popleft()
        return None

    def turn(
        self, turns: deque[_KeyLane], now: float, loop: asyncio.AbstractEventLoop
    ) -> tuple[_KeyLane, _Waiter] | None:
        """The next of these keys with a free slot and a waiter who can be woken; it goes to the
        end, the waiter leaves the line."""
        urgent = turns is self.urgent
        for _ in range(len(turns)):
            key = turns[0]
            if now < key.pacer.free_at:
                turns.rotate(-1)
                continue
            queue = key.urgent if urgent else key.reads
            waiter = queue.waiters[0] if queue.waiters else None
            if waiter is None or waiter.done() or waiter.get_loop() is not loop:
                waiter = self.head(key, queue, loop)
                if waiter is None:
                    queue.listed = False
                    turns.popleft()
                    continue
            queue.waiters.popleft()
            if len(turns) > 1:
                turns.rotate(-1)
            self.urgent_last = urgent
            return key, waiter
        return None

    def pick(self, now: float, loop: asyncio.AbstractEventLoop) -> tuple[_KeyLane, _Waiter] | None:
        """Whose turn it is, with both slots free; analyze calls first, but not twice in a row while
        a read could go."""
        if not self.urgent:
            return self.turn(self.reads, now, loop)
        if self.urgent_last:
            return self.turn(self.reads, now, loop) or self.turn(self.urgent, now, loop)
        return self.turn(self.urgent, now, loop) or self.turn(self.reads, now, loop)

    def dispatch(self, now: float, loop: asyncio.AbstractEventLoop) -> None:
        """Grant everything that is due, then set this loop's timer for what comes next."""
        ip = self.ip.pacer
        if self.parked and loop in self.parked:
            self.unpark(loop)
        while now >= ip.free_at and self.waiting:
            picked = self.pick(now, loop)
            if picked is None:
                break
            key, waiter = picked
            owner = waiter.get_loop()
            ip.take(now, True)
            if not key.pacer.implied:
                key.pacer.take(now, True)
            self.leave(key, owner)
            if owner is loop:
                waiter.set_result(now)
                continue
            self.in_transit.add(waiter)
            try:
                owner.call_soon_threadsafe(self.deliver, key, waiter, now)
            except RuntimeError:  # closed since it was looked at
                self.in_transit.discard(waiter)
                self.give_back(key, now, now)
        self.arm(now, loop)

    def arm(self, now: float, loop: asyncio.AbstractEventLoop) -> None:
        timer = self.loops.get(loop)
        if timer is None:
            return
        opens = math.inf
        if timer.waiting:
            for turns in (self.reads, self.urgent):
                for key in turns:
                    if key.pacer.free_at < opens:
                        opens = key.pacer.free_at
            if self.ip.pacer.free_at > opens:
                opens = self.ip.pacer.free_at
        if timer.handle is not None:
            if timer.when == opens:
                return
            timer.handle.cancel()
            timer.handle = None
        timer.when = opens
        if opens < math.inf:
            # Both clocks are monotonic seconds of the same origin, so this is the loop's time too.
            timer.handle = loop.call_at(min(opens, now + _LONGEST_TIMER), self.tick, loop)
        elif not timer.waiting:
            del self.loops[loop]

    def give_back(self, key: _KeyLane, taken: float, now: float) -> None:
        self.ip.pacer.refund(taken, now)
        if not key.pacer.implied:
            key.pacer.refund(taken, now)

    # ---------------------------------------------------------------- called by event loops,
    # without the lock

    def tick(self, loop: asyncio.AbstractEventLoop) -> None:
        with self.lock:
            timer = self.loops.get(loop)
            if timer is not None:
                timer.handle = None
                self.dispatch(self.now(loop), loop)

    def deliver(self, key: _KeyLane, waiter: _Waiter, taken: float) -> None:
        """A slot granted by another thread arrives; if the waiter has gone meanwhile, the next one
        gets it."""
        with self.lock:
            self.in_transit.discard(waiter)
            if not waiter.done():
                waiter.set_result(taken)
                return
            self.left ^= {waiter}
            if taken is _NO_SLOT:
                return
            loop = waiter.get_loop()
            now = self.now(loop)
            self.give_back(key, taken, now)
            self.dispatch(now, loop)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _on_the_real_clock(loop: asyncio.AbstractEventLoop) -> bool:
    kind = type(loop)
    return kind.__module__.partition(".")[0] == "uvloop" or kind.time is asyncio.BaseEventLoop.time


class _Registry:
    """The process's lanes. A forked child gets a new one."""

    def __init__(self, forked: bool = False) -> None:
        self.lock = threading.Lock()
        self.forked = forked
        self.salt = secrets.token_bytes(16)
        self.real: dict[str, _Origin] = {}
        self.virtual: dict[asyncio.AbstractEventLoop, dict[str, _Origin]] = {}

    def origins(self, loop: asyncio.AbstractEventLoop | None) -> dict[str, _Origin]:
        """Wants `lock` held."""
        if loop is None or _on_the_real_clock(loop):
            return self.real
        found = self.virtual.get(loop)
        if found is None:
            for gone in [known for known in self.virtual if known.is_closed()]:
                del self.virtual[gone]
            found = self.virtual[loop] = {}
        return found


_registry = _Registry()


def _after_fork() -> None:
    global _registry
    _registry = _Registry(forked=True)


after_fork_in_child(_after_fork)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Throttle:
    """How often requests may leave: one budget per origin and one per key, for every client in the
    process.

    A `Throttle` is a description; the budgets themselves belong to the process, so two throttles,
    or ten clients, at one origin share what the service permits. Where the numbers of throttles in
    use differ, the smaller one holds.

    Args:
        per_ip: Requests per `period` and origin, more than 0; None switches this lane off.
        per_key: Requests per `period` and key, more than 0; None switches this lane off.
        period: Seconds, more than 0.
        burst: Requests that may leave at once after idleness, at least 1. At the even pace of 600 a
            minute 50 calls take five seconds; with `burst=20` the first twenty go at once, if
            nothing was sent for two seconds before. It costs no throughput, as it is paid back over
            the next period. Above 10, a service that itself counts with a small burst (nginx
            `limit_req burst=20`) may refuse some. A service that counts with a bucket of ten or
            fewer refuses a little (0.4 to 2 % under on and off demand) unless `burst` is less than
            its bucket. A process that is restarted within a second of a burst may see one refusal.
        jitter: Seconds by which two requests may bunch up between their slots and the service, 0 or
            more: the margin. A slot is used for up to half of it, while a connection opens or the
            event loop is late; so the network has the other half for certain, and nearly all of it
            otherwise. It costs `jitter / period` of the rate, 0.94 % at 0.57. That is right for
            transit times of 200 ms in the mean: where they are exponential, without bound, a
            sliding log refuses 0.45 requests an hour, fixed windows and buckets none. On a quiet
            network 0.1 gives 99.8 %.

    Raises:
        ConfigurationError: A number is out of its range.

    Source: the Tokfluence API page, Throttles: 600 a minute per IP, 1200 per key, the algorithm not
    documented.
    """

    __slots__ = ("__weakref__", "burst", "jitter", "per_ip", "per_key", "period")

    def __init__(
        self,
        per_ip: float | None = 600,
        per_key: float | None = 1200,
        period: float = 60.0,
        *,
        burst: int = 10,
        jitter: float = 0.57,
    ) -> None:
        for name, limit in (("per_ip", per_ip), ("per_key", per_key)):
            if limit is not None and not (_is_number(limit) and 0 < limit < math.inf):
                raise ConfigurationError(
                    f"{name} is a number of requests above 0, or None; not {limit!r}"
                )
        if not (_is_number(period) and 0 < period < math.inf):
            raise ConfigurationError(f"period is a number of seconds above 0; not {period!r}")
        if not (_is_number(burst) and burst == burst // 1 >= 1):
            raise ConfigurationError(
                f"burst is a whole number of requests, at least 1; not {burst!r}"
            )
        if not (_is_number(jitter) and 0 <= jitter < math.inf):
            raise ConfigurationError(f"jitter is a number of seconds, at least 0; not {jitter!r}")
        self.per_ip = per_ip
        self.per_key = per_key
        self.period = float(period)
        self.burst = int(burst)
        self.jitter = float(jitter)

    def __repr__(self) -> str:
        return (
            f"Throttle(per_ip={self.per_ip!r}, per_key={self.per_key!r}, period={self.period!r}, "
            f"burst={self.burst!r}, jitter={self.jitter!r})"
        )

    def statistics(self) -> ThrottleStatistics:
        """How many wait, the current pace and the gate, of every lane this throttle governs.

        On the clock of the running event loop; without one, on the operating system's. Costs
        nothing.
        """
        loop = _running_loop()
        registry = _registry
        with registry.lock:
            origins = list(registry.origins(loop).values())
        lanes: list[LaneStatistics] = []
        waiting = 0
        for origin in origins:
            with origin.lock:
                if self not in origin.ip.throttles:
                    continue
                now = origin.now(loop)
                all_waiting = origin.waiting + sum(key.outside for key in origin.keys.values())
                waiting += all_waiting
                lanes.append(_describe(origin, origin.ip, None, all_waiting, now))
                lanes += [
                    _describe(origin, key, key.label, key.waiting + key.outside, now)
                    for key in origin.keys.values()
                    if self in key.throttles
                ]
        return ThrottleStatistics(
            waiting=waiting,
            pace=min((lane.pace for lane in lanes), default=math.inf),
            gate_closed_for=max((lane.gate_closed_for for lane in lanes), default=0.0),
            slowed=any(lane.slowed for lane in lanes),
            lanes=tuple(lanes),
        )

    def lanes(self, origin: str, key: str) -> Lanes:
        """The budgets that a client at `origin` with the token `key` draws on. The token is hashed
        and not kept."""
        return Lanes(self, origin, key)


def _describe(
    origin: _Origin, lane: _Lane, label: str | None, waiting: int, now: float
) -> LaneStatistics:
    pacer = lane.pacer
    return LaneStatistics(
        lane=lane.name,
        origin=origin.name,
        key=label,
        limit=pacer.limit,
        period=pacer.period,
        waiting=waiting,
        pace=pacer.pace(now),
        slowed=pacer.share(now) < 1.0,
        gate_closed_for=pacer.gate_closed_for(now),
        refused=pacer.refused_total,
    )


class Lanes:
    """A client's handle to its two budgets, the IP's and the key's. Any loop and thread may use it;
    see `Throttle.lanes`.

    For each physical request: `try_acquire()`, and where that is False `await grant()`, after the
    concurrency slot and right before the bytes leave; then `answered()`, or `refused()` for a 429.
    It reaches for the running loop's lanes at every call, so it outlives loops and forks.
    """

    __slots__ = (
        "_ip",
        "_key",
        "_lane",
        "_loop",
        "_origin",
        "_origin_name",
        "_pacer",
        "_registry",
        "_thread",
        "_throttle",
    )

    _loop: asyncio.AbstractEventLoop | None
    _origin: _Origin
    _lane: _KeyLane
    _ip: Pacer
    _pacer: Pacer

    def __init__(self, throttle: Throttle, origin: str, key: str) -> None:
        self._throttle = throttle
        self._origin_name = origin
        self._key = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        self._registry: _Registry | None = None
        self._thread = 0
        self._loop = None

    def __repr__(self) -> str:
        return f"<Lanes of {self._origin_name}>"

    def _bind(self) -> None:
        """Find, or make, the lanes on the running loop's clock."""
        loop = _running_loop()
        thread = get_ident()
        registry = _registry
        with registry.lock:
            origins = registry.origins(loop)
            origin = origins.get(self._origin_name)
            if origin is None:
                real = origins is registry.real
                origin = origins[self._origin_name] = _Origin(
                    self._origin_name, real, registry.forked
                )
            elif origin.thread != thread and not origin.shared:
                origin.share()
        with origin.lock:
            now = origin.now(loop)
            lane = origin.keys.get(self._key)
            if lane is None:
                # What statistics call it: salted, so that nobody can try tokens against it.
                label = hashlib.blake2b(self._key, key=registry.salt, digest_size=4).hexdigest()
                lane = origin.keys[self._key] = _KeyLane(label, origin.forked)
            if self._throttle not in lane.throttles:
                origin.ip.throttles.add(self._throttle)
                lane.throttles.add(self._throttle)
                origin.configure(now)
        self._registry, self._loop, self._thread = registry, loop, thread
        self._origin, self._lane, self._ip, self._pacer = origin, lane, origin.ip.pacer, lane.pacer

    def _here(self) -> tuple[_Origin, _KeyLane, asyncio.AbstractEventLoop | None, float]:
        loop = _running_loop()
        if loop is not self._loop or self._registry is not _registry or self._thread != get_ident():
            self._bind()
        return self._origin, self._lane, self._loop, self._origin.now(self._loop)

    def _running(self) -> asyncio.AbstractEventLoop:
        """The running loop, whose lanes are bound."""
        # One thread runs one loop at a time: the loop bound here, if it still runs, is the running
        # one. (Asking asyncio costs a getpid() on 3.11.)
        loop = self._loop
        if (
            get_ident() != self._thread
            or loop is None
            or not loop.is_running()
            or self._registry is not _registry
        ):
            self._bind()
            loop = self._loop
            if loop is None:
                raise RuntimeError("there is no running event loop")
        return loop

    def try_acquire(self) -> bool:
        """Take a slot of both lanes if that needs no waiting; False when somebody waits or none is
        free. Only within a running loop."""
        loop = self._running()
        origin = self._origin
        if origin.waiting:
            return False
        origin.busy = True
        try:
            if not origin.shared:
                now = monotonic() if origin.real else loop.time()
                ip, key = self._ip, self._pacer
                if now < ip.free_at or now < key.free_at:
                    return False
                ip.take(now)
                if not key.implied:
                    key.take(now)
                return True
        finally:
            origin.busy = False
        with origin.lock:
            now = origin.now(loop)
            ip, key = self._ip, self._pacer
            if origin.waiting or now < ip.free_at or now < key.free_at:
                return False
            ip.take(now)
            if not key.implied:
                key.take(now)
            return True

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

        Only after `try_acquire` said no. Cancelling is safe at any moment: the slot goes to the
        next in line.

        Args:
            priority: For calls that are few and long (analyze). They pass the reads, but never
                twice in a row while a read could go.
            patience: Seconds. When a gate of this key is closed for longer, its whole line is
                emptied, those with more patience
                included: they can come back when it opens, and hold nothing until then.
        Raises:
            GateClosedError: That happened, or is so already.
        """
        loop = asyncio.get_running_loop()
        origin, key = self._origin, self._lane
        waiter: _Waiter = loop.create_future()
        with origin.lock:
            began = origin.now(loop)
            if origin.throttles != len(origin.ip.throttles):
                origin.configure(began)
            if origin.closed_for(key, began) > patience:
                raise GateClosedError(0.0)
            origin.join(key, waiter, loop, priority, patience)
            origin.dispatch(began, loop)
        if waiter.done():
            return waiter.result()
        try:
            granted = await waiter
        except asyncio.CancelledError:
            with origin.lock:
                now = origin.now(loop)
                if not waiter.cancelled():  # granted, then cancelled before it could run
                    if waiter.result() is not _NO_SLOT:
                        origin.give_back(key, waiter.result(), now)
                        origin.dispatch(now, loop)
                elif (
                    waiter in origin.in_transit or waiter in origin.left
                ):  # `deliver` passes the slot on, or has done so
                    origin.left ^= {waiter}
                else:
                    origin.leave(key, loop)
                    (key.urgent if priority else key.reads).forget_cancelled()
                    origin.arm(now, loop)
            raise
        if granted is _NO_SLOT:
            raise GateClosedError(origin.now(loop) - began)
        return granted

    @contextmanager
    def waiting_outside(self) -> Generator[None]:
        """Count whoever waits inside the `with` among those who wait for a slot."""
        key = self._here()[1]
        key.outside += 1
        try:
            yield
        finally:
            key.outside -= 1

    def forfeit(self, age: float) -> None:
        """Give back the slot taken `age` seconds ago, when its request never left, as connecting
        failed."""
        origin, key, loop, now = self._here()
        with origin.lock:
            origin.give_back(key, now - age, now)
            if loop is not None:
                origin.dispatch(now, loop)

    def answered(self) -> None:
        """A request was answered, and not with 429."""
        # No lock and no look at the clock: single stores, and only their order among refusals
        # matters.
        if self._registry is _registry:
            origin = self._origin
            self._lane.answered_after = origin.refusals
            self._lane.refusals = origin.ip.refusals = 0

    def refused(
        self, retry_after: float | None, lane: LaneName | None = None, *, lower: bool = True
    ) -> bool:
        """A request got 429: close the gate, only ever for longer, and lower the pace. True if this
        refusal lowered it.

        The answer does not say whether the IP's budget ran out or the key's. Without `lane` both
        gates close: sending other keys' requests into an exhausted IP budget would cost a refusal
        each. Only when other keys of this origin were answered since this key's last refusal, and
        it is refused again, is it the key alone.

        Args:
            retry_after: Seconds, see `parse_retry_after`; never shortened. None pauses 1, 2, 4, ...
                seconds by refusals in a row, at most a period.
            lane: Which budget refused, where that is known.
            lower: Whether it says anything about the pace; not where the service takes no more at
                once.
        """
        origin, key, loop, now = self._here()
        lowered = False
        warn_of: _Lane | None = None
        with origin.lock:
            lanes: tuple[_Lane, ...] = (origin.ip, key)
            if lane == "ip":
                lanes = (origin.ip,)
            elif lane == "key" or (
                key.refused_as
                and any(
                    other is not key and other.answered_after >= key.refused_as
                    for other in origin.keys.values()
                )
            ):
                lanes = (key,)
            origin.refusals += 1
            key.refused_as = origin.refusals
            for each in lanes:
                pacer = each.pacer
                if pacer.implied:
                    pacer.count_again(origin.ip.pacer, now)
                if not each.refusals or pacer.gate_closed_for(now) == 0.0:
                    each.refusals += 1
                if pacer.refused(now, plan_pause(retry_after, each.refusals, pacer.period), lower):
                    lowered = True
                    if now > each.warned_at + _QUIET * pacer.period:
                        warn_of = warn_of or each
                        each.warned_at = now
            share = (warn_of or key).pacer.share(now)
            for other in origin.keys.values():
                if other.waiting and origin.closed_for(other, now) > other.patience:
                    origin.send_away(other, loop)
            if loop is not None:
                origin.arm(now, loop)
        if warn_of is not None:
            _log.warning(
                "%s refused a request (429) although no more than the %s limit was sent: somebody shares the budget, or it became smaller. "
                "Going on at %.0f %% of it; more is tried again step by step.",
                origin.name,
                "IP" if warn_of.name == "ip" else "key",
                100 * share,
            )
        return lowered

    @property
    def slot_lifetime(self) -> float:
        """Seconds for which a slot stays good, from its grant on: half the jitter; the other half
        is the network's. 20 ms at least.

        A request that is ready to leave later than that gives its slot up and takes another.
        Without a floor, `jitter=0` would have every request take two: between the slot and the
        bytes some microseconds always pass.
        """
        return max(self._throttle.jitter / 2, 0.02)

    @property
    def gate_closed_for(self) -> float:
        """Seconds until both gates are open; 0.0 when they are. Only within a running loop."""
        loop = self._running()
        closed_until = max(self._ip.gate, self._pacer.gate)
        if closed_until == -math.inf:
            return 0.0
        return max(0.0, closed_until - self._origin.now(loop))
