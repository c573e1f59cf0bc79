"""`tokfluence crawl`: the main job with a folder, a dry run and a summary around it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

from .. import (
    AuthenticationError,
    BudgetExceededError,
    CrawlReport,
    InsufficientCreditsError,
    InvalidPostError,
    Progress,
)
from .._ids import parse_post_id
from .._terminal import one_line
from .inputs import FileLines, Inputs, StreamLines, UsageError, open_inputs
from .runtime import GRACE, Common, Exit, Session
from .screen import Screen, open_screen

__all__ = ["Job", "dry_run"]

# Prices per call [seed]; a post that must be analyzed is looked up, analyzed and read.
_READ, _ANALYZE, _PAGE = 1, 25, 2
_COMMENTS_PER_PAGE = 200
# The service's limit per IP [public]: the tighter one for a single machine.
_REQUESTS_PER_SECOND = 10.0
_BATCH = 50
_SHOWN = 10
# In the folder of a crawl with --sandbox.
_MARKER = ".sandbox"


class Job(Struct, frozen=True, kw_only=True):
    """What `crawl` was asked to do."""

    file: str
    out: Path
    comments: bool
    refresh: str
    form: str
    max_credits: int | None
    sandbox: bool = False

    async def run(self, session: Session) -> int:
        from .. import crawl

        inputs = open_inputs(self.file)
        if self.form != "jsonl":
            from .._formats import check_format

            check_format(self.form)
        made = _prepare(self.out, sandbox=self.sandbox)
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
                await asyncio.to_thread(_tidy, self.out)
            raise
        failures = await asyncio.to_thread(_read_failures, self.out, inputs)
        _summarize(session, self, inputs, report, failures)
        if report.stopped_by in ("budget", "credits"):
            return Exit.STOPPED
        return Exit.FAILED if report.failed else Exit.DONE


def _prepare(out: Path, *, sandbox: bool) -> bool:
    """Make the folder, see that it can be written and holds no crawl of the other world; whether it was made here."""
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        # A crawl goes on where the folder's journal ends. Posts that the stand-in made up must not count as the service's.
        marker = out / _MARKER
        if not sandbox and marker.exists():
            raise UsageError(
                f"{out} holds a crawl of the sandbox; give another folder for the service's posts, or delete it"
            )
        if sandbox and not marker.exists():
            if (out / "journal.sqlite").exists():
                raise UsageError(f"{out} holds a crawl of the service; give another folder with --sandbox")
            marker.write_text("The posts and comments in this folder were made up by the sandbox.\n", "utf-8")
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror or error}") from None
    return made


def _tidy(out: Path) -> None:
    """After a refused token, with nothing bought: take back the folder this run has made."""
    names = (
        _MARKER,
        "posts.jsonl",
        "comments.jsonl",
        "failures.jsonl",
        "journal.sqlite",
        "journal.sqlite-wal",
        "journal.sqlite-shm",
    )
    for name in names:
        (out / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody else has put something in it
        out.rmdir()


class _Failure(Struct, frozen=True):
    """A line of failures.jsonl, as far as it is shown."""

    input: Any
    error: dict[str, Any]


class _Failures(Struct):
    """What is shown of failures.jsonl."""

    shown: list[tuple[str, str]]
    others: int = 0
    unaffordable: int = 0


def _read_failures(out: Path, inputs: Inputs) -> _Failures:
    """The first few failures that are not malformed lines; those are known with their line numbers already."""
    failures = _Failures([])
    with contextlib.suppress(FileNotFoundError), (out / "failures.jsonl").open("rb") as lines:
        for line in lines:
            failure = msgspec.json.decode(line, type=_Failure)
            kind = failure.error.get("type")
            if kind == InvalidPostError.__name__:
                continue
            if kind in (BudgetExceededError.__name__, InsufficientCreditsError.__name__):
                failures.unaffordable += 1
            elif len(failures.shown) < _SHOWN:
                error = failure.error
                word = " ".join(str(error[name]) for name in ("status", "code") if error.get(name) is not None)
                failures.shown.append(
                    (str(failure.input), f"{word or error.get('type')}: {error.get('message') or ''}")
                )
            else:
                failures.others += 1
    return failures


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _summarize(session: Session, job: Job, inputs: Inputs, report: CrawlReport, failures: _Failures) -> None:
    what = _plural(report.posts, "post")
    if job.comments:
        what += f" and {_plural(report.comments, 'comment')}"
    stopped = {
        None: "Done",
        "budget": "Stopped at --max-credits",
        "credits": "Stopped: out of credits",
        "signal": "Stopped by a signal",
    }.get(report.stopped_by, f"Stopped by {report.stopped_by}")
    lines = [f"{stopped}: {what} in {report.seconds:.1f} s, written to {job.out}/", f"  {session.bill()}"]
    notes: list[str] = []
    if report.skipped:
        notes.append(f"{_plural(report.skipped, 'post')} done in an earlier run, not paid for again")
    if report.duplicates:
        notes.append(f"{_plural(report.duplicates, 'duplicate')} left out, not billed")
    if notes:
        lines.append(f"  {'; '.join(notes)}.")
    if inputs.malformed_count:
        count = inputs.malformed_count
        lines.append(
            f"{_plural(count, 'line')} of {inputs.name} {'names' if count == 1 else 'name'} no post; "
            "nothing was sent or charged for that:"
        )
        for malformed in inputs.malformed:
            lines.append(f"  line {malformed.line}: {one_line(malformed.text, 100)}")
            lines.append(f"    {malformed.reason}")
        if count > len(inputs.malformed):
            lines.append(f"  and {count - len(inputs.malformed):,} more")
    if failures.shown:
        lines.append(
            f"{_plural(len(failures.shown) + failures.others, 'post')} failed; the same command tries them again:"
        )
        lines.extend(f"  {one_line(given, 100)}: {one_line(why, 200)}" for given, why in failures.shown)
        if failures.others:
            lines.append(f"  and {failures.others:,} more")
    if failures.unaffordable:
        lines.append(f"{_plural(failures.unaffordable, 'post')} not finished for want of credits.")
    if report.stopped_by:
        lines.append("Run the same command again to go on where this ended.")
    elif report.failed:
        lines.append(f"All else is done. Failures are in {job.out}/failures.jsonl, hence exit status 1.")
    usage = session.client.usage
    session.screen.summary(
        lines,
        {
            **{name: getattr(report, name) for name in report.__struct_fields__},
            "credits_remaining": session.client.credits_remaining,
            "requests": usage.requests,
            "rate_limited": usage.rate_limited,
            "malformed": [malformed._asdict() for malformed in inputs.malformed],
            "malformed_count": inputs.malformed_count,
            "out": str(job.out),
        },
    )


# --- dry run ---------------------------------------------------------------------------------------------------------


def dry_run(job: Job, common: Common) -> int:
    """Say what the crawl would cost and how long it would take. Needs no token, sends nothing, writes nothing."""
    screen = open_screen(quiet=False, as_json=common.json_logs, live=False)
    try:
        inputs = open_inputs(job.file)
        if job.out.exists() and not job.out.is_dir():
            raise UsageError(f"cannot write to {job.out}: it is not a folder")
        distinct, lines, malformed = asyncio.run(_count(inputs))
    except UsageError as refusal:
        screen.say(str(refusal), "error")
        return Exit.USAGE
    _estimate(screen, job, distinct, lines, malformed)
    return Exit.FAILED if malformed else Exit.DONE


async def _count(inputs: FileLines | StreamLines) -> tuple[int, int, int]:
    seen: set[int] = set()
    lines = 0
    if isinstance(inputs, StreamLines):
        async for text in inputs:
            lines += 1
            _add(seen, text)
    else:
        for text in inputs:
            lines += 1
            _add(seen, text)
    return len(seen), lines, inputs.malformed_count


def _add(seen: set[int], text: str) -> None:
    with contextlib.suppress(InvalidPostError):
        seen.add(int(parse_post_id(text)))


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _estimate(screen: Screen, job: Job, distinct: int, lines: int, malformed: int) -> None:
    if job.refresh == "always":
        low = high = distinct * (_ANALYZE + _READ)
    else:
        low, high = distinct * _READ, distinct * (_READ + _ANALYZE + _READ)
    batches = -(-distinct // _BATCH)
    # The throttle alone; what the service needs for the analysis of cold posts comes on top and is not known beforehand.
    soonest = distinct / _REQUESTS_PER_SECOND
    latest = (2 * distinct + batches) / _REQUESTS_PER_SECOND
    out = [
        f"{_plural(distinct, 'distinct post')} in {_plural(lines, 'line')} of {job.file}; "
        f"{_plural(lines - distinct - malformed, 'duplicate')} folded, {malformed:,} malformed.",
        f"  Posts: {low:,} credits if all of them are in the index already, {high:,} if none is."
        if low != high
        else f"  Posts: {low:,} credits.",
    ]
    if job.comments:
        out.append(
            f"  Comments: {_PAGE} credits per page of {_COMMENTS_PER_PAGE}, so at least {distinct * _PAGE:,} credits; "
            "how many there are is not known before the posts are read."
        )
        low += distinct * _PAGE
        soonest += distinct / _REQUESTS_PER_SECOND
        latest += distinct / _REQUESTS_PER_SECOND
    out.append(
        f"  Time at {_REQUESTS_PER_SECOND * 60:.0f} requests a minute: {_time(soonest)} if all are in the index, "
        f"{_time(latest)} and the service's time for analysis if none is"
        + (", and more for further pages of comments." if job.comments else ".")
    )
    if job.max_credits is not None:
        enough = "all of it" if job.max_credits >= high and not job.comments else "perhaps not all of it"
        out.append(f"  With --max-credits {job.max_credits:,}: {enough}; never more than that is spent.")
    out.append("Nothing was sent. What an earlier run into the same folder has done is not paid for again.")
    screen.summary(
        out,
        {
            "dry_run": True,
            "posts": distinct,
            "lines": lines,
            "malformed": malformed,
            "credits_at_least": low,
            "credits_for_posts_at_most": high,
            "seconds_at_least": soonest,
        },
    )
