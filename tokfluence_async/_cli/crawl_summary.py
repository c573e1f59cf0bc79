"""What `crawl` says at its end: what was written, what it cost, what failed, what is to go."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from .. import BudgetExceededError, CrawlReport, InsufficientCreditsError, InvalidPostError
from .._crawl.folder import CrawlFolder
from .._text import one_line, plural
from .inputs import Inputs, malformed_lines
from .session import Session

__all__ = ["summarize"]

_SHOWN = 10


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


def _read_failures(folder: CrawlFolder) -> _Failures:
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


async def summarize(
    session: Session, out: Path, inputs: Inputs, report: CrawlReport, *, comments: bool, form: str
) -> None:
    """Say on the screen what a crawl into `out` did.

    Args:
        comments: Whether comments were asked for.
        form: The format asked for; tables of another one are of an earlier run.
    """
    failures = await asyncio.to_thread(_read_failures, CrawlFolder(out))
    finished, to_go, not_affordable = _counts(session, report)
    lines = [
        _first_line(out, report, comments=comments),
        *_to_go(report, finished, to_go, not_affordable, comments=comments),
        f"  {session.bill()}",
        *_notes(report),
        *malformed_lines(inputs),
        *_failed_lines(failures),
        *_what_next(out, report),
    ]
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
            "out": str(out),
        },
    )
    _tell_of_old_tables(session, out, form)


def _first_line(out: Path, report: CrawlReport, *, comments: bool) -> str:
    what = plural(report.posts, "post")
    if comments:
        what += f" and {plural(report.comments, 'comment')}"
    stopped = {
        None: "Done",
        "budget": "Stopped at --max-credits",
        "credits": "Stopped: out of credits",
        "signal": "Stopped by a signal",
    }.get(report.stopped_by, f"Stopped by {report.stopped_by}")
    return f"{stopped}: {what} in {report.seconds:.1f} s, written to {out}/"


def _to_go(
    report: CrawlReport, finished: int, to_go: int | None, not_affordable: int, *, comments: bool
) -> list[str]:
    if not to_go:
        return []
    why = " for want of credits" if to_go == not_affordable else ""
    # After a signal nobody knows how many duplicates are in the rest.
    most = "at most " if report.stopped_by == "signal" else ""
    if not comments:
        return [f"  {most.capitalize()}{plural(to_go, 'post')} to go{why}."]
    posts = plural(finished, "post")
    return [f"  {posts} finished with all their comments, {most}{to_go:,} to go{why}."]


def _notes(report: CrawlReport) -> list[str]:
    notes: list[str] = []
    if report.skipped:
        notes.append(f"{plural(report.skipped, 'post')} done in an earlier run, not paid for again")
    if report.duplicates:
        notes.append(f"{plural(report.duplicates, 'duplicate')} left out, not billed")
    return [f"  {'; '.join(notes)}."] if notes else []


def _failed_lines(failures: _Failures) -> list[str]:
    if not failures.shown:
        return []
    posts = plural(len(failures.shown) + failures.others, "post")
    lines = [f"{posts} failed; the same command tries them again:"]
    lines += [f"  {one_line(given, 100)}: {one_line(why, 200)}" for given, why in failures.shown]
    if failures.others:
        lines.append(f"  and {failures.others:,} more")
    return lines


def _what_next(out: Path, report: CrawlReport) -> list[str]:
    if report.stopped_by:
        return ["Run the same command again to go on where this ended."]
    if not report.failed:
        return []
    rest = "All else is done. " if report.posts or report.skipped else ""
    return [f"{rest}Failures are in {out}/failures.jsonl, hence exit status 1."]


def _tell_of_old_tables(session: Session, out: Path, form: str) -> None:
    """Tables of another format are of an earlier run, and look as complete as this one's."""
    names = (
        f"{rows}.{other}"
        for other in ("csv", "parquet")
        if other != form
        for rows in ("comments", "posts")
    )
    old = sorted(name for name in names if (out / name).exists())
    if old:
        listed = " and ".join(filter(None, (", ".join(old[:-1]), old[-1])))
        are, were = ("is", "was") if len(old) == 1 else ("are", "were")
        session.screen.say(
            f"{listed} {are} of an earlier run and {were} not updated.", not_updated=old
        )
