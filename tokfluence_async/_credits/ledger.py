"""What we believe was spent, by endpoint and by request id, held against what the service says is
left.

`X-Credits-Remaining` comes with every answer, but out of order: with calls in flight no single
value says what the wallet holds. So the two are compared at quiet moments, when no call of this
client is in flight. If no balance seen since the last quiet moment agrees with what was charged
since, somebody else spends from the wallet, a call that failed was charged after all, or one that
was taken for charged was not.

Source: the Tokfluence API page, *Credits*.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, field

from msgspec import Struct

from .._text import Card, Table, plural

__all__ = ["Difference", "Ledger", "LedgerLine"]

logger = logging.getLogger("tokfluence_async")

# Request ids whose charge is remembered, and differences; the oldest go first.
_REMEMBERED = 10_000
_DIFFERENCES = 100


class LedgerLine(Struct, frozen=True):
    """What one endpoint has cost.

    Attributes:
        requests: Request ids that were used.
        credits: Credits charged for them, as far as we know; those not known are in it.
        uncertain: How many of `credits` are not known (a lost answer, a 500).
    """

    requests: int
    credits: int
    uncertain: int


class Difference(Struct, frozen=True):
    """The service's count and ours did not agree.

    Attributes:
        credits: What the wallet lost beyond what we know of; negative if it lost less.
        kind: `"spent elsewhere"`: another program spends from this wallet, or a call was charged
            that should not be. `"failed call charged"`: as before, and some of our calls failed
            without a charge that we know of. `"not charged"`: calls whose charge was not known, and
            was counted as spent, were not charged. `"refilled"`: a refund or a top-up.
        request_ids: Calls of ours that may explain it, at most 20.
    """

    credits: int
    kind: str
    request_ids: tuple[str, ...] = ()


@dataclass(slots=True)
class _Since:
    """What was charged and seen since the last quiet moment.

    Attributes:
        credits: Charged, as far as we know.
        uncertain: How many of them are not known.
        lowest, last: What was left in the wallet; None before the first answer.
        doubtful: Calls whose charge is not known.
        failed: Calls that failed without a charge that we know of.
    """

    credits: int = 0
    uncertain: int = 0
    lowest: int | None = None
    last: int | None = None
    doubtful: list[str] = field(default_factory=list[str])
    failed: list[str] = field(default_factory=list[str])


class Ledger:
    """The account of one token's wallet, as this client knows it. Reached as `client.ledger`.

    Attributes:
        remaining: What the service last said is left, by the order of sending; None before its
            first answer.
        spent: Credits charged, as far as we know; those not known are in it.
    """

    def __init__(self) -> None:
        self.remaining: int | None = None
        self.spent = 0
        self._order = -1
        self._lock = threading.Lock()
        self._lines: dict[str, list[int]] = {}
        # Asked for rarely and added to by every request: a dict takes 1 µs for that, this 0.1.
        self._charges: deque[tuple[str, int]] = deque(maxlen=_REMEMBERED)
        self._differences: deque[Difference] = deque(maxlen=_DIFFERENCES)
        self._flying = 0
        self._since = _Since()
        # What the wallet held at the last quiet moment.
        self._base: int | None = None

    @property
    def by_endpoint(self) -> dict[str, LedgerLine]:
        """What each endpoint has cost, such as `"GET /v1/posts/:id"`."""
        with self._lock:
            return {name: LedgerLine(*line) for name, line in self._lines.items()}

    @property
    def differences(self) -> list[Difference]:
        """Where the service's count and ours did not agree, oldest first; the last 100."""
        return list(self._differences)

    def charged(self, request_id: str) -> int | None:
        """Credits charged for one request id, as far as we know; None if it is not among the last
        10,000."""
        with self._lock:
            found = (credits for known, credits in reversed(self._charges) if known == request_id)
            return next(found, None)

    def __repr__(self) -> str:
        remaining = "unknown" if self.remaining is None else f"{self.remaining:,}"
        return (
            f"<Ledger: {self.spent:,} spent, {remaining} remaining, "
            f"{plural(len(self._differences), 'difference')}>"
        )

    def _repr_html_(self) -> str:
        lines = self.by_endpoint.items()
        return Card(
            "Ledger",
            facts=[("credits spent", self.spent), ("left", self.remaining)],
            tables=[
                Table(
                    ("endpoint", "requests", "credits", "of these not known"),
                    [(name, each.requests, each.credits, each.uncertain) for name, each in lines],
                ),
                Table(
                    ("difference, newest first", "credits"),
                    [(each.kind, f"{each.credits:+,}") for each in reversed(self.differences)],
                ),
            ],
        ).html()

    def began(self) -> None:
        """A call begins."""
        with self._lock:
            self._flying += 1

    def note(self, order: int, remaining: int) -> None:
        """An answer to the `order`-th send says what is left; one to an older send never overwrites
        `remaining`."""
        with self._lock:
            if order > self._order:
                self._order = order
                self.remaining = remaining
            since = self._since
            since.last = remaining
            if since.lowest is None or remaining < since.lowest:
                since.lowest = remaining

    def book(
        self, endpoint: str, request_id: str, credits: int, *, certain: bool, failed: bool
    ) -> None:
        """The charge of a request id is known, or as known as it will be."""
        with self._lock:
            line = self._lines.get(endpoint)
            if line is None:
                line = self._lines[endpoint] = [0, 0, 0]
            line[0] += 1
            line[1] += credits
            self.spent += credits
            since = self._since
            since.credits += credits
            self._charges.append((request_id, credits))
            if not certain:
                line[2] += credits
                since.uncertain += credits
                since.doubtful.append(request_id)
            elif failed:
                since.failed.append(request_id)

    def ended(self) -> None:
        """A call has ended. If it was the last in flight, the counts are compared."""
        with self._lock:
            self._flying -= 1
            if self._flying == 0:
                self._compare()

    def _compare(self) -> None:
        since = self._since
        if self.remaining is None or since.lowest is None or since.last is None:
            return  # no answer said what is left
        actual = since.lowest
        if self._base is not None:
            expected = self._base - since.credits
            if actual != expected:
                # Refunds make the lowest value pass, and the order of debits is not that of
                # sending: each may be the one.
                seen = (since.last, since.lowest, self.remaining)
                actual = min(seen, key=lambda value: abs(value - expected))
            if actual != expected:
                self._differ(expected - actual, since)
        self._base = actual
        self._since = _Since()

    def _differ(self, credits: int, since: _Since) -> None:
        ids: list[str] = []
        if credits > 0:
            kind, ids = (
                ("failed call charged", since.failed) if since.failed else ("spent elsewhere", [])
            )
        elif -credits <= since.uncertain:
            kind, ids = "not charged", since.doubtful
        else:
            kind = "refilled"
        difference = Difference(credits, kind, tuple(ids[:20]))
        self._differences.append(difference)
        logger.info(
            "the wallet holds %+d %s against what this client knows it spent (%s)%s",
            -credits,
            "credit" if abs(credits) == 1 else "credits",
            kind,
            f": {', '.join(difference.request_ids)}" if ids else "",
        )
