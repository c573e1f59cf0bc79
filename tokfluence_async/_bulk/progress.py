"""Telling a caller how far a bulk call is: a plain callable, a few times a second and once at the
end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from .._errors import BudgetExceededError, InsufficientCreditsError
from .._models import Outcome, Progress

__all__ = ["OnProgress", "Ticker"]

OnProgress = Callable[[Progress], object]

_INTERVAL = 0.25


class Ticker:
    """Counts outcomes and calls `on_progress` at the start, at most four times a second, and once
    at the end.

    What it raises ends the call, as it is the caller's own. So it is called before anything is
    sent: most of what can be wrong with it shows then, when nothing has been paid for.

    Args:
        snapshot: The call's total, credits spent and credits remaining as they stand.
    """

    def __init__(
        self,
        on_progress: OnProgress | None,
        snapshot: Callable[[], tuple[int | None, int, int | None]],
    ) -> None:
        self._tell = on_progress
        self._snapshot = snapshot
        self._began = self._told = asyncio.get_running_loop().time()
        self.done = 0
        self.failed = 0
        self.not_affordable = 0
        self.comments = 0
        self.tell()

    @property
    def elapsed(self) -> float:
        return asyncio.get_running_loop().time() - self._began

    def count(self, outcome: Outcome[Any]) -> None:
        self.done += 1
        if not outcome.ok:
            self.failed += 1
            if isinstance(outcome.error, (BudgetExceededError, InsufficientCreditsError)):
                self.not_affordable += 1
        self.tick()

    def tick(self) -> None:
        if self._tell is None:
            return
        now = asyncio.get_running_loop().time()
        if now - self._told >= _INTERVAL:
            self._told = now
            self.tell()

    def tell(self) -> None:
        if self._tell is None:
            return
        total, spent, remaining = self._snapshot()
        progress = Progress(
            done=self.done,
            failed=self.failed,
            total=total,
            credits_spent=spent,
            credits_remaining=remaining,
            elapsed=self.elapsed,
            comments=self.comments,
            not_affordable=self.not_affordable,
        )
        try:
            self._tell(progress)
        except BaseException:
            # Once is enough: at the end it would hide the call's own error.
            self._tell = None
            raise
