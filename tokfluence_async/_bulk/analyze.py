"""Fanning analysis out: batches of 1 to 50, some in flight at once, outcomes as batches finish.

What must hold: a batch is one request id until a definite refusal, so that it is never billed
twice; one failed batch never loses the others' outcomes; input is read no faster than it is sent.
When the account itself is refused (401, 402, 403) or the budget is used up, nothing more is sent,
and the inputs that are left get that error as their outcome.

Source: the Tokfluence API page, `POST /v1/posts/analyze`, *Idempotency*.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from msgspec import Struct, field

from .._errors import BudgetExceededError, InsufficientCreditsError, TokfluenceError
from .._models import Analysis, Outcome
from .._text import plural
from .._wire.calls import MAX_BATCH
from .._wire.prices import ANALYZE_PRICE
from .intake import Intake
from .planner import Planner
from .requests import Requests
from .settle import BatchEnd, Settler
from .sources import Item, Source
from .stream import hand_over

if TYPE_CHECKING:
    from .._journal.journal import Journal
    from .._journal.records import Doubt, Entry

__all__ = ["RESEND_WITHIN", "Analyzer", "check_batch_size"]

logger = logging.getLogger("tokfluence_async")

# Seconds for which a request id is taken to be remembered by the service; how long it is, is not
# documented. Older ones are settled by reading first.
RESEND_WITHIN = 3600.0

Emit = Callable[[Item, Outcome[Analysis]], Awaitable[None]]


def check_batch_size(batch_size: int | None) -> None:
    """Raise `ValueError` for one that is not 1 to 50 or None."""
    if batch_size is not None and (
        isinstance(batch_size, bool)
        or not isinstance(batch_size, int)
        or not 1 <= batch_size <= MAX_BATCH
    ):
        raise ValueError(
            f"batch_size must be 1 to {MAX_BATCH}, or None to let the planner choose, not "
            f"{batch_size!r}"
        )


class Analyzer:
    """One call's worth of analysis.

    Args:
        force, verify: As `Settler`.
        batch_size: URLs a batch, or None to let the planner choose.

    Attributes:
        unsure: Posts of which only a 409 says that they were analyzed, and nobody has looked.
    """

    def __init__(
        self,
        requests: Requests,
        *,
        force: bool = False,
        batch_size: int | None = None,
        verify: bool = True,
    ) -> None:
        check_batch_size(batch_size)
        self._requests = requests
        self._concurrency = requests.options.analyze_concurrency
        self._planner = Planner(self._concurrency, batch_size)
        self._settler = Settler(requests, self._planner, force=force, verify=verify)
        self.unsure = self._settler.unsure
        # Posts of earlier batches that are still in doubt, and why. They must not be sent under
        # another id.
        self._unsettled: dict[str, TokfluenceError] = {}

    async def run(self, source: Source, emit: Emit) -> None:
        """Analyze everything `source` gives; emit one outcome for each item as its batch finishes.

        What an earlier run has recorded is not sent again.
        """
        send, receive = anyio.create_memory_object_stream[Item](2 * MAX_BATCH)
        feed = _Feed(source, send, emit, self._settler)
        intake = self.intake(receive, feed.left, counted=False)

        async def worker() -> None:
            while items := await intake.take():
                outcomes = await self.analyze(items)
                for item, outcome in zip(items, outcomes, strict=True):
                    await emit(item, outcome)

        with send, receive:
            async with anyio.create_task_group() as group:
                group.start_soon(feed.run)
                for _ in range(self._concurrency):
                    group.start_soon(worker)

    def intake(
        self,
        receive: MemoryObjectReceiveStream[Item],
        left: Callable[[], int | None],
        *,
        counted: bool,
    ) -> Intake:
        """Cuts batches from a stream in the way this call's planner wants them."""
        return Intake(self._requests, self._planner, receive, left, counted=counted)

    def allowance(self, urls: int) -> float:
        """Seconds after which a batch of `urls` that was sent is not at work any more."""
        return self._settler.verifier.allowance(urls)

    async def analyze(self, items: Sequence[Item]) -> list[Outcome[Analysis]]:
        """Analyze up to 50 posts under one request id, and return their outcomes, in order. Raises
        nothing of the API's.

        What the budget or the wallet holds too little for is left out and gets that error.
        """
        outcomes: dict[str, Outcome[Analysis]] = {
            item.post_id: item.failed(self._unsettled[item.post_id])
            for item in items
            if item.post_id in self._unsettled
        }
        left = [item for item in items if item.post_id not in outcomes]
        halt, budget = self._requests.halt, self._requests.budget
        while left and halt.error is None:
            try:
                if budget.leases:
                    await budget.lease(ANALYZE_PRICE * len(left))
            except TokfluenceError as error:
                self._requests.analysis_failed(error)
                _fail(outcomes, left, error)
                break
            fits = budget.available
            count = len(left) if fits is None else min(len(left), fits // ANALYZE_PRICE)
            if count == 0:
                short = BudgetExceededError(
                    ANALYZE_PRICE * len(left), fits or 0, budget.tightest or 0
                )
                _fail(outcomes, left, short)
                break
            part, left = left[:count], left[count:]
            await self._analyze(part, outcomes)
        if halt.error is not None:
            _fail(outcomes, left, halt.error)
        return [outcomes[item.post_id] for item in items]

    async def _analyze(self, items: Sequence[Item], outcomes: dict[str, Outcome[Analysis]]) -> None:
        """Analyze what the budget has credits for."""
        end = await self._send(items, outcomes)
        if end.error is None:
            return
        affordable = _affordable(end)
        if affordable:
            # The work was not started; what the wallet still holds is used.
            fitting = await self._send(end.left[:affordable], outcomes)
            if fitting.error is not None:
                _fail(outcomes, fitting.left, fitting.error)
        self._requests.analysis_failed(end.error)
        _fail(outcomes, end.left[affordable:], end.error)

    async def _send(
        self, items: Sequence[Item], outcomes: dict[str, Outcome[Analysis]]
    ) -> BatchEnd:
        """Settle the items; those that another call has taken, when it is done with them."""
        end = await self._settler.settle(items)
        outcomes.update(end.outcomes)
        while end.taken:
            end = await self._settler.settle(await self._of_others(end.left, outcomes))
            outcomes.update(end.outcomes)
        return end

    async def _of_others(
        self, items: Sequence[Item], outcomes: dict[str, Outcome[Analysis]]
    ) -> list[Item]:
        """The outcomes of posts that another call has taken, when it is done with them; or, where
        it has died, when its batch is settled under its old id. Returns what is free."""
        journal = self._settler.journal
        assert journal is not None
        posts = [item.post_id for item in items]
        await journal.wait_for(posts)
        await self._settle_all(journal, await journal.take_up(posts))
        free: list[Item] = []

        async def look(item: Item) -> None:
            post_id = item.post_id
            if post_id in self._unsettled:
                outcomes[post_id] = item.failed(self._unsettled[post_id])
                return
            entry = await journal.look_up(post_id)
            known: Outcome[Analysis] | None = None
            if entry is not None and entry.status is not None:
                known = await self._settler.recall(item, entry)
            if known is None:
                free.append(item)
            else:
                outcomes[post_id] = known

        async with anyio.create_task_group() as group:
            for item in items:
                group.start_soon(look, item)
        return free

    async def take_up(self, journal: Journal) -> None:
        """Write batches down in `journal`, and begin with what earlier runs have left there: what
        they learnt, and the batches in doubt, which are settled first."""
        self._settler.journal = journal
        self._planner.expect(await journal.learnt())
        await self._settle_all(journal, await journal.take_up())

    async def _settle_all(self, journal: Journal, doubts: Sequence[Doubt]) -> None:
        """Settle batches that earlier runs, or dead processes, have left in doubt."""
        places = asyncio.Semaphore(self._concurrency)
        try:
            async with anyio.create_task_group() as group:
                for doubt in doubts:
                    group.start_soon(self._settle, doubt, places)
        finally:
            # Whatever was not settled, because it failed, was cancelled or had not begun, is
            # nobody's again.
            for doubt in doubts:
                journal.forgotten(doubt.request_id)

    async def _settle(self, doubt: Doubt, places: asyncio.Semaphore) -> None:
        """Settle a batch in doubt under its old id, and write down what became of it.

        An id older than `RESEND_WITHIN` may have been forgotten by the service, which would then do
        the work again. Its posts are read first (1 credit each); those that are missing were not
        done, and are free.
        """
        items: Sequence[Item] = [Item(0, ref.post_id, ref) for ref in doubt.posts]
        left = items
        async with places:
            error = self._requests.halt.error
            if error is None and doubt.age > RESEND_WITHIN:
                await self._settler.settle_old(doubt, items)
            elif error is None:
                end = await self._settler.settle(items, doubt)
                error, left = end.error, end.left  # no error if another process has it now
        if error is None:
            return
        self._requests.analysis_failed(error)
        logger.warning(
            "still in doubt: %s (request %s): %s",
            plural(len(left), "post"),
            doubt.request_id,
            error,
        )
        self._unsettled.update((item.post_id, error.with_traceback(None)) for item in left)


class _Feed(Struct, eq=False):
    """Brings items from the source to the workers; what an earlier run has recorded goes by them.

    Posts whose earlier analysis is not certain are read first, some at once. What turns out not to
    have been analyzed comes into the stream late.
    """

    source: Source
    send: MemoryObjectSendStream[Item]
    emit: Emit
    settler: Settler
    _verifying: int = 0
    _places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2 * MAX_BATCH))

    def left(self) -> int | None:
        """Items still to come into the stream, or None if that is not known."""
        return None if self._verifying else self.source.left

    async def run(self) -> None:
        with self.send:
            async with anyio.create_task_group() as group:
                while (item := await self.source.next()) is not None:
                    if item.error is not None:
                        await self.emit(item, item.failed(item.error))
                    elif item.paid is None:
                        await hand_over(self.send, item)
                    elif item.paid.unsure:
                        await self._places.acquire()
                        group.start_soon(self._verify, item, item.paid)
                    else:
                        await self.emit(item, item.succeeded(item.recalled(item.paid)))

    async def _verify(self, item: Item, entry: Entry) -> None:
        self._verifying += 1
        try:
            outcome = await self.settler.recall(item, entry)
            if outcome is not None:
                await self.emit(item, outcome)
            else:
                await hand_over(self.send, item)
        finally:
            self._verifying -= 1
            self._places.release()


def _affordable(end: BatchEnd) -> int:
    """How many posts of a batch that the wallet was short for it still has credits for."""
    if not isinstance(end.error, InsufficientCreditsError) or not end.free:
        return 0
    count = (end.error.credits_remaining or 0) // ANALYZE_PRICE
    return count if 0 < count < len(end.left) else 0


def _fail(
    outcomes: dict[str, Outcome[Analysis]], items: Sequence[Item], error: TokfluenceError
) -> None:
    outcomes.update((item.post_id, item.failed(error)) for item in items)
