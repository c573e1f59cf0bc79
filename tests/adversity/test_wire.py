"""One door to the wire: what leaves is what we counted, under an id, a token and a slot of its
own."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

import aiohttp
import pytest

from tokfluence_async import (
    APIConnectionError,
    APITimeoutError,
    RateLimitError,
    Sandbox,
    Throttle,
    Timeout,
    TokfluenceClient,
    TokfluenceError,
)
from tokfluence_async._sandbox.ledger import ANALYZE, POST

from .conftest import (
    CALLS,
    GOOD_POST,
    POST_ID,
    TOKEN,
    check_money,
    http,
    ids,
    raw_rig,
    raw_server,
    rig,
)
from .test_faults import FAULTS


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("own", [True, False], ids=["own session", "user's session"])
async def test_aiohttp_never_sends_by_itself(call: str, when: Any, own: bool) -> None:
    """Trap 1: a reused connection that dies is noticed by us, and the repeat has an id of its own
    (a batch keeps its)."""
    route, do, options = CALLS[call]
    async with AsyncExitStack() as stack:
        session = None if own else await stack.enter_async_context(aiohttp.ClientSession())
        sandbox, client = await stack.enter_async_context(rig({"session": session}, **options))
        sandbox.index("7")
        await client.posts.get("7")  # a connection to be reused
        fault = sandbox.drop_reused(to=route, times=2, when=when)

        await do(client)

        assert fault.hits >= 1
        assert client.usage.retries >= 1
        check_money(sandbox, client)


async def test_without_retries_a_dead_connection_is_one_request() -> None:
    """With `max_retries=0` nobody repeats anything: neither we nor the library underneath."""
    async with rig({"max_retries": 0}) as (sandbox, client):
        await client.posts.get(POST_ID)
        sandbox.drop_reused(times=None)

        with pytest.raises(APIConnectionError) as caught:
            await client.posts.get(POST_ID)

        assert caught.value.sent
        assert sandbox.requests_received == client.usage.requests == 2


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_users_session_is_counted_and_charged_like_our_own(fault: str) -> None:
    """Its connector is not ours, so what we know about the wire comes from elsewhere; it has to be
    as good."""
    async with (
        aiohttp.ClientSession() as session,
        rig({"session": session, "timeout": 30.0, "max_retries": 1}, indexed=0.0) as (
            sandbox,
            client,
        ),
    ):
        sandbox.index(POST_ID)
        for route in (POST, ANALYZE):
            FAULTS[fault](sandbox, to=route, times=None)

        with suppress(TokfluenceError):
            await client.posts.get(POST_ID)
        await client.posts.analyze(ids(2))

        usage = client.usage
        assert usage.requests == sandbox.requests_received
        if fault != "500 before, charged":
            assert usage.credits_spent >= sandbox.credits_spent
            assert sandbox.billed_twice() == []


async def test_a_users_session_is_never_closed() -> None:
    """It is theirs: also after `aclose`, an error and a garbage-collected client."""
    async with aiohttp.ClientSession() as session, Sandbox(token=TOKEN) as sandbox:
        client = TokfluenceClient(TOKEN, base_url=sandbox.url, session=session)
        await client.posts.get(POST_ID)
        await client.aclose()
        del client
        async with TokfluenceClient(TOKEN, base_url=sandbox.url, session=session) as other:
            await other.posts.get(POST_ID)

        assert not session.closed
        async with session.get(sandbox.url + "/openapi.json") as answer:
            assert answer.status == 200


@pytest.mark.parametrize("own", [True, False], ids=["own session", "user's session"])
@pytest.mark.parametrize("limit", ["total", "caller"])
async def test_a_request_that_nobody_waited_for_is_counted_and_charged(
    own: bool, limit: str
) -> None:
    """It left, and the service works on when its client hangs up: the budget must not hear "nothing
    was sent"."""
    async with AsyncExitStack() as stack:
        session = None if own else await stack.enter_async_context(aiohttp.ClientSession())
        options: dict[str, Any] = {"session": session, "max_retries": 0}
        if limit == "total":
            options["timeout"] = Timeout(total=5, read=None)
        sandbox, client = await stack.enter_async_context(rig(options, latency=100, indexed=1.0))

        with pytest.raises(TimeoutError if limit == "caller" else APITimeoutError) as caught:
            async with asyncio.timeout(5 if limit == "caller" else None):
                await client.posts.get(POST_ID)

        await asyncio.sleep(200)
        if limit == "total":
            assert caught.value.sent
        assert (sandbox.requests_received, sandbox.credits_spent) == (1, 1)
        assert (client.usage.requests, client.usage.credits_spent) == (1, 1)


async def test_a_slot_is_taken_for_every_physical_send() -> None:
    """Repeats count at the service like first sends: under a steady fault no window sees more than
    the limit."""
    async with rig(
        {"throttle": Throttle(30, 60, burst=2), "max_concurrency": 20, "max_retries": 50},
        per_ip=30,
        per_key=60,
    ) as (sandbox, client):
        sandbox.drop_reused(times=None, where=lambda entry: entry.number % 2 == 0)
        sandbox.drop_answer(times=None, where=lambda entry: entry.number % 5 == 0)

        async for outcome in client.posts.get_many(ids(100)):
            outcome.unwrap()

        assert sandbox.rate_limited == 0
        assert sandbox.peak(60) <= 30
        assert client.usage.retries >= 40
        check_money(sandbox, client)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["host", "path"])
@pytest.mark.parametrize("own", [True, False], ids=["own session", "user's session"])
async def test_a_redirect_is_an_error_and_the_token_stays(
    status: int, where: str, own: bool
) -> None:
    """Trap 8: this API has no redirects; whoever answers one wants the token somewhere else."""
    async with AsyncExitStack() as stack:
        session = None if own else await stack.enter_async_context(aiohttp.ClientSession())
        thief = await stack.enter_async_context(raw_server(GOOD_POST))
        target = f"{thief.url}/v1/posts/1" if where == "host" else "/v1/posts/2"
        server, client = await stack.enter_async_context(
            raw_rig(http(b"", f"{status} Elsewhere", Location=target), session=session)
        )

        for call in (
            client.posts.get(POST_ID),
            client.request("POST", "/v1/ai_search", json={"query": "x"}),
        ):
            with pytest.raises(TokfluenceError) as caught:
                await call
            assert caught.value.status == status
        with pytest.raises(ExceptionGroup):
            (await client.posts.analyze([POST_ID])).raise_for_errors()

        assert thief.connections == 0
        assert len(server.requests) == client.usage.requests == 3


async def test_cookies_of_the_service_are_not_sent_back() -> None:
    """The API ignores cookies [public]; what a proxy sets must not make requests grow or tell runs
    apart."""
    head = http(b'{"data":{"post_id":"1"}}', Set_Cookie="session=abc; Path=/")
    async with raw_rig(head) as (server, client):
        await client.posts.get("1")
        await client.posts.get("1")

        assert [request.header("cookie") for request in server.requests] == [None, None]


async def test_proxies_in_the_environment_are_not_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`trust_env` is off: a variable on a shared machine must not see the token."""
    async with raw_server(GOOD_POST) as thief, raw_rig(GOOD_POST) as (server, client):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, thief.url)

        await client.posts.get(POST_ID)

        assert thief.connections == 0
        assert len(server.requests) == 1


async def test_a_read_that_a_proxy_sent_twice_was_charged() -> None:
    """409 under an id that is new means that somebody in between repeated it: the answer is lost,
    its price is not."""
    conflict = http(b'{"error":{"code":"duplicate_request","message":"seen"}}', "409 Conflict")
    async with raw_rig(conflict, GOOD_POST) as (server, client):
        await client.posts.get(POST_ID)

        assert len({request.header("x-request-id") for request in server.requests}) == 2
        assert client.usage.credits_spent == 2


async def test_a_batch_that_a_proxy_sent_twice_was_charged() -> None:
    """HAProxy's `retry-on` repeats an analyze call whose answer was lost, and passes the 409 on as
    the first answer."""
    async with rig(indexed=0.0, seconds_per_url=0.0) as (sandbox, client):
        conflict = {"error": {"code": "duplicate_request", "message": "seen"}}
        sandbox.answer(conflict, status=409, to=ANALYZE, when="after")

        report = await client.posts.analyze(ids(3), batch_size=3)

        assert [outcome.unwrap().status for outcome in report.outcomes] == ["duplicate_request"] * 3
        assert report.credits_spent == sandbox.credits_spent
        check_money(sandbox, client)


# --- 429 ------------------------------------------------------------------------------------------

# The header and what follows from it; where it says nothing that can be followed, the first pause
# of our own.
RETRY_AFTER = {
    "seconds": ("7", 7.0),
    "zero": ("0", 0.0),
    "a fraction": ("2.5", 2.5),
    "white space": (" 3 ", 3.0),
    "a date": ("DATE+9", 9.0),
    "a date in the past": ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    "garbage": ("soon", 1.0),
    "negative": ("-5", 1.0),
    "not a number": ("nan", 1.0),
    "infinite": ("inf", 1.0),
    "missing": (None, 1.0),
    "empty": ("", 1.0),
    "other digits": ("٣", 1.0),
}


@pytest.mark.parametrize("case", RETRY_AFTER)
async def test_a_retry_after_is_never_shortened(case: str) -> None:
    """Trap 14: whatever form it has, nor drawn out; and nothing else leaves on that key before, not
    even a fresh call."""
    text, seconds = RETRY_AFTER[case]
    moments: list[float] = []
    seen = asyncio.Event()

    async def refuse(
        request: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        moments.append(asyncio.get_running_loop().time())
        seen.set()
        fields = {"Date": "Wed, 21 Oct 2026 07:28:00 GMT"}
        if text is not None:
            fields["Retry_After"] = text.replace("DATE+9", "Wed, 21 Oct 2026 07:28:09 GMT")
        writer.write(
            http(
                b'{"error":{"code":"rate_limited","message":"slow down"}}', "429 Too Many", **fields
            )
        )

    async def accept(
        request: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        moments.append(asyncio.get_running_loop().time())
        writer.write(GOOD_POST)

    async with raw_rig(refuse, accept, max_concurrency=1) as (_, client):
        first = asyncio.create_task(client.posts.get(POST_ID))
        await seen.wait()
        await client.posts.get(POST_ID)  # has the one place: the refused call waits without it
        await first

        assert seconds <= moments[1] - moments[0] < seconds + 3.0
        assert client.usage.rate_limited == 1
        assert client.usage.credits_spent == 2


@pytest.mark.parametrize("text", ["1000000", "1e99", "9" * 400, "Fri, 31 Dec 2999 23:59:59 GMT"])
async def test_a_huge_retry_after_ends_the_call_at_once(text: str) -> None:
    """A wait of days is for the caller to decide: the error says how long, and nothing more is sent
    meanwhile."""
    body = b'{"error":{"code":"rate_limited","message":"come back tomorrow"}}'
    async with raw_rig(http(body, "429 Too Many", Retry_After=text)) as (server, client):
        began = asyncio.get_running_loop().time()

        for _ in range(3):
            with pytest.raises(RateLimitError) as caught:
                await client.posts.get(POST_ID)
            if caught.value.retry_after is not None:
                assert caught.value.retry_after > 900

        assert asyncio.get_running_loop().time() - began < 1000
        assert client.usage.requests == len(server.requests)
        assert client.usage.credits_spent == 0


@pytest.mark.parametrize("status", [429, 500])
async def test_waiting_to_try_again_holds_no_connection_and_no_place(status: int) -> None:
    """Trap 4: while one key's calls wait out a refusal or a backoff, another key's go through the
    one place there is."""
    async with rig({"max_concurrency": 1}) as (sandbox, client):
        other = client.with_options(token=sandbox.add_key("tkf_live_" + "B" * 32).token)
        await client.posts.get(POST_ID)
        if status == 429:
            # The first 429 closes both gates, as it does not say whose budget is empty; the second,
            # with the other key answered in between, closes only that of its own key.
            sandbox.rate_limit(retry_after=1)
            await client.posts.get(POST_ID)
            await other.posts.get(POST_ID)
            fault = sandbox.rate_limit(retry_after=50)
        else:
            fault = sandbox.internal_error()
        waiting = [asyncio.create_task(client.posts.get(post_id)) for post_id in ids(3)]
        while not fault.hits:  # noqa: ASYNC110 - the sandbox tells nobody
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        assert sandbox.in_flight() == 0

        began = asyncio.get_running_loop().time()
        for post_id in ids(5):
            await other.posts.get(post_id)
        assert asyncio.get_running_loop().time() - began < 5

        await asyncio.gather(*waiting)
        assert sandbox.statuses[200] == client.usage.requests - client.usage.retries


async def test_after_a_burst_of_429_nobody_storms_back() -> None:
    """Trap 13: fifty refused callers re-enter one after another, at the pace, not in a herd."""
    async with rig({"max_concurrency": 50}) as (sandbox, client):
        fault = sandbox.rate_limit(times=50, retry_after=20)

        await asyncio.gather(*(client.posts.get(post_id) for post_id in ids(50)))

        served = [entry.time for entry in sandbox.requests if entry.status == 200]
        refused = [entry.time for entry in sandbox.requests if entry.status == 429]
        assert fault.hits == len(refused) == client.usage.rate_limited
        assert min(served) - max(refused) >= 20
        assert max(sum(t <= u < t + 1 for u in served) for t in served) <= 21
        check_money(sandbox, client)


async def test_calls_that_wait_at_a_closed_gate_go_in_the_order_they_came() -> None:
    """First come, first served: also where a 429 made them wait, and all could go at one
    instant."""
    many = [str(7234567890123456789 + n) for n in range(20)]
    async with (
        Sandbox(throttle=None) as sandbox,
        TokfluenceClient(sandbox.token, base_url=sandbox.url) as client,
    ):
        sandbox.rate_limit(times=1, retry_after=5)
        refused = asyncio.create_task(client.posts.get(1))
        await asyncio.sleep(1)
        waiting = [asyncio.create_task(client.posts.get(post_id)) for post_id in many]
        await asyncio.sleep(1)
        waiting[3].cancel()
        await asyncio.sleep(0)
        assert client.throttle.statistics().waiting == 19

        await asyncio.gather(refused, *waiting, return_exceptions=True)

        asked = [entry.path.rpartition("/")[2] for entry in sandbox.requests]
    assert [post_id for post_id in asked if post_id != "1"] == many[:3] + many[4:]


async def test_a_slot_whose_request_never_left_is_given_back() -> None:
    """Fifty connections refused at once: none was a request, so none is paid for with a slot."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with TokfluenceClient("x", base_url="http://127.0.0.1:9", max_retries=0) as client:
        outcomes = await asyncio.gather(
            *(client.posts.get(n + 1) for n in range(50)), return_exceptions=True
        )

        assert all(
            isinstance(outcome, APIConnectionError) and not outcome.sent for outcome in outcomes
        )
        assert client.usage.requests == 0
    assert loop.time() - began < 1
