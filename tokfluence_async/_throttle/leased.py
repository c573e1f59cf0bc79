"""A lane whose slots come from a store that other processes share.

Promises: the same questions and answers as `Pacer`, so whoever grants slots does not see where they
come from. While the store is away (*alone*) it is a pacer of this process' part of the limit.

Relies on: `shared`, which asks the store and puts its answers in here.
"""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import replace

from .pacer import Pacer, Pacing
from .store import LaneAnswer, LaneAsk, Refusal

__all__ = ["LeasedPacer"]

# When alone, a process keeps this far below its part: they do not all go alone at one moment.
_MARGIN = 1.1
# Seconds by which the store's gate may seem earlier than it was told, as trips take time.
_EMPTIED = 2.0
# From here on one pause is as good as another; a store may keep it as a smaller number.
_ENDLESS = 1e200


class LeasedPacer(Pacer):
    """One lane of a shared throttle; arguments as those of `Pacer`."""

    #: What is permitted to all who share.
    _all: Pacing

    def __init__(self, numbers: Pacing, now: float, *, empty: bool = False) -> None:
        #: Slots that were leased and not used: when they open, and their number in the store (0: it
        #: is of no use there any more). None: the lane of an address, whose slots come with those
        #: of its keys.
        self.leases: list[tuple[float, int]] | None = None
        #: The store is away.
        self.alone = False
        #: How many share this lane, as last seen.
        self.processes = 1
        #: Seconds for which a lease may be used after it has opened.
        self.lifetime = 0.0
        # Of the store's gate and share, as last seen.
        self._gate_version = 0
        self._version = 0
        # What the store has not been told yet: a refusal, that it lowered the share, a gate opened.
        self._refused = self._stepped = self._opened = False
        super().__init__(numbers, now, empty=empty)

    def configure(self, numbers: Pacing, now: float) -> None:
        """Other numbers from now on."""
        self._all = own = numbers
        self.lifetime = max(numbers.jitter / 2, 0.02)
        if self.alone and numbers.limit is not None:
            own = replace(
                numbers,
                limit=numbers.limit / (_MARGIN * self.processes),
                burst=max(1, numbers.burst // self.processes),
            )
        super().configure(own, now)
        self.learnt.window = numbers.window
        self._reopen(now)

    def go_alone(self, now: float, alone: bool) -> None:
        """The store is away, or back."""
        self.alone = alone
        if self.leases is not None:
            self.leases.clear()
        self._saved = 0
        self._repaying.clear()
        self._log.clear()
        self.configure(self._all, now)
        if alone:
            # Like a process that is restarted: the first slot an interval from now.
            self._due = max(now, self.gate.opens) + self._interval
            self._reopen(now)

    # ---------------------------------------------------------------- slots

    def take(self, now: float, queued: bool = False) -> float:
        """As `Pacer.take`; returns when the slot opened."""
        if self.alone:
            return super().take(now, queued)
        opened = self.leases.pop(0)[0] if self.leases else now
        if now < self.gate.until:
            self.gate.passed(now)
        self._reopen(now)
        return opened

    def refund(self, taken: float, now: float) -> None:
        """As `Pacer.refund`; the next caller of this process gets the slot, if it is in time."""
        if self.alone:
            super().refund(taken, now)
            return
        self.gate.came_back(now)
        if self.leases is not None:
            insort(self.leases, (taken, 0))
        self.expire(now)

    def put(self, leases: tuple[tuple[int, float], ...], at: float) -> None:
        """Slots have come from the store; their delays count from `at`."""
        if self.leases is not None and not self.alone:
            for number, delay in leases:
                insort(self.leases, (at + delay, number))
            self._reopen(at)

    def expire(self, now: float) -> None:
        """Forget slots that nobody has used in time, and those before a gate opens."""
        if self.leases:
            earliest = now - self.lifetime
            if self.gate.opens > now:
                earliest = self.gate.opens
            self.leases[:] = [lease for lease in self.leases if lease[0] >= earliest]
        self._reopen(now)

    def surplus(self, waiting: int) -> tuple[int, ...]:
        """Take out the leases that nobody waits for; return their numbers."""
        if not self.leases or len(self.leases) <= waiting:
            return ()
        back = tuple(number for _, number in self.leases[waiting:] if number)
        del self.leases[waiting:]
        return back

    def _reopen(self, now: float) -> None:
        if self.alone:
            super()._reopen(now)
            return
        self.learnt.settle(now)
        opens = -math.inf
        if self.leases is not None:
            opens = self.leases[0][0] if self.leases else math.inf
        self.free_at = max(opens, self.gate.opens)

    # ---------------------------------------------------------------- what all share

    def refused(self, now: float, pause: float, lower: bool = True) -> bool:
        """As `Pacer.refused`; the store is told at the next trip."""
        stepped = super().refused(now, pause, lower)
        self._refused = True
        self._stepped = self._stepped or stepped
        if self.leases:
            self.leases.clear()
        self._reopen(now)
        return stepped

    def answered(self, now: float) -> bool:
        """As `Pacer.answered`; the store is told at the next trip."""
        opened = super().answered(now)
        self._opened = self._opened or opened
        return opened

    @property
    def has_news(self) -> bool:
        """Whether the store has to be told something."""
        return self._refused or self._opened

    def ask(self, name: bytes, now: float) -> LaneAsk:
        """This lane for a trip to the store, with what it has not been told yet."""
        numbers = self._all
        refusal = None
        if self._refused:
            learnt = self.learnt
            refusal = Refusal(
                pause=self.gate.until - now,
                learnt=(
                    learnt.low,
                    learnt.hold_until - now,
                    learnt.stepped_at - now,
                    learnt.proven,
                    learnt.proven_until - now,
                )
                if self._stepped
                else None,
                version=self._version,
            )
        asked = LaneAsk(name, numbers.slots, numbers.span, numbers.window, refusal, self._opened)
        self._refused = self._stepped = self._opened = False
        return asked

    def untold(self, asked: LaneAsk) -> None:
        """The trip failed: tell it again."""
        self._opened = self._opened or asked.opened
        if asked.refusal is not None:
            self._refused = True
            self._stepped = self._stepped or asked.refusal.learnt is not None

    def load(self, answer: LaneAnswer, at: float, tries: bool = False) -> None:
        """How the lane stands in the store; delays count from `at`.

        Args:
            tries: A slot came with it. If the gate is closed, it is this process' turn to try.
        """
        self.processes = max(1, answer.processes)
        gate = self.gate
        if answer.gate_version > self._gate_version and not self._refused:
            # Somebody's try was answered: the only way for a gate to open before its time.
            gate.until, gate.opens = at + answer.until, at + answer.opens
        elif answer.until > 0.0:
            gate.until = max(gate.until, at + answer.until)
            gate.opens = at if tries else max(gate.opens, at + answer.opens)
        self._gate_version = answer.gate_version
        if min(gate.until, _ENDLESS) > max(at, at + answer.until) + _EMPTIED:
            self._refused = True  # the store was emptied: it does not know of the gate
        if answer.version < self._version and self.learnt.low < 1.0:
            self._refused = self._stepped = True  # nor of the share
        elif answer.version != self._version and not self._stepped:
            learnt = self.learnt
            learnt.low, hold, stepped, learnt.proven, proven_until = answer.learnt
            learnt.hold_until, learnt.stepped_at = at + hold, at + stepped
            learnt.proven_until = at + proven_until
        self._version = answer.version
        self.expire(at)
