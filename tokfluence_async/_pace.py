"""When the next request may leave: the arithmetic of the throttle. No clock and no waiting: `now` in, slot times out.

The service permits N requests in W seconds and does not say how it counts. What reaches it is what was granted here, each
request shifted by its transit time, and transit times differ by up to J (`jitter`). So a window of W at the service holds only
requests granted within one window of P = W + J here, and

    in no window of P seconds are more than N slots granted     =>     no window of W at the service holds more than N.

Two rules together give that, and evenness, which is what token buckets, GCRA, nginx and sliding counters ask for on top:

1. *The log.* The times of the last N grants are kept; a grant waits until the N-th before it is P old. This alone is the
   guarantee, whatever the rest does: t[k + N] >= t[k] + P for every k, for any demand, cancellation, late timer or pause.
   The long-run rate is N / P: 600 / 60.5 s = 99.17 % of 600 a minute with J = 0.5 s. A timer that fires late costs its lateness
   once per *window*, not once per slot, as the log is the only place that remembers when a grant really happened.
2. *The pace.* Slots fall due every P / N seconds, and the schedule does not move when a timer is late: a late grant is
   followed by the next at its own time. Slots nobody wanted are saved, up to `burst` - 1 of them, and may be used at once.
   Each one used lowers the pace by 1 / P for the next P (it is paid back), so that a sliding counter, which takes the
   last window to have been even, does not count it twice: b + (N - b) x + (N - b)(1 - x) = N at every point x of the window.

A pacer starts with one slot and none saved: a restart goes on where the old process was, at the even pace, and a crash loop
bursts into nothing. (A bucket that starts full lets 2 N - 1 through in one window: measured for `AsyncLimiter(600, 60)`.)

When the service refuses although this holds, somebody shares the budget or it became smaller. The *share* of N in use is
halved (or set just under what was accepted in the last window, once a whole window has been seen at the lower pace), held
for about a window, then raised linearly. The log is not touched by any of this: it holds at every share.
"""

from __future__ import annotations

import math
import re
from collections import deque
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["Pacer", "parse_retry_after", "plan_pause"]

# A service that drops to a quarter is met after two halvings. Sawtooth figures: benchmarks/throttle.py.
_STEP_DOWN = 0.5
# Once the accepted rate was measured over a whole window, this part of it is used: a margin of one request in twenty.
_UNDER_MEASURED = 0.95
# In windows: how long a lowered pace is held before it is raised, and how long the way from nothing to all would take.
# A probe costs about two refusals, so holding for 1.2 windows keeps them under 1 % at a quarter of 600 a minute, and
# 1.2 + 0.75 * 0.75 windows bring the full rate back within two.
_HOLD = 1.3
_PROBE = 1 / 3
_CLIMB = 0.25
_BUMP = 1.03
_REMEMBER = 4.0
_STEP_DOWN_PROVEN = 0.9
_IN_FLIGHT = 1 / 40
_NEAR_MISS = 1 / 60
_NEAR_MISS_STEP = 0.95
_NEAR_MISS_HOLD = 0.5
# Below this share a lane would practically stop: one request in two hundred still finds out whether it is over.
_LEAST_SHARE = 0.005

_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", re.ASCII)
# Without Retry-After: the first pause, doubled for each further refusal in a row, up to a window.
_FIRST_PAUSE = 1.0


def parse_retry_after(text: str | None, now_epoch: float) -> float | None:
    """Seconds to wait from a `Retry-After` header, or None where it says nothing that can be followed.

    Seconds may have a fraction; an HTTP date is taken relative to `now_epoch` (seconds since 1970), 0.0 when it is past.
    A missing header, a negative number and anything else is None. What was asked is never shortened.

    Source: api/tokfluence-api.md, Throttles ("`Retry-After` in seconds" [public]); RFC 9110, 10.2.3 for dates.
    """
    if text is None:
        return None
    text = text.strip(" \t")
    if _SECONDS.fullmatch(text):
        seconds = float(text)
        return seconds if math.isfinite(seconds) else None
    if not text[:1].isalpha():  # parsedate takes much that is no date, a bare "-5" included
        return None
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - now_epoch)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def plan_pause(retry_after: float | None, refusals: int, period: float) -> float:
    """Seconds a gate stays closed: what was asked, else 1, 2, 4, ... by `refusals` in a row (from 1), at most `period`."""
    if retry_after is not None:
        return max(0.0, retry_after)
    return min(_FIRST_PAUSE * 2.0 ** min(refusals - 1, 30), period)


class Pacer:
    """One lane: grants at most `limit` slots in any window of `period + jitter` seconds, evenly.

    Args:
        limit: Requests permitted per `period`; None switches the pacing off (the gate still works). Below 1 it is one
            request per `period / limit`.
        period: Seconds.
        burst: Slots that may be taken at once after idleness, at least 1.
        jitter: Seconds by which transit times may differ.
        now: The time it is.
        empty: The first slot opens after one interval instead of at once.
    """

    __slots__ = (
        "_burst",
        "_due",
        "_gate",
        "_hold_until",
        "_interval",
        "_log",
        "_low",
        "_proven",
        "_proven_until",
        "_refusals",
        "_repaying",
        "_saved",
        "_slots",
        "_span",
        "_stepped_at",
        "_window",
        "free_at",
        "limit",
        "period",
        "refused_total",
    )

    def __init__(
        self, limit: float | None, period: float, *, burst: int, jitter: float, now: float, empty: bool = False
    ) -> None:
        self._log: deque[float] = deque()
        self._repaying: deque[float] = deque()  # when a saved slot was used; each lowers the pace for one span
        self._refusals: deque[float] = deque()
        self._saved = 0
        self._gate = -math.inf
        self._low = 1.0  # the share after the last step down; 1.0: not slowed
        self._hold_until = -math.inf
        self._stepped_at = self._proven_until = -math.inf
        self._proven = 1.0
        self._due = now
        self.refused_total = 0
        #: When the next slot opens; it may be taken at any later time.
        self.free_at = -math.inf
        self.configure(limit, period, burst=burst, jitter=jitter, now=now)
        if empty:
            self._due += self._interval
            self._reopen(now)

    def configure(self, limit: float | None, period: float, *, burst: int, jitter: float, now: float) -> None:
        """Other numbers from now on. What was granted stays in the log."""
        self.limit = limit
        self.period = period
        self._burst = burst
        if limit is None:
            self._slots, self._window = 0, period
        elif limit >= 1:
            self._slots, self._window = int(limit), period
        else:
            self._slots, self._window = 1, period / limit
        self._span = self._window + jitter
        self._interval = self._span / self._slots if self._slots else 0.0
        while len(self._log) > self._slots:
            self._log.popleft()
        self._reopen(now)

    # ---------------------------------------------------------------- slots

    def take(self, now: float, queued: bool = False) -> None:
        """Take the slot that opened at `free_at`; `now` must not be before it.

        `queued`: somebody was waiting for it. Slots that passed meanwhile then went by because a timer was late, and are made
        up for; otherwise nobody wanted them, and they are saved as burst.
        """
        if not self._slots:
            return
        log = self._log
        if len(log) == self._slots:
            log.popleft()
        log.append(now)
        late = now - self._due
        if late < 0.0:
            self._saved -= 1
            self._repaying.append(now)
        else:
            interval = self._interval if self._low == 1.0 and not self._repaying else self._interval_at(now)
            if late >= interval:
                missed = int(late / interval)
                if queued and missed < self._burst:
                    pass  # the schedule stands: the next slots are due already
                else:
                    if self._low == 1.0 and not queued:
                        self._saved = min(self._saved + missed, self._burst - 1)
                    self._due += missed * interval
            self._due += interval
        self._reopen(now)

    def refund(self, taken: float, now: float) -> None:
        """Give back a slot taken at `taken` whose request never left: as if it had not been taken."""
        log = self._log
        for index in range(len(log) - 1, -1, -1):
            if log[index] == taken:
                del log[index]
                self._due -= self._interval_at(now)
                self._reopen(now)
                return

    def _interval_at(self, now: float) -> float:
        repaying = self._repaying
        while repaying and repaying[0] <= now - self._span:
            repaying.popleft()
        return self._span / max(self._slots * self.share(now) - len(repaying), 0.01 * self._slots)

    def _reopen(self, now: float) -> None:
        when = -math.inf if self._saved or not self._slots else self._due
        if self._slots:
            slots = self._slots if self._low == 1.0 else max(1, int(self._slots * self.share(now)))
            log = self._log
            if len(log) >= slots:
                when = max(when, log[-slots] + self._span)
        self.free_at = max(when, self._gate)

    # ---------------------------------------------------------------- refusals

    @property
    def gate_closed_until(self) -> float:
        return self._gate

    def gate_closed_for(self, now: float) -> float:
        """Seconds until the gate opens; 0.0 when it is open."""
        return max(0.0, self._gate - now)

    def share(self, now: float) -> float:
        """The part of the limit that is in use: 1.0, or less after refusals."""
        if self._low == 1.0:
            return 1.0
        after = now - self._hold_until
        if after <= 0.0:
            return self._low
        probe = _PROBE * self._window
        share = self._low * (1.0 + 0.5 * min(after / probe, 1.0)) + max(0.0, after - probe) / (_CLIMB * self._window)
        if share >= 1.0:
            # A bucket that filled up while the pace was low lets the full pace through for a while.
            self._proven, self._proven_until = self._low, now + self._window
            self._low = 1.0
            return 1.0
        return share

    def pace(self, now: float) -> float:
        """Slots per second that open at present; infinite when pacing is off."""
        return 1.0 / self._interval_at(now) if self._slots else math.inf

    def refused(self, now: float, pause: float) -> bool:
        """The service refused a request: close the gate for `pause` seconds (only ever later). True if the pace was lowered.

        Requests that were in flight when the first one was refused tell nothing new: until the gate has opened again,
        and for a fortieth of the period at least, refusals move the gate but not the pace.
        """
        self.refused_total += 1
        known = now < self._gate or now < self._stepped_at + _IN_FLIGHT * self._window
        self._gate = max(self._gate, now + pause)
        self._refusals.append(now)
        while self._refusals[0] <= now - self._window:
            self._refusals.popleft()
        if self._slots and not known:
            before = self.share(now)
            hold = _HOLD
            if self._low < 1.0 and now >= self._hold_until:
                # What was held for so long without a refusal was permitted; the probe beyond it was not.
                self._proven, self._proven_until = min(self._low * _BUMP, before), now + _REMEMBER * self._window
            if now < self._proven_until and self._proven < before:
                low = self._proven
            elif now < self._proven_until:
                # A little too much was taken for proven. Once; a second refusal in the same hold means that it shrank.
                low = before * _STEP_DOWN_PROVEN
                self._proven_until = -math.inf
            elif before == 1.0 and pause <= _NEAR_MISS * self._window and now - self._stepped_at > 2 * self._window:
                low, hold = _NEAR_MISS_STEP, _NEAR_MISS_HOLD
            else:
                low = before * _STEP_DOWN
            self._low = max(low, _LEAST_SHARE)
            self._stepped_at = now
            self._hold_until = now + hold * self._window
        # After the gate, one slot at a time: nothing saved, and the schedule starts again where it opens.
        self._saved = 0
        self._due = max(self._due, self._gate)
        self._reopen(now)
        return bool(self._slots) and not known
