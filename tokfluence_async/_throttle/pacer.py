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
from collections import deque

from .gate import Gate
from .share import LEAST_SHARE, LearntShare

__all__ = ["Pacer", "slots_of"]

# Grants between two looks for old ones in the log.
_LOG_ROOM = 2048


def slots_of(limit: float | None, period: float) -> tuple[int, float]:
    """How many slots in how many seconds: whole ones, so below one it is one in more than a period.
    No slots: not paced."""
    if limit is None:
        return 0, period
    return (int(limit), period) if limit >= 1 else (1, period / limit)


class Pacer:
    """One lane: grants at most `limit` slots in any window of `period + jitter` seconds, evenly.

    Args:
        limit: Requests permitted per `period`; a fraction is rounded down, below 1 it is one
            request per `period / limit`. None switches the pacing off; the gate still works.
        period: Seconds.
        burst: Slots that may be taken at once after idleness, at least 1.
        jitter: Seconds by which transit times may differ.
        now: The time it is.
        empty: The first slot opens after one interval instead of at once.
    """

    __slots__ = (
        "_due",
        "_idle_span",
        "_idle_when",
        "_interval",
        "_log",
        "_log_room",
        "_most_saved",
        "_repaying",
        "_saved",
        "_slots",
        "_span",
        "free_at",
        "gate",
        "implied",
        "learnt",
        "limit",
        "period",
        "refused_total",
    )

    def __init__(
        self,
        limit: float | None,
        period: float,
        *,
        burst: int,
        jitter: float,
        now: float,
        empty: bool = False,
    ) -> None:
        #: When the next slot opens; it may be taken at any later time.
        self.free_at = -math.inf
        #: No slot opens before it does: where the service has asked for a pause.
        self.gate = Gate()
        #: What refusals have taught about the limit.
        self.learnt = LearntShare(period)
        #: Another lane, which every request passes as well, is at least as strict: slots are not
        #: counted here, only the gate is kept.
        self.implied = False
        #: Refusals so far.
        self.refused_total = 0
        self._log: deque[float] = deque()
        self._log_room = _LOG_ROOM
        # When saved slots were used; each lowers the pace for one span.
        self._repaying: deque[float] = deque()
        self._saved = 0
        self._due = now
        self.configure(limit, period, burst=burst, jitter=jitter, now=now)
        if empty:
            self._due += self._interval
            self._reopen(now)

    def configure(
        self, limit: float | None, period: float, *, burst: int, jitter: float, now: float
    ) -> None:
        """Other numbers from now on. What was granted stays in the log."""
        #: As given.
        self.limit = limit
        self.period = period
        self._most_saved = burst - 1
        self._saved = min(self._saved, self._most_saved)
        slots, window = slots_of(limit, period)
        self._slots = slots
        self.learnt.window = window
        self._span = window + jitter
        self._interval = self._span / slots if slots else 0.0
        # From here on all that can be saved has been saved, and how long ago the last slot was
        # taken makes no difference.
        self._idle_span = self._interval * (burst + 1)
        self._idle_when = math.inf
        self._log = deque(self._log, maxlen=slots)
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
        log = self._log
        log.append(now)
        if len(log) > self._log_room:
            self._forget(now)
        if now >= self._idle_when and not queued:
            # The way of a free slot in a quiet time: short, because every single request goes it.
            saved = self._saved = self._most_saved
            self._due = due = now + self._interval
            self._idle_when = now + self._idle_span
            when = -math.inf if saved else due
            if len(log) == self._slots and log[0] + self._span > when:
                when = log[0] + self._span
            self.free_at = when
            return now
        if now < self.gate.until:
            self.gate.passed(now)
        elif not self._slots:
            return now
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
        missed = int(late / interval) if interval else 0
        if missed:
            if not queued:
                # While the pace is lowered nothing is saved.
                if self.learnt.low == 1.0:
                    self._saved = min(self._saved + missed, self._most_saved)
                self._due += missed * interval
            elif missed > self._most_saved:
                self._due += missed * interval
        self._due += interval

    def _forget(self, now: float) -> None:
        """Drop what is older than a window. With a limit far above the demand the log would grow up
        to the limit."""
        log = self._log
        old = now - self._span
        while log and log[0] <= old:
            log.popleft()
        self._log_room = len(log) + _LOG_ROOM

    def refund(self, taken: float, now: float) -> None:
        """Give back the slot taken at `taken` whose request never left: as if it had not been
        taken."""
        self.gate.came_back(now)
        log = self._log
        for index in range(len(log) - 1, -1, -1):
            if log[index] <= taken:
                del log[index]
                # Never before the gate: two slots at the instant it opens would not be paced.
                self._due = max(self._due - self._interval_at(now), self.gate.opens)
                break
        self._reopen(now)

    def refresh(self, now: float) -> None:
        """`implied` or what was learnt has changed."""
        self._reopen(now)

    def count_again(self, other: Pacer, now: float) -> None:
        """No longer implied by `other`: what was granted there may all have been granted here."""
        self.implied = False
        self._log = deque(other._log, maxlen=self._slots)
        self._due = max(self._due, now)
        self._reopen(now)

    def _interval_at(self, now: float) -> float:
        """Seconds between two slots: the span by the slots of this share, less one for each saved
        slot being paid back."""
        repaying = self._repaying
        if not repaying and self.learnt.low == 1.0:
            return self._interval
        while repaying and repaying[0] <= now - self._span:
            repaying.popleft()
        return self._span / max(
            self._slots * self.learnt.at(now) - len(repaying), LEAST_SHARE * self._slots
        )

    def _reopen(self, now: float) -> None:
        """Work out `free_at` from the schedule, the log and the gate."""
        when = -math.inf
        self._idle_when = math.inf
        slots = self._slots
        if slots and not self.implied:
            share = self.learnt.settle(now)
            if not self._saved:
                when = self._due
            if share == 1.0 and not self._repaying and self.gate.until <= self.gate.opens:
                self._idle_when = self._due + self._idle_span
            if share < 1.0:
                slots = max(1, int(slots * share))
            log = self._log
            if len(log) >= slots and log[-slots] + self._span > when:
                when = log[-slots] + self._span
        self.free_at = max(when, self.gate.opens)

    # ---------------------------------------------------------------- refusals

    def share(self, now: float) -> float:
        """The part of the limit that is in use: 1.0, or less after refusals."""
        return self.learnt.at(now)

    def pace(self, now: float) -> float:
        """Slots per second that open at present; infinite when pacing is off."""
        if not self._slots:
            return math.inf
        owed = sum(1 for used in self._repaying if used > now - self._span)
        slots = max(self._slots * self.learnt.at(now) - owed, LEAST_SHARE * self._slots)
        return slots / self._span

    def refused(self, now: float, pause: float, lower: bool = True) -> bool:
        """The service refused a request: close the gate for `pause` seconds (only ever later), and
        with `lower` go on at a lower pace. True if that lowered it.

        Requests that were in flight when the first one was refused tell nothing new: until the gate
        has opened again, and for a moment at least, refusals move the gate but not the pace.
        """
        self.refused_total += 1
        in_flight = now < self.gate.opens or self.learnt.stepped_just_now(now)
        self.gate.close(now, pause)
        stepped = lower and self.limit is not None and not in_flight
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
