"""What may still be spent: pure arithmetic, no clock and no waiting.

A request's price is reserved before it is sent and settled when its charge is known, so that under any concurrency

    spent + reserved <= limit

holds at every moment. A budget may stand under another (a call's under its client's): a reservation holds in all of
them or in none. Charges that are not known (a lost answer, a 500) are settled as spent.
"""

from __future__ import annotations

import threading

from ._errors import BudgetExceededError

__all__ = ["Budget"]


class Budget:
    """Credits that may be spent, with `limit` None for no end.

    Attributes:
        spent: Credits settled as charged.
        reserved: Credits of requests whose charge is not known yet.
    """

    __slots__ = ("_lock", "limit", "parent", "reserved", "spent")

    def __init__(self, limit: int | None = None, parent: Budget | None = None) -> None:
        if limit is not None and limit < 0:
            raise ValueError(f"max_credits must be 0 or more, not {limit}")
        self.limit = limit
        self.parent = parent
        self.spent = 0
        self.reserved = 0
        # One lock for the whole tree: a client may be used from two threads.
        self._lock: threading.RLock = parent._lock if parent is not None else threading.RLock()

    @property
    def available(self) -> int | None:
        """Credits that could be reserved now, or None without an end."""
        mine = None if self.limit is None else max(self.limit - self.spent - self.reserved, 0)
        above = self.parent.available if self.parent is not None else None
        return above if mine is None else mine if above is None else min(mine, above)

    @property
    def tightest(self) -> int | None:
        """The limit that binds now, of this budget and those above it; None without an end."""
        available = self.available
        budget: Budget | None = self
        while budget is not None:
            if budget.limit is not None and max(budget.limit - budget.spent - budget.reserved, 0) == available:
                return budget.limit
            budget = budget.parent
        return None

    def reserve(self, price: int) -> None:
        """Set `price` credits aside.

        Raises:
            BudgetExceededError: This budget or one above it has too few left; nothing was reserved anywhere.
        """
        with self._lock:
            if self.limit is not None and self.spent + self.reserved + price > self.limit:
                raise BudgetExceededError(price, self.limit - self.spent - self.reserved, self.limit)
            if self.parent is not None:
                self.parent.reserve(price)
            self.reserved += price

    def settle(self, reserved: int, spent: int) -> None:
        """Give `reserved` credits back and count `spent` of them, 0 for a refusal or refund."""
        with self._lock:
            self.reserved -= reserved
            self.spent += spent
            if self.parent is not None:
                self.parent.settle(reserved, spent)
