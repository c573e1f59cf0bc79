"""What a user's program looks like to mypy and pyright, both strict: every public call, with the
types it must have.

Checked by `nox -s types`; tests/test_types.py runs it on the sandbox as well.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, assert_type

import msgspec

from tokfluence_async import (
    Analysis,
    AnalyzeReport,
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BudgetExceededError,
    ClosedError,
    Comment,
    CommentPage,
    ConfigurationError,
    CrawlReport,
    Difference,
    DuplicateRequestError,
    Estimate,
    InsufficientCreditsError,
    InternalServerError,
    InvalidPostError,
    Journal,
    Ledger,
    LedgerLine,
    Music,
    NotFoundError,
    Outcome,
    PermissionDeniedError,
    Post,
    PostNotReadyError,
    Progress,
    RateLimitError,
    RedisJournal,
    Sandbox,
    SharedBudget,
    SQLiteJournal,
    Throttle,
    Timeout,
    TokfluenceClient,
    TokfluenceError,
    UnprocessableEntityError,
    UpstreamError,
    Usage,
    crawl,
)
from tokfluence_async.testing import VirtualLoop

ID = "7234567890123456789"
URL = f"https://www.tiktok.com/@wwe/video/{ID}"


class Creators(msgspec.Struct):
    data: list[dict[str, object]]
    meta: dict[str, object]


def told(progress: Progress) -> None:
    assert_type(progress.done, int)
    assert_type(progress.total, int | None)
    assert_type(progress.elapsed, float)
    print(progress.failed, progress.credits_spent, progress.credits_remaining, file=sys.stderr)


async def later() -> AsyncIterator[str | int]:
    yield URL
    yield 5


def now() -> Iterator[int]:
    yield 6


async def read(client: TokfluenceClient) -> None:
    post = await client.posts.get(ID)
    assert_type(post, Post)
    assert_type(post.post_id, str)
    assert_type(post.published_at, datetime | None)
    assert_type(post.views, int | None)
    assert_type(post.hashtags, list[str] | None)
    assert_type(post.music, Music | None)
    if post.music is not None:
        assert_type(post.music.original, bool | None)
    for count in (post.views, post.likes, post.comments, post.shares, post.saves):
        assert_type(count, int | None)
    assert_type(post.duration, int | float | None)
    assert_type(post.cover_url, str | None)
    assert_type(await client.posts.get(int(ID)), Post)

    many = client.posts.get_many([ID, 5, URL], max_credits=100, on_progress=told)
    assert_type(many, AsyncGenerator[Outcome[Post], None])
    async for found in many:
        assert_type(found, Outcome[Post])
        assert_type(found.value, Post | None)
        assert_type(found.error, TokfluenceError | None)
        if found.ok:
            assert_type(found.unwrap(), Post)


async def stream(client: TokfluenceClient) -> None:
    async for comment in client.posts.comments(ID, cursor=0, limit=50, max_items=10, prefetch=2):
        assert_type(comment, Comment)
        assert_type(comment.text, str | None)
        assert_type(comment.published_at, datetime | None)
        assert_type(comment.likes, int | None)
        assert_type(comment.reply_count, int | None)
        assert_type(comment.author_username, str | None)
        assert_type(comment.author_picture, str | None)
    async for page in client.posts.comment_pages(URL, limit=200, max_items=10):
        assert_type(page, CommentPage)
        assert_type(page.items, list[Comment])
        assert_type(page.next_cursor, int | None)
        for one in page:
            assert_type(one, Comment)
        break


async def analyze(client: TokfluenceClient, folder: Path) -> None:
    report = await client.posts.analyze(
        [URL, 5, "6"], force=True, batch_size=10, max_credits=500, on_progress=told
    )
    assert_type(report, AnalyzeReport)
    assert_type(report.outcomes, list[Outcome[Analysis]])
    assert_type(report.succeeded, list[Outcome[Analysis]])
    assert_type(report.credits_spent, int)
    for outcome in report:
        assert_type(outcome, Outcome[Analysis])
        assert_type(outcome.unwrap().status, str)
    report.raise_for_errors()

    async with Journal(folder / "own.sqlite") as journal:
        assert_type(journal, Journal)
        await client.posts.analyze(now(), journal=journal)
        for doubt in await journal.unsettled():
            assert_type(doubt.sent_at, float)
    async for outcome in client.posts.analyze_iter(later(), journal=folder / "iter.sqlite"):
        assert_type(outcome, Outcome[Analysis])
    async for resolved in client.posts.resolve(
        later(), refresh="missing", patience=10.0, journal=None
    ):
        assert_type(resolved, Outcome[Post])
    done = await crawl(
        client, [URL], folder / "out", comments=True, refresh="missing", on_progress=told
    )
    assert_type(done, CrawlReport)
    assert_type(done.stopped_by, str | None)
    print(done.posts, done.comments, done.failed, done.skipped, done.credits_spent, done.seconds)


async def anything(client: TokfluenceClient) -> None:
    typed = await client.request(
        "POST", "/v1/ai_search", json={"query": "wrestling"}, response_type=Creators
    )
    assert_type(typed, Creators)
    raw = await client.request("GET", f"/v1/posts/{ID}", response_type=msgspec.Raw)
    assert_type(raw, msgspec.Raw)
    mapping = await client.request(
        "GET", f"/v1/posts/{ID}", params={"x": 1}, response_type=dict[str, object]
    )
    assert_type(mapping, dict[str, object])
    assert_type(client.credits_remaining, int | None)
    usage = client.usage
    assert_type(usage, Usage)
    print(
        usage.requests,
        usage.retries,
        usage.throttled_seconds,
        usage.rate_limited,
        usage.bytes_received,
    )
    copy = client.with_options(
        max_retries=0, timeout=Timeout(total=5.0), max_concurrency=2, max_credits=10
    )
    assert_type(copy, TokfluenceClient)
    await copy.aclose()


async def fail(client: TokfluenceClient) -> None:
    try:
        await client.posts.get("nonsense")
    except (InvalidPostError, ConfigurationError) as error:
        print(error)
    try:
        await client.posts.get(ID)
    except RateLimitError as error:
        assert_type(error.retry_after, float | None)
    except (
        NotFoundError,
        AuthenticationError,
        PermissionDeniedError,
        InsufficientCreditsError,
    ) as error:
        assert_type(error.status, int)
        assert_type(error.code, str | None)
        assert_type(error.request_id, str | None)
    except (
        DuplicateRequestError,
        UnprocessableEntityError,
        UpstreamError,
        InternalServerError,
        APIStatusError,
    ) as error:
        assert_type(error.credits_remaining, int | None)
    except APITimeoutError as error:
        assert_type(error.sent, bool)
    except APIConnectionError as error:
        assert_type(error.sent, bool)
    except APIResponseValidationError as error:
        assert_type(error.body, str)
    except ClosedError as error:
        assert_type(error, ClosedError)
    except (BudgetExceededError, PostNotReadyError, APIError, TokfluenceError) as error:
        assert_type(error.message, str)


def play_faults(sandbox: Sandbox) -> None:
    """Every fault of the sandbox, by its name; none of them strikes here."""
    never: dict[str, Any] = {"to": "GET /v1/never"}
    sandbox.drop_answer(**never)
    sandbox.refuse_connection(**never)
    sandbox.drop_reused(when="after", **never)
    sandbox.reset_body(**never)
    sandbox.stall(5.0, **never)
    sandbox.proxy_error(503, **never)
    sandbox.redirect("/elsewhere", **never)
    sandbox.internal_error(**never)
    sandbox.upstream_error(**never)
    sandbox.rate_limit(**never)
    sandbox.cut_body(**never)
    sandbox.drip(**never)
    sandbox.huge_body(**never)
    sandbox.gzip_bomb(**never)
    sandbox.nested_body(**never)
    sandbox.replace_body(b"{}", **never)
    print(len(sandbox.pending_faults), "faults wait")
    sandbox.clear_faults()
    assert_type(sandbox.is_indexed(ID), bool)
    sandbox.revoke()
    assert_type(sandbox.close_idle(), int)


async def main(folder: Path) -> None:
    throttle = Throttle(per_ip=600, per_key=None, period=60.0, burst=5, jitter=0.5)
    async with (
        Sandbox() as sandbox,
        TokfluenceClient(
            sandbox.token,
            base_url=sandbox.url,
            throttle=throttle,
            max_concurrency=10,
            analyze_concurrency=2,
            timeout=30.0,
            max_retries=3,
            max_credits=None,
            session=None,
            proxy=None,
        ) as client,
    ):
        assert_type(client, TokfluenceClient)
        sandbox.answer('{"data": [], "meta": {}}', to="POST /v1/ai_search")
        await read(client)
        await stream(client)
        await analyze(client, folder)
        await anything(client)
        await fail(client)
        await account(client)
        play_faults(sandbox)
    hours_pass()


async def account(client: TokfluenceClient) -> None:
    estimate = await client.posts.estimate([ID, URL], comments=True, comments_per_post=400)
    assert_type(estimate, Estimate)
    assert_type(estimate.credits_at_most, int | None)
    ledger = client.ledger
    assert_type(ledger, Ledger)
    assert_type(ledger.by_endpoint, dict[str, LedgerLine])
    assert_type(ledger.differences, list[Difference])


def hours_pass() -> None:
    loop = VirtualLoop()
    loop.advance(3600.0)
    assert_type(loop.time(), float)
    loop.close()


async def several_processes(client: TokfluenceClient, folder: Path) -> None:
    """For the type checkers only: it needs a Redis."""
    budget = SharedBudget("redis://127.0.0.1:6379/0", "job", 5_000)
    async with RedisJournal("redis://127.0.0.1:6379/0", "job") as shared:
        report = await client.posts.analyze([ID], journal=shared, max_credits=budget)
        assert_type(report.credits_spent, int)
    assert_type(SQLiteJournal(folder / "own.sqlite"), SQLiteJournal)
    done = await crawl(client, [URL], folder / "out", shard=(0, 3), max_credits=budget)
    assert_type(done.posts, int)
    throttle = Throttle(shared="redis://127.0.0.1:6379/0", ip="first")
    assert_type(throttle, Throttle)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
