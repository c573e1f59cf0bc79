"""`posts.get` and `posts.get_many`: what comes back, what it cost, and what every documented status
becomes."""

from __future__ import annotations

import asyncio
import itertools
import json
import pickle
import traceback
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import aiohttp
import pytest
from aioresponses import aioresponses

from tokfluence_async import (
    APIResponseValidationError,
    APIStatusError,
    AuthenticationError,
    BudgetExceededError,
    DuplicateRequestError,
    InsufficientCreditsError,
    InternalServerError,
    InvalidPostError,
    NotFoundError,
    Outcome,
    PermissionDeniedError,
    Post,
    Progress,
    RateLimitError,
    Sandbox,
    TokfluenceClient,
    TokfluenceError,
    UnprocessableEntityError,
    UpstreamError,
)

ID = "7234567890123456789"
GET = "GET /v1/posts/:id"
TOKEN = "tkf_live_" + "a" * 32
CANNED = f"https://developers.tokfluence.com/v1/posts/{ID}"


# --- one post -------------------------------------------------------------------------------------


async def test_an_odd_field_does_not_lose_a_post_that_was_paid_for(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A count that comes as text one day is that count; what says nothing is None, and nothing is
    asked for twice."""
    sent = sandbox.world.post(ID) | {
        "views": "1240000",
        "likes": 84000.0,
        "shares": "many",
        "published_at": "yesterday",
    }
    sandbox.answer({"data": sent}, to=GET)

    found = await client.posts.get(ID)

    assert (found.views, found.likes, found.shares, found.published_at) == (
        1_240_000,
        84_000,
        None,
        None,
    )
    assert found.caption == sent["caption"]
    assert sandbox.requests_received == 1


@pytest.mark.parametrize(
    "post",
    [ID, int(ID), f"https://www.tiktok.com/@wwe/video/{ID}?x=1", f"m.tiktok.com/v/{ID}.html"],
)
async def test_a_post_is_read_by_id_or_by_any_url(
    sandbox: Sandbox, client: TokfluenceClient, post: str | int
) -> None:
    """One request for the canonical id, one credit, and every field as the service sent it."""
    found = await client.posts.get(post)

    sent = sandbox.world.post(ID)
    assert [entry.path for entry in sandbox.requests] == [f"/v1/posts/{ID}"]
    assert sandbox.credits_spent == 1
    assert found.post_id == ID
    assert (found.caption, found.views, found.hashtags) == (
        sent["caption"],
        sent["views"],
        sent["hashtags"],
    )


async def test_what_leaves_is_what_the_page_asks_for(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The token as a bearer, a request id, no cookies, no query."""
    await client.posts.get(ID)
    await client.posts.get(ID)

    first, second = sandbox.requests
    assert first.headers["authorization"] == f"Bearer {sandbox.token}"
    assert first.request_id
    assert first.request_id != second.request_id
    assert "cookie" not in first.headers
    assert not first.query


@pytest.mark.sandbox(indexed=0.0)
async def test_a_miss_is_not_found_with_its_facts(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Charged and not refunded, so it is not asked again; the error holds what support and a
    program need."""
    with pytest.raises(NotFoundError) as caught:
        await client.posts.get(ID)

    (entry,) = sandbox.requests
    assert (caught.value.status, caught.value.code) == (404, "post_not_found")
    assert caught.value.request_id == entry.request_id
    assert caught.value.credits_remaining == sandbox.credits == client.credits_remaining
    assert caught.value.attempts == 1
    assert client.usage.credits_spent == sandbox.credits_spent == 1


@pytest.mark.parametrize(
    "post", ["", "²", "../../v1/campaigns", "https://vm.tiktok.com/x", 0, True, 2**64, None]
)
async def test_what_names_no_post_is_refused_before_anything_is_sent(
    sandbox: Sandbox, client: TokfluenceClient, post: Any
) -> None:
    """Also a ValueError, as any wrong argument."""
    with pytest.raises(InvalidPostError):
        await client.posts.get(post)
    with pytest.raises(ValueError, match="is not a TikTok post"):
        await client.posts.get(post)

    assert sandbox.requests == []


@pytest.mark.client(max_retries=0)
@pytest.mark.parametrize(
    ("status", "code", "cls"),
    [
        (401, "unauthorized", AuthenticationError),
        (402, "insufficient_credits", InsufficientCreditsError),
        (403, "plan_required", PermissionDeniedError),
        (403, "account_banned", PermissionDeniedError),
        (403, "forbidden", PermissionDeniedError),
        (404, "post_not_found", NotFoundError),
        (409, "duplicate_request", DuplicateRequestError),
        (422, "missing_parameter", UnprocessableEntityError),
        (429, "rate_limited", RateLimitError),
        (500, "internal_error", InternalServerError),
        (502, "upstream_error", UpstreamError),
        (503, "unavailable", InternalServerError),
        (418, "teapot", APIStatusError),
    ],
)
async def test_every_documented_status_has_its_class(
    sandbox: Sandbox, client: TokfluenceClient, status: int, code: str, cls: type[APIStatusError]
) -> None:
    """Through the real client; `max_retries=0` is one attempt, whatever the status."""
    body = json.dumps({"error": {"code": code, "message": "A sentence."}})
    sandbox.answer(body, status=status, headers={"X-Credits-Remaining": "77"}, to=GET, times=None)

    with pytest.raises(cls) as caught:
        await client.posts.get(ID)

    assert type(caught.value) is cls
    assert (caught.value.status, caught.value.code, caught.value.message) == (
        status,
        code,
        "A sentence.",
    )
    assert caught.value.credits_remaining == client.credits_remaining == 77
    assert caught.value.request_id == sandbox.requests[0].request_id
    assert sandbox.requests_received == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_passing_fault_is_retried_under_a_new_id(
    sandbox: Sandbox, client: TokfluenceClient, status: int
) -> None:
    """A read repeated under its old id gets 409 and no data."""
    sandbox.answer('{"error": {"code": "x", "message": "y"}}', status=status, to=GET, times=2)

    post = await client.posts.get(ID)

    assert post.post_id == ID
    assert len({entry.request_id for entry in sandbox.requests}) == 3
    assert (client.usage.requests, client.usage.retries) == (3, 2)


async def test_a_reads_409_is_met_with_a_new_id(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """Somebody used that id: nothing was done and nothing is lost."""
    sandbox.answer('{"error": {"code": "duplicate_request", "message": "y"}}', status=409, to=GET)

    assert (await client.posts.get(ID)).post_id == ID
    assert len({entry.request_id for entry in sandbox.requests}) == 2


async def test_retries_end(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """After five repeats the last error is the call's, and says how many attempts there were."""
    sandbox.internal_error(to=GET, times=None)

    with pytest.raises(InternalServerError) as caught:
        await client.posts.get(ID)

    assert caught.value.attempts == sandbox.requests_received == 6
    assert "after 6 attempts" in str(caught.value)


# --- canned answers -------------------------------------------------------------------------------


async def test_the_documented_fixture_through_the_client(
    canned: aioresponses, documented: Mapping[str, Any]
) -> None:
    """From the body's bytes to the Struct and the wallet."""
    canned.get(CANNED, payload=documented["post"], headers={"X-Credits-Remaining": "41"})

    async with TokfluenceClient(TOKEN) as client:
        post = await client.posts.get(ID)

        assert (post.views, post.caption) == (1240000, "Big match tonight #wwe #wrestling")
        assert client.credits_remaining == 41


@pytest.mark.parametrize("left", ["", "many", "-5", "٣", "1.5", " 7"])
async def test_a_wallet_that_is_no_number_is_not_told(
    canned: aioresponses, documented: Any, left: str
) -> None:
    """A proxy's nonsense in a header is no reason to lose a paid answer."""
    canned.get(CANNED, payload=documented["post"], headers={"X-Credits-Remaining": left})

    async with TokfluenceClient(TOKEN) as client:
        assert (await client.posts.get(ID)).post_id == ID
        assert client.credits_remaining is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>login</html>",
        b'{"data": {"post_id"',
        b'{"data": {"post_id": "\xff"}}',
        b"[" * 100_000,
    ],
)
async def test_a_200_that_is_not_the_apis_is_a_validation_error(
    canned: aioresponses, body: bytes
) -> None:
    """A captive portal answers 200 with a page of its own."""
    canned.get(CANNED, body=body, headers={"X-Credits-Remaining": "7"})

    async with TokfluenceClient(TOKEN, max_retries=0) as client:
        with pytest.raises(APIResponseValidationError) as caught:
            await client.posts.get(ID)

    assert (caught.value.status, caught.value.credits_remaining) == (200, 7)
    assert caught.value.request_id
    assert caught.value.body == body[:200].decode(errors="replace")[:200]


@pytest.mark.parametrize("status", [200, 401, 502])
async def test_an_echoed_token_is_shown_nowhere(canned: aioresponses, status: int) -> None:
    """Not in the error, nor in what a logger prints of it."""
    canned.get(
        CANNED, status=status, body=f"<pre>GET /\nAuthorization: Bearer {TOKEN}</pre>", repeat=True
    )

    async with TokfluenceClient(TOKEN, max_retries=0) as client:
        with pytest.raises(TokfluenceError) as caught:
            await client.posts.get(ID)

    assert TOKEN not in f"{caught.value} {caught.value!r} {vars(caught.value)}"


@pytest.mark.client(max_retries=0, timeout=5.0, max_body=100_000)
@pytest.mark.parametrize(
    "fault",
    [
        "echo 200",
        "echo 401",
        "echo 502",
        "drop",
        "refuse",
        "stall",
        "cut",
        "stall in body",
        "huge",
        "bomb",
        "nested",
    ],
)
@pytest.mark.parametrize("session", ["own", "the caller's"])
async def test_no_traceback_with_locals_shows_the_token(
    sandbox: Sandbox, client: TokfluenceClient, fault: str, session: str
) -> None:
    """Error trackers print the locals of every frame: wherever an attempt fails, headers must not
    lie about (trap 31)."""
    match fault.split():
        case ["echo", status]:
            sandbox.answer(f"<pre>Authorization: Bearer {sandbox.token}</pre>", status=int(status))
        case ["drop"]:
            sandbox.drop_answer()
        case ["refuse"]:
            sandbox.refuse_connection()
        case ["stall"]:
            sandbox.stall()
        case ["stall", "in", "body"]:
            sandbox.stall(in_body=True)
        case ["cut"]:
            sandbox.cut_body()
        case ["huge"]:
            sandbox.answer(f"{sandbox.token} " * 10_000)
        case ["bomb"]:
            sandbox.gzip_bomb(10**7)
        case _:
            sandbox.nested_body(10_000)

    async with aiohttp.ClientSession() as theirs:
        options: dict[str, Any] = {
            "max_retries": 0,
            "timeout": 5.0,
            "max_body": 100_000,
            "session": theirs,
        }
        user = (
            client
            if session == "own"
            else TokfluenceClient(sandbox.token, base_url=sandbox.url, **options)
        )
        with pytest.raises(TokfluenceError) as caught:
            await user.posts.get(ID)

    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert sandbox.token[13:] not in "".join(frames.format())
    assert (
        sandbox.token[13:]
        not in f"{caught.value!r} {vars(caught.value)} {pickle.dumps(caught.value)!r}"
    )


# --- many posts -----------------------------------------------------------------------------------


async def collect(outcomes: AsyncIterator[Outcome[Post]]) -> list[Outcome[Post]]:
    return [outcome async for outcome in outcomes]


async def test_many_posts_one_outcome_for_each_distinct_one(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Duplicates in several spellings are read and paid for once; malformed inputs are outcomes."""
    inputs = ["1", 1, "https://www.tiktok.com/@a/video/1", "bad", 2, "m.tiktok.com/v/2.html", "3"]

    outcomes = await collect(client.posts.get_many(inputs))

    assert {outcome.input: outcome.post_id for outcome in outcomes} == {
        "1": "1",
        "bad": None,
        2: "2",
        "3": "3",
    }
    assert sorted(outcome.post_id for outcome in outcomes if outcome.ok) == ["1", "2", "3"]  # type: ignore[type-var]
    assert [outcome.unwrap().post_id for outcome in outcomes if outcome.ok] == [
        o.post_id for o in outcomes if o.ok
    ]
    assert sandbox.credits_spent == sandbox.requests_received == 3


@pytest.mark.sandbox(indexed=["1", "3"])
async def test_one_miss_ends_nothing(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """It is that post's outcome, and starts no analysis."""
    outcomes = {outcome.input: outcome async for outcome in client.posts.get_many([1, 2, 3])}

    assert isinstance(outcomes[2].error, NotFoundError)
    assert outcomes[1].ok
    assert outcomes[3].ok
    assert sandbox.requests_received == 3


@pytest.mark.sandbox(latency=5.0, throttle=None)
@pytest.mark.client(max_concurrency=7)
async def test_reads_in_flight_are_capped(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """On the wire, as the service sees it; and the cap is reached."""
    outcomes = await collect(client.posts.get_many(range(1, 41)))

    assert len(outcomes) == 40
    assert sandbox.peak_in_flight(GET) == 7


@pytest.mark.parametrize("status", [401, 402, 403])
@pytest.mark.client(max_concurrency=2)
async def test_a_refused_account_stops_sending(
    sandbox: Sandbox, client: TokfluenceClient, status: int
) -> None:
    """Every further request would fail the same way: the rest get that error without being sent."""
    sandbox.answer('{"error": {"code": "x", "message": "y"}}', status=status, to=GET, times=None)

    outcomes = await collect(client.posts.get_many(range(1, 101)))

    assert len(outcomes) == 100
    assert {getattr(outcome.error, "status", None) for outcome in outcomes} == {status}
    assert sandbox.requests_received <= 2


async def test_what_the_budget_does_not_hold_is_not_sent(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """What fits is read, the rest are failed outcomes; never a credit more than allowed."""
    outcomes = await collect(client.posts.get_many(range(1, 11), max_credits=4))

    assert sum(outcome.ok for outcome in outcomes) == 4
    assert {type(outcome.error) for outcome in outcomes if not outcome.ok} == {BudgetExceededError}
    assert sandbox.credits_spent == 4


async def test_a_generator_that_raises_ends_the_call_after_what_was_begun(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """What was read is paid for, so it is told first."""

    def broken() -> Iterator[int]:
        yield from range(1, 6)
        raise OSError("the disk went away")

    stream = client.posts.get_many(broken())
    outcomes = [await anext(stream) for _ in range(5)]
    with pytest.raises(OSError, match="the disk went away"):
        await anext(stream)

    assert sorted(outcome.unwrap().post_id for outcome in outcomes) == ["1", "2", "3", "4", "5"]
    assert sandbox.requests_received == 5


async def test_async_inputs_are_read_as_they_come(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The first post does not wait for the last input."""
    loop = asyncio.get_running_loop()

    async def hourly() -> AsyncIterator[int]:
        for n in (1, 2, 3):
            yield n
            await asyncio.sleep(3600)

    began = loop.time()
    seen = [(loop.time() - began) // 3600 async for _ in client.posts.get_many(hourly())]

    assert seen == [0, 1, 2]


async def test_input_is_read_no_faster_than_the_consumer_takes(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A consumer that stops holds the reading back: memory does not grow with the job (trap 21)."""
    read = 0

    def numbers() -> Iterator[int]:
        nonlocal read
        for n in range(1, 100_000):
            read += 1
            yield n

    outcomes = client.posts.get_many(numbers())
    await anext(outcomes)
    await asyncio.sleep(3600)
    await outcomes.aclose()

    assert read < 300
    assert sandbox.requests_received <= read


async def test_progress_is_told_now_and_then_and_at_the_end(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """At most a few times a second; the last one is complete."""
    told: list[tuple[float, Progress]] = []
    loop = asyncio.get_running_loop()

    outcomes = client.posts.get_many(
        [*range(1, 41), "bad"], on_progress=lambda p: told.append((loop.time(), p))
    )
    await collect(outcomes)

    times = [at for at, _ in told]
    last = told[-1][1]
    assert len(told) > 3
    assert all(later - earlier >= 0.2 for earlier, later in itertools.pairwise(times[:-1]))
    assert (last.done, last.failed, last.total, last.credits_spent) == (41, 1, 41, 40)
    assert last.credits_remaining == sandbox.credits
    assert last.elapsed > 0
    assert [p.done for _, p in told] == sorted(p.done for _, p in told)


async def test_wrong_arguments_are_refused_at_the_call(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Not at the first iteration, which may be far away."""
    with pytest.raises(ValueError, match="max_credits"):
        client.posts.get_many([1], max_credits=-1)
    with pytest.raises(TypeError, match="iterable of ids or URLs"):
        client.posts.get_many(ID)

    assert sandbox.requests == []


@pytest.mark.parametrize("other", ["7", ""])
async def test_a_post_that_was_not_asked_for_is_not_taken_for_it(
    sandbox: Sandbox, client: TokfluenceClient, other: str
) -> None:
    """Kept under the wrong id, it would be written as done, and the right one never got."""
    body = json.dumps({"data": {"post_id": other, "caption": "somebody else's"}}).encode()
    sandbox.answer(body, to=GET, times=None)

    with pytest.raises(APIResponseValidationError, match=f"Asked for post {ID}"):
        await client.posts.get(ID)
    outcomes = [outcome async for outcome in client.posts.get_many([ID])]

    assert [type(outcome.error) for outcome in outcomes] == [APIResponseValidationError]
    assert sandbox.requests_received == 2
