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

from .._bulk.job import Job
from .._bulk.progress import OnProgress
from .._bulk.resolve import Resolver
from .._bulk.shards import ShardFilter, check_shard
from .._bulk.sources import Inputs
from .._bulk.stream import unwrapped
from .._credits.budget import MaxCredits
from .._journal.opening import JournalOrPath
from .._models import CrawlReport
from .._wire.bodies import RawPostBody
from .._wire.shapes import Shape
from .files import NewFile
from .folder import CrawlFolder
from .journals import enter_journals
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
    journal: JournalOrPath | None = None,
    refresh: Literal["missing", "always"] = "missing",
    force: bool = False,
    batch_size: int | None = None,
    patience: float = 60.0,
    max_credits: MaxCredits = None,
    on_progress: OnProgress | None = None,
    stop: asyncio.Event | None = None,
    grace: float = 30.0,
    shard: tuple[int, int] | None = None,
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
        journal: A `Journal`, its path, or `redis://…?job=NAME`; `out/journal.sqlite` unless given.
            One that other processes share knows what was paid for; what was written is then known
            by `out/journal.sqlite`.
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
        shard: `(i, n)`: work only the inputs whose post falls to shard i of n, 0 <= i < n, by a
            hash of the video id that never changes; the others pass by without a trace. Malformed
            inputs belong to shard 0. A folder remembers its shard and refuses another.
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
    if not patience >= 0 or not grace >= 0:
        raise ValueError(
            f"patience and grace must be 0 seconds or more, not {patience!r} and {grace!r}"
        )
    part = check_shard(shard)
    only = None if part is None else ShardFilter(part)
    job = Job(
        client._engine,
        client._options,
        urls,
        max_credits=max_credits,
        on_progress=on_progress,
        only=only,
    )
    resolver: Resolver[Raw] = Resolver(
        job.requests,
        _POST,
        refresh=refresh,
        force=force,
        batch_size=batch_size,
        patience=patience,
    )
    folder = CrawlFolder(out)
    async with AsyncExitStack() as stack:
        journals = await enter_journals(stack, folder, journal)
        written = journals.written
        await folder.claim(written, client._engine.origin, part)
        posts = await written.attach("posts.jsonl", folder.posts)
        pages = await written.attach("comments.jsonl", folder.comments) if comments else None
        failures = NewFile(folder.failures, "failures.jsonl.new")
        failures.open(" Nothing was sent.")
        stack.callback(failures.close)
        run = CrawlRun(job, journals, posts, pages, failures)
        try:
            await unwrapped(run.run(resolver, stop, grace))
        finally:
            await job.aclose()
            run.ticker.tell()
        await written.in_thread(failures.keep)
        if part is not None and only is not None and run.tried_everything:
            folder.shard_is_done(part, only)
    if run.fatal is not None:
        raise run.fatal
    if job.source.error is not None:
        raise job.source.error
    return run.report()
