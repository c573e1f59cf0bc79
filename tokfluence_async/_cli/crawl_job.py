"""What `crawl` was asked to do, and the run of it: the folder, the crawl, the tables beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from msgspec import Struct

from .. import AuthenticationError, Journal, Progress, crawl
from .._bulk.shards import Shard
from .._crawl.folder import LOCAL, CrawlFolder, known_as
from .._crawl.table_files import Follower
from .._crawl.tables import check_format
from .crawl_summary import summarize
from .inputs import FileLines, StreamLines, UsageError, open_inputs
from .session import GRACE, Common, Exit, Session

if TYPE_CHECKING:
    from .. import Sandbox

__all__ = ["Job", "foreign_crawl"]


class Job(Struct, frozen=True, kw_only=True):
    """What `crawl` was asked to do."""

    file: str
    out: Path
    comments: bool
    refresh: str
    form: str
    mark: bool = False
    shard: Shard | None = None
    journal: str | None = None
    common: Common

    @property
    def journal_path(self) -> Path | None:
        """Where the journal is, if it is a file and there."""
        path = CrawlFolder(self.out).journal
        if self.journal is not None:
            path = Path() if "://" in self.journal else Path(self.journal).expanduser()
        return path if path.is_file() else None

    @property
    def again(self) -> str:
        """The same with standard input for the file."""
        return f"tokfluence crawl - -o {shlex.quote(str(self.out))}"

    def open_inputs(self) -> FileLines | StreamLines:
        """FILE; malformed lines are another shard's, except for the first."""
        inputs = open_inputs(self.file, self.again)
        inputs.shard = self.shard
        return inputs

    async def run(self, session: Session) -> int:
        inputs = self.open_inputs()
        check_format(self.form)
        folder = CrawlFolder(self.out)
        is_new = not folder.path.exists()
        await _check_folder(self)
        if session.sandbox is not None:
            await _remember(session.sandbox, self.journal_path)
        session.inputs = inputs
        follower = None
        if self.form != "jsonl":
            follower = Follower(folder, self.form, comments=self.comments, mark=self.mark)

        def on_progress(progress: Progress) -> None:
            session.on_progress(progress)
            if follower is not None:
                follower.begin()

        try:
            async with contextlib.AsyncExitStack() as stack:
                if follower is not None:
                    await stack.enter_async_context(follower)
                report = await crawl(
                    session.client,
                    inputs,
                    self.out,
                    comments=self.comments,
                    journal=self.journal,
                    shard=self.shard,
                    refresh=cast("Literal['missing', 'always']", self.refresh),
                    on_progress=on_progress,
                    stop=session.stopping,
                    grace=GRACE,
                )
        except AuthenticationError:
            if is_new and not session.client.usage.credits_spent:
                await asyncio.to_thread(folder.remove)
            raise
        await summarize(session, self.out, inputs, report, comments=self.comments, form=self.form)
        if report.stopped_by in ("budget", "credits"):
            return Exit.STOPPED
        return Exit.FAILED if report.failed else Exit.DONE


def _is_local(base_url: str | None) -> bool:
    """Whether a URL leads to this machine; None: the one that the environment gives."""
    try:
        return known_as(base_url or os.environ.get("TOKFLUENCE_BASE_URL") or "") == LOCAL
    except ValueError:
        return False


async def foreign_crawl(job: Job) -> str | None:
    """In words, what the folder holds if this job must not go on with it, else None.

    A crawl goes on where the folder's journal ends. So posts that a sandbox made up must not be
    mixed with the service's, in either direction.
    """
    here = job.common.sandbox or _is_local(job.common.base_url)
    folder = CrawlFolder(job.out)
    holds = folder.origin()
    if job.journal is not None:  # `crawl` knows what is in it
        return None
    if not folder.journal.exists() or (holds == LOCAL) == here:
        return None
    if holds is None:
        # Earlier versions marked only a sandbox's folders. A service on this machine is possible.
        return "a crawl of the service" if job.common.sandbox else None
    async with Journal(folder.journal) as journal:
        if await journal.is_empty():
            return None
    return "a crawl of the sandbox" if holds == LOCAL else "a crawl of the service"


async def _check_folder(job: Job) -> None:
    """Refuse a folder whose posts must not be mixed with this job's."""
    foreign = await foreign_crawl(job)
    if foreign is None:
        return
    if job.common.sandbox:
        raise UsageError(f"{job.out} holds {foreign}; give another folder with --sandbox")
    if not _is_local(job.common.base_url):  # else `crawl` tells of both addresses
        raise UsageError(
            f"{job.out} holds {foreign}; give another folder for the service's posts, or delete "
            f"the folder {job.out}"
        )


async def _remember(sandbox: Sandbox, path: Path | None) -> None:
    """Let a new sandbox know what the one of an earlier run had analyzed: the service would not
    have forgotten it."""
    if path is not None:
        async with Journal(path) as journal:
            for post_id in await journal.known():
                sandbox.index(post_id)
