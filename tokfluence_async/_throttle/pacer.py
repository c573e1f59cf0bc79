"""When the next request may leave: the arithmetic of one lane. `now` goes in, slot times come out.

Promises: in no window of `period + jitter` seconds are more than `limit` slots granted. Slots are
even in time; after idleness a few may go at once, and are paid back evenly over the next window.

Relies on: transit times to the service differ by at most `jitter`, and `now` never goes back. Has
no clock, no lock and no waiting callers.

Two rules together keep the promise. *The log*: the times of the last `limit` grants; the next slot
opens a window after the oldest. This alone is the guarantee. *The pace*: slots fall due at even
distances, and a late timer does not move them.

Hard: evenness and the guarantee over bursts, late timers, slots given back and changing limits.
The proofs and figures are in docs/design/throttle.md.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

from .pause import RequestedPause
from .share import LEAST_SHARE, LearntShare

__all__ = ["Pacer", "Pacing"]


@dataclass(frozen=True, slots=True)
class Pacing:
    """The numbers of one lane.

    Attributes:
        limit: Requests permitted per `period`; a fraction is rounded down, below 1 it is one
            request per `period / limit`. None switches the pacing off; the gate still works.
        period: Seconds.
        burst: Slots that may be taken at once after idleness, at least 1.
        jitter: Seconds by which transit times may differ.
    """

    limit: float | None
    period: float
    burst: int
    jitter: float

    @property
    def slots(self) -> int:
        """How many slots a window has; 0: not paced."""
        return 0 if self.limit is None else max(1, int(self.limit))

    @property
    def window(self) -> float:
        """Seconds in which the service counts: the period, or more where not even one request is
        permitted in it."""
        return self.period if self.limit is None else max(self.period, self.period / self.limit)

    @property
    def span(self) -> float:
        """Seconds over which the slots of one window are spread."""
        return self.window + self.jitter


class Pacer:
    """One lane: grants at most `limit` slots in any window of `period + jitter` seconds, evenly.

    Args:
        numbers: What is permitted.
        now: The time it is.
        empty: The first slot opens after one interval instead of at once.
    """

    numbers: Pacing

    def __init__(self, numbers: Pacing, now: float, *, empty: bool = False) -> None:
        #: When the next slot opens; it may be taken at any later time.
        self.free_at: float
        #: No slot opens before it does: where the service has asked for a pause.
        self.gate = RequestedPause()
        #: What refusals have taught about the limit.
        self.learnt = LearntShare(numbers.window)
        #: Refusals so far.
        self.refused_total = 0
        self._log: deque[float] = deque()
        # When saved slots were used; each lowers the pace for one span.
        self._repaying: deque[float] = deque()
        self._saved = 0
        self._due = now
        self.configure(numbers, now)
        if empty:
            self._due += self._interval
            self._reopen(now)

    def configure(self, numbers: Pacing, now: float) -> None:
        """Other numbers from now on. What was granted in the last window stays in the log."""
        self.numbers = numbers
        self.learnt.window = numbers.window
        self._most_saved = numbers.burst - 1
        self._saved = min(self._saved, self._most_saved)
        self._slots = numbers.slots
        self._span = numbers.span
        self._interval = self._span / max(1, self._slots)
        self._log = deque(self._log, maxlen=self._slots)
        self._reopen(now)

    # ---------------------------------------------------------------- slots

    def take(self, now: float, queued: bool = False) -> float:
        """Take the slot that opened at `free_at`; `now` must not be before it. Returns when the
        slot counts as granted.

        Args:
            queued: Somebody was waiting for it. Slots that passed meanwhile then passed because a
                timer was late, and up to a burst of them is made up for. Otherwise nobody wanted
                them, and they are saved.
        """
        self.gate.passed(now)
        if self._slots:
            log = self._log
            # With a limit far above the demand the log would grow up to the limit.
            while log and log[0] <= now - self._span:
                log.popleft()
            log.append(now)
            self._advance(now, queued)
        self._reopen(now)
        return now

    def _advance(self, now: float, queued: bool) -> None:
        """Move the schedule on by one slot."""
        late = now - self._due
        if late < 0.0:
            self._saved -= 1
            self._repaying.append(now)
            return
        interval = self._interval_at(now)
        missed = int(late / interval)
        if not queued and self.learnt.low == 1.0:  # at a lowered pace nothing is saved
            self._saved = min(self._saved + missed, self._most_saved)
        if missed > self._most_saved:
            self._due = now  # more than can be saved or made up for: the schedule begins anew
        elif not queued:
            self._due += missed * interval
        self._due += interval

    def refund(self, taken: float, now: float) -> None:
        """Give back the slot taken at `taken` whose request never left: as if it had not been
        taken."""
        self.gate.came_back(now)
        newest = bisect_right(self._log, taken)
        if newest:
            del self._log[newest - 1]
            # Never before the gate: two slots at the instant it opens would not be paced.
            self._due = max(self._due - self._interval_at(now), self.gate.opens)
        self._reopen(now)

    def _interval_at(self, now: float) -> float:
        """Seconds between two slots: the span by the slots of this share, less one for each saved
        slot being paid back."""
        repaying = self._repaying
        while repaying and repaying[0] <= now - self._span:
            repaying.popleft()
        if not repaying and self.learnt.low == 1.0:  # nearly always
            return self._interval
        return self._span / max(
            self._slots * self.learnt.at(now) - len(repaying), LEAST_SHARE * self._slots
        )

    def _reopen(self, now: float) -> None:
        """Work out `free_at` from the schedule, the log and the gate."""
        when = self.gate.opens
        if self._slots:
            slots = max(1, int(self._slots * self.learnt.settle(now)))
            if not self._saved and self._due > when:
                when = self._due
            log = self._log
            if len(log) >= slots and log[-slots] + self._span > when:
                when = log[-slots] + self._span
        self.free_at = when

    def pace(self, now: float) -> float:
        """Slots per second that open at present; infinite when pacing is off."""
        return 1.0 / self._interval_at(now) if self._slots else math.inf

    # ---------------------------------------------------------------- refusals

    def refused(self, now: float, pause: float, lower: bool = True) -> bool:
        """The service refused a request: close the gate for `pause` seconds (only ever later), and
        with `lower` go on at a lower pace. True if that lowered it.

        Requests that were in flight when the first one was refused tell nothing new: until the gate
        has opened again, and for a moment at least, refusals move the gate but not the pace.
        """
        self.refused_total += 1
        in_flight = now < self.gate.opens or self.learnt.stepped_just_now(now)
        self.gate.close(now, pause)
        stepped = lower and self.numbers.limit is not None and not in_flight
        if stepped:
            self.learnt.step_down(now, pause)
        # After the gate one slot at a time: nothing saved, and the schedule begins where it opens.
        self._saved = 0
        self._due = max(self._due, self.gate.opens)
        self._reopen(now)
        return stepped

    def answered(self, now: float) -> bool:
        """An answer came that is no refusal. True if that opened a gate closed for long."""
        if not self.gate.answered(now):
            return False
        self._due = now + self._interval_at(now)
        self._reopen(now)
        return True
