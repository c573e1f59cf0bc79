"""How far a command is, in numbers and in the phrases that every kind of screen shows."""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from .._text import plural

__all__ = ["Meter", "Snapshot", "duration"]

# Seconds over which the request rate is measured: long enough that one page more or less does not
# show.
_RATE_OVER = 10.0


class Snapshot(Struct, frozen=True, kw_only=True):
    """How far a command is. `unit` is what is counted by `done` and `total`; what no credits were
    left for is in neither `done` nor `failed`."""

    title: str
    unit: str = "posts"
    done: int = 0
    total: int | None = None
    failed: int = 0
    not_affordable: int = 0
    comments: int | None = None
    credits_spent: int = 0
    credits_reserved: int = 0
    credits_remaining: int | None = None
    elapsed: float = 0.0
    requests: int = 0
    rate: float = 0.0
    permitted: float | None = None
    rate_limited: int = 0
    slowed: bool = False
    # None unless the throttle is shared: how many share it, and whether this one can at present.
    processes: int | None = None
    sharing: bool = False
    no_connection_for: float = 0.0

    @property
    def eta(self) -> float | None:
        """Seconds still to go at the pace so far; None as long as that would be a guess."""
        if self.total is None or not 0 < self.done < self.total or self.not_affordable:
            return None
        # The first posts of a crawl are finished late, so what they say of the others is far too
        # much.
        if self.elapsed < 30 and self.done < 0.15 * self.total:
            return None
        return (self.total - self.done) * self.elapsed / self.done

    def counted(self, of: str) -> str:
        """`3 posts`, and where the end is known `3 of 8 posts`."""
        one = self.unit.removesuffix("s")
        return (
            plural(self.done, one)
            if self.total is None
            else f"{self.done:,}{of}{plural(self.total, one)}"
        )

    def _pace(self) -> str:
        if self.permitted is None:
            return f"{self.rate:.1f} requests/s"
        if round(self.rate, 1) <= round(self.permitted, 1):
            return f"{self.rate:.1f} of {self.permitted:.1f} requests/s"
        # Measured over seconds, permitted over the throttle's minute: not a limit that does not
        # work.
        if self.slowed:
            return f"{self.rate:.1f} requests/s, slowed to {self.permitted:.1f}"
        return f"{self.rate:.1f} requests/s in a burst, {self.permitted:.1f} in the long run"

    def facts(self) -> list[tuple[str, str]]:
        """Short phrases with their styles, the most important first."""
        facts: list[tuple[str, str]] = []
        if self.no_connection_for:
            facts.append((f"no connection for {duration(self.no_connection_for)}", "red"))
        if self.comments is not None:
            facts.append((plural(self.comments, "comment"), ""))
        if self.failed:
            facts.append((f"{self.failed:,} failed", "red"))
        if self.not_affordable:
            facts.append((f"{self.not_affordable:,} not sent for want of credits", "yellow"))
        # What is left has lost the price of what is in flight already; of some of it the charge may
        # be taken back.
        coming = f", up to {self.credits_reserved:,} on their way" if self.credits_reserved else ""
        left = "" if self.credits_remaining is None else f", {self.credits_remaining:,} left"
        facts.append((f"{plural(self.credits_spent, 'credit')} spent{coming}{left}", ""))
        facts.append((self._pace(), "yellow" if self.slowed else ""))
        facts.append((f"{self.rate_limited:,} x 429", "yellow" if self.rate_limited else ""))
        if self.processes is not None:
            sharers = plural(self.processes, "process", "processes")
            shares = "shares" if self.processes == 1 else "share"
            facts.append(
                (f"{sharers} {shares} the throttle", "")
                if self.sharing
                else ("the shared throttle is away, alone at a share of it", "yellow")
            )
        return facts


class Meter:
    """Requests per second over the last few seconds, from a growing count."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def rate(self, now: float, count: int) -> float:
        marks = self._marks
        marks.append((now, count))
        while len(marks) > 2 and now - marks[1][0] >= _RATE_OVER:
            marks.popleft()
        seconds = now - marks[0][0]
        return (count - marks[0][1]) / seconds if seconds > 0 else 0.0


def duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
