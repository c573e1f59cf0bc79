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


class CrawlRun:
    """One run: what it counts, and where its outcomes go.

    Attributes:
        ticker: Counts what is done, and reports progress.
        fatal: The refusal of the account, which ends the run.
    """

    def __init__(
        self,
        job: Job,
        journals: CrawlJournals,
        *,
        posts: Output,
        comments: Output | None,
        failures: NewFile,
    ) -> None:
        self._requests = job.requests
        self._journals = journals
        self._journal = journals.written
        self._source = job.source
        self._posts_file = posts
        self._comments_file = comments
        self._failures = failures
        self.ticker = job.ticker()
        self._posts = 0
        self._skipped = 0
        self._stopped_by: str | None = None
        self._stopping = False
        self.fatal: TokfluenceError | None = None

    @property
    def tried_everything(self) -> bool:
        """Whether every input was read, and nothing was left for another run."""
        return self._stopped_by is None and self.fatal is None and self._source.error is None

    def report(self) -> CrawlReport:
        return CrawlReport(
            posts=self._posts,
            comments=self.ticker.comments,
            failed=self.ticker.failed,
            skipped=self._skipped,
            duplicates=self._source.duplicates,
            credits_spent=self._requests.budget.spent,
            seconds=self.ticker.elapsed,
            stopped_by=self._stopped_by,
        )

    async def run(self, resolver: Resolver[Raw], stop: asyncio.Event | None, grace: float) -> None:
        send, receive = anyio.create_memory_object_stream[_Walk](_WALKERS)
        walks = send if self._comments_file is not None else None
        self._walks = walks

        async def resolve() -> None:
            with send:
                await resolver.take_up(self._journals.paid)
                await self._source.remember(self._journals.known, self._skip)
                await resolver.run(self._source, self._settle)

        async def walk() -> None:
            async for job in receive:
                await self._walk(job)

        async def watch(scope: anyio.CancelScope) -> None:
            assert stop is not None
            await stop.wait()
            logger.warning("asked to stop: finishing what is in flight, for %.0f s at most", grace)
            self._stop("signal")
            await asyncio.sleep(grace)
            scope.cancel()

        with send, receive:
            async with anyio.create_task_group() as outer:
                if stop is not None:
                    outer.start_soon(watch, outer.cancel_scope)
                async with anyio.create_task_group() as group:
                    group.start_soon(resolve)
                    for _ in range(_WALKERS if walks is not None else 0):
                        group.start_soon(walk)
                outer.cancel_scope.cancel()

    def _stop(self, why: str | None, error: TokfluenceError | None = None) -> None:
        if why is not None and self._stopped_by is None:
            self._stopped_by = why
        if not self._stopping:
            self._stopping = True
            self._source.end()
            self._requests.halt.begin_nothing(
                error or _StoppedError("Not sent: the run was asked to stop.")
            )

    async def _skip(self, item: Item, entry: Entry) -> bool:
        """Whether there is nothing left to resolve for an item; its comments may be taken up
        again."""
        if not entry.written:
            return False
        assert item.ref is not None
        if self._walks is not None and not entry.walked:
            await self._walks.send(_Walk(item, item.ref.post_id, entry.cursor))
            return True
        self._skipped += 1
        self._done()
        return True

    async def _settle(self, item: Item, outcome: Outcome[Raw]) -> None:
        if outcome.error is not None:
            self._fail(item, outcome.post_id, outcome.error)
            return
        assert outcome.value is not None
        assert outcome.post_id is not None
        await self._journal.write_post(self._posts_file, outcome.post_id, post_line(outcome.value))
        self._posts += 1
        if self._walks is not None:
            await self._walks.send(_Walk(item, outcome.post_id, 0))
        else:
            self._done()

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
        assert self._comments_file is not None
        seen = await self._written_last(job) if job.cursor else None
        paging = Paging(cursor=job.cursor, prefetch=_AHEAD)
        walk = raw_walk(self._requests, job.post_id, paging)
        async with aclosing(walk.pages()) as pages:
            async for page in pages:
                items = page.items
                if seen is not None:
                    items = seen.new(items, comment_ids(items))
                await self._journal.write_page(
                    self._comments_file,
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
        assert self._comments_file is not None
        seen = Recent()
        for page in await self._journal.last_pages(self._comments_file, job.post_id):
            ids = line_ids(page)
            seen.new(ids, ids)
        return seen

    def _done(self) -> None:
        self.ticker.done += 1
        self.ticker.tick()

    def _fail(self, item: Item, post_id: str | None, error: TokfluenceError) -> None:
        if isinstance(error, _StoppedError):
            return
        ends = self._requests.final(error) is not None
        if ends and isinstance(error, (AuthenticationError, PermissionDeniedError)):
            # Everything else would fail the same way; the inputs are left for the next run.
            self.fatal = self.fatal or error
            self._stop(None, error)
        elif isinstance(error, BudgetExceededError):
            self._stopped_by = self._stopped_by or "budget"
        elif ends and isinstance(error, InsufficientCreditsError):
            self._stopped_by = self._stopped_by or "credits"
        self._failures.write(failure_line(item.given, post_id, error))
        outcome: Outcome[Any] = Outcome(input=item.given, post_id=post_id, error=error)
        self.ticker.count(outcome)
