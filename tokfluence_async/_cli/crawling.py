"""`tokfluence crawl`: the main job with a folder, a dry run and a summary around it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec
from msgspec import Struct

from .. import (
    AuthenticationError,
    BudgetExceededError,
    ConfigurationError,
    CrawlReport,
    Estimate,
    InsufficientCreditsError,
    InvalidPostError,
    Journal,
    JournalError,
    Progress,
    TokfluenceClient,
)
from .._crawl.folder import LOCAL, CrawlFolder, known_as
from .._text import one_line, plural
from .inputs import FileLines, Inputs, StreamLines, UsageError, open_inputs
from .screen import Screen, open_screen
from .session import GRACE, Common, Exit, Session

if TYPE_CHECKING:
    from .. import Sandbox

__all__ = ["Job", "dry_run"]

_PAGE = 2  # credits for a page of comments [seed]
_COMMENTS_PER_PAGE = 200
_SHOWN = 10


class Job(Struct, frozen=True, kw_only=True):
    """What `crawl` was asked to do."""

    file: str
    out: Path
    comments: bool
    refresh: str
    form: str
    max_credits: int | None
    sandbox: bool = False
    base_url: str | None = None

    @property
    def again(self) -> str:
        """The same with standard input for the file."""
        return f"tokfluence crawl - -o {shlex.quote(str(self.out))}"

    async def run(self, session: Session) -> int:
        from .. import crawl

        inputs = open_inputs(self.file, self.again)
        if self.form != "jsonl":
            from .._crawl.tables import check_format

            check_format(self.form)
        folder = CrawlFolder(self.out)
        try:
            made = folder.prepare()
        except ConfigurationError as error:
            raise UsageError(str(error)) from None
        await _check_world(self)
        if session.sandbox is not None:
            await _remember(session.sandbox, folder)
        session.inputs = inputs
        follower = None
        if self.form != "jsonl":
            from .following import Follower

            follower = Follower(self.out, self.form, comments=self.comments)

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
                    refresh=cast("Literal['missing', 'always']", self.refresh),
                    max_credits=self.max_credits,
                    on_progress=on_progress,
                    stop=session.stopping,
                    grace=GRACE,
                )
        except AuthenticationError:
            if made and not session.client.usage.credits_spent:
                await asyncio.to_thread(folder.remove)
            raise
        failures = await asyncio.to_thread(_read_failures, folder, inputs)
        _summarize(session, self, inputs, report, failures)
        _tell_of_old_tables(session, self)
        if report.stopped_by in ("budget", "credits"):
            return Exit.STOPPED
        return Exit.FAILED if report.failed else Exit.DONE


def _is_local(base_url: str | None) -> bool:
    """Whether a URL leads to this machine; None: the one that the environment gives."""
    try:
        return known_as(base_url or os.environ.get("TOKFLUENCE_BASE_URL") or "") == LOCAL
    except ValueError:
        return False


async def _foreign(job: Job) -> str | None:
    """What a folder holds if it is a crawl of the other world, in words; None if this job may go on
    with it.

    A crawl goes on where the folder's journal ends. Posts that the stand-in made up must not count
    as the service's.
    """
    here = job.sandbox or _is_local(job.base_url)
    folder = CrawlFolder(job.out)
    holds = folder.origin()
    if not folder.journal.exists() or (holds == LOCAL) == here:
        return None
    if holds is None:
        # Of a version that left no mark, but for its sandbox. A service that is served here may be
        # meant.
        return "a crawl of the service" if job.sandbox else None
    async with Journal(folder.journal) as journal:
        if await journal.is_empty():
            return None
    return "a crawl of the sandbox" if holds == LOCAL else "a crawl of the service"


async def _check_world(job: Job) -> None:
    """Refuse a folder that holds a crawl of the other world."""
    foreign = await _foreign(job)
    if foreign is None:
        return
    if job.sandbox:
        raise UsageError(f"{job.out} holds {foreign}; give another folder with --sandbox")
    if not _is_local(job.base_url):  # else `crawl` tells of both addresses
        raise UsageError(
            f"{job.out} holds {foreign}; give another folder for the service's posts, or delete the folder {job.out}"
        )


async def _remember(sandbox: Sandbox, folder: CrawlFolder) -> None:
    """Let a new sandbox know what the one of an earlier run had analyzed: the service would not
    have forgotten it."""
    if folder.journal.exists():
        async with Journal(folder.journal) as journal:
            for post_id in await journal.known():
                sandbox.index(post_id)


class _Failure(Struct, frozen=True):
    """A line of failures.jsonl, as far as it is shown."""

    input: Any
    error: dict[str, Any]


class _Failures(Struct):
    """What is shown of failures.jsonl."""

    shown: list[tuple[str, str]]
    others: int = 0


# Malformed lines are known with their numbers; what no credits were left for is counted.
_TOLD_ELSEWHERE = tuple(
    kind.__name__ for kind in (InvalidPostError, BudgetExceededError, InsufficientCreditsError)
)


def _read_failures(folder: CrawlFolder, inputs: Inputs) -> _Failures:
    """The first few failures that are told one by one."""
    failures = _Failures([])
    with contextlib.suppress(FileNotFoundError), folder.failures.open("rb") as lines:
        for line in lines:
            failure = msgspec.json.decode(line, type=_Failure)
            if failure.error.get("type") in _TOLD_ELSEWHERE:
                continue
            if len(failures.shown) < _SHOWN:
                error = failure.error
                word = " ".join(
                    str(error[name]) for name in ("status", "code") if error.get(name) is not None
                )
                failures.shown.append(
                    (
                        str(failure.input),
                        f"{word or error.get('type')}: {error.get('message') or ''}",
                    )
                )
            else:
                failures.others += 1
    return failures


def _malformed(inputs: Inputs) -> list[str]:
    count = inputs.malformed_count
    if not count:
        return []
    lines = [
        f"{plural(count, 'line')} of {inputs.name} {'names' if count == 1 else 'name'} no post; "
        "nothing was sent or charged for that:"
    ]
    for malformed in inputs.malformed:
        lines.append(f"  line {malformed.line}: {one_line(malformed.text, 100)}")
        lines.append(f"    {malformed.reason}")
    if count > len(inputs.malformed):
        lines.append(f"  and {count - len(inputs.malformed):,} more")
    return lines


def _counts(session: Session, report: CrawlReport) -> tuple[int, int | None, int]:
    """What this run has finished, what is to go (None where nobody knows), and how much of that for
    want of credits.

    A post is finished when its comments are, too, where they are asked for; it may have been
    written before.
    """
    progress = session.progress
    if progress is None:
        return 0, None, 0
    finished = progress.done - progress.failed - report.skipped
    gone = progress.done - progress.not_affordable
    to_go = (progress.not_affordable or None) if session.total is None else session.total - gone
    return finished, to_go, progress.not_affordable


def _summarize(
    session: Session, job: Job, inputs: Inputs, report: CrawlReport, failures: _Failures
) -> None:
    what = plural(report.posts, "post")
    if job.comments:
        what += f" and {plural(report.comments, 'comment')}"
    stopped = {
        None: "Done",
        "budget": "Stopped at --max-credits",
        "credits": "Stopped: out of credits",
        "signal": "Stopped by a signal",
    }.get(report.stopped_by, f"Stopped by {report.stopped_by}")
    lines = [f"{stopped}: {what} in {report.seconds:.1f} s, written to {job.out}/"]
    finished, to_go, not_affordable = _counts(session, report)
    if to_go:
        why = " for want of credits" if to_go == not_affordable else ""
        # After a signal nobody knows how many duplicates are in the rest.
        most = "at most " if report.stopped_by == "signal" else ""
        lines.append(
            f"  {plural(finished, 'post')} finished with all their comments, {most}{to_go:,} to go{why}."
            if job.comments
            else f"  {most.capitalize()}{plural(to_go, 'post')} to go{why}."
        )
    lines.append(f"  {session.bill()}")
    notes: list[str] = []
    if report.skipped:
        notes.append(f"{plural(report.skipped, 'post')} done in an earlier run, not paid for again")
    if report.duplicates:
        notes.append(f"{plural(report.duplicates, 'duplicate')} left out, not billed")
    if notes:
        lines.append(f"  {'; '.join(notes)}.")
    lines.extend(_malformed(inputs))
    if failures.shown:
        lines.append(
            f"{plural(len(failures.shown) + failures.others, 'post')} failed; the same command tries them again:"
        )
        lines.extend(
            f"  {one_line(given, 100)}: {one_line(why, 200)}" for given, why in failures.shown
        )
        if failures.others:
            lines.append(f"  and {failures.others:,} more")
    if report.stopped_by:
        lines.append("Run the same command again to go on where this ended.")
    elif report.failed:
        rest = "All else is done. " if report.posts or report.skipped else ""
        lines.append(f"{rest}Failures are in {job.out}/failures.jsonl, hence exit status 1.")
    usage = session.client.usage
    session.screen.summary(
        lines,
        {
            **{name: getattr(report, name) for name in report.__struct_fields__},
            "finished": finished,
            "to_go": to_go,
            "not_affordable": not_affordable,
            "credits_remaining": session.client.credits_remaining,
            "requests": usage.requests,
            "rate_limited": usage.rate_limited,
            "malformed": [malformed._asdict() for malformed in inputs.malformed],
            "malformed_count": inputs.malformed_count,
            "out": str(job.out),
        },
    )


def _tell_of_old_tables(session: Session, job: Job) -> None:
    """Tables of another format are of an earlier run, and look as complete as this one's."""
    names = (
        f"{rows}.{form}"
        for form in ("csv", "parquet")
        if form != job.form
        for rows in ("comments", "posts")
    )
    old = sorted(name for name in names if (job.out / name).exists())
    if old:
        listed = " and ".join(filter(None, (", ".join(old[:-1]), old[-1])))
        are, were = ("is", "was") if len(old) == 1 else ("are", "were")
        session.screen.say(
            f"{listed} {are} of an earlier run and {were} not updated.", not_updated=old
        )


# --- dry run --------------------------------------------------------------------------------------


def dry_run(job: Job, common: Common) -> int:
    """Say what the crawl would cost and how long it would take. Needs no token, sends nothing,
    writes nothing."""
    screen = open_screen(quiet=False, as_json=common.json_logs, live=False)
    try:
        inputs = open_inputs(job.file, job.again)
        if job.out.exists() and not job.out.is_dir():
            raise UsageError(f"cannot write to {job.out}: it is not a folder")
        foreign = asyncio.run(_foreign(job))
        estimate = asyncio.run(
            _estimated(job, inputs, CrawlFolder(job.out).journal if foreign is None else None)
        )
    except (UsageError, JournalError) as refusal:
        screen.say(str(refusal), "error")
        return Exit.USAGE
    if foreign is not None:
        screen.say(f"{job.out} holds {foreign}: the real run will want another folder.", "warning")
    _tell(screen, job, inputs, estimate)
    return Exit.FAILED if inputs.malformed_count else Exit.DONE


async def _estimated(job: Job, inputs: FileLines | StreamLines, journal: Path | None) -> Estimate:
    # A client for its numbers only: it needs a token, and nothing is sent.
    async with TokfluenceClient("dry-run") as client:
        return await client.posts.estimate(
            inputs,
            refresh=cast("Literal['missing', 'always']", job.refresh),
            comments=job.comments,
            comments_per_post=_COMMENTS_PER_PAGE if job.comments else None,
            journal=journal,
        )


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _tell(screen: Screen, job: Job, inputs: Inputs, estimate: Estimate) -> None:
    # With one page of comments for each post, which is what they cost at least, both sums are
    # known.
    assert estimate.credits_at_most is not None
    assert estimate.seconds_at_most is not None
    pages = _PAGE * estimate.comment_pages_at_least
    low, high = estimate.credits_at_least - pages, estimate.credits_at_most - pages
    lines = estimate.posts + estimate.duplicates + estimate.malformed
    out = [
        f"{plural(estimate.posts, 'distinct post')} in {plural(lines, 'line')} of {job.file}; "
        f"{plural(estimate.duplicates, 'duplicate')} folded, {estimate.malformed:,} malformed."
    ]
    if estimate.done:
        out.append(f"  {plural(estimate.done, 'post')} done in an earlier run, not paid for again.")
    out.append(
        f"  Posts: {plural(low, 'credit')} at least, if all of them are in the index already; {high:,} at most."
        if low != high
        else f"  Posts: {plural(low, 'credit')}."
    )
    if job.comments:
        out.append(
            f"  Comments: {_PAGE} credits per page of {_COMMENTS_PER_PAGE}, so at least {plural(pages, 'credit')}; "
            "how many there are is not known before the posts are read."
        )
    out.append(
        f"  Time that the throttle needs: {_time(estimate.seconds_at_least)} if all are in the index, "
        f"{_time(estimate.seconds_at_most)} and the service's time for analysis if none is"
        + (", and more for further pages of comments." if job.comments else ".")
    )
    if job.max_credits is not None:
        enough = (
            "all of it" if job.max_credits >= high and not job.comments else "perhaps not all of it"
        )
        out.append(
            f"  With --max-credits {job.max_credits:,}: {enough}; never more than that is spent."
        )
    out.append("Nothing was sent.")
    out.extend(_malformed(inputs))
    screen.summary(
        out,
        {
            "dry_run": True,
            "posts": estimate.posts,
            "lines": lines,
            "done": estimate.done,
            "malformed": estimate.malformed,
            "credits_at_least": estimate.credits_at_least,
            "credits_for_posts_at_most": high,
            "seconds_at_least": estimate.seconds_at_least,
        },
    )
