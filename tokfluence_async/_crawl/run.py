"""One run of a crawl: the stages, and what it counts.

   inputs ─► what the journal knows is left out ─► resolve ─► posts.jsonl ─► walks ─► comments.jsonl
                                                       └───────── failures.jsonl ◄───────┘

The stages are one task tree with a bounded stream between each two, so a million inputs take the
memory of a few hundred. Lines go to the journal, which writes them and what they mean in one
commit. A restart goes on at the post, and within a post at the page, where the journal ends.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
from msgspec import Raw

from .._bulk.comments import Paging, raw_walk
from .._bulk.job import Job
from .._bulk.recent import Recent
from .._bulk.resolve import Resolver
from .._bulk.sources import Item
from .._errors import (
    AuthenticationError,
    BudgetExceededError,
    InsufficientCreditsError,
    JournalError,
    PermissionDeniedError,
    TokfluenceError,
)
from .._journal.records import Entry
from .._models import CrawlReport, Outcome
from .._wire.lines import comment_ids, comment_lines, failure_line, line_ids, post_line
from .files import NewFile

if TYPE_CHECKING:
    from .._journal.outputs import Output
    from .journals import CrawlJournals

__all__ = ["CrawlRun"]

logger = logging.getLogger("tokfluence_async")

# Posts whose comments are walked at once, and pages of each that may be under way ahead of the one
# that is written. Both together are what a kill can cost in pages bought and not written.
_WALKERS = 16
_AHEAD = 4


class _StoppedError(TokfluenceError):
    """Not sent, because the run was asked to stop. Not reported as a failure: the next run picks
    the input up."""


class _Walk(NamedTuple):
    """A post whose comments are to be read from `cursor` on."""

    item: Item
    post_id: str
    cursor: int


@dataclass(eq=False)
class CrawlRun:
    """One run: what it counts, and where its outcomes go.

    Attributes:
        ticker: Counts what is done, and reports progress.
        fatal: The refusal of the account, which ends the run.
    """

    job: Job
    journals: CrawlJournals
    posts: Output
    comments: Output | None
    failures: NewFile
    fatal: TokfluenceError | None = None
    _posts: int = 0
    _skipped: int = 0
    _stopped_by: str | None = None
    _stopping: bool = False

    def __post_init__(self) -> None:
        self.ticker = self.job.ticker()

    @property
    def tried_everything(self) -> bool:
        """Whether every input was read, and nothing was left for another run."""
        return self._stopped_by is None and self.fatal is None and self.job.source.error is None

    def report(self) -> CrawlReport:
        return CrawlReport(
            posts=self._posts,
            comments=self.ticker.comments,
            failed=self.ticker.failed,
            skipped=self._skipped,
            duplicates=self.job.source.duplicates,
            credits_spent=self.job.requests.budget.spent,
            seconds=self.ticker.elapsed,
            stopped_by=self._stopped_by,
        )

    async def run(self, resolver: Resolver[Raw], stop: asyncio.Event | None, grace: float) -> None:
        send, receive = anyio.create_memory_object_stream[_Walk](_WALKERS)
        self._walks = send

        async def resolve() -> None:
            with send:
                await resolver.take_up(self.journals.paid)
                await self.job.source.remember(self.journals.known, self._skip)
                await resolver.run(self.job.source, self._settle)

        async def walk() -> None:
            async for job in receive:
                await self._walk(job)

        async def watch(scope: anyio.CancelScope) -> None:
            assert stop is not None
            await stop.wait()
            logger.warning("asked to stop: finishing what is in flight, for %.0f s at most", grace)
            self._stopped_by = self._stopped_by or "signal"
            self._stop(_StoppedError("Not sent: the run was asked to stop."))
            await asyncio.sleep(grace)
            scope.cancel()

        with send, receive:
            async with anyio.create_task_group() as outer:
                if stop is not None:
                    outer.start_soon(watch, outer.cancel_scope)
                async with anyio.create_task_group() as group:
                    group.start_soon(resolve)
                    for _ in range(0 if self.comments is None else _WALKERS):
                        group.start_soon(walk)
                outer.cancel_scope.cancel()

    def _stop(self, error: TokfluenceError) -> None:
        """Begin nothing more; what would have begun fails with `error`."""
        if not self._stopping:
            self._stopping = True
            self.job.source.end()
            self.job.requests.halt.begin_nothing(error)

    async def _skip(self, item: Item, entry: Entry) -> bool:
        """Whether there is nothing left to resolve for an item; its comments may be taken up
        again."""
        if not entry.written:
            return False
        assert item.ref is not None
        if self.comments is None or entry.walked:
            self._skipped += 1
            self._done()
        else:
            await self._walks.send(_Walk(item, item.ref.post_id, entry.cursor))
        return True

    async def _settle(self, item: Item, outcome: Outcome[Raw]) -> None:
        if outcome.error is not None:
            self._fail(item, outcome.post_id, outcome.error)
            return
        assert outcome.value is not None
        assert outcome.post_id is not None
        await self.journals.written.write_post(
            self.posts, outcome.post_id, post_line(outcome.value)
        )
        self._posts += 1
        if self.comments is None:
            self._done()
        else:
            await self._walks.send(_Walk(item, outcome.post_id, 0))

    async def _walk(self, job: _Walk) -> None:
        if self._stopping:
            return
        try:
            finished = await self._write_comments(job)
        except JournalError:
            raise
        except TokfluenceError as error:
            self._fail(job.item, job.post_id, error)
        else:
            if finished:
                self._done()

    async def _write_comments(self, job: _Walk) -> bool:
        """Write the rest of a post's comments. Returns False if the run was stopped before."""
        assert self.comments is not None
        seen = await self._written_last(job) if job.cursor else None
        paging = Paging(cursor=job.cursor, prefetch=_AHEAD)
        walk = raw_walk(self.job.requests, job.post_id, paging)
        async with aclosing(walk.pages()) as pages:
            async for page in pages:
                items = page.items
                if seen is not None:
                    items = seen.new(items, comment_ids(items))
                await self.journals.written.write_page(
                    self.comments,
                    job.post_id,
                    comment_lines(job.post_id, items),
                    page.cursor,
                    page.next_cursor,
                )
                self.ticker.comments += len(items)
                self.ticker.tick()
                # Pages under way ahead are bought already: they are written before it ends.
                if self._stopping and page.next_cursor is not None and not walk.wind_up():
                    return False
        return True

    async def _written_last(self, job: _Walk) -> Recent:
        """The comments written last. New comments shift the offsets, and they come again."""
        assert self.comments is not None
        seen = Recent()
        for page in await self.journals.written.last_pages(self.comments, job.post_id):
            ids = line_ids(page)
            seen.new(ids, ids)
        return seen

    def _done(self) -> None:
        self.ticker.done += 1
        self.ticker.tick()

    def _fail(self, item: Item, post_id: str | None, error: TokfluenceError) -> None:
        if isinstance(error, _StoppedError):
            return
        ends = self.job.requests.final(error) is not None
        if ends and isinstance(error, (AuthenticationError, PermissionDeniedError)):
            # Everything else would fail the same way; the inputs are left for the next run.
            self.fatal = self.fatal or error
            self._stop(error)
        elif isinstance(error, BudgetExceededError):
            self._stopped_by = self._stopped_by or "budget"
        elif ends and isinstance(error, InsufficientCreditsError):
            self._stopped_by = self._stopped_by or "credits"
        self.failures.write(failure_line(item.given, post_id, error))
        outcome: Outcome[Any] = Outcome(input=item.given, post_id=post_id, error=error)
        self.ticker.count(outcome)
