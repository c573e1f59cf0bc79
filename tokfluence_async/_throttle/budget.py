"""One budget, of an IP address or of a key: its pacer, and the throttles that describe it.

Promises: where the numbers of the throttles in use differ, the smallest ones hold, as long as a
throttle or a client with them exists.
"""

from __future__ import annotations

import math
import weakref
from typing import ClassVar, Literal, TypeAlias

from .limits import Limits
from .pacer import Pacer, Pacing

__all__ = ["KeyLane", "Lane", "LaneName"]

LaneName: TypeAlias = Literal["ip", "key"]


class Lane:
    """One budget. Unless said otherwise, whoever uses it holds the lock of its origin."""

    #: How slots are counted.
    kind: ClassVar[type[Pacer]] = Pacer

    # There from the first `configure` on, and always the same.
    pacer: Pacer

    def __init__(self, name: LaneName, forked: bool) -> None:
        self.name: LaneName = name
        self.throttles: weakref.WeakSet[Limits] = weakref.WeakSet()
        #: In a row, without an answer between them.
        self.refusals = 0
        self.warned_at = -math.inf
        self.forked = forked

    def configure(self, now: float) -> None:
        """Take the smallest limit of the throttles in use, with that throttle's own period, and the
        most careful margins."""
        throttles = list(self.throttles)
        limits = [
            (limit / throttle.period, limit, throttle.period)
            for throttle in throttles
            if (limit := throttle.per_ip if self.name == "ip" else throttle.per_key) is not None
        ]
        _, limit, period = min(limits, default=(0.0, None, throttles[0].period))
        numbers = Pacing(
            limit,
            period,
            burst=min(throttle.burst for throttle in throttles),
            jitter=max(throttle.jitter for throttle in throttles),
        )
        if hasattr(self, "pacer"):
            self.pacer.configure(numbers, now)
        else:
            self.pacer = self.kind(numbers, now, empty=self.forked)


class KeyLane(Lane):
    """The budget of one key."""

    def __init__(self, label: str, forked: bool) -> None:
        super().__init__("key", forked)
        #: A name that says nothing about the key.
        self.label = label
        #: How many wait for its slots.
        self.waiting = 0
        #: Seconds; the least of those who wait.
        self.patience = math.inf
        #: Who waits before coming here: at a closed gate, at a client's own bucket.
        self.outside = 0
        # Refusals at the origin are numbered: this key's last, and the last before this key's
        # newest answer.
        self.refused_as = 0
        self.answered_after = 0
