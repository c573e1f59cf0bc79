"""The share of the limit that is in use: lowered by refusals, raised again in steps.

When the service refuses although the limit was kept, somebody shares the budget or it became
smaller. Then the share goes down by half, is held for more than a window, and is raised in two
steps. A share that was once held without a refusal is *proven*: the next refusal leads back to it.

Relies on: `now` never goes back. Knows no clock and no slots; `pacer` asks it for a number.
What is hard is the choice of the constants; each has its reason beside it, and the figures are in
docs/design/throttle.md, *The learnt share*.
"""

from __future__ import annotations

import math

__all__ = ["FIRST_STEP", "LEAST_SHARE", "SECOND_STEP", "STEP_TO", "LearntShare", "share_at"]

# Whoever refuses at a twentieth of the limit still does not count requests by time but, say, how
# many are at work at once: to go slower does not cure that. (With 0.005 a service that took one
# analyze call at a time got one request in 20 s.)
LEAST_SHARE = 0.05

# How the share comes back, in windows: held, then in two steps. A probe at a quarter of 600 a
# minute costs one refusal and what is in flight then. Held for 1.45 windows, 270 requests go
# between two probes: under 1 %. From a refusal to the full rate it takes 1.45 + 0.3 + 0.2 windows,
# so a budget that returns is used in full within two.
_HOLD = 1.45
FIRST_STEP = 0.3
SECOND_STEP = 0.2
# The first step goes a third beyond what was held; the second is the geometric mean of that and
# all. Flat steps, as a refusal costs what is in flight at the rate of that moment.
STEP_TO = 1.35
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


def share_at(low: float, after: float, window: float) -> float:
    """The share in use `after` seconds behind the time for which `low` is held: itself, two steps,
    and all."""
    if after <= 0.0:
        return low
    step = min(1.0, STEP_TO * low)
    if after <= FIRST_STEP * window:
        return step
    return math.sqrt(step) if after <= (FIRST_STEP + SECOND_STEP) * window else 1.0


class LearntShare:
    """What refusals have taught about one budget.

    Args:
        window: Seconds in which the service counts.
    """

    def __init__(self, window: float) -> None:
        self.window = window
        #: The share last stepped down to; 1.0: not slowed.
        self.low = 1.0
        self.hold_until = -math.inf
        self.stepped_at = -math.inf
        self.proven = 1.0
        self.proven_until = -math.inf

    def at(self, now: float) -> float:
        """The part of the limit that is in use: 1.0, or less after refusals."""
        if self.low == 1.0:
            return 1.0
        return share_at(self.low, now - self.hold_until, self.window)

    def settle(self, now: float) -> float:
        """As `at`; a share that is back at 1.0 is no longer slowed from here on."""
        if self.low == 1.0:
            return 1.0
        share = self.at(now)
        if share == 1.0:
            # A bucket that filled up while the pace was low lets the full pace through for a while,
            # so what was held is not forgotten yet.
            self.proven, self.proven_until = self.low * _RAISE_FAR, now + self.window
            self.low = 1.0
        return share

    def stepped_just_now(self, now: float) -> bool:
        """Whether a refusal at `now` was in flight together with the one that lowered the share."""
        return now < self.stepped_at + _IN_FLIGHT * self.window

    def step_down(self, now: float, pause: float) -> None:
        """A refusal that tells something new, with a pause of `pause` seconds."""
        before, hold = self.at(now), _HOLD
        if self.low < 1.0 and now >= self.hold_until:
            # What was held for so long was permitted; the probe beyond it was not.
            self.proven = min(self.low * _RAISE, before)
            self.proven_until = now + _REMEMBER * self.window
        if now < self.proven_until:
            if self.proven < before:
                low = self.proven
            else:
                low = before * _STEP_DOWN_PROVEN
                self.proven_until = -math.inf
        elif (
            before == 1.0
            and pause <= _NEAR_MISS * self.window
            and now > self.stepped_at + 2 * self.window
        ):
            low, hold = _STEP_DOWN_NEAR_MISS, _HOLD_NEAR_MISS
        else:
            low = before * (_STEP_DOWN if before > _LOW else _STEP_DOWN_LOW)
        self.low = max(low, LEAST_SHARE)
        self.stepped_at = now
        self.hold_until = now + hold * self.window
