"""What may still be spent: pure arithmetic, no clock and no waiting.

A request's price is reserved before it is sent, and settled when its charge is known. So under any
concurrency `spent + reserved <= limit` holds at every moment. A budget may stand under another (a
call's under its client's): a reservation holds in all of them or in none. A charge that is not
known (a lost answer, a 500) is settled as spent.

A floor (`keep`) bounds the same sum from the other side: what the wallet holds, less what is
reserved, stays above it. `docs/design/request-ids-and-money.md` says what it can know of that.
"""

from __future__ import annotations

import threading
from typing import TypeAlias

from .._errors import BudgetExceededError, TokfluenceError
from .halt import Halt
from .shared import SharedBudget

__all__ = ["Budget", "MaxCredits"]

MaxCredits: TypeAlias = int | SharedBudget | None


class Budget:
    """Credits that may be spent, with `limit` None for no end.

    Attributes:
        spent: Credits settled as charged.
        reserved: Credits of requests whose charge is not known yet.
        halt: Whether the job that spends from it goes on.
        keep: Credits that have to stay in the wallet, or None.
        shared: The budget of several processes that is spent from, or None.
        leases: Whether this budget, or one above it, is shared: then `lease` comes before
            `reserve`.
        keeps: Whether this budget, or one above it, has a floor.
    """

    __slots__ = (
        "_alone",
        "_left",
        "_lock",
        "halt",
        "keep",
        "keeps",
        "leases",
        "limit",
        "parent",
        "reserved",
        "shared",
        "spent",
    )

    def __init__(
        self,
        limit: int | SharedBudget | None = None,
        parent: Budget | None = None,
        *,
        keep: int | None = None,
    ) -> None:
        self.shared = limit if isinstance(limit, SharedBudget) else None
        if isinstance(limit, SharedBudget):
            limit = None
        for name, credits in (("max_credits", limit), ("keep_credits", keep)):
            if credits is None:
                continue
            if isinstance(credits, bool) or not isinstance(credits, int) or credits < 0:
                raise ValueError(f"{name} must be an integer of 0 or more, not {credits!r}")
        self.halt = Halt()
        self.limit = limit
        self.leases: bool = self.shared is not None or (parent is not None and parent.leases)
        self.parent = parent
        self.keep = keep
        self.keeps: bool = keep is not None or (parent is not None and parent.keeps)
        self._left: int | None = None
        self._alone = False
        self.spent = 0
        self.reserved = 0
        # One lock for the whole tree: a client may be used from two threads.
        self._lock: threading.RLock = parent._lock if parent is not None else threading.RLock()
        if parent is not None and parent.keeps:
            parent.look_again()  # a new job: the wallet may have been filled up

    @property
    def available(self) -> int | None:
        """Credits that could be reserved now, or None without an end."""
        mine = None if self.limit is None else max(self.limit - self.spent - self.reserved, 0)
        if self.keep is not None and self._left is not None:
            floor = max(self._left - self.keep - self.reserved, 0)
            mine = floor if mine is None else min(mine, floor)
        if self.shared is not None:
            mine = max(self.shared.leases.free, 0)
        above = self.parent.available if self.parent is not None else None
        return above if mine is None else mine if above is None else min(mine, above)

    @property
    def tightest(self) -> int | None:
        """The limit that binds now, of this budget and those above it; None without an end."""
        available = self.available
        budget: Budget | None = self
        while budget is not None:
            if budget.shared is not None and budget.shared.leases.free <= (available or 0):
                return budget.shared.limit
            if (
                budget.limit is not None
                and max(budget.limit - budget.spent - budget.reserved, 0) == available
            ):
                return budget.limit
            budget = budget.parent
        return None

    async def lease(self, price: int) -> None:
        """Where a budget is shared, ask its store for `price` credits. There may be fewer: that is
        for `reserve` to say.

        Raises:
            BudgetExceededError, ConfigurationError: The store cannot be asked.
        """
        budget: Budget | None = self
        while budget is not None:
            if budget.shared is not None:
                await budget.shared.leases.lease(price)
            budget = budget.parent

    async def give_back(self) -> None:
        """Where a budget is shared, give back what is leased and not reserved. What cannot be given
        back counts as spent."""
        budget: Budget | None = self
        while budget is not None:
            if budget.shared is not None:
                await budget.shared.leases.give_back()
            budget = budget.parent

    def reserve(self, price: int) -> None:
        """Set `price` credits aside.

        Raises:
            BudgetExceededError: This budget or one above it has too few left; nothing was reserved
                anywhere.
        """
        with self._lock:
            # What costs nothing may always be sent, also where more was charged than was reserved.
            if self.limit is not None and price > max(self.limit - self.spent - self.reserved, 0):
                raise BudgetExceededError(
                    price, self.limit - self.spent - self.reserved, self.limit
                )
            if (
                self.keep is not None
                and self._left is not None
                and price > max(self._left - self.keep - self.reserved, 0)
            ):
                raise BudgetExceededError(
                    price, self._left - self.keep - self.reserved, self.keep, floor=True
                )
            if self.shared is not None:
                self.shared.leases.reserve(price)
            if self.parent is not None:
                try:
                    self.parent.reserve(price)
                except BudgetExceededError:
                    if self.shared is not None:
                        self.shared.leases.settle(price, 0)
                    raise
            self._alone = self.reserved == 0
            self.reserved += price

    def check(self) -> None:
        """Raise the error of a job that sends nothing more. What was sent is settled as ever."""
        self.halt.check()

    def closed_by(self, error: TokfluenceError) -> bool:
        """Whether it is what `check` raises."""
        return not self.halt.sends and self.halt.error is error

    def settle(self, reserved: int, spent: int) -> None:
        """Give `reserved` credits back and count `spent` of them, 0 for a refusal or refund."""
        with self._lock:
            self.reserved -= reserved
            self.spent += spent
            if self.shared is not None:
                self.shared.leases.settle(reserved, spent)
            if self.parent is not None:
                self.parent.settle(reserved, spent)

    @property
    def unseen(self) -> bool:
        """Whether a floor here or above does not know yet what the wallet holds."""
        return (self.keep is not None and self._left is None) or (
            self.parent is not None and self.parent.unseen
        )

    def saw(self, remaining: int) -> None:
        """An answer says what is left in the wallet; told before its own charge is settled."""
        with self._lock:
            if self.keep is not None and (
                self._alone or self._left is None or remaining < self._left
            ):
                self._left = remaining
            if self.parent is not None:
                self.parent.saw(remaining)

    def look_again(self) -> None:
        """Forget what the wallet held, if nothing is in flight: it may have been filled up."""
        with self._lock:
            if self.reserved == 0:
                self._left = None
            if self.parent is not None:
                self.parent.look_again()
