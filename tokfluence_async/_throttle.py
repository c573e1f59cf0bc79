"""The waiting round `_pace`: one IP lane per origin, one lane per key under it, shared by the whole process.

What is hard here is who waits where, not the arithmetic:

- **Two budgets, one grant.** A request needs a slot of its key's lane and one of the IP lane. Both are taken in one step when both
  are free, so nobody sits on one while waiting for the other.
- **Order.** Within a key, first come, first served. Keys that wait for the IP lane take turns. Calls with priority (analyze: few and long) pass
  the reads, but never twice in a row while a read could go.
- **Loops and threads.** Budgets belong to the process, futures to an event loop. One lock per origin guards its state, no code
  waits while holding it, and each loop with waiters has one timer of its own. Whichever timer fires first grants all
  that is due, to waiters of other loops too; those of a loop that is closed are dropped, those of one that stands still are
  passed over and keep their place.
- **Clocks.** Loops on the operating system's clock share their budgets. A loop with a clock of its own (`testing.VirtualLoop`)
  has budgets of its own, as its times mean nothing elsewhere.
- **Forks.** A child starts with nothing: no lanes, and the first slot of a new one after one interval.

aiolimiter's `AsyncLimiter` is not in this path. It is bound to one event loop (it warns when it meets a second), starts full, cannot
be slowed, closed or given a slot back, keeps waiters in a heap that newcomers pass, and arms a timer per grant. Its leaky bucket
is what `_pace` computes when nothing is saved and nothing refused; the tests hold the two to each other.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import secrets
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from time import monotonic
from typing import Literal, TypeAlias

from ._errors import ConfigurationError
from ._pace import Pacer, plan_pause

__all__ = ["LaneStatistics", "Lanes", "Throttle", "ThrottleStatistics"]

_log = logging.getLogger("tokfluence_async")

LaneName: TypeAlias = Literal["ip", "key"]
# Its result is when the slot was granted.
_Waiter: TypeAlias = "asyncio.Future[float]"


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

    __slots__ = ("cancelled", "parked", "waiters")

    def __init__(self) -> None:
        self.waiters: deque[_Waiter] = deque()
        self.parked: dict[asyncio.AbstractEventLoop, deque[_Waiter]] = {}
        self.cancelled = 0

    def unpark(self, loop: asyncio.AbstractEventLoop) -> bool:
        """The loop runs: its waiters, who were at the head when it did not, are at the head again."""
        back = self.parked.pop(loop, None)
        if back is None:
            return False
        self.waiters.extendleft(reversed(back))
        return True

    def head(self, loop: asyncio.AbstractEventLoop, parked: set[asyncio.AbstractEventLoop]) -> _Waiter | None:
        """The first waiter who can be woken, still in its place."""
        waiters = self.waiters
        while waiters:
            waiter = waiters[0]
            if waiter.done():
                self.cancelled -= 1
            else:
                owner = waiter.get_loop()
                if owner is loop or owner.is_running():
                    return waiter
                if not owner.is_closed():
                    self.parked.setdefault(owner, deque()).append(waiter)
                    parked.add(owner)
            waiters.popleft()
        return None

    def forget_cancelled(self) -> None:
        """A waiter who left stays in the line until its turn; when they are the most, the line is closed up."""
        self.cancelled += 1
        if self.cancelled > 64 and self.cancelled * 2 > len(self.waiters):
            self.waiters = deque(waiter for waiter in self.waiters if not waiter.done())
            self.cancelled = 0


class _Lane:
    """One budget: its pacer, and for whom it is."""

    __slots__ = ("name", "pacer", "refusals", "throttles")

    def __init__(self, name: LaneName) -> None:
        self.name: LaneName = name
        self.throttles: weakref.WeakSet[Throttle] = weakref.WeakSet()
        self.refusals = 0  # in a row
        self.pacer: Pacer


class _KeyLane(_Lane):
    __slots__ = ("answered_at", "label", "reads", "refused_at", "urgent", "waiting")

    def __init__(self, label: str) -> None:
        super().__init__("key")
        self.label = label
        self.reads = _Queue()
        self.urgent = _Queue()
        self.waiting = 0
        self.answered_at = -math.inf
        self.refused_at = -math.inf


class _LoopTimer:
    """A loop's waiters at one origin, and the timer that serves them."""

    __slots__ = ("handle", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.handle: asyncio.TimerHandle | None = None


class _Origin:
    """All budgets of one service: the IP lane and the keys under it. Every method but `wake` and `tick` wants `lock` held."""

    def __init__(self, name: str, real: bool) -> None:
        self.name = name
        self.real = real
        self.lock = threading.Lock()
        self.ip = _Lane("ip")
        self.keys: dict[bytes, _KeyLane] = {}
        self.waiting = 0
        self.loops: dict[asyncio.AbstractEventLoop, _LoopTimer] = {}
        # Keys with waiters, in the order of their turns: analyze calls, reads.
        self.urgent: deque[_KeyLane] = deque()
        self.reads: deque[_KeyLane] = deque()
        self.urgent_last = False
        # Granted to another loop, not yet delivered there.
        self.in_transit: set[_Waiter] = set()
        # Loops that stood still when it was their turn.
        self.parked: set[asyncio.AbstractEventLoop] = set()

    def now(self, loop: asyncio.AbstractEventLoop) -> float:
        return monotonic() if self.real else loop.time()

    # ---------------------------------------------------------------- the line

    def join(self, key: _KeyLane, waiter: _Waiter, loop: asyncio.AbstractEventLoop, priority: bool) -> None:
        queue, turns = (key.urgent, self.urgent) if priority else (key.reads, self.reads)
        queue.waiters.append(waiter)
        if key not in turns:
            turns.append(key)
        key.waiting += 1
        self.waiting += 1
        timer = self.loops.get(loop)
        if timer is None:
            self.forget_closed_loops()
            timer = self.loops[loop] = _LoopTimer()
        timer.waiting += 1

    def leave(self, key: _KeyLane, loop: asyncio.AbstractEventLoop, count: int = 1) -> None:
        key.waiting -= count
        self.waiting -= count
        timer = self.loops.get(loop)
        if timer is not None:
            timer.waiting -= count
            if timer.waiting <= 0:
                del self.loops[loop]
                # Only the loop's own thread may cancel a timer; another's fires once more and finds nothing.
                if timer.handle is not None and loop is _running_loop():
                    timer.handle.cancel()

    def forget_closed_loops(self) -> None:
        """Waiters of a loop that was closed under them will never leave by themselves."""
        for loop in [loop for loop in self.loops if loop.is_closed()]:
            for key in self.keys.values():
                for queue in (key.urgent, key.reads):
                    gone = len([w for w in queue.parked.pop(loop, ()) if not w.done()])
                    stay = [w for w in queue.waiters if w.get_loop() is not loop]
                    gone += len([w for w in queue.waiters if w.get_loop() is loop and not w.done()])
                    if len(stay) != len(queue.waiters):
                        queue.waiters = deque(stay)
                        queue.cancelled = len([w for w in stay if w.done()])
                    if gone:
                        self.leave(key, loop, gone)
            self.loops.pop(loop, None)
            self.parked.discard(loop)

    def unpark(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop runs again: its waiters stand where they stood."""
        self.parked.discard(loop)
        for key in self.keys.values():
            for queue, turns in ((key.urgent, self.urgent), (key.reads, self.reads)):
                if queue.unpark(loop) and key not in turns:
                    turns.append(key)

    def pick(self, now: float, loop: asyncio.AbstractEventLoop) -> tuple[_KeyLane, _Queue] | None:
        """Whose turn it is, with both slots free; analyze calls first, but not twice in a row while a read could go."""
        for urgent in (False, True) if self.urgent_last else (True, False):
            turns = self.urgent if urgent else self.reads
            for _ in range(len(turns)):
                key = turns[0]
                queue = key.urgent if urgent else key.reads
                if now < key.pacer.free_at:
                    turns.rotate(-1)
                elif queue.head(loop, self.parked) is None:
                    turns.popleft()
                else:
                    turns.rotate(-1)
                    self.urgent_last = urgent
                    return key, queue
        return None

    def dispatch(self, now: float, loop: asyncio.AbstractEventLoop) -> None:
        """Grant everything that is due, then set this loop's timer for what comes next."""
        ip = self.ip.pacer
        if loop in self.parked:
            self.unpark(loop)
        while self.waiting and now >= ip.free_at:
            picked = self.pick(now, loop)
            if picked is None:
                break
            key, queue = picked
            waiter = queue.waiters.popleft()
            owner = waiter.get_loop()
            ip.take(now, True)
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
        opens = min(
            (max(self.ip.pacer.free_at, key.pacer.free_at) for turns in (self.urgent, self.reads) for key in turns),
            default=math.inf,
        )
        if timer.handle is not None:
            timer.handle.cancel()
            timer.handle = None
        if opens < math.inf:
            timer.handle = loop.call_later(min(max(0.0, opens - now), _LONGEST_TIMER), self.tick, loop)

    def give_back(self, key: _KeyLane, taken: float, now: float) -> None:
        self.ip.pacer.refund(taken, now)
        key.pacer.refund(taken, now)

    # ---------------------------------------------------------------- called by event loops

    def tick(self, loop: asyncio.AbstractEventLoop) -> None:
        with self.lock:
            timer = self.loops.get(loop)
            if timer is not None:
                timer.handle = None
                self.dispatch(self.now(loop), loop)

    def deliver(self, key: _KeyLane, waiter: _Waiter, taken: float) -> None:
        """A slot granted by another thread arrives; if the waiter has gone meanwhile, the next one gets it."""
        with self.lock:
            self.in_transit.discard(waiter)
            if not waiter.done():
                waiter.set_result(taken)
                return
            loop = waiter.get_loop()
            now = self.now(loop)
            self.give_back(key, taken, now)
            self.dispatch(now, loop)


# call_later refuses nothing, but selectors do: a gate may be closed for years.
_LONGEST_TIMER = 3600.0


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class _Registry:
    """The process's lanes. A forked child gets a new one."""

    def __init__(self, forked: bool = False) -> None:
        self.lock = threading.Lock()
        self.forked = forked
        self.salt = secrets.token_bytes(16)
        self.real: dict[str, _Origin] = {}
        self.virtual: dict[asyncio.AbstractEventLoop, dict[str, _Origin]] = {}

    def origins(self, loop: asyncio.AbstractEventLoop | None) -> dict[str, _Origin]:
        if loop is None or _on_the_real_clock(loop):
            return self.real
        found = self.virtual.get(loop)
        if found is None:
            for gone in [known for known in self.virtual if known.is_closed()]:
                del self.virtual[gone]
            found = self.virtual[loop] = {}
        return found


def _on_the_real_clock(loop: asyncio.AbstractEventLoop) -> bool:
    kind = type(loop)
    return kind.__module__.partition(".")[0] == "uvloop" or kind.time is asyncio.BaseEventLoop.time


_registry = _Registry()


def _after_fork() -> None:
    global _registry
    _registry = _Registry(forked=True)


os.register_at_fork(after_in_child=_after_fork)


class Throttle:
    """How often requests may leave: one budget per origin and one per key, for every client in the process.

    A `Throttle` is a description; the budgets themselves belong to the process, so two of them, or ten clients, at one origin share what the service
    permits. Where the numbers of two throttles that are in use differ, the smaller holds.

    Args:
        per_ip: Requests per `period` and origin; None switches this lane off.
        per_key: Requests per `period` and key; None switches this lane off.
        period: Seconds, more than 0.
        burst: Requests that may leave at once after idleness, 1 to the limit. 50 calls at the even pace of 600 a minute take 5 seconds; with `burst=20` the
            first twenty go at once. It costs no throughput, as it is paid back over the next period, but a service that itself counts
            with a small burst (nginx `limit_req`) refuses what is above its own.
        jitter: Seconds by which the transit times of two requests may differ, 0 or more. Costs `jitter / period` of the rate: 0.8 % at 0.5.

    Raises:
        ConfigurationError: A number out of its range.

    Source: api/tokfluence-api.md, Throttles: 600 a minute per IP, 1200 per key, the algorithm not documented [public].
    """

    __slots__ = ("__weakref__", "_burst", "_jitter", "_per_ip", "_per_key", "_period")

    def __init__(
        self,
        per_ip: float | None = 600,
        per_key: float | None = 1200,
        period: float = 60.0,
        *,
        burst: int = 10,
        jitter: float = 0.5,
    ) -> None:
        for name, limit in (("per_ip", per_ip), ("per_key", per_key)):
            if limit is not None and not 0 < limit < math.inf:
                raise ConfigurationError(f"{name} is a number of requests above 0, or None; not {limit!r}")
        if not 0 < period < math.inf:
            raise ConfigurationError(f"period is a number of seconds above 0; not {period!r}")
        if burst < 1:
            raise ConfigurationError(f"burst is a number of requests, at least 1; not {burst!r}")
        if not 0 <= jitter < math.inf:
            raise ConfigurationError(f"jitter is a number of seconds, at least 0; not {jitter!r}")
        self._per_ip = per_ip
        self._per_key = per_key
        self._period = float(period)
        self._burst = burst
        self._jitter = float(jitter)

    def __repr__(self) -> str:
        return (
            f"Throttle(per_ip={self._per_ip!r}, per_key={self._per_key!r}, period={self._period!r}, "
            f"burst={self._burst!r}, jitter={self._jitter!r})"
        )

    def statistics(self) -> ThrottleStatistics:
        """How many wait, the current pace and the gate: of every lane this throttle governs, on the clock of the running event loop.

        Without a running loop: on the operating system's clock.
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
                now = monotonic() if loop is None else origin.now(loop)
                waiting += origin.waiting
                lanes.append(_describe(origin, origin.ip, None, origin.waiting, now))
                lanes += [
                    _describe(origin, key, key.label, key.waiting, now)
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
        """The budgets a client at `origin` with the token `key` draws on. The token is hashed and not kept."""
        return Lanes(self, origin, key)


def _describe(origin: _Origin, lane: _Lane, label: str | None, waiting: int, now: float) -> LaneStatistics:
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
    """A client's handle to its two budgets, the IP's and the key's. Any loop and thread may use it; see `Throttle.lanes`.

    For each physical request: `try_acquire()`, and where that is False `await acquire()`, right before the bytes leave and after the concurrency
    slot; then `answered()`, or `refused()` for a 429.
    """

    __slots__ = ("_key", "_key_lane", "_loop", "_origin", "_origin_name", "_registry", "_throttle")

    def __init__(self, throttle: Throttle, origin: str, key: str) -> None:
        self._throttle = throttle
        self._origin_name = origin
        # Unsalted, because a forked child must find the same client's lane under its own registry's salt; never shown.
        self._key = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        self._registry: _Registry | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._origin: _Origin
        self._key_lane: _KeyLane

    def __repr__(self) -> str:
        return f"<Lanes of {self._origin_name}>"

    def _bind(self, loop: asyncio.AbstractEventLoop | None) -> _Origin:
        """Find, or make, the lanes on this loop's clock."""
        registry = _registry
        throttle = self._throttle
        with registry.lock:
            origins = registry.origins(loop)
            origin = origins.get(self._origin_name)
            if origin is None:
                origin = origins[self._origin_name] = _Origin(self._origin_name, origins is registry.real)
        with origin.lock:
            now = monotonic() if loop is None else origin.now(loop)
            key = origin.keys.get(self._key)
            if key is None:
                label = hashlib.blake2b(self._key, key=registry.salt, digest_size=4).hexdigest()
                key = origin.keys[self._key] = _KeyLane(label)
            for lane in (origin.ip, key):
                lane.throttles.add(throttle)
                _configure(lane, now, registry.forked)
        self._registry, self._loop, self._origin, self._key_lane = registry, loop, origin, key
        return origin

    def _bound(self) -> tuple[_Origin, _KeyLane, asyncio.AbstractEventLoop | None, float]:
        loop = _running_loop()
        if loop is not self._loop or self._registry is not _registry:
            self._bind(loop)
        origin = self._origin
        return origin, self._key_lane, loop, monotonic() if loop is None else origin.now(loop)

    def try_acquire(self) -> bool:
        """Take a slot of both lanes if that needs no waiting; False when somebody waits or none is free."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop or self._registry is not _registry:
            self._bind(loop)
        origin = self._origin
        with origin.lock:
            if origin.waiting:
                return False
            now = monotonic() if origin.real else loop.time()
            ip, key = origin.ip.pacer, self._key_lane.pacer
            if now < ip.free_at or now < key.free_at:
                return False
            ip.take(now)
            key.take(now)
            return True

    async def acquire(self, *, priority: bool = False) -> float:
        """Wait for a slot of both lanes and return the seconds that took; 0.0 when one was free.

        `priority`: for calls that are few and long (analyze). They pass the reads, but never twice in a row while a read could go.
        Cancelling is safe at any moment: the slot goes to the next in line.
        """
        if self.try_acquire():
            return 0.0
        loop = asyncio.get_running_loop()
        origin, key = self._origin, self._key_lane
        waiter: _Waiter = loop.create_future()
        with origin.lock:
            began = origin.now(loop)
            origin.join(key, waiter, loop, priority)
            origin.dispatch(began, loop)
        if waiter.done():
            return 0.0
        try:
            await waiter
        except asyncio.CancelledError:
            with origin.lock:
                now = origin.now(loop)
                if not waiter.cancelled():  # granted, then cancelled before it could run
                    origin.give_back(key, waiter.result(), now)
                    origin.dispatch(now, loop)
                elif waiter not in origin.in_transit:
                    origin.leave(key, loop)
                    (key.urgent if priority else key.reads).forget_cancelled()
            raise
        return origin.now(loop) - began

    def forfeit(self) -> None:
        """Give back the slot taken last, when its request never left (the connection failed, or took longer than `jitter` to open)."""
        origin, key, loop, now = self._bound()
        with origin.lock:
            origin.give_back(key, now, now)
            if loop is not None:
                origin.dispatch(now, loop)

    def answered(self) -> None:
        """A request was answered, and not with 429."""
        origin, key, _, now = self._bound()
        # No lock: single stores, and nothing is decided by their order.
        key.answered_at = now
        key.refusals = origin.ip.refusals = 0

    def refused(self, retry_after: float | None, lane: LaneName | None = None) -> bool:
        """A request got 429: close the gate, only ever for longer, and lower the pace. True if this refusal lowered it.

        The answer does not say whether the IP's budget or the key's ran out. Without `lane`, both gates close: sending another key's requests into an
        exhausted IP budget would cost one refusal each. Only when other keys of this origin were answered since this key's last
        refusal, and this one is refused again, is it the key alone.

        Args:
            retry_after: Seconds, see `parse_retry_after`; never shortened. None pauses 1, 2, 4, ... seconds by refusals in a row, at most a period.
            lane: Which budget refused, where that is known.
        """
        origin, key, _, now = self._bound()
        lowered: list[tuple[_Lane, float, float]] = []
        with origin.lock:
            lanes: tuple[_Lane, ...]
            if lane == "ip":
                lanes = (origin.ip,)
            elif lane == "key" or any(
                other is not key and other.answered_at > key.refused_at > -math.inf for other in origin.keys.values()
            ):
                lanes = (key,)
            else:
                lanes = (origin.ip, key)
            key.refused_at = now
            for each in lanes:
                pacer = each.pacer
                if now >= pacer.gate_closed_until:
                    each.refusals += 1
                before = pacer.share(now)
                if pacer.refused(now, plan_pause(retry_after, max(1, each.refusals), pacer.period)):
                    lowered.append((each, before, pacer.share(now)))
        for each, before, after in lowered:
            if before == 1.0 and each is lowered[0][0]:
                _log.warning(
                    "%s refused a request (429) although fewer than its limit were sent: somebody shares the budget, or it became smaller. "
                    "Going on at %.0f %% of the %s limit; the full pace is tried again step by step.",
                    origin.name,
                    100 * after,
                    "IP" if each.name == "ip" else "key",
                )
        return bool(lowered)

    @property
    def slot_lifetime(self) -> float:
        """Seconds a slot stays good after it was granted: half the jitter; the other half is the network's.

        A request that is ready to leave later than this takes another slot.
        """
        return self._throttle._jitter / 2

    @property
    def gate_closed_for(self) -> float:
        """Seconds until both gates are open; 0.0 when they are."""
        origin, key, _, now = self._bound()
        with origin.lock:
            return max(origin.ip.pacer.gate_closed_for(now), key.pacer.gate_closed_for(now))


def _configure(lane: _Lane, now: float, empty: bool) -> None:
    """The smallest of the numbers of the throttles in use, with that throttle's own period and the most careful margins."""
    throttles = list(lane.throttles)
    limits = [
        (limit / throttle._period, limit, throttle._period)
        for throttle in throttles
        if (limit := throttle._per_ip if lane.name == "ip" else throttle._per_key) is not None
    ]
    _, limit, period = min(limits, default=(0.0, None, throttles[0]._period))
    burst = min(throttle._burst for throttle in throttles)
    jitter = max(throttle._jitter for throttle in throttles)
    if not hasattr(lane, "pacer"):
        lane.pacer = Pacer(limit, period, burst=burst, jitter=jitter, now=now, empty=empty)
    else:
        lane.pacer.configure(limit, period, burst=burst, jitter=jitter)
