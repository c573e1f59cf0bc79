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
from collections.abc import Iterator
from typing import TypeAlias

from .._errors import BudgetExceededError, TokfluenceError, check_count
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
            if credits is not None:
                check_count(name, credits, 0)
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
        if parent is not None:
            parent.look_again()  # a new job: the wallet may have been filled up

    def _chain(self) -> Iterator[Budget]:
        """This budget and those above it."""
        budget: Budget | None = self
        while budget is not None:
            yield budget
            budget = budget.parent

    @property
    def _free(self) -> int | None:
        """What this budget has left of its own limit; None without one."""
        if self.shared is not None:
            return max(self.shared.leases.free, 0)
        return None if self.limit is None else max(self.limit - self.spent - self.reserved, 0)

    @property
    def _above_floor(self) -> int | None:
        """What the wallet holds above this budget's own floor; None without one, or as long as
        nobody knows."""
        if self.keep is None or self._left is None:
            return None
        return max(self._left - self.keep - self.reserved, 0)

    @property
    def available(self) -> int | None:
        """Credits that could be reserved now, or None without an end."""
        ends = [end for each in self._chain() for end in (each._free, each._above_floor)]
        return min((end for end in ends if end is not None), default=None)

    @property
    def tightest(self) -> int | None:
        """The limit that binds now, of this budget and those above it; None without an end."""
        available = self.available
        for each in self._chain():
            if each._free == available:
                return each.limit if each.shared is None else each.shared.limit
        return None

    async def lease(self, price: int) -> None:
        """Where a budget is shared, ask its store for `price` credits. There may be fewer: that is
        for `reserve` to say.

        Raises:
            BudgetExceededError, ConfigurationError: The store cannot be asked.
        """
        for each in self._chain():
            if each.shared is not None:
                await each.shared.leases.lease(price)

    async def give_back(self) -> None:
        """Where a budget is shared, give back what is leased and not reserved. What cannot be given
        back counts as spent."""
        for each in self._chain():
            if each.shared is not None:
                await each.shared.leases.give_back()

    def reserve(self, price: int) -> None:
        """Set `price` credits aside.

        Raises:
            BudgetExceededError: This budget or one above it has too few left; nothing was reserved
                anywhere.
        """
        with self._lock:
            # What costs nothing may always be sent, also where more was charged than was reserved.
            if self.limit is not None and price > (self._free or 0):
                left = self.limit - self.spent - self.reserved
                raise BudgetExceededError(price, left, self.limit)
            if (
                self.keep is not None
                and self._left is not None
                and price > (self._above_floor or 0)
            ):
                left = self._left - self.keep - self.reserved
                raise BudgetExceededError(price, left, self.keep, floor=True)
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
            for each in self._chain():
                each.reserved -= reserved
                each.spent += spent
                if each.shared is not None:
                    each.shared.leases.settle(reserved, spent)

    @property
    def unseen(self) -> bool:
        """Whether a floor here or above does not know yet what the wallet holds."""
        return any(each.keep is not None and each._left is None for each in self._chain())

    def saw(self, remaining: int) -> None:
        """An answer says what is left in the wallet; told before its own charge is settled."""
        with self._lock:
            for each in self._chain():
                if each._alone or each._left is None or remaining < each._left:
                    each._left = remaining

    def look_again(self) -> None:
        """Forget what the wallet held, if nothing is in flight: it may have been filled up."""
        with self._lock:
            for each in self._chain():
                if each.reserved == 0:
                    each._left = None
