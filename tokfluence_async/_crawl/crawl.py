"""The main job: posts and their comments to files, killed and gone on with as often as it takes.

    inputs ─► what the journal knows is left out ─► resolve: read, analyze, read ─► posts.jsonl ─►
                                                                                comments ─►
                                                                                comments.jsonl └►
                                                                                failures.jsonl

Stages in one task tree with a bounded stream between each two, so that a million inputs take the
memory of a few hundred. Lines go to the journal, which writes them and what they mean in one
commit; a restart goes on at the post, and within it at the page, where the journal ends. Nothing
here compares a status or touches a clock of its own.

Source: the Tokfluence API page, *Posts*, *Idempotency*.
"""

# `crawl` is a driver that users call with a client; it takes the rooms out of it that `Posts` is
# given by it.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple
from urllib.parse import urlsplit

import anyio
from msgspec import Raw

from .._bulk.analyze import Analyzer, check_batch_size
from .._bulk.comments import raw_walk
from .._bulk.progress import OnProgress, Ticker
from .._bulk.recent import REMEMBERED, Recent
from .._bulk.remembered import RememberedSource
from .._bulk.resolve import Resolver
from .._bulk.sources import Inputs, Item, Source
from .._bulk.stream import unwrapped
from .._credits.budget import Budget
from .._errors import (
    AuthenticationError,
    BudgetExceededError,
    ConfigurationError,
    InsufficientCreditsError,
    JournalError,
    PermissionDeniedError,
    TokfluenceError,
)
from .._journal.journal import Entry, Journal, Output, enter_journal
from .._models import CrawlReport, Outcome
from .._wire.bodies import RawPostBody
from .._wire.calls import MAX_LIMIT
from .._wire.lines import comment_ids, comment_lines, failure_line, line_ids, post_line
from .._wire.shapes import Shape

if TYPE_CHECKING:
    from .._client import TokfluenceClient

__all__ = ["crawl"]

logger = logging.getLogger("tokfluence_async")

_POST: Shape[RawPostBody] = Shape(RawPostBody)
# Posts whose comments are walked at once, and pages of each that may be under way ahead of the one
# that is written. Both together are what a kill can cost in pages bought and not written.
_WALKERS = 16
_AHEAD = 4


class _StoppedError(TokfluenceError):
    """Not sent, because the run was asked to stop. Nobody is told: the next run takes it up."""


class _Walk(NamedTuple):
    """A post whose comments are to be read from `cursor` on."""

    item: Item
    post_id: str
    cursor: int


async def crawl(
    client: TokfluenceClient,
    urls: Inputs,
    out: str | os.PathLike[str],
    *,
    comments: bool = False,
    journal: Journal | str | os.PathLike[str] | None = None,
    refresh: Literal["missing", "always"] = "missing",
    force: bool = False,
    batch_size: int | None = None,
    patience: float = 60.0,
    max_credits: int | None = None,
    on_progress: OnProgress | None = None,
    stop: asyncio.Event | None = None,
    grace: float = 30.0,
) -> CrawlReport:
    """Write posts, and their comments, to files in a folder, by the cheapest way; go on where an
    earlier run ended, however it ended.

    `out/posts.jsonl` gets the service's post objects as they came, `out/comments.jsonl` its comment
    objects with `post_id` put in front, each once over all runs. `out/failures.jsonl` is rewritten
    as a whole at the end of each run: a line `{"input", "post_id", "error": {"type", "status",
    "code", "message"}}` for each input that failed.

    Args:
        urls: URLs and ids, as an iterable or an async iterable, read no faster than it is worked.
            Duplicates are folded by video id.
        out: The folder; made if it does not exist.
        comments: Whether to read the comments too, 2 credits for each 200.
        journal: A `Journal` or its path; `out/journal.sqlite` unless given.
        refresh: "missing" reads each post first (1 credit) and has only the missing ones analyzed
            (25); "always" has all analyzed.
        force: Skip the service's freshness window.
        batch_size: URLs an analyze request, 1 to 50; None lets the planner choose.
        patience: Seconds a post may take after its analysis to become readable.
        max_credits: Credits this run may spend at most. What does not fit is not sent, and is
            listed among the failures.
        on_progress: Called with a `Progress` at the start, a few times a second and at the end.
            What it raises ends the call.
        stop: Once it is set, nothing new begins, what is in flight is finished and written, and the
            call returns.
        grace: Seconds after `stop` for that; what is not finished then is cancelled, stays in doubt
            in the journal and is settled by the next run.
    Returns:
        What this run did; `stopped_by` says why it did not try everything.
    Raises:
        ConfigurationError, JournalError: The folder, a file in it or the journal cannot be used, or
            the folder holds what another origin gave (all of this machine's, such as a `Sandbox`
            and the next one, count as one); nothing was sent. During the run: the disk is full.
            What was written stands.
        AuthenticationError, PermissionDeniedError: The service refuses the account. What was
        written stands.
        ValueError: A number out of its range; nothing was sent.

    A run leaves nothing twice and pays nothing twice: posts whose analysis was paid for are only
    read (1 credit), a batch in doubt is asked about under its old request id, comments go on at
    their cursor. A run with nothing new sends nothing.
    Source: the Tokfluence API page, *Posts*, *Idempotency*.
    """
    if refresh not in ("missing", "always"):
        raise ValueError(f"refresh must be 'missing' or 'always', not {refresh!r}")
    if not patience >= 0 or not grace >= 0:
        raise ValueError(
            f"patience and grace must be 0 seconds or more, not {patience!r} and {grace!r}"
        )
    check_batch_size(batch_size)
    source = Source(urls)
    budget = Budget(max_credits, client._options.budget)
    folder = _prepare(Path(out))
    async with AsyncExitStack() as stack:
        opened = await enter_journal(
            stack, folder / "journal.sqlite" if journal is None else journal
        )
        await _check_origin(folder, opened, client._engine.origin)
        run = _Crawl(
            client,
            opened,
            budget,
            source,
            posts=await opened.attach("posts.jsonl", folder / "posts.jsonl"),
            comments=await opened.attach("comments.jsonl", folder / "comments.jsonl")
            if comments
            else None,
            on_progress=on_progress,
        )
        analyzer = Analyzer(
            client._engine,
            client._options,
            budget,
            force=force,
            batch_size=batch_size,
            log=opened,
            verify=False,
        )
        resolver: Resolver[Raw] = Resolver(
            client._engine,
            client._options,
            budget,
            shape=_POST,
            analyzer=analyzer,
            read_first=refresh == "missing",
            patience=patience,
            age=opened.age,
        )
        with _Failures(folder / "failures.jsonl") as failures:
            run.failures = failures
            try:
                await unwrapped(run.run(analyzer, resolver, stop, grace))
            finally:
                await source.aclose()
                run.ticker.tell()
            await opened.flush()
            failures.keep()
    if run.fatal is not None:
        raise run.fatal
    if source.error is not None:
        raise source.error
    return run.report()


def _prepare(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigurationError(
            f"The output folder {folder} is a file. Nothing was sent."
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"The output folder {folder} cannot be made: {error.strerror or error}. Nothing was sent."
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigurationError(f"The output folder {folder} cannot be written. Nothing was sent.")
    return folder


# Where the posts of a folder come from: its first line. Beside it, what the command leaves in the
# folders of its sandbox.
_ORIGIN = ".origin"
_SANDBOX = ".sandbox"
_LOCAL = "localhost"


async def _check_origin(folder: Path, journal: Journal, origin: str) -> None:
    """Refuse a folder that holds what another origin gave, and remember the origin of one that
    holds nothing yet.

    A run goes on where the journal ends: posts that a sandbox made up would count as the service's,
    and as done. A folder that was begun before there was a mark is taken as this origin's.
    """
    mark, before = _read_origin(folder)
    now = _known_as(origin)
    if before == now:
        return
    if before is not None and not (await journal.is_new() and not await journal.unsettled()):
        raise ConfigurationError(
            f"{folder} holds a crawl of {before}, and this client is one of {now}. Give another folder, so that a sandbox's posts "
            f"and the service's are not mixed; or delete {mark} if both addresses lead to the same service. Nothing was sent."
        )
    try:
        (folder / _ORIGIN).write_text(
            f"{now}\nThe posts and comments in this folder come from there. A crawl of another address is refused.\n",
            "utf-8",
        )
    except OSError as error:
        raise JournalError(
            f"{folder / _ORIGIN} cannot be written: {error.strerror or error}. Nothing was sent."
        ) from error


def _read_origin(folder: Path) -> tuple[Path, str | None]:
    """The file that says where a folder's posts come from, and what it says."""
    mark = folder / _ORIGIN
    with suppress(OSError):
        first = mark.read_bytes().split(b"\n", 1)[0].decode("utf-8", "replace").strip()
        if first:  # else a power cut has overtaken it
            return mark, first
    old = folder / _SANDBOX
    return (old, _LOCAL) if old.exists() else (mark, None)


def _known_as(origin: str) -> str:
    """The name under which an origin is remembered: on this machine, where each sandbox has a port
    of its own, one for all."""
    host = urlsplit(origin).hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == _LOCAL or host.endswith("." + _LOCAL)
    return _LOCAL if local else origin


class _Failures:
    """The failed inputs of a run, gathered beside the old file and put in its place at the end, or
    not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = path.with_name(path.name + ".new")
        self._file: BinaryIO | None = None

    def __enter__(self) -> _Failures:
        try:
            self._file = self._new.open("wb")
        except OSError as error:
            raise JournalError(
                f"{self._new} cannot be written: {error.strerror or error}. Nothing was sent."
            ) from error
        return self

    def add(self, line: bytes) -> None:
        assert self._file is not None
        try:
            self._file.write(line)
        except OSError as error:
            raise JournalError(
                f"{self._new} cannot be written: {error.strerror or error}."
            ) from error

    def keep(self) -> None:
        """Let this run's failures be the file."""
        assert self._file is not None
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._new.replace(self._path)
        except OSError as error:
            raise JournalError(
                f"{self._path} cannot be written: {error.strerror or error}."
            ) from error

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        try:
            self._file.close()
        except OSError:  # a full disk: told where it was met
            pass
        finally:
            self._new.unlink(missing_ok=True)


class _Crawl:
    """One run: what it counts, and where its outcomes go."""

    failures: _Failures

    def __init__(
        self,
        client: TokfluenceClient,
        journal: Journal,
        budget: Budget,
        source: Source,
        *,
        posts: Output,
        comments: Output | None,
        on_progress: OnProgress | None,
    ) -> None:
        self._client = client
        self._journal = journal
        self._budget = budget
        self._source = source
        self._posts_file = posts
        self._comments_file = comments
        wallet = client._engine.wallet(client._options.token)
        self.ticker = Ticker(on_progress, lambda: (source.total, budget.spent, wallet.remaining))
        self._posts = 0
        self._failed = 0
        self._skipped = 0
        self._stopped_by: str | None = None
        self._stopping = False
        self.fatal: TokfluenceError | None = None

    def report(self) -> CrawlReport:
        return CrawlReport(
            posts=self._posts,
            comments=self.ticker.comments,
            failed=self._failed,
            skipped=self._skipped,
            duplicates=self._source.duplicates,
            credits_spent=self._budget.spent,
            seconds=self.ticker.elapsed,
            stopped_by=self._stopped_by,
        )

    async def run(
        self, analyzer: Analyzer, resolver: Resolver[Raw], stop: asyncio.Event | None, grace: float
    ) -> None:
        self._resolver = resolver
        learnt = await self._journal.learnt()
        analyzer.expect(learnt)
        resolver.visibility.expect(learnt.get("visible_after"))
        send, receive = anyio.create_memory_object_stream[_Walk](_WALKERS)
        walks = send if self._comments_file is not None else None
        inputs = RememberedSource(self._source, self._journal, self._skip)
        self._walks = walks

        async def resolve() -> None:
            with send:
                await analyzer.resume(await self._journal.take_up())
                await resolver.run(inputs, self._settle)

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
        if resolver.visibility.known is not None:
            self._journal.learn(visible_after=resolver.visibility.known)

    def _stop(self, why: str | None, error: TokfluenceError | None = None) -> None:
        if why is not None and self._stopped_by is None:
            self._stopped_by = why
        if not self._stopping:
            self._stopping = True
            self._source.end()
            self._resolver.halt(error or _StoppedError("Not sent: the run was asked to stop."))

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
        assert self._comments_file is not None
        if self._stopping:
            return
        seen: Recent | None = None
        if job.cursor:
            # Comments that arrived since shift the offsets: those written last come again.
            seen = Recent()
            for written in await self._journal.last_pages(self._comments_file, job.post_id):
                ids = line_ids(written)
                seen.new(ids, ids)
        try:
            walk = raw_walk(
                self._client._engine,
                self._client._options,
                self._budget,
                job.post_id,
                cursor=job.cursor,
                limit=MAX_LIMIT,
                max_items=None,
                prefetch=_AHEAD,
            )
            async with aclosing(walk.pages()) as pages:
                async for page in pages:
                    items = page.items
                    if seen is not None:
                        items = seen.new(items, comment_ids(items), back=REMEMBERED)
                    await self._journal.write_page(
                        self._comments_file,
                        job.post_id,
                        comment_lines(job.post_id, items),
                        page.cursor,
                        page.next_cursor,
                    )
                    self.ticker.comments += len(items)
                    self.ticker.tick()
                    # Pages that are under way ahead are bought; they are written before it leaves.
                    if self._stopping and page.next_cursor is not None and not walk.wind_up():
                        return
        except JournalError:
            raise
        except TokfluenceError as error:
            self._fail(job.item, job.post_id, error)
            return
        self._done()

    def _done(self) -> None:
        self.ticker.done += 1
        self.ticker.tick()

    def _fail(self, item: Item, post_id: str | None, error: TokfluenceError) -> None:
        if isinstance(error, _StoppedError):
            return
        if isinstance(error, (AuthenticationError, PermissionDeniedError)):
            # Everything else would fail the same way; the inputs are left for the next run.
            self.fatal = self.fatal or error
            self._stop(None, error)
        elif isinstance(error, BudgetExceededError):
            self._stopped_by = self._stopped_by or "budget"
        elif isinstance(error, InsufficientCreditsError):
            self._stopped_by = self._stopped_by or "credits"
        self.failures.add(failure_line(item.given, post_id, error))
        self._failed += 1
        outcome: Outcome[Any] = Outcome(input=item.given, post_id=post_id, error=error)
        self.ticker.count(outcome)
