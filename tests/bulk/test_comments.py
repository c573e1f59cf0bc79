"""Streaming comments: in order, each once, resumable, and no page bought that nobody wanted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from aioresponses import CallbackResult, aioresponses
from hypothesis import given, settings
from hypothesis import strategies as st

from tokfluence_async import (
    APIResponseValidationError,
    ClosedError,
    Comment,
    CommentPage,
    InsufficientCreditsError,
    InternalServerError,
    InvalidPostError,
    NotFoundError,
    Sandbox,
    Throttle,
    TokfluenceClient,
)
from tokfluence_async._bulk.comments import Paging, raw_walk
from tokfluence_async._bulk.requests import Requests
from tokfluence_async.testing import VirtualLoop

ID = "7234567890123456789"
COMMENTS = "GET /v1/posts/:id/comments"
TOKEN = "tkf_live_" + "a" * 32


def ids_of(sandbox: Sandbox, total: int) -> list[str]:
    return [sandbox.world.comment(ID, offset)["comment_id"] for offset in range(total)]


def cursors(sandbox: Sandbox) -> list[int]:
    """The cursor of every page that was asked for."""
    return [
        int(re.findall(r"cursor=(\d+)", entry.query)[0])
        for entry in sandbox.requests
        if entry.route == COMMENTS
    ]


# --- a walk ---------------------------------------------------------------------------------------


@pytest.mark.sandbox(comments_per_post=450)
async def test_comments_come_in_order_each_once(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """With the largest pages, which cost the same: three for 450."""
    comments = [
        comment async for comment in client.posts.comments(f"https://www.tiktok.com/@a/video/{ID}")
    ]

    assert [comment.comment_id for comment in comments] == ids_of(sandbox, 450)
    assert cursors(sandbox) == [0, 200, 400]
    assert all("limit=200" in entry.query for entry in sandbox.requests)
    assert sandbox.credits_spent == client.usage.credits_spent == 6
    assert all(
        isinstance(comment, Comment) and comment.published_at is not None for comment in comments
    )


@pytest.mark.sandbox(comments_per_post=5)
async def test_pages_tell_where_they_stand(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """`cursor`, `next_cursor` and `total` as the service says them; None at the end."""
    pages = [page async for page in client.posts.comment_pages(ID, limit=2)]

    assert [
        (page.cursor, page.next_cursor, page.total, len(page), page.repeated) for page in pages
    ] == [
        (0, 2, 5, 2, 0),
        (2, 4, 5, 2, 0),
        (4, None, 5, 1, 0),
    ]


@pytest.mark.sandbox(comments_per_post=0)
async def test_a_post_without_comments_is_one_empty_page(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """It costs a page to find out."""
    pages = [page async for page in client.posts.comment_pages(ID)]

    assert [(page.items, page.next_cursor) for page in pages] == [([], None)]
    assert sandbox.credits_spent == 2


@pytest.mark.sandbox(comments_per_post=10)
async def test_a_walk_is_resumed_by_cursor(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """A page's `next_cursor` goes on where it ended, in another process too."""
    first = await anext(aiter(client.posts.comment_pages(ID, limit=4)))
    assert first.next_cursor is not None

    rest = [
        comment.comment_id
        async for comment in client.posts.comments(ID, cursor=first.next_cursor, limit=4)
    ]

    assert [comment.comment_id for comment in first] + rest == ids_of(sandbox, 10)


@pytest.mark.parametrize("prefetch", [0, 4])
@pytest.mark.sandbox(comments_per_post=3000)
async def test_no_page_is_paid_for_before_it_is_needed(
    sandbox: Sandbox, client: TokfluenceClient, prefetch: int
) -> None:
    """Default: exactly the pages read. Ahead: the window grows with every page read, so never more
    in vain than read, and nothing before the second page is asked for."""
    pages = client.posts.comment_pages(ID, limit=100, prefetch=prefetch)
    for read in range(1, 16):
        await anext(pages)
        await asyncio.sleep(60)
        bought = sandbox.credits_spent // 2
        if prefetch == 0 or read < 2:
            assert bought == read
        else:
            assert read < bought <= min(2 * read, read + prefetch)
    await pages.aclose()


@pytest.mark.sandbox(comments_per_post=2000, latency=1.0, throttle=None)
@pytest.mark.client(throttle=None)
async def test_prefetch_is_ordered_and_bounded(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """Answers may overtake each other; what is yielded does not. On the wire never more than the
    window and one."""
    sandbox.stall(7.0, to=COMMENTS, nth=5)

    found = [
        comment.comment_id async for comment in client.posts.comments(ID, limit=50, prefetch=6)
    ]

    assert found == ids_of(sandbox, 2000)
    assert 3 <= sandbox.peak_in_flight(COMMENTS) <= 7
    assert sandbox.credits_spent == 2 * 40


@pytest.mark.sandbox(comments_per_post=1000, latency=0.1, throttle=None)
@pytest.mark.client(throttle=Throttle(None, None))
async def test_sixteen_pages_ahead_take_a_ninth_of_the_time(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A hundred pages at 0.1 s each, without a throttle on either side; and not one of them in
    vain."""
    seconds = {}
    for prefetch in (0, 16):
        began, before = asyncio.get_running_loop().time(), sandbox.requests_received
        pages = [page async for page in client.posts.comment_pages(ID, limit=10, prefetch=prefetch)]
        seconds[prefetch] = asyncio.get_running_loop().time() - began

        assert len(pages) == sandbox.requests_received - before == 100

    assert 10.0 <= seconds[0] < 10.5
    assert seconds[16] <= seconds[0] / 9


@pytest.mark.sandbox(comments_per_post=1000)
@pytest.mark.parametrize("prefetch", [0, 5])
async def test_max_items_bounds_what_is_given_and_what_is_bought(
    sandbox: Sandbox, client: TokfluenceClient, prefetch: int
) -> None:
    """And the cut page's `next_cursor` is where the next walk begins."""
    pages = [
        page
        async for page in client.posts.comment_pages(ID, limit=50, max_items=330, prefetch=prefetch)
    ]

    assert sum(map(len, pages)) == 330
    assert pages[-1].next_cursor == 330
    assert sandbox.credits_spent == 2 * 7
    again = [
        c.comment_id async for c in client.posts.comments(ID, cursor=330, limit=50, max_items=10)
    ]
    assert again == ids_of(sandbox, 340)[330:]


@pytest.mark.sandbox(comments_per_post=50)
@pytest.mark.parametrize(("max_items", "following"), [(40, 40), (49, 49), (50, None), (51, None)])
async def test_a_walk_that_gave_all_it_may_is_at_its_end_only_if_the_list_is(
    client: TokfluenceClient, max_items: int, following: int | None
) -> None:
    """What is wanted may be just what the last page has."""
    pages = [page async for page in client.posts.comment_pages(ID, limit=10, max_items=max_items)]

    assert pages[-1].next_cursor == following


@pytest.mark.sandbox(comments_per_post=1000)
async def test_max_items_of_nothing_asks_for_nothing(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """No page, no credit."""
    assert [page async for page in client.posts.comment_pages(ID, max_items=0)] == []
    assert sandbox.requests_received == 0


# --- the list moves -------------------------------------------------------------------------------


@pytest.mark.sandbox(comments_per_post=30)
@pytest.mark.parametrize("prefetch", [0, 3])
async def test_comments_that_arrive_are_not_given_twice(
    sandbox: Sandbox, client: TokfluenceClient, prefetch: int
) -> None:
    """Three arrive after each page and shift the offsets: the service repeats three, which are left
    out and counted."""
    original = ids_of(sandbox, 30)
    pages: list[CommentPage] = []

    async for page in client.posts.comment_pages(ID, limit=10, prefetch=prefetch):
        pages.append(page)
        sandbox.add_comments(ID, 3)

    given_ids = [comment.comment_id for page in pages for comment in page]
    assert given_ids == original
    assert [page.repeated for page in pages] == [0] + [3] * (len(pages) - 1)
    totals = [page.total for page in pages]
    assert totals == list(range(30, 30 + 3 * len(pages), 3))


@pytest.mark.sandbox(comments_per_post=2000, throttle=None)
@pytest.mark.client(throttle=Throttle(per_ip=None, per_key=None))
async def test_arrivals_are_told_of_and_do_not_end_what_is_asked_for_ahead(
    sandbox: Sandbox, client: TokfluenceClient, caplog: pytest.LogCaptureFixture
) -> None:
    """`total` has grown by as many as were repeated, so it is still a measure of the list's age."""
    caplog.set_level("INFO", "tokfluence_async")
    pages = client.posts.comment_pages(ID, limit=10, prefetch=2)
    repeated = 0
    for read in range(60):
        page = await anext(pages)
        repeated += page.repeated
        await asyncio.sleep(1)
        if read in (10, 30):
            sandbox.add_comments(ID, 3)

    assert repeated == 6
    assert cursors(sandbox)[-1] == page.cursor + 20
    await pages.aclose()
    told = [record.getMessage() for record in caplog.records if "arrived" in record.message]
    assert [text[: text.index(" arrived")] for text in told] == [f"post {ID}: 3 comments"] * 2


@settings(max_examples=100)
@given(
    total=st.integers(0, 60),
    limit=st.integers(1, 20),
    stride=st.none() | st.integers(1, 20),
    prefetch=st.integers(0, 8),
    cursor=st.integers(0, 30),
    max_items=st.none() | st.integers(0, 70),
    inserts=st.lists(st.integers(0, 5), max_size=30),
    latencies=st.lists(st.floats(0, 5), min_size=1, max_size=9),
)
def test_a_walk_against_its_model(
    total: int,
    limit: int,
    stride: int | None,
    prefetch: int,
    cursor: int,
    max_items: int | None,
    inserts: list[int],
    latencies: list[float],
) -> None:
    """Any stride, window, start and end, answers overtaking each other, comments arriving before
    any request.

    Each comment at most once, those that were there at the start all and in order; and every credit
    accounted for.
    """

    async def work() -> None:
        arrivals, pauses = iter(inserts), iter(latencies * 100)

        def hook() -> float:
            # Called once a request, before its work: the list moves under the walk.
            sandbox.add_comments(ID, next(arrivals, 0))
            return next(pauses)

        async with (
            Sandbox(
                comments_per_post=total, page_stride=stride, latency=hook, throttle=None
            ) as sandbox,
            TokfluenceClient(sandbox.token, base_url=sandbox.url) as client,
        ):
            original = ids_of(sandbox, total)
            pages = [
                page
                async for page in client.posts.comment_pages(
                    ID, cursor=cursor, limit=limit, max_items=max_items, prefetch=prefetch
                )
            ]
            found = [comment.comment_id for page in pages for comment in page]
            bought = sandbox.credits_spent // 2

            assert len(found) == len(set(found))
            # Comments that stood before the cursor may be pushed behind it: given late, and once.
            wanted = original[cursor:]
            kept = [one for one in found if one in set(wanted)]
            assert kept == wanted[: len(kept)]
            assert client.usage.credits_spent == sandbox.credits_spent
            assert client.usage.requests == sandbox.requests_received
            assert all(len(page) + page.repeated <= limit for page in pages)
            if max_items is None:
                assert kept == wanted
                assert pages[-1].next_cursor is None
            else:
                assert len(found) <= max_items
            if not any(inserts):
                assert found == wanted[:max_items]
                assert bought == len(pages)
                if pages and pages[-1].next_cursor is not None:
                    rest = [
                        c.comment_id
                        async for c in client.posts.comments(ID, cursor=pages[-1].next_cursor)
                    ]
                    assert found + rest == wanted
            if prefetch == 0:
                assert bought == len(pages)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(work())


@settings(max_examples=60)
@given(st.integers(1, 20), st.integers(0, 12), st.integers(1, 12))
def test_stopping_early_never_wastes_more_than_was_read(
    stride: int, prefetch: int, read: int
) -> None:
    """The growing window: whatever the width, at any page."""

    async def work() -> None:
        async with (
            Sandbox(comments_per_post=300, page_stride=stride, throttle=None) as sandbox,
            TokfluenceClient(sandbox.token, base_url=sandbox.url) as client,
        ):
            pages = client.posts.comment_pages(ID, limit=20, prefetch=prefetch)
            got = 0
            async for _ in pages:
                got += 1
                if got == read:
                    break
            await asyncio.sleep(100)
            await pages.aclose()

            assert sandbox.credits_spent // 2 <= 2 * got
            assert prefetch or sandbox.credits_spent // 2 == got

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(work())


@pytest.mark.sandbox(comments_per_post=400, latency=5.0, throttle=None)
@pytest.mark.client(throttle=Throttle(per_ip=None, per_key=None))
async def test_a_reader_cancelled_while_it_waits_for_a_page_ahead_leaves_nothing_behind(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Neither the page it waits for nor those behind it, nor credits set aside for them."""
    before = {task.get_name() for task in asyncio.all_tasks()}

    async def read() -> None:
        async for _ in client.posts.comment_pages(ID, limit=20, prefetch=8):
            pass

    for seconds in (7.5, 12.5, 17.5, 22.5):
        asked = len(sandbox.requests)
        task = asyncio.create_task(read())
        await asyncio.sleep(seconds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert client.usage.credits_reserved == 0
        bought = len(sandbox.requests) - asked
        await asyncio.sleep(60)
        assert len(sandbox.requests) - asked == bought
    ours = {task.get_name() for task in asyncio.all_tasks()} - before
    assert not [name for name in ours if "Walk" in name or "fetch" in name]


@pytest.mark.sandbox(comments_per_post=400, latency=1.0, throttle=None)
@pytest.mark.client(throttle=Throttle(per_ip=None, per_key=None))
async def test_a_client_that_is_closed_ends_who_waits_for_a_page_ahead(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """With `ClosedError`, as every call."""

    async def read() -> None:
        async for _ in client.posts.comment_pages(ID, limit=20, prefetch=8):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(3.5)
    await client.aclose()
    with pytest.raises(ClosedError):
        await task


@pytest.mark.parametrize("prefetch", [1, 2, 5, 40])
@pytest.mark.sandbox(comments_per_post=1000, page_stride=20, throttle=None, latency=1.0)
@pytest.mark.client(throttle=Throttle(per_ip=None, per_key=None))
async def test_the_window_opens_by_one_page_with_each_that_is_read(
    sandbox: Sandbox, client: TokfluenceClient, prefetch: int
) -> None:
    """Exactly, with several under way: a page more would be bought in vain, one less is slower. And
    no page is asked for that would begin behind the last comment that is wanted."""
    for max_items, last in ((None, 100), (120, 6), (121, 7)):
        before = len(sandbox.requests)
        pages = client.posts.comment_pages(ID, limit=20, prefetch=prefetch, max_items=max_items)
        asked: list[int] = []
        for _ in range(min(8, last)):
            await anext(pages)
            await asyncio.sleep(100)
            asked.append(len(sandbox.requests) - before)
        await pages.aclose()

        ahead = [min(n, prefetch) for n in range(8)]
        assert asked == [min(n + 1 + most, last) for n, most in enumerate(ahead[:last])]


@pytest.mark.sandbox(comments_per_post=100, page_stride=7)
@pytest.mark.parametrize("prefetch", [0, 4])
async def test_a_service_that_gives_fewer_than_asked_for(
    sandbox: Sandbox, client: TokfluenceClient, prefetch: int
) -> None:
    """Only a null `next_cursor` ends the walk; pages ahead are placed by the stride seen, so none
    is in vain (trap 22)."""
    found = [comment.comment_id async for comment in client.posts.comments(ID, prefetch=prefetch)]

    assert found == ids_of(sandbox, 100)
    assert sorted(cursors(sandbox)) == list(range(0, 100, 7))


@pytest.mark.sandbox(comments_per_post=60, hidden_comments=0.6)
@pytest.mark.parametrize("prefetch", [0, 3])
async def test_short_and_empty_pages_do_not_end_a_walk(
    sandbox: Sandbox, client: TokfluenceClient, prefetch: int
) -> None:
    """Deleted and hidden comments leave gaps."""
    pages = [page async for page in client.posts.comment_pages(ID, limit=3, prefetch=prefetch)]

    assert pages[-1].next_cursor is None
    assert len(pages) == 20
    assert 0 < sum(map(len, pages)) < 60
    assert len({comment.comment_id for page in pages for comment in page}) == sum(map(len, pages))


Page = Callable[[int], dict[str, Any]]


def scripted(answers: aioresponses, page: Page) -> list[int]:
    """Pages by their cursor; returns the cursors that were asked for."""
    asked: list[int] = []

    def answer(url: Any, **_: Any) -> CallbackResult:
        cursor = int(url.query["cursor"])
        asked.append(cursor)
        return CallbackResult(body=json.dumps(page(cursor)), response_class=answers.response_class)  # type: ignore[attr-defined]

    answers.get(re.compile(r".*/comments\?.*"), callback=answer, repeat=True)
    return asked


@pytest.fixture
def answers(canned: aioresponses, response_class: Any) -> aioresponses:
    canned.response_class = response_class  # type: ignore[attr-defined]
    return canned


def one(cursor: int) -> list[dict[str, Any]]:
    return [{"comment_id": f"c{cursor}"}]


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("step", [0, -1, -5])
async def test_a_cursor_that_does_not_advance_ends_in_an_error(
    answers: aioresponses, prefetch: int, step: int
) -> None:
    """And not in a loop that pays 2 credits a turn; what was given before stands."""
    asked = scripted(
        answers,
        lambda c: {
            "data": one(c),
            "meta": {"total": 99, "next_cursor": c + 1 if c < 5 else c + step},
        },
    )

    async with TokfluenceClient(TOKEN) as client:
        pages = client.posts.comment_pages(ID, prefetch=prefetch)
        found = [(await anext(pages)).items[0].comment_id for _ in range(5)]
        with pytest.raises(
            APIResponseValidationError, match="do not advance: after cursor 5"
        ) as caught:
            await anext(pages)

    assert found == ["c0", "c1", "c2", "c3", "c4"]
    assert "every page was charged" in str(caught.value)
    assert len(asked) <= 6 + prefetch


@pytest.mark.parametrize("cursor", [2**63, 2**80])
async def test_a_cursor_beyond_all_bounds_ends_in_an_error(
    answers: aioresponses, cursor: int
) -> None:
    """Integers beyond 64 bits decode fine and break everything after (trap 32)."""
    scripted(answers, lambda c: {"data": one(c), "meta": {"total": 5, "next_cursor": cursor}})

    async with TokfluenceClient(TOKEN) as client:
        with pytest.raises(APIResponseValidationError, match="do not advance"):
            await anext(aiter(client.posts.comments(ID)))


async def test_the_largest_cursor_of_64_bits_is_a_cursor(answers: aioresponses) -> None:
    last = 2**63 - 1
    scripted(
        answers,
        lambda c: {"data": one(c), "meta": {"total": 2, "next_cursor": None if c else last}},
    )

    async with TokfluenceClient(TOKEN) as client:
        found = [comment.comment_id async for comment in client.posts.comments(ID)]

    assert found == ["c0", f"c{last}"]


@pytest.mark.parametrize("prefetch", [0, 3])
async def test_a_list_of_empty_pages_without_end_ends_in_an_error(
    answers: aioresponses, prefetch: int
) -> None:
    """After five in a row, each 2 credits; a gap of four is a gap."""
    asked = scripted(
        answers, lambda c: {"data": [], "meta": {"total": 10**9, "next_cursor": c + 10}}
    )

    async with TokfluenceClient(TOKEN) as client:
        with pytest.raises(APIResponseValidationError, match="nothing new on 5 pages in a row"):
            _ = [page async for page in client.posts.comment_pages(ID, prefetch=prefetch)]

    assert 5 <= len(asked) <= 5 + prefetch


async def test_a_gap_of_empty_pages_is_walked_through(answers: aioresponses) -> None:
    """Four empty pages, then comments again, twice."""

    def page(c: int) -> dict[str, Any]:
        return {
            "data": one(c) if c % 5 == 0 else [],
            "meta": {"total": 12, "next_cursor": c + 1 if c < 12 else None},
        }

    scripted(answers, page)

    async with TokfluenceClient(TOKEN) as client:
        found = [comment.comment_id async for comment in client.posts.comments(ID)]

    assert found == ["c0", "c5", "c10"]


async def test_pages_of_nothing_but_repeats_go_on(answers: aioresponses) -> None:
    """A burst of new comments shifts the list by more than pages: repeats are no empty pages, and
    no end."""

    def page(c: int) -> dict[str, Any]:
        body = [{"comment_id": f"c{max(c - 8, 0)}"}] if c < 20 else [{"comment_id": "last"}]
        return {
            "data": body,
            "meta": {"total": 28 if c else 20, "next_cursor": c + 1 if c < 20 else None},
        }

    scripted(answers, page)

    async with TokfluenceClient(TOKEN) as client:
        found = [comment.comment_id async for comment in client.posts.comments(ID)]

    assert found == [f"c{n}" for n in range(12)] + ["last"]


@pytest.mark.sandbox(comments_per_post=15)
async def test_a_list_that_grows_as_fast_as_it_is_walked_is_no_list_without_end(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Ten pages give nothing but what the page before gave, each with a total that says why."""
    original = ids_of(sandbox, 15)
    found: list[str] = []
    async for page in client.posts.comment_pages(ID, limit=1):
        found += [comment.comment_id for comment in page]
        if page.cursor < 10:
            sandbox.add_comments(ID, 1)

    assert found == original


UNSTEADY: dict[str, Callable[[int, int], tuple[int, int]]] = {
    # how far the n-th page reaches, and the total that it tells
    "pages of different lengths": lambda n, _: (150 + 37 * n % 50, 20_000),
    "every third page is shorter": lambda n, _: (200 - 50 * (n % 3 == 2), 20_000),
    "a total that wobbles": lambda n, asked: (200, 20_000 + 7 * asked % 4),
    "a total that shrinks": lambda n, asked: (200, 20_000 - asked),
}


@pytest.mark.parametrize("unsteady", UNSTEADY)
@pytest.mark.parametrize("prefetch", [4, 16])
async def test_an_unsteady_service_is_not_asked_ahead_for_long(
    answers: aioresponses, prefetch: int, unsteady: str
) -> None:
    """A page asked for ahead is bought in vain where the page before it ends elsewhere or is of a
    newer list. That must not go on for the whole walk: 167 pages were bought where 35 were
    needed."""
    asked: list[int] = []

    def page(cursor: int) -> dict[str, Any]:
        stride, total = UNSTEADY[unsteady](cursor // 100, len(asked))
        data = [{"comment_id": f"c{n}"} for n in range(cursor, min(cursor + stride, 19_000))]
        return {
            "data": data,
            "meta": {"total": total, "next_cursor": cursor + stride if data else None},
        }

    asked = scripted(answers, page)
    async with TokfluenceClient(TOKEN) as client:
        pages = [page async for page in client.posts.comment_pages(ID, prefetch=prefetch)]

    assert [c.comment_id for page in pages for c in page] == [f"c{n}" for n in range(19_000)]
    assert len(asked) - len(pages) <= 3 * min(prefetch, 8)


async def test_the_window_stays_closed_for_longer_with_each_page_in_vain(
    answers: aioresponses,
) -> None:
    """Two pages that reach as far as foretold open it again after the first time, and four times as
    many after each next one."""
    short = {50, 155, 310}  # where a page ends early: the one behind it was asked for in vain

    def page(cursor: int) -> dict[str, Any]:
        stride = 5 if cursor in short else 10
        data = [{"comment_id": f"c{n:05}"} for n in range(cursor, cursor + stride)]
        return {"data": data, "meta": {"total": 10**6, "next_cursor": cursor + stride}}

    asked = scripted(answers, page)
    closed: list[int] = [0]  # for how many pages nothing was asked for ahead, each time
    async with TokfluenceClient(TOKEN) as client:
        pages = client.posts.comment_pages(ID, limit=10, prefetch=2)
        for _ in range(75):
            before = len(asked)
            each = await anext(pages)
            await asyncio.sleep(1)
            if max(asked[before:]) == each.cursor:
                closed[-1] += 1
            elif closed[-1]:
                closed.append(0)
        await pages.aclose()

    assert closed == [1, 4, 10, 34, 0]


@pytest.mark.parametrize("older", [{40}, {40, 44, 47}])
async def test_one_page_of_an_older_list_costs_one_page(
    answers: aioresponses, older: set[int]
) -> None:
    """A replica that lags now and then: its page is asked for again, the others that are under way
    are good."""
    asked: list[int] = []

    def page(cursor: int) -> dict[str, Any]:
        data = [{"comment_id": f"c{n}"} for n in range(cursor, min(cursor + 10, 1000))]
        lags = cursor // 10 in older and asked.count(cursor) == 1
        return {
            "data": data,
            "meta": {"total": 1000 - lags, "next_cursor": cursor + 10 if cursor < 990 else None},
        }

    asked = scripted(answers, page)
    async with TokfluenceClient(TOKEN) as client:
        pages = [page async for page in client.posts.comment_pages(ID, limit=10, prefetch=16)]

    assert [c.comment_id for page in pages for c in page] == [f"c{n}" for n in range(1000)]
    assert len(asked) - len(pages) == len(older)


async def test_what_was_under_way_when_the_window_closed_does_not_close_it_for_longer(
    answers: aioresponses,
) -> None:
    """Pages 10 and 12 are of an older list, and were asked for together; page 25 is the next."""

    def page(cursor: int) -> dict[str, Any]:
        data = [{"comment_id": f"c{n:05}"} for n in range(cursor, cursor + 10)]
        lags = cursor in (100, 120, 250) and asked.count(cursor) == 1
        return {"data": data, "meta": {"total": 10**6 - lags, "next_cursor": cursor + 10}}

    asked = scripted(answers, page)
    bought: list[int] = []  # with each page that is read
    async with TokfluenceClient(TOKEN) as client:
        pages = client.posts.comment_pages(ID, limit=10, prefetch=2)
        for _ in range(40):
            before = len(asked)
            await anext(pages)
            await asyncio.sleep(1)
            bought.append(len(asked) - before)
        await pages.aclose()

    assert bought[:10] == [1, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    assert bought[10:17] == [2, 0, 1, 1, 1, 2, 2]  # the two again, two one by one, and it opens
    assert bought[17:25] == [1] * 8
    assert bought[25:] == [2, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("more", [0, 5])
async def test_a_page_without_a_total_loses_nothing_behind_it(
    answers: aioresponses, more: int
) -> None:
    """It is asked for again, and a comment has arrived meanwhile: the pages that were asked for
    before that are older, and go. Also where the total has grown by more than what was repeated."""
    listed = [f"c{n}" for n in range(100)]

    def page(cursor: int) -> dict[str, Any]:
        if cursor == 40 and asked.count(40) == 2:
            listed.insert(0, "new")
        data = [{"comment_id": one} for one in listed[cursor : cursor + 10]]
        after = cursor + 10 if cursor + 10 < len(listed) else None
        return {
            "data": data,
            "meta": {
                "total": None if cursor == 40 else len(listed) + more * (cursor >= 20),
                "next_cursor": after,
            },
        }

    asked = scripted(answers, page)
    async with TokfluenceClient(TOKEN) as client:
        found = [
            comment.comment_id async for comment in client.posts.comments(ID, limit=10, prefetch=4)
        ]

    assert asked.count(40) == 2
    assert found == [f"c{n}" for n in range(100)]


@pytest.mark.parametrize("prefetch", [0, 4])
async def test_a_total_that_does_not_tell_the_truth_closes_the_window(
    answers: aioresponses, prefetch: int
) -> None:
    """A counter that lags behind the list says nothing about which page is older. More repeats than
    it tells of give it away."""
    views: dict[int, int] = {50: 3}  # a page ahead that was looked up late: three have arrived
    arrived = 0

    def page(cursor: int) -> dict[str, Any]:
        listed = [f"new{n}" for n in range(views.get(cursor, arrived))] + [
            f"c{n}" for n in range(200)
        ]
        data = [{"comment_id": one} for one in listed[cursor : cursor + 10]]
        return {"data": data, "meta": {"total": 200, "next_cursor": cursor + 10 if data else None}}

    scripted(answers, page)
    found: list[str] = []
    async with TokfluenceClient(TOKEN) as client:
        async for each in client.posts.comment_pages(ID, limit=10, prefetch=prefetch):
            found += [comment.comment_id for comment in each]
            if each.cursor == 50:
                arrived = 3
                views.clear()

    assert found == [f"c{n}" for n in range(200)]


async def test_a_total_that_is_told_no_longer_closes_the_window(answers: aioresponses) -> None:
    """What the last total was says nothing about the pages that come without one."""

    def page(cursor: int) -> dict[str, Any]:
        data = [{"comment_id": f"c{n}"} for n in range(cursor, min(cursor + 10, 300))]
        total = 300 if cursor < 100 else None
        return {
            "data": data,
            "meta": {"total": total, "next_cursor": cursor + 10 if cursor < 290 else None},
        }

    asked = scripted(answers, page)
    async with TokfluenceClient(TOKEN) as client:
        pages = [page async for page in client.posts.comment_pages(ID, limit=10, prefetch=4)]

    assert [c.comment_id for page in pages for c in page] == [f"c{n}" for n in range(300)]
    assert {page.total for page in pages} == {300}
    assert len(asked) - len(pages) <= 5


async def test_without_a_total_nothing_is_asked_for_ahead(answers: aioresponses) -> None:
    """Whether a page ahead is of an older list than the page before it, so that comments lie
    between the two, shows only in it."""

    def page(cursor: int) -> dict[str, Any]:
        data = [{"comment_id": f"c{n}"} for n in range(cursor, min(cursor + 10, 300))]
        return {
            "data": data,
            "meta": {"total": None, "next_cursor": cursor + 10 if cursor < 290 else None},
        }

    asked = scripted(answers, page)
    async with TokfluenceClient(TOKEN) as client:
        read = 0
        async for _ in client.posts.comment_pages(ID, prefetch=8):
            read += 1
            await asyncio.sleep(1)
            assert len(asked) == read

    assert read == 30


@pytest.mark.parametrize("prefetch", [0, 3])
async def test_a_service_that_ignores_the_cursor_is_not_paid_for_ever(
    answers: aioresponses, prefetch: int
) -> None:
    """The same rows on every page, at 2 credits each: more is repeated than can have arrived."""
    asked = scripted(
        answers, lambda c: {"data": one(0), "meta": {"total": 10**6, "next_cursor": c + 20}}
    )

    async with TokfluenceClient(TOKEN) as client:
        with pytest.raises(APIResponseValidationError, match="nothing new on 5 pages in a row"):
            _ = [page async for page in client.posts.comment_pages(ID, prefetch=prefetch)]

    assert len(asked) <= 6 + prefetch


async def test_a_total_that_is_missing_or_null_is_not_needed(answers: aioresponses) -> None:
    """Only `next_cursor` is promised; ahead or not."""
    for meta in ({}, {"total": None}):
        scripted(
            answers,
            lambda c, m=meta: {
                "data": one(c),
                "meta": {**m, "next_cursor": c + 1 if c < 20 else None},
            },
        )
        async with TokfluenceClient(TOKEN) as client:
            for prefetch in (0, 5):
                pages = [page async for page in client.posts.comment_pages(ID, prefetch=prefetch)]
                assert [page.items[0].comment_id for page in pages] == [f"c{n}" for n in range(21)]
                assert pages[0].total is None


async def test_one_id_twice_in_a_page_is_given_once(answers: aioresponses) -> None:
    """Each comment once, wherever the repeat stands."""
    scripted(
        answers, lambda c: {"data": one(c) + one(c), "meta": {"total": 2, "next_cursor": None}}
    )

    async with TokfluenceClient(TOKEN) as client:
        (page,) = [page async for page in client.posts.comment_pages(ID)]

    assert (len(page), page.repeated) == (1, 1)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit must be 1 to 200, not 0"),
        ({"limit": 201}, "limit must be 1 to 200, not 201"),
        ({"limit": -1}, "limit must be 1 to 200, not -1"),
        ({"limit": True}, "limit must be an integer, not True"),
        ({"limit": 50.0}, "limit must be an integer, not 50.0"),
        ({"cursor": -1}, "cursor must be 0 to 9223372036854775807, not -1"),
        ({"cursor": 2**63}, "cursor must be 0 to 9223372036854775807, not 9223372036854775808"),
        ({"cursor": "5"}, "cursor must be an integer, not '5'"),
        ({"cursor": None}, "cursor must be an integer, not None"),
        ({"limit": None}, "limit must be an integer, not None"),
        ({"prefetch": None}, "prefetch must be an integer, not None"),
        ({"max_items": -1}, "max_items must be 0 or more, not -1"),
        ({"max_items": False}, "max_items must be an integer, not False"),
        ({"prefetch": -1}, "prefetch must be 0 to 1000, not -1"),
        ({"prefetch": 1001}, "prefetch must be 0 to 1000, not 1001"),
    ],
)
async def test_numbers_out_of_range_are_refused_at_the_call(
    sandbox: Sandbox, client: TokfluenceClient, options: dict[str, Any], message: str
) -> None:
    """Not at the first iteration; the message names the argument and its range."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        client.posts.comments(ID, **options)
    with pytest.raises(ValueError, match=f"^{message}$"):
        client.posts.comment_pages(ID, **options)

    assert sandbox.requests_received == 0


async def test_numbers_at_the_ends_of_their_ranges_are_taken(client: TokfluenceClient) -> None:
    for options in (
        {"cursor": 2**63 - 1, "limit": 200, "max_items": 10**30, "prefetch": 1000},
        {"cursor": 0, "limit": 1, "max_items": 0, "prefetch": 0},
    ):
        await client.posts.comments(ID, **options).aclose()


async def test_what_names_no_post_is_refused_at_the_call(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidPostError):
        client.posts.comments("../1")
    with pytest.raises(InvalidPostError):
        client.posts.comment_pages("1/comments")

    assert sandbox.requests_received == 0


@pytest.mark.sandbox(indexed=0.0)
async def test_a_post_that_is_not_there(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """404, and the look-up of a page is charged as one."""
    with pytest.raises(NotFoundError) as caught:
        await anext(aiter(client.posts.comments(ID)))

    assert caught.value.code == "post_not_found"
    assert sandbox.credits_spent == client.usage.credits_spent == 2


@pytest.mark.sandbox(comments_per_post=1000, credits=7)
async def test_out_of_credits_at_some_page(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """What was yielded before it stands."""
    pages = client.posts.comment_pages(ID, limit=10)
    got = [await anext(pages) for _ in range(3)]

    with pytest.raises(InsufficientCreditsError):
        await anext(pages)

    assert [page.next_cursor for page in got] == [10, 20, 30]


@pytest.mark.sandbox(comments_per_post=1000)
@pytest.mark.client(max_retries=0)
@pytest.mark.parametrize("prefetch", [0, 4])
async def test_a_page_that_fails_comes_after_those_before_it(
    sandbox: Sandbox, client: TokfluenceClient, prefetch: int
) -> None:
    """In order, errors too: a page ahead that failed is told where it would have stood."""
    sandbox.internal_error(to=COMMENTS, nth=8, times=None)
    pages = client.posts.comment_pages(ID, limit=10, prefetch=prefetch)
    got = [await anext(pages) for _ in range(7)]

    with pytest.raises(InternalServerError):
        await anext(pages)

    assert [page.cursor for page in got] == list(range(0, 70, 10))


@pytest.mark.sandbox(comments_per_post=500)
async def test_a_passing_fault_loses_no_comment(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """A page is a read: repeated under a new id, in its place."""
    sandbox.drop_answer(to=COMMENTS, nth=2, times=1)
    sandbox.rate_limit(to=COMMENTS, nth=4, times=1)

    found = [
        comment.comment_id async for comment in client.posts.comments(ID, limit=50, prefetch=3)
    ]

    assert found == ids_of(sandbox, 500)
    assert len({entry.request_id for entry in sandbox.requests}) == sandbox.requests_received


@pytest.mark.parametrize("at_once", [5, 30])
async def test_once_totals_prove_wrong_nothing_is_asked_for_ahead_any_more(
    answers: aioresponses, at_once: int
) -> None:
    """Thirty comments arrive, at once or five by five, and `total` tells of ten. Each page is then
    asked for when it is wanted."""
    inserted = 0

    def page(cursor: int) -> dict[str, Any]:
        nonlocal inserted
        inserted = min(30, at_once * max(0, len(asked) - 5))
        listed = [f"c{n}" for n in range(-inserted, 400)]
        after = cursor + 20 if cursor + 20 < 400 else None
        data = [{"comment_id": comment_id} for comment_id in listed[cursor : cursor + 20]]
        return {"data": data, "meta": {"total": 400 + 10 * (cursor >= 40), "next_cursor": after}}

    asked = scripted(answers, page)
    async with TokfluenceClient(TOKEN) as client:
        pages = client.posts.comment_pages(ID, limit=20, prefetch=5)
        read = 0
        while read < 10:
            await anext(pages)
            read += 1
        await asyncio.sleep(100)
        for _ in range(5):
            each = await anext(pages)
            await asyncio.sleep(100)
            assert asked[-1] == each.cursor
        await pages.aclose()


@pytest.mark.sandbox(comments_per_post=400, latency=1.0, throttle=None)
@pytest.mark.client(throttle=Throttle(per_ip=None, per_key=None))
async def test_a_walk_in_bytes_is_wound_up_without_asking_for_more(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A crawl that stops writes the pages that are bought, and buys none."""
    options = client._options
    requests = Requests(client._engine, options)
    walk = raw_walk(requests, ID, Paging(limit=20, prefetch=3))
    pages = walk.pages()
    given: list[str] = []
    for _ in range(5):
        page = await anext(pages)
        given += [json.loads(bytes(comment))["comment_id"] for comment in page.items]
    await asyncio.sleep(100)
    asked = len(sandbox.requests)
    assert walk.wind_up()
    while walk.wind_up():
        page = await anext(pages)
        given += [json.loads(bytes(comment))["comment_id"] for comment in page.items]
    await pages.aclose()

    assert len(sandbox.requests) == asked
    assert given == ids_of(sandbox, 400)[: 20 * asked]


@pytest.mark.parametrize("comment", [b"5", b"{}", b'{"comment_id": 5}'])
async def test_a_comment_without_an_id_ends_a_walk_in_bytes(
    sandbox: Sandbox, client: TokfluenceClient, comment: bytes
) -> None:
    """Nobody could tell whether it was given before."""
    body = b'{"data": [' + comment + b'], "meta": {"next_cursor": null, "total": 1}}'
    sandbox.replace_body(body, to=COMMENTS)
    requests = Requests(client._engine, client._options)
    walk = raw_walk(requests, ID, Paging(limit=20, prefetch=0))

    with pytest.raises(APIResponseValidationError, match="charged"):
        await anext(walk.pages())


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", ["told", "not told"])
@pytest.mark.parametrize(
    "arrivals", [{150: 2500}, dict.fromkeys(range(100, 150), 30), {150: 700, 151: 700}]
)
async def test_many_comments_that_arrive_at_once_push_nothing_into_it_twice(
    answers: aioresponses, arrivals: dict[int, int], total: str
) -> None:
    """Between two pages, or so many with each that the walk falls behind its own end."""
    inserted = 0

    def page(cursor: int) -> dict[str, Any]:
        nonlocal inserted
        inserted += arrivals.get(len(asked), 0)
        listed = range(-inserted, 4000)
        data = [{"comment_id": f"c{n}"} for n in listed[cursor : cursor + 20]]
        after = cursor + 20 if cursor + 20 < len(listed) else None
        return {
            "data": data,
            "meta": {"total": len(listed) if total == "told" else None, "next_cursor": after},
        }

    asked = scripted(answers, page)
    found: list[str] = []
    # Without a total nobody knows that they arrived, and five pages of nothing new are taken for a
    # list without an end.
    with (
        contextlib.nullcontext()
        if total == "told"
        else contextlib.suppress(APIResponseValidationError)
    ):
        async with TokfluenceClient(TOKEN) as client:
            async for comment in client.posts.comments(ID, limit=20):
                found.append(comment.comment_id)  # noqa: PERF401 - what came before an error counts

    if total == "told":
        assert found == [f"c{n}" for n in range(4000)]
    else:
        assert len(found) >= 1900
        assert found == [f"c{n}" for n in range(len(found))]


@pytest.mark.parametrize("shift", [300, 450, 700, 900])
@pytest.mark.parametrize("leave", [True, False])
@pytest.mark.parametrize("in_order", [True, False])
async def test_comments_that_no_total_tells_of_push_nothing_into_it_twice(
    answers: aioresponses, shift: int, leave: bool, in_order: bool
) -> None:
    """As many leave at the end as arrive in front, or `total` is a counter that lags: it stays what
    it was."""
    numbers = range(10_000, 14_000)
    listed = [f"c{n if in_order else n * 7919 % 10_007}" for n in numbers]
    first = list(listed)

    def page(cursor: int) -> dict[str, Any]:
        if len(asked) == 8:
            listed[:0] = [f"new{n}" for n in range(shift)]
            if leave:
                del listed[-shift:]
        data = [{"comment_id": comment_id} for comment_id in listed[cursor : cursor + 200]]
        after = cursor + 200 if cursor + 200 < len(listed) else None
        return {"data": data, "meta": {"total": 4000, "next_cursor": after}}

    asked = scripted(answers, page)
    async with TokfluenceClient(TOKEN) as client:
        found = [comment.comment_id async for comment in client.posts.comments(ID)]

    assert found == first[: 4000 - shift if leave else 4000]
