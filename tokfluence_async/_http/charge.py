"""What a call's current request id has cost, or may have cost.

Promises: every credit that is reserved is settled, once, whatever ends the call; and a charge that
is not known counts as spent.

Hard: a request id may be sent several times, and any of those attempts may be the one that was
charged. So the charge belongs to the id, not to the attempt.
"""

from __future__ import annotations

from msgspec import Struct

from .._credits.budget import Budget
from .._credits.ledger import Ledger
from .._wire.calls import Call

__all__ = ["Charge"]


class Charge(Struct):
    """The account of one request id.

    Attributes:
        request_id: None until there is one.
        owed: Credits it may have been charged, as far as we know.
        uncertain: Whether an attempt under it may have been charged without our knowing.
        failed: Whether no attempt under it has brought the answer.
    """

    call: Call
    budget: Budget
    ledger: Ledger
    request_id: str | None = None
    owed: int = 0
    uncertain: bool = False
    failed: bool = True
    _reserved: int = 0

    async def reserve(self) -> None:
        """Set the call's price aside.

        Raises:
            BudgetExceededError: There is too little left; nothing was reserved.
        """
        if self.budget.leases:
            await self.budget.lease(self.call.price)
        self.budget.reserve(self.call.price)
        self._reserved = self.call.price

    def may_be_charged(self) -> None:
        """An attempt left, and how it ended at the service is not known."""
        self.owed = self.call.price
        self.uncertain = True

    def close(self) -> int:
        """Nothing more is sent under this id: settle its charge and book it. Returns the credits
        that were booked."""
        if self._reserved or self.owed:
            self.budget.settle(self._reserved, self.owed)
        if self.request_id is None:
            return 0
        self.ledger.book(
            self.call.route,
            self.request_id,
            self.owed,
            certain=not self.uncertain,
            failed=self.failed,
        )
        return self.owed
