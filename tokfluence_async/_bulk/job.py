"""What every bulk call opens before it sends, and closes at its end.

A job owns the call's inputs, its budget within the client's, its journal if there is one, and the
reports of its progress. What is done with the inputs is its worker's: an `Analyzer` or a
`Resolver`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol, TypeVar

from .._credits.budget import Budget, MaxCredits
from .._journal.journal import Journal
from .._journal.opening import JournalOrPath, enter_journal
from .._models import Analysis, AnalyzeReport, Outcome
from .._wire.calls import MAX_BATCH
from .progress import OnProgress, Ticker
from .requests import Requests
from .shards import ShardFilter
from .sources import Inputs, Item, Source
from .stream import Emit, stream, unwrapped
from .window import Window

if TYPE_CHECKING:
    from .._http.engine import Engine, Options

__all__ = ["Job", "Worker"]

T = TypeVar("T")

# Outcomes a bulk call may be ahead of its consumer.
_BUFFER = 2 * MAX_BATCH


class Worker(Protocol[T]):
    """Who turns a job's inputs into outcomes."""

    async def take_up(self, journal: Journal) -> None:
        """Begin with what earlier runs have left in the journal."""
        ...

    async def run(
        self, source: Source, emit: Callable[[Item, Outcome[T]], Awaitable[None]]
    ) -> None:
        """Emit one outcome for each item of `source`."""
        ...


class Job:
    """One bulk call.

    Args:
        inputs: What the user gave.
        max_credits: Credits that this call may spend at most.
        journal: A journal, or the path of one that the call opens and closes.
        on_progress: The user's callable.
        window: How far the call may run ahead of its reader, if it is read bit by bit.
        only: Lets some inputs pass by; see `ShardFilter`.
    """

    def __init__(
        self,
        engine: Engine,
        options: Options,
        inputs: Inputs,
        max_credits: MaxCredits = None,
        journal: JournalOrPath | None = None,
        on_progress: OnProgress | None = None,
        window: Window | None = None,
        *,
        only: ShardFilter | None = None,
    ) -> None:
        self.budget = Budget(max_credits, options.budget)
        self.requests = Requests(engine, options.of_a_job(self.budget), window)
        self.source = Source(inputs, only)
        self._journal = journal
        self._on_progress = on_progress

    async def aclose(self) -> None:
        """Close the inputs, and give back what was leased of a shared budget and not spent."""
        try:
            await self.source.aclose()
        finally:
            if self.budget.leases:
                await self.budget.give_back()

    def ticker(self) -> Ticker:
        """Counts outcomes; calls `on_progress` for the first time."""
        wallet = self.requests.engine.wallet(self.requests.options.token)
        return Ticker(
            self._on_progress, lambda: (self.source.total, self.budget.spent, wallet.remaining)
        )

    async def run(
        self, worker: Worker[T], emit: Callable[[Item, Outcome[T]], Awaitable[None]]
    ) -> None:
        """Emit an outcome for each input as it is settled, and count it. What an earlier run has
        left in the journal in doubt is settled first.

        Raises what the caller's own iterator raised, after what was begun is done.
        """
        try:
            ticker = self.ticker()

            async def tell(item: Item, outcome: Outcome[T]) -> None:
                ticker.count(outcome)
                await emit(item, outcome)

            try:
                async with AsyncExitStack() as stack:
                    if self._journal is not None:
                        journal = await enter_journal(stack, self._journal)
                        await worker.take_up(journal)
                        await self.source.remember(journal)
                    await worker.run(self.source, tell)
            finally:
                ticker.tell()
        finally:
            await self.aclose()
        if self.source.error is not None:
            raise self.source.error

    async def report(self, worker: Worker[Analysis]) -> AnalyzeReport:
        """The outcomes of all inputs, in the order of these.

        What the caller's own iterator or `on_progress` raised comes with the report of what was
        received before, as its `report`.
        """
        outcomes: list[Outcome[Analysis] | None] = []

        async def place(item: Item, outcome: Outcome[Analysis]) -> None:
            # To sort them at the end would hold the loop.
            outcomes.extend([None] * (item.index - len(outcomes)))
            outcomes[item.index - 1] = outcome

        def made() -> AnalyzeReport:
            return AnalyzeReport(
                outcomes=[outcome for outcome in outcomes if outcome is not None],
                duplicates=self.source.duplicates,
                credits_spent=self.budget.spent,
            )

        try:
            await unwrapped(self.run(worker, place))
        except Exception as error:
            received = made()
            # No type knows this attribute, as `error` may be of any class.
            error.report = received  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
            error.add_note(
                f"{len(received.outcomes)} outcomes were received; they are in this exception's "
                "`report`."
            )
            raise
        return made()

    def stream(self, worker: Worker[T]) -> AsyncGenerator[Outcome[T], None]:
        """Yield an outcome for each input as it is settled."""
        window = self.requests.window

        async def work(emit: Emit[tuple[int, Outcome[T]]]) -> None:
            async def tell(item: Item, outcome: Outcome[T]) -> None:
                await emit((item.index, outcome))

            await self.run(worker, tell)

        def deliver(settled: tuple[int, Outcome[T]]) -> Outcome[T]:
            index, outcome = settled
            if window is not None:
                window.was_read(index)
            return outcome

        return stream(self.requests.engine, work, _BUFFER, deliver)
