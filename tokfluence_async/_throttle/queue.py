"""Who waits for a slot, and whose turn it is.

Promises: within a key, first come, first served. Keys take turns. Calls with priority (analyze: few
and long) go before reads, but never twice in a row while a read could go.

Relies on: whoever calls holds the lock of the origin. A waiter is a future of the loop it waits in;
its result is when its slot was granted, or `NO_SLOT`.

Hard: waiters belong to event loops. Those of a closed loop are dropped. Those of a loop that stands
still (a notebook between two cells) are passed over, and keep their place.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TypeAlias

from .budget import Lane

__all__ = ["NO_SLOT", "KeyLane", "LoopTimer", "Queue", "Waiter", "WaitingLine"]

Waiter: TypeAlias = "asyncio.Future[float]"
#: For those who are sent away: no exception, as nobody may come for it any more.
NO_SLOT = math.nan
# Cancelled waiters stay in the queue until their turn, as long as they are few.
_FEW = 64


class Queue:
    """Waiters of one kind of one key, first come, first served, over all loops."""

    __slots__ = ("cancelled", "listed", "parked", "waiters")

    def __init__(self) -> None:
        self.waiters: deque[Waiter] = deque()
        #: Waiters of loops that stood still when it was their turn; they come back to the head.
        self.parked: dict[asyncio.AbstractEventLoop, deque[Waiter]] = {}
        self.cancelled = 0
        #: Whether the key stands among those that take turns.
        self.listed = False

    def forget_cancelled(self) -> None:
        """One more waiter left. When those who left are the most, the queue is closed up."""
        self.cancelled += 1
        if self.cancelled > _FEW and self.cancelled * 2 > len(self.waiters):
            self.waiters = deque(waiter for waiter in self.waiters if not waiter.done())
            self.cancelled = 0

    def clear(self) -> list[Waiter]:
        """Empty the queue; return who stood in it, in their order."""
        line = [waiter for parked in self.parked.values() for waiter in parked]
        line += self.waiters
        self.parked.clear()
        self.waiters.clear()
        self.cancelled = 0
        return [waiter for waiter in line if not waiter.done()]

    def drop(self, loop: asyncio.AbstractEventLoop) -> int:
        """Forget the waiters of a loop that was closed; return how many they were."""
        line = [*self.parked.pop(loop, ()), *self.waiters]
        self.waiters = deque(w for w in line if w.get_loop() is not loop and not w.done())
        self.cancelled = 0
        return sum(w.get_loop() is loop and not w.done() for w in line)


class KeyLane(Lane):
    """The budget of one key, and who waits for it."""

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
        #: A name that says nothing about the key.
        self.label = label
        self.reads = Queue()
        self.urgent = Queue()
        self.waiting = 0
        #: Seconds; the least of those who wait.
        self.patience = math.inf
        #: Who waits before coming here: at a closed gate, at a client's own bucket.
        self.outside = 0
        # Refusals at the origin are numbered: this key's last, and the last before this key's
        # newest answer.
        self.refused_as = 0
        self.answered_after = 0


class LoopTimer:
    """How many wait in one loop, and the timer that serves them."""

    __slots__ = ("handle", "waiting", "when")

    def __init__(self) -> None:
        self.waiting = 0
        self.when = math.inf
        self.handle: asyncio.TimerHandle | None = None


class WaitingLine:
    """All who wait at one origin: the queues of its keys, and the order among them."""

    def __init__(self) -> None:
        self.keys: dict[bytes, KeyLane] = {}
        self.waiting = 0
        self.loops: dict[asyncio.AbstractEventLoop, LoopTimer] = {}
        # Keys with waiters, in the order of their turns: analyze calls, reads.
        self.urgent: deque[KeyLane] = deque()
        self.reads: deque[KeyLane] = deque()
        self.urgent_last = False
        # Loops that stood still when it was their turn.
        self.parked: set[asyncio.AbstractEventLoop] = set()

    def join(
        self,
        key: KeyLane,
        waiter: Waiter,
        loop: asyncio.AbstractEventLoop,
        priority: bool,
        patience: float,
    ) -> None:
        """Stand behind those who came before."""
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
            timer = self.loops[loop] = LoopTimer()
        timer.waiting += 1

    def leave(self, key: KeyLane, loop: asyncio.AbstractEventLoop, count: int = 1) -> None:
        """`count` waiters of that key and loop wait no longer."""
        key.waiting -= count
        self.waiting -= count
        self.loops[loop].waiting -= count

    def forget_closed_loops(self) -> None:
        """Waiters of a loop that was closed under them will never leave by themselves."""
        for loop in [loop for loop in self.loops if loop.is_closed()]:
            for key in self.keys.values():
                for queue in (key.urgent, key.reads):
                    self.leave(key, loop, queue.drop(loop))
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

    def pick(self, now: float, loop: asyncio.AbstractEventLoop) -> tuple[KeyLane, Waiter] | None:
        """Take out the waiter whose turn it is, of those whose key has a free slot; None if there
        is none. Analyze calls go first, but not twice in a row while a read could go."""
        if not self.urgent:
            return self._turn(self.reads, now, loop)
        if self.urgent_last:
            return self._turn(self.reads, now, loop) or self._turn(self.urgent, now, loop)
        return self._turn(self.urgent, now, loop) or self._turn(self.reads, now, loop)

    def _turn(
        self, turns: deque[KeyLane], now: float, loop: asyncio.AbstractEventLoop
    ) -> tuple[KeyLane, Waiter] | None:
        """The next of these keys with a free slot and a waiter who can be woken. The key goes to
        the end, the waiter leaves the line."""
        urgent = turns is self.urgent
        for _ in range(len(turns)):
            key = turns[0]
            if now < key.pacer.free_at:
                turns.rotate(-1)
                continue
            queue = key.urgent if urgent else key.reads
            waiter = queue.waiters[0] if queue.waiters else None
            if waiter is None or waiter.done() or waiter.get_loop() is not loop:
                waiter = self._head(key, queue, loop)
                if waiter is None:
                    queue.listed = False
                    turns.popleft()
                    continue
            queue.waiters.popleft()
            if len(turns) > 1:
                turns.rotate(-1)
            self.urgent_last = urgent
            self.leave(key, waiter.get_loop())
            return key, waiter
        return None

    def _head(self, key: KeyLane, queue: Queue, loop: asyncio.AbstractEventLoop) -> Waiter | None:
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
