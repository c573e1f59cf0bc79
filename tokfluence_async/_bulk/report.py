"""The report of an analysis, put together as its outcomes arrive."""

from __future__ import annotations

from .._models import Analysis, AnalyzeReport, Outcome
from .job import Job
from .sources import Item

__all__ = ["ReportBuilder"]


class ReportBuilder:
    """Keeps outcomes in the order of their inputs. To sort them at the end would hold the loop.

    Attributes:
        count: Outcomes that have arrived.
    """

    def __init__(self) -> None:
        self._outcomes: list[Outcome[Analysis] | None] = []
        self.count = 0

    async def add(self, item: Item, outcome: Outcome[Analysis]) -> None:
        missing = item.index - len(self._outcomes)
        if missing > 0:
            self._outcomes.extend([None] * missing)
        self._outcomes[item.index - 1] = outcome
        self.count += 1

    def build(self, job: Job) -> AnalyzeReport:
        return AnalyzeReport(
            outcomes=[outcome for outcome in self._outcomes if outcome is not None],
            duplicates=job.source.duplicates,
            credits_spent=job.budget.spent,
        )
