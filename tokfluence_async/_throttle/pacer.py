"""When the next request may leave: the arithmetic of the throttle. No clock and no waiting: `now`
in, slot times out.

The service permits N requests in W seconds and does not say how it counts. What reaches it is what
was granted here, each request shifted by its transit time, and transit times differ by up to J
(`jitter`). So the requests in a window of W at the service were granted within one window of W + J
here, and

    in no window of W + J seconds are more than N slots granted   =>   no window of W at the service
    holds more than N.

Two rules together give that, and the evenness which token buckets, GCRA, nginx and sliding counters
ask for on top:

1. *The log.* The times of the last N grants are kept; the next waits until the N-th before it is W
   + J old. This alone is the
   guarantee: t[k + N] >= t[k] + W + J for every k, for any demand, cancellation, late timer or
       pause. The long-run rate
   is N / (W + J): 99.06 % of 600 a minute with J = 0.57 s. A late timer costs its lateness once per
   *window*, not once per slot, because nothing but the log remembers when a grant really happened.
2. *The pace.* Slots fall due every (W + J) / N seconds, and that schedule does not move when a
   timer is late: the next slot is due at its own time. Slots nobody wanted are saved, up to `burst`
   - 1 of them, and may be used at once. Each one used takes 1 / (W + J) off the pace for the next W
   + J: it is paid back evenly. The log alone would let the same burst through again one window
   later, and a sliding counter, which takes the last window to have been even, would count it
   twice; so it counts b + (N - b) x + (N - b)(1 - x) = N at every point x of its window. (To a
   request: where a slot is longer than the rest of the margin, as with N = 60 and transit times
   that differ by 0.4 s, it may refuse one now and then.)

A pacer starts with one slot and none saved. A restart goes on at the even pace where the old
process was, and a crash loop has nothing to burst with. (A bucket that starts full lets 2 N - 1
through in one window: measured for `AsyncLimiter(600, 60)`.) What a restart does not know is that a
burst is owed. A process that dies within a window of one, and is back in less than the time of the
burst's slots (a second), may send up to `burst` - 1 too many in that window: one refusal by a
sliding log, measured, and then the gate. To begin as if a burst were owed would cost every start
that many slots, 0.15 % of its first ten minutes.

What J has to be: for transit times that differ by at most J, no refusal is a theorem. For
exponential ones of 200 ms in the mean, without bound, 2 000 simulated hours of saturation against a
sliding log, the strictest, gave 3.5 refusals an hour with J = 0.5, 0.45 with 0.57 and 0.19 with
0.6; a sliding counter gave a ninth of that, fixed windows and all kinds of buckets none. 99.0 %
leaves room for 0.6, but for nothing else then: of a window's 600 requests two or three more may be
under way at its end than at its begin, and a timer is 0.6 ms late in the mean (epoll counts in
milliseconds). 0.57 gives both their room. Tried and rejected: holding the slot of each request that
was answered late until W after its answer, which is safe for any distribution. It needs the pace of
W plus the mean of a whole round trip and room for its fluctuation (98.4 %), and near that load the
held slots bunch up.

When the service refuses although this holds, somebody shares the budget or it became smaller. Then
the *share* of N in use goes down by half, is held for more than a window, and raised in two steps;
a share that was once held without a refusal is where the next refusal leads back to. The log and
the pace both follow the share. (Raised by adding a little every second, it meets a lasting limit
with more in flight and more often: over 1 % refused; see `_PROBE_TO`.)
"""

from __future__ import annotations

import math
import re
from collections import deque
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["Pacer", "parse_date", "parse_retry_after", "plan_pause"]

# How the share comes back, in windows: held, then in two steps. A probe at a quarter of 600 a
# minute costs one refusal and what is in flight then; held for 1.45 windows, 270 requests go
# between two probes: under 1 %. From a refusal to the full rate it takes 1.45 + 0.3 + 0.2 windows,
# so that a budget which returns is used in full within two.
_HOLD = 1.45
_PROBE = 0.3
_CLIMB = 0.2
# The first step goes a third beyond what was held, the second is the geometric mean of that and
# all. Steps, and flat ones, as a refusal costs what is in flight at the rate of that moment: slack
# (a window's, a bucket's) is to be used up before the rate is high. Over 12 minutes at a quarter,
# five seeds and nine ways of counting, 0.87 % were refused in the worst run and 0.67 % in the mean;
# with half as much again and steps of 0.27 windows 1.05 and 0.70 %; with ramps in place of steps,
# over 20 minutes, 1.06 % in the worst run.
_PROBE_TO = 1.35
_STEP_DOWN = 0.5
# Further down the steps are smaller: a refusal there is often the window that still holds what was
# sent before the last step.
_LOW = 0.3
_STEP_DOWN_LOW = 0.75
# A held share without a refusal is proven, and a little more is taken for proven with each probe;
# more if the full pace was reached.
_RAISE = 1.03
_RAISE_FAR = 1.1
_REMEMBER = 4.0
# A refusal within the hold of a proven share: a little less is proven. The next one halves.
_STEP_DOWN_PROVEN = 0.9
# The first refusal for two windows, with a pause of one part in sixty of the window or less, is
# what a straggling request meets at a sliding log. Halving the rate for it would cost 45 s of work;
# a real loss shows again right after the gate.
_NEAR_MISS = 1 / 60
_STEP_DOWN_NEAR_MISS = 0.95
_HOLD_NEAR_MISS = 0.5
# Refusals within a fortieth of a window (1.5 s in a minute) of the first were in flight with it.
_IN_FLIGHT = 1 / 40
# Whoever refuses at a twentieth of the limit still does not count requests by time but, say, how
# many are at work at once: to go slower does not cure that (with 0.005 a service that took one
# analyze call at a time got one request in 20 s).
_LEAST_SHARE = 0.05

# Grants between two looks for old ones in the log.
_LOG_ROOM = 2048

_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", re.ASCII)
# Without Retry-After: the first pause, doubled for each further refusal in a row, up to a period.
_FIRST_PAUSE = 1.0


def parse_retry_after(text: str | None, now_epoch: float) -> float | None:
    """Seconds to wait from a `Retry-After` header, or None where it says nothing that can be
    followed.

    Seconds may have a fraction; an HTTP date is taken relative to `now_epoch` (seconds since 1970),
    0.0 when it is past. A missing header, a negative number and anything else is None. What was
    asked is never shortened.

    Source: api/tokfluence-api.md, Throttles ("`Retry-After` in seconds" [public]); RFC 9110, 10.2.3
    for dates.
    """
    if text is None:
        return None
    text = text.strip(" \t")
    if _SECONDS.fullmatch(text):
        seconds = float(text)
        return seconds if math.isfinite(seconds) else None
    moment = parse_date(text)
    return None if moment is None else max(0.0, moment - now_epoch)


def parse_date(text: str | None) -> float | None:
    """Seconds since 1970 from an HTTP date, or None where it is none. Source: RFC 9110, 5.6.7."""
    if not text or not text[0].isalpha():  # parsedate takes much that is no date, "-5" included
        return None
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:  # "-0000", or an asctime date: UTC, says the RFC
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (
        ValueError,
        TypeError,
        OverflowError,
        IndexError,
    ):  # it reads numbers of any length, and leaves by all these
        return None


def plan_pause(retry_after: float | None, refusals: int, period: float) -> float:
    """Seconds a gate stays closed: what was asked, else 1, 2, 4, ... by `refusals` in a row, at
    most `period`."""
    if retry_after is not None and retry_after >= 0.0:
        return retry_after
    return min(_FIRST_PAUSE * 2.0 ** min(max(refusals, 1) - 1, 30), period)


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
        "_hold_until",
        "_idle_span",
        "_idle_when",
        "_interval",
        "_log",
        "_log_room",
        "_low",
        "_most_saved",
        "_proven",
        "_proven_until",
        "_repaying",
        "_saved",
        "_slots",
        "_span",
        "_stepped_at",
        "_window",
        "free_at",
        "gate",
        "implied",
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
        #: No slot opens before: where the service has asked for a pause.
        self.gate = -math.inf
        #: Another lane, which every request passes as well, is at least as strict: slots are not
        #: counted here, only the gate is kept.
        self.implied = False
        #: Refusals so far.
        self.refused_total = 0
        self._log: deque[float] = deque()
        self._log_room = _LOG_ROOM
        self._repaying: deque[float] = (
            deque()
        )  # when a saved slot was used; each lowers the pace for one span
        self._saved = 0
        self._low = 1.0  # the share last stepped down to; 1.0: not slowed
        self._hold_until = -math.inf
        self._stepped_at = -math.inf
        self._proven = 1.0
        self._proven_until = -math.inf
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
        self._slots, self._window = 0, period
        if limit is not None:
            self._slots, self._window = (int(limit), period) if limit >= 1 else (1, period / limit)
        self._span = self._window + jitter
        self._interval = self._span / self._slots if self._slots else 0.0
        # From here on all that can be saved has been saved, and how long ago the last slot was
        # taken makes no difference.
        self._idle_span = self._interval * (burst + 1)
        self._idle_when = math.inf
        self._log = deque(self._log, maxlen=self._slots)
        self._reopen(now)

    # ---------------------------------------------------------------- slots

    def take(self, now: float, queued: bool = False) -> None:
        """Take the slot that opened at `free_at`; `now` must not be before it.

        `queued`: somebody was waiting for it. Slots that passed meanwhile then passed because a
        timer was late, and up to a burst of them is made up for; otherwise nobody wanted them, and
        they are saved.
        """
        log = self._log
        log.append(now)
        if len(log) > self._log_room:
            self._forget(now)
        slots = self._slots
        if now >= self._idle_when and not queued:
            # The way of a free slot in a quiet time: short, because every single request goes it.
            saved = self._saved = self._most_saved
            self._due = due = now + self._interval
            self._idle_when = now + self._idle_span
        elif not slots:
            return
        elif self._low < 1.0:
            self._take_slowed(now, queued)
            return
        else:
            due, saved, repaying = self._due, self._saved, self._repaying
            late = now - due
            if late < 0.0:
                saved -= 1
                repaying.append(now)
            else:
                interval = self._interval
                if repaying:
                    interval = self._interval_at(now)
                if late >= interval:
                    missed = int(late / interval)
                    if not queued:
                        saved = min(saved + missed, self._most_saved)
                        due += missed * interval
                    elif missed > self._most_saved:
                        due += missed * interval
                due += interval
                self._due = due
            self._saved = saved
            self._idle_when = math.inf if repaying else due + self._idle_span
        # What `_reopen` would make of it, without what is not there: a lower share, a closed gate.
        when = -math.inf if saved else due
        if len(log) == slots and log[0] + self._span > when:
            when = log[0] + self._span
        self.free_at = when

    def _take_slowed(self, now: float, queued: bool) -> None:
        late = now - self._due
        if late < 0.0:
            self._saved -= 1
            self._repaying.append(now)
        else:
            interval = self._interval_at(now)
            missed = int(late / interval)
            if missed and (not queued or missed > self._most_saved):
                self._due += missed * interval
            self._due += interval
        self._reopen(now)

    def _forget(self, now: float) -> None:
        """Drop what is older than a window: with a limit far above the demand the log would grow up
        to the limit."""
        log = self._log
        old = now - self._span
        while log and log[0] <= old:
            log.popleft()
        self._log_room = len(log) + _LOG_ROOM

    def refund(self, taken: float, now: float) -> None:
        """Give back the slot taken at `taken` whose request never left: as if it had not been
        taken."""
        log = self._log
        for index in range(len(log) - 1, -1, -1):
            if log[index] <= taken:
                del log[index]
                # Never before the gate: two slots at the instant it opens would not be paced.
                self._due = max(self._due - self._interval_at(now), self.gate)
                self._reopen(now)
                return

    def refresh(self, now: float) -> None:
        """`implied` was changed."""
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
        while repaying and repaying[0] <= now - self._span:
            repaying.popleft()
        return self._span / max(
            self._slots * self.share(now) - len(repaying), _LEAST_SHARE * self._slots
        )

    def _reopen(self, now: float) -> None:
        """Work out `free_at` from the schedule, the log and the gate."""
        when = -math.inf
        self._idle_when = math.inf
        if self._slots and not self.implied:
            slots = self._slots
            if self._low < 1.0:
                share = self.share(now)
                if share < 1.0:
                    slots = max(1, int(slots * share))
                else:
                    # A bucket that filled up while the pace was low lets the full pace through for
                    # a while: not yet forgotten.
                    self._proven, self._proven_until = self._low * _RAISE_FAR, now + self._window
                    self._low = 1.0
            if not self._saved:
                when = self._due
            if self._low == 1.0 and not self._repaying:
                self._idle_when = self._due + self._idle_span
            log = self._log
            if len(log) >= slots:
                when = max(when, log[-slots] + self._span)
        self.free_at = max(when, self.gate)

    # ---------------------------------------------------------------- refusals

    def gate_closed_for(self, now: float) -> float:
        """Seconds until the gate opens; 0.0 when it is open."""
        return max(0.0, self.gate - now)

    def share(self, now: float) -> float:
        """The part of the limit that is in use: 1.0, or less after refusals."""
        if self._low == 1.0:
            return 1.0
        after = now - self._hold_until
        if after <= 0.0:
            return self._low
        step = min(1.0, _PROBE_TO * self._low)
        if after <= _PROBE * self._window:
            return step
        return math.sqrt(step) if after <= (_PROBE + _CLIMB) * self._window else 1.0

    def pace(self, now: float) -> float:
        """Slots per second that open at present; infinite when pacing is off."""
        if not self._slots:
            return math.inf
        owed = sum(1 for used in self._repaying if used > now - self._span)
        return max(self._slots * self.share(now) - owed, _LEAST_SHARE * self._slots) / self._span

    def refused(self, now: float, pause: float, lower: bool = True) -> bool:
        """The service refused a request: close the gate for `pause` seconds (only ever later), and
        with `lower` go on at a lower pace. True if that lowered it.

        Requests that were in flight when the first one was refused tell nothing new: until the gate
        has opened again, and for a moment at least, refusals move the gate but not the pace.
        """
        self.refused_total += 1
        in_flight = now < self.gate or now < self._stepped_at + _IN_FLIGHT * self._window
        self.gate = max(self.gate, now + pause)
        stepped = lower and bool(self._slots) and not in_flight
        if stepped:
            self._step_down(now, pause)
        # After the gate one slot at a time: nothing saved, and the schedule begins where it opens.
        self._saved = 0
        self._due = max(self._due, self.gate)
        self._reopen(now)
        return stepped

    def _step_down(self, now: float, pause: float) -> None:
        before, hold = self.share(now), _HOLD
        if self._low < 1.0 and now >= self._hold_until:
            # What was held for so long was permitted; the probe beyond it was not.
            self._proven = min(self._low * _RAISE, before)
            self._proven_until = now + _REMEMBER * self._window
        if now < self._proven_until:
            if self._proven < before:
                low = self._proven
            else:
                low = before * _STEP_DOWN_PROVEN
                self._proven_until = -math.inf
        elif (
            before == 1.0
            and pause <= _NEAR_MISS * self._window
            and now > self._stepped_at + 2 * self._window
        ):
            low, hold = _STEP_DOWN_NEAR_MISS, _HOLD_NEAR_MISS
        else:
            low = before * (_STEP_DOWN if before > _LOW else _STEP_DOWN_LOW)
        self._low = max(low, _LEAST_SHARE)
        self._stepped_at = now
        self._hold_until = now + hold * self._window
