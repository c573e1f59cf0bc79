"""What a call's current request id has cost, or may have cost.

Promises: every credit that is reserved is settled, once, whatever ends the call; and a charge that
is not known counts as spent.

Hard: a request id may be sent several times, and any of those attempts may be the one that was
charged. So the charge belongs to the id, not to the attempt.
"""

from __future__ import annotations

from .._credits.budget import Budget
from .._credits.ledger import Ledger
from .._wire.calls import Call

__all__ = ["Charge"]


class Charge:
    """The account of one request id after another, of one call.

    Attributes:
        request_id: The current one; None before the first, and between two.
        owed: Credits it may have been charged, as far as we know.
        uncertain: Whether an attempt under it may have been charged without our knowing.
        failed: Whether no attempt under it has brought the answer.
    """

    __slots__ = (
        "_reserved",
        "budget",
        "call",
        "failed",
        "ledger",
        "owed",
        "request_id",
        "uncertain",
    )

    def __init__(self, call: Call, budget: Budget, ledger: Ledger) -> None:
        self.call = call
        self.budget = budget
        self.ledger = ledger
        self._reserved = 0
        self.request_id: str | None = None
        self.owed = 0
        self.uncertain = False
        self.failed = True

    def reserve(self) -> None:
        """Set the call's price aside, for the request id that comes next.

        Raises:
            BudgetExceededError: There is too little left; nothing was reserved.
        """
        self.budget.reserve(self.call.price)
        self._reserved = self.call.price
        self.owed = 0
        self.uncertain = False
        self.failed = True

    def may_be_charged(self) -> None:
        """An attempt left, and how it ended at the service is not known."""
        self.owed = self.call.price
        self.uncertain = True

    def close(self) -> None:
        """Nothing more is sent under this id: settle its charge and book it. Idempotent."""
        if self._reserved or self.owed:
            self.budget.settle(self._reserved, self.owed)
            self._reserved = 0
        if self.request_id is not None:
            self.ledger.book(
                self.call.route,
                self.request_id,
                self.owed,
                certain=not self.uncertain,
                failed=self.failed,
            )
            self.request_id = None
            self.owed = 0
