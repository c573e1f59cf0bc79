"""The main job: posts and their comments to files in a folder, resumable after any death.

`crawl` checks its arguments, opens the folder and its journal, and starts a run. What happens in a
run is in `run`; which files belong to a folder, and who may go on with it, in `folder`.

Source: the Tokfluence API page, *Posts*, *Idempotency*.
"""

# `crawl` takes the engine and the options out of the client that a user gives it.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Literal, Protocol

from msgspec import Raw

from .._bulk.analyze import Analyzer, check_batch_size
from .._bulk.progress import OnProgress
from .._bulk.resolve import Resolver
from .._bulk.sources import Inputs, Source
from .._bulk.stream import unwrapped
from .._credits.budget import Budget
from .._journal.journal import Journal, enter_journal
from .._journal.sqlite import SQLiteJournal
from .._models import CrawlReport
from .._wire.bodies import RawPostBody
from .._wire.shapes import Shape
from .failures import FailureFile
from .folder import CrawlFolder
from .run import CrawlRun

if TYPE_CHECKING:
    from .._http.engine import Engine, Options

__all__ = ["crawl"]

_POST: Shape[RawPostBody] = Shape(RawPostBody)


class CrawlClient(Protocol):
    """What a crawl needs of a `TokfluenceClient`. The client is a room above, so it has no name
    here."""

    @property
    def _engine(self) -> Engine: ...
    @property
    def _options(self) -> Options: ...


async def crawl(
    client: CrawlClient,
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
    folder = CrawlFolder(out)
    folder.prepare()
    async with AsyncExitStack() as stack:
        opened = await enter_journal(stack, folder.journal if journal is None else journal)
        assert isinstance(opened, SQLiteJournal)
        await folder.claim(opened, client._engine.origin)
        posts = await opened.attach("posts.jsonl", folder.posts)
        pages = await opened.attach("comments.jsonl", folder.comments) if comments else None
        failures = stack.enter_context(FailureFile(folder.failures))
        run = CrawlRun(
            client._engine,
            client._options,
            opened,
            budget,
            source,
            posts=posts,
            comments=pages,
            failures=failures,
            on_progress=on_progress,
        )
        analyzer, resolver = _build_stages(
            client,
            opened,
            budget,
            refresh=refresh,
            force=force,
            batch_size=batch_size,
            patience=patience,
        )
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


def _build_stages(
    client: CrawlClient,
    journal: Journal,
    budget: Budget,
    *,
    refresh: str,
    force: bool,
    batch_size: int | None,
    patience: float,
) -> tuple[Analyzer, Resolver[Raw]]:
    analyzer = Analyzer(
        client._engine,
        client._options,
        budget,
        force=force,
        batch_size=batch_size,
        log=journal,
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
        age=journal.age,
    )
    return analyzer, resolver
