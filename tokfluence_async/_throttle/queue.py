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
from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeAlias

from .budget import KeyLane

__all__ = ["NO_SLOT", "Waiter", "WaitingLine", "first_awake"]

Waiter: TypeAlias = "asyncio.Future[float]"
#: Keys in the order of their turns, and who waits of each, in theirs. Without empty queues.
Queues: TypeAlias = "OrderedDict[KeyLane, OrderedDict[Waiter, None]]"
#: For those who are sent away: no exception, as nobody may come for it any more.
NO_SLOT = math.nan


@dataclass(slots=True)
class LoopTimer:
    """How many wait in one loop, and the timer that serves them."""

    waiting: int = 0
    when: float = math.inf
    handle: asyncio.TimerHandle | None = None


def first_awake(queue: OrderedDict[Waiter, None], loop: asyncio.AbstractEventLoop) -> Waiter | None:
    """The first waiter who can be woken from `loop`: still there, in a loop that runs."""
    for waiter in queue:
        owner = waiter.get_loop()
        if not waiter.done() and (owner is loop or owner.is_running()):
            return waiter
    return None


class WaitingLine:
    """All who wait at one origin: the queues of its keys, and the order among them."""

    def __init__(self) -> None:
        self.waiting = 0
        self.loops: dict[asyncio.AbstractEventLoop, LoopTimer] = {}
        self.urgent: Queues = OrderedDict()
        self.reads: Queues = OrderedDict()
        self.urgent_last = False

    def join(
        self,
        key: KeyLane,
        waiter: Waiter,
        loop: asyncio.AbstractEventLoop,
        priority: bool,
        patience: float,
    ) -> None:
        """Stand behind those who came before."""
        queues = self.urgent if priority else self.reads
        queues.setdefault(key, OrderedDict())[waiter] = None
        if patience < key.patience or not key.waiting:
            key.patience = patience
        key.waiting += 1
        self.waiting += 1
        self.loops.setdefault(loop, LoopTimer()).waiting += 1

    def leave(self, key: KeyLane, waiter: Waiter) -> bool:
        """Take a waiter out; False if it stood there no more."""
        for queues in (self.urgent, self.reads):
            queue = queues.get(key, ())
            if waiter in queue:
                self._take_out(queues, key, waiter)
                return True
        return False

    def _take_out(self, queues: Queues, key: KeyLane, waiter: Waiter) -> None:
        queue = queues[key]
        del queue[waiter]
        if not queue:
            del queues[key]
        key.waiting -= 1
        self.waiting -= 1
        self.loops[waiter.get_loop()].waiting -= 1

    def queues_of(self, key: KeyLane) -> list[OrderedDict[Waiter, None]]:
        """The queues of a key that are not empty, of analyze calls and of reads."""
        return [queues[key] for queues in (self.urgent, self.reads) if key in queues]

    def empty(self, key: KeyLane) -> list[Waiter]:
        """Take out all waiters of a key; return those who are still there, in their order."""
        line = [waiter for queue in self.queues_of(key) for waiter in queue]
        for waiter in line:
            self.leave(key, waiter)
        return [waiter for waiter in line if not waiter.done()]

    def forget_closed_loops(self) -> None:
        """Waiters of a loop that was closed under them will never leave by themselves."""
        closed = [loop for loop in self.loops if loop.is_closed()]
        if not closed:
            return
        for queues in (self.urgent, self.reads):
            for key, queue in list(queues.items()):
                for waiter in [each for each in queue if each.get_loop() in closed]:
                    self.leave(key, waiter)
        for loop in closed:
            del self.loops[loop]

    def pick(self, now: float, loop: asyncio.AbstractEventLoop) -> tuple[KeyLane, Waiter] | None:
        """Take out the waiter whose turn it is, of those whose key has a free slot; None if there
        is none. Analyze calls go first, but not twice in a row while a read could go."""
        turns = (self.reads, self.urgent) if self.urgent_last else (self.urgent, self.reads)
        for queues in turns:
            for key, queue in queues.items():
                if now < key.pacer.free_at:
                    continue
                waiter = first_awake(queue, loop)
                if waiter is not None:
                    queues.move_to_end(key)
                    self._take_out(queues, key, waiter)
                    self.urgent_last = queues is self.urgent
                    return key, waiter
        return None
