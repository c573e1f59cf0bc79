"""All budgets of one service, and the granting of their slots: the IP's lane and the keys under it.

Promises: a request gets a slot of its key's lane and one of the IP's in one step, when both are
free, so nobody sits on one while waiting for the other. A slot of a waiter who left goes to the
next.

Relies on: one lock, which every method wants held unless it says otherwise. Nothing waits while
holding it.

Hard: budgets belong to the process, futures to an event loop. Each loop with waiters has one timer.
Whichever timer fires first grants all that is due, to waiters of other loops too.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable
from time import monotonic
from typing import TypeAlias

from .budget import KeyLane, Lane, LaneName
from .pause import DAY
from .queue import NO_SLOT, Waiter, WaitingLine, first_awake
from .retry_after import plan_pause

__all__ = ["Origin"]

_log = logging.getLogger("tokfluence_async")

# `call_later` takes any number, but a selector does not, and a gate may be closed for years.
_LONGEST_TIMER = 3600.0
# In periods: a service that goes on refusing is reported once, and again after this long.
_QUIET = 10
# From here on a number of days says no more than that there are many.
_MANY_DAYS = 1_000


#: Makes the error that a waiter gets instead of a slot; each its own.
Reason: TypeAlias = "Callable[[], Exception]"


def _settle(waiter: Waiter, what: float | Reason) -> None:
    if callable(what):
        waiter.set_exception(what())
    else:
        waiter.set_result(what)


class Origin:
    """All budgets of one service.

    Args:
        name: `https://host`.
        real: Its times are those of the operating system's clock.
        forked: This process is a forked child: its lanes start without a slot.
    """

    #: How many processes share these budgets, as last seen.
    processes = 1

    def __init__(self, name: str, real: bool, forked: bool) -> None:
        self.name = name
        self.real = real
        self.forked = forked
        # Reentrant: the collector may close a coroutine of a dead loop at any allocation, also
        # while this thread holds the lock, and that coroutine gives its slot back.
        self.lock = threading.RLock()
        self.ip = Lane("ip", forked)
        self.line = WaitingLine()
        self.keys: dict[bytes, KeyLane] = {}
        self.throttles = 0
        #: All refusals so far.
        self.refusals = 0

    @property
    def shared(self) -> bool:
        """Whether processes share these budgets at present."""
        return False

    def now(self, loop: asyncio.AbstractEventLoop | None) -> float:
        """The time on the clock of these budgets."""
        return monotonic() if self.real or loop is None else loop.time()

    def key(self, name: bytes, label: str) -> KeyLane:
        """The lane of a key; `label` is what statistics call it."""
        lane = self.keys.get(name)
        if lane is None:
            lane = self.keys[name] = self.make_key(name, label)
        return lane

    def make_key(self, name: bytes, label: str) -> KeyLane:
        """A new lane of a key."""
        del name
        return KeyLane(label, self.forked)

    def configure(self, now: float) -> None:
        """Throttles came or went: the smallest numbers hold."""
        self.throttles = len(self.ip.throttles)
        self.ip.configure(now)
        for lane in self.keys.values():
            if lane.throttles:
                lane.configure(now)

    # ---------------------------------------------------------------- slots

    def try_take(self, key: KeyLane, now: float) -> bool:
        """Take a slot of both lanes, if one is free and nobody waits."""
        ip, own = self.ip.pacer, key.pacer
        if self.line.waiting or now < ip.free_at or now < own.free_at:
            return False
        ip.take(now)
        own.take(now)
        return True

    def give_back(self, key: KeyLane, taken: float, now: float) -> None:
        """The request of a slot never left."""
        self.ip.pacer.refund(taken, now)
        key.pacer.refund(taken, now)

    def dispatch(self, now: float, loop: asyncio.AbstractEventLoop) -> None:
        """Grant everything that is due, then set this loop's timer for what comes next."""
        ip = self.ip.pacer
        line = self.line
        if len(line.loops) > 1:
            line.forget_closed_loops()
        while now >= ip.free_at and line.waiting:
            picked = line.pick(now, loop)
            if picked is None:
                break
            key, waiter = picked
            ip.take(now, True)
            granted = key.pacer.take(now, True)
            if waiter.get_loop() is loop:
                waiter.set_result(granted)
            elif not self.send(key, waiter, granted):
                self.give_back(key, granted, now)
        self.arm(now, loop)

    def arm(self, now: float, loop: asyncio.AbstractEventLoop) -> None:
        """Set this loop's timer for the next slot that somebody waits for."""
        timer = self.line.loops.get(loop)
        if timer is None:
            return
        opens = self.next_opening(now, loop) if timer.waiting else math.inf
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
            del self.line.loops[loop]

    def next_opening(self, now: float, loop: asyncio.AbstractEventLoop) -> float:
        """When the next slot opens that somebody waits for who can be woken from `loop`."""
        del now
        opens = math.inf
        for queues in (self.line.reads, self.line.urgent):
            for key, queue in queues.items():
                if key.pacer.free_at < opens and first_awake(queue, loop):
                    opens = key.pacer.free_at
        return max(opens, self.ip.pacer.free_at)

    def tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """A loop's timer. Takes the lock."""
        with self.lock:
            timer = self.line.loops.get(loop)
            if timer is not None:
                timer.handle = None
                self.dispatch(self.now(loop), loop)

    def wake(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Slots open earlier than timers were set for: look again, in every loop that has waiters
        but `loop`."""
        for each in list(self.line.loops):
            if each is not loop and not each.is_closed():
                each.call_soon_threadsafe(self.look, each)

    def look(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a loop that was woken. Takes the lock."""
        with self.lock:
            if loop in self.line.loops:
                self.dispatch(self.now(loop), loop)

    # --------------------------------------------------------------- waiters elsewhere, and leaving

    def send(self, key: KeyLane, waiter: Waiter, taken: float | Reason) -> bool:
        """Hand a slot, or why there is none, to a waiter of another loop; False if that loop is
        closed."""
        try:
            waiter.get_loop().call_soon_threadsafe(self.deliver, key, waiter, taken)
        except RuntimeError:  # closed since it was looked at
            return False
        return True

    def deliver(self, key: KeyLane, waiter: Waiter, taken: float | Reason) -> None:
        """In the waiter's loop: a slot granted by another thread arrives. If the waiter has gone
        meanwhile, the next one gets it. Takes the lock."""
        with self.lock:
            if not waiter.done():
                _settle(waiter, taken)
                return
            if taken is NO_SLOT or callable(taken):
                return
            loop = waiter.get_loop()
            now = self.now(loop)
            self.give_back(key, taken, now)
            self.dispatch(now, loop)

    def cancelled(self, key: KeyLane, waiter: Waiter, loop: asyncio.AbstractEventLoop) -> None:
        """The task of a waiter was cancelled: it leaves the line, or its slot goes to the next.
        Takes the lock."""
        with self.lock:
            now = self.now(loop)
            if not waiter.cancelled():  # granted, then cancelled before it could run
                if waiter.exception() is None and waiter.result() is not NO_SLOT:
                    self.give_back(key, waiter.result(), now)
                    self.dispatch(now, loop)
            elif self.line.leave(key, waiter):
                self.settle(now, loop)
            # Else its slot is on the way from another thread, and `deliver` passes it on.

    def settle(self, now: float, loop: asyncio.AbstractEventLoop) -> None:
        """Somebody has left the line, or a gate has closed."""
        self.arm(now, loop)

    def send_away(
        self,
        key: KeyLane,
        loop: asyncio.AbstractEventLoop | None,
        why: float | Reason = NO_SLOT,
    ) -> None:
        """Empty the key's line: all its waiters leave without a slot, in their order."""
        for waiter in self.line.empty(key):
            if waiter.get_loop() is loop:
                _settle(waiter, why)
            else:
                self.send(key, waiter, why)

    async def aclose(self) -> None:
        """The running loop needs no slots for the time being."""

    # ---------------------------------------------------------------- refusals and answers

    def closed_for(self, key: KeyLane, now: float) -> float:
        """Seconds until both gates let a request of this key pass."""
        return max(self.ip.pacer.gate.closed_for(now), key.pacer.gate.closed_for(now))

    def long_pause(self, key: KeyLane, now: float) -> float:
        """Days for which a gate is closed, if they are more than one; else 0.0."""
        until = max(self.ip.pacer.gate.until, key.pacer.gate.until)
        return (until - now) / DAY if until - now > DAY else 0.0

    def refused_lanes(self, key: KeyLane, lane: LaneName | None) -> tuple[Lane, ...]:
        """Whose budget ran out, as far as can be known.

        The answer does not say whether it is the IP's or the key's. Unless the caller knows, both
        gates close: to send other keys' requests into an exhausted IP budget would cost a refusal
        each. Only when other keys of this origin were answered since this key's last refusal, and
        it is refused again, is it the key alone.
        """
        if lane == "ip":
            return (self.ip,)
        if lane == "key" or (
            key.refused_as
            and any(
                other is not key and other.answered_after >= key.refused_as
                for other in self.keys.values()
            )
        ):
            return (key,)
        return (self.ip, key)

    def refused(
        self,
        key: KeyLane,
        retry_after: float | None,
        lane: LaneName | None,
        lower: bool,
        loop: asyncio.AbstractEventLoop | None,
    ) -> bool:
        """A request of this key got 429; see `Lanes.refused`. Takes the lock."""
        with self.lock:
            now = self.now(loop)
            lanes = self.refused_lanes(key, lane)
            self.refusals += 1
            key.refused_as = self.refusals
            long_before = self.long_pause(key, now)
            lowered = [each for each in lanes if self.close(each, retry_after, lower, now)]
            for other in self.keys.values():
                if other.waiting and self.closed_for(other, now) > other.patience:
                    self.send_away(other, loop)
            if loop is not None:
                self.settle(now, loop)
            news = [
                each
                for each in lowered
                if now > each.warned_at + _QUIET * each.pacer.numbers.period
            ]
            for each in news:
                each.warned_at = now
            share = news[0].pacer.learnt.at(now) if news else 1.0
            days = 0.0 if long_before else self.long_pause(key, now)
        # Without the lock: a log handler may ask for statistics.
        if news:
            _log.warning(
                "%s refused a request (429) although no more than the %s limit was sent: somebody "
                "shares the budget, or it became smaller. Going on at %.0f %% of it; more is tried "
                "again step by step.",
                self.name,
                "IP" if news[0].name == "ip" else "key",
                100 * share,
            )
        if days:
            _log.warning(
                "%s asks for a pause of %s days. It is kept, but a single request is let through "
                "once a day, to see whether the service still means it.",
                self.name,
                f"{days:,.1f}" if days < _MANY_DAYS else f"more than {_MANY_DAYS:,}",
            )
        return bool(lowered)

    def close(self, lane: Lane, retry_after: float | None, lower: bool, now: float) -> bool:
        """Close the gate of one lane, and lower its pace; whether that was lowered."""
        pacer = lane.pacer
        if not lane.refusals or pacer.gate.closed_for(now) == 0.0:
            lane.refusals += 1
        pause = plan_pause(retry_after, lane.refusals, pacer.numbers.period)
        return pacer.refused(now, pause, lower)

    def answered(self, key: KeyLane, loop: asyncio.AbstractEventLoop | None) -> None:
        """A request of this key was answered, and not with 429. Takes the lock."""
        with self.lock:
            key.answered_after = self.refusals
            key.refusals = self.ip.refusals = 0
            if not (self.ip.pacer.gate.tried or key.pacer.gate.tried):
                return
            now = self.now(loop)
            opened = self.ip.pacer.answered(now) | key.pacer.answered(now)
            if loop is not None:
                self.dispatch(now, loop)
            self.wake(loop)
        if opened:
            _log.warning("%s answers again: the long pause it had asked for is over.", self.name)
