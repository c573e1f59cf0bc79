"""`crawl --dry-run`: what it would cost and how long it would take; nothing is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable
from pathlib import Path
from typing import Literal, cast

from .. import Estimate, InvalidPostError, JournalError, TokfluenceClient
from .._bulk.shards import Shard
from .._text import plural
from .._wire.calls import MAX_LIMIT
from .._wire.ids import parse_post_id
from .._wire.prices import COMMENT_PAGE_PRICE
from .crawl_job import Job, foreign_crawl
from .inputs import FileLines, Inputs, StreamLines, UsageError, malformed_lines
from .screen import Screen, open_screen
from .session import Exit

__all__ = ["dry_run"]


def dry_run(job: Job) -> int:
    """Say what the crawl would cost and how long it would take. Needs no token, sends nothing,
    writes nothing."""
    screen = open_screen(quiet=False, as_json=job.common.json_logs, live=False)
    try:
        inputs = job.open_inputs()
        if job.out.exists() and not job.out.is_dir():
            raise UsageError(f"cannot write to {job.out}: it is not a folder")
        foreign = asyncio.run(foreign_crawl(job))
        estimate = asyncio.run(
            _estimated(job, inputs, job.journal_path if foreign is None else None)
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
            inputs if job.shard is None else _of_shard(inputs, job.shard),
            refresh=cast("Literal['missing', 'always']", job.refresh),
            comments=job.comments,
            comments_per_post=MAX_LIMIT if job.comments else None,
            journal=journal,
        )


def _of_shard(inputs: FileLines | StreamLines, shard: Shard) -> Iterable[str] | AsyncIterable[str]:
    """The lines that fall to a shard, and for the first one also those that name no post."""

    def falls(line: str) -> bool:
        try:
            return shard.holds(parse_post_id(line))
        except InvalidPostError:
            return shard.number == 0

    if isinstance(inputs, FileLines):
        return (line for line in inputs if falls(line))
    return (line async for line in inputs if falls(line))


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
    pages = COMMENT_PAGE_PRICE * estimate.comment_pages_at_least
    low, high = estimate.credits_at_least - pages, estimate.credits_at_most - pages
    lines = estimate.posts + estimate.duplicates + estimate.malformed
    out = [
        f"{plural(estimate.posts, 'distinct post')} in {plural(lines, 'line')} of {job.file}; "
        f"{plural(estimate.duplicates, 'duplicate')} folded, {estimate.malformed:,} malformed."
    ]
    if estimate.done:
        out.append(f"  {plural(estimate.done, 'post')} done in an earlier run, not paid for again.")
    out += _price(job, low, high, pages)
    more = ", and more for further pages of comments" if job.comments else ""
    out.append(
        f"  Time that the throttle needs: {_time(estimate.seconds_at_least)} if all are in the "
        f"index, {_time(estimate.seconds_at_most)} and the service's time for analysis if none "
        f"is{more}."
    )
    if job.common.max_credits is not None:
        enough = job.common.max_credits >= high and not job.comments
        out.append(
            f"  With --max-credits {job.common.max_credits:,}: "
            f"{'all of it' if enough else 'perhaps not all of it'}; never more than that is spent."
        )
    out.append("Nothing was sent.")
    out.extend(malformed_lines(inputs))
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


def _price(job: Job, low: int, high: int, pages: int) -> list[str]:
    """Credits for posts, from `low` to `high`, and for `pages` of comments."""
    posts = plural(low, "credit")
    if low != high:
        posts += f" at least, if all of them are in the index already; {high:,} at most"
    told = [f"  Posts: {posts}."]
    if job.comments:
        told.append(
            f"  Comments: {COMMENT_PAGE_PRICE} credits per page of {MAX_LIMIT}, so at least "
            f"{plural(pages, 'credit')}; how many there are is not known before the posts are read."
        )
    return told
