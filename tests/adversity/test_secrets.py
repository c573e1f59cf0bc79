"""The token goes to the configured origin and nowhere else: not into errors, tracebacks with
locals, pickles or logs."""

from __future__ import annotations

import asyncio
import copy
import pickle
import traceback
from typing import Any

import pytest

from tokfluence_async import (
    APIError,
    APIStatusError,
    ConfigurationError,
    Sandbox,
    Timeout,
    TokfluenceClient,
)
from tokfluence_async._sandbox.ledger import ANALYZE

from .conftest import (
    CALLS,
    GOOD_POST,
    POST_ID,
    SECRET,
    TOKEN,
    Request,
    check_money,
    http,
    ids,
    raw_rig,
    rig,
)
from .test_bodies import BROKEN
from .test_faults import FAULTS


def everything_shown(error: BaseException) -> str:
    """All that a log, a debugger or a crash reporter would write down of an error, its causes and
    contexts included."""
    seen: list[BaseException] = []
    left: list[BaseException | None] = [error]
    text = ""
    while left:
        one = left.pop()
        if one is None or one in seen:
            continue
        seen.append(one)
        text += str(one) + repr(one) + repr(getattr(one, "__dict__", {})) + repr(one.args)
        text += "".join(
            traceback.TracebackException.from_exception(one, capture_locals=True).format()
        )
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if (
                "tokfluence_async" in frame.f_code.co_filename
                and "tests" not in frame.f_code.co_filename
            ):
                text += "".join(f"{name}={value!r}" for name, value in frame.f_locals.items())
        left += [one.__cause__, one if one.__suppress_context__ else one.__context__]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions
    return text


def check_silent(error: BaseException) -> None:
    shown = everything_shown(error)
    assert SECRET not in shown
    for round_trip in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(round_trip) is type(error)
        assert str(round_trip) == str(error)
        assert SECRET not in everything_shown(round_trip)
    assert SECRET.encode() not in pickle.dumps(error)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", ["get", "analyze"])
async def test_no_fault_brings_the_token_to_light(call: str, fault: str) -> None:
    """Also what is logged on the way is looked at: by the folder's `quiet` fixture."""
    route, do, options = CALLS[call]
    async with rig({"max_retries": 0}, **options) as (sandbox, client):
        await client.posts.get(POST_ID) if call == "get" else None
        FAULTS[fault](sandbox, to=route, times=None)

        try:
            await do(client)
        except Exception as error:
            check_silent(error)
        else:
            assert fault in ("short stall", "slow drip", "reused connection dead before the work",
                             "reused connection dead after the work",
                             "stall for ever before the work")  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
async def test_no_garbage_brings_the_token_to_light(broken: str) -> None:
    """aiohttp's own errors print request headers (trap 31); ours are raised without them."""
    async with raw_rig(BROKEN[broken], max_retries=0, timeout=5) as (_, client):
        for call in (
            lambda: client.posts.get(POST_ID),
            lambda: client.request("GET", "/v1/creators", response_type=int),
        ):
            with pytest.raises(APIError) as caught:
                await call()
            check_silent(caught.value)


@pytest.mark.parametrize("seconds", [0.0, 0.5, 2.0, 6.0])
@pytest.mark.parametrize("scene", ["stall", "body", "gate"])
async def test_a_cancelled_call_does_not_show_it(scene: str, seconds: float) -> None:
    """A `CancelledError` passes through our frames and aiohttp's; with locals, all of them are
    printed."""
    async with rig() as (sandbox, client):
        if scene == "gate":
            sandbox.rate_limit(times=None, retry_after=100)
        else:
            sandbox.stall(times=None, in_body=scene == "body")
        for call in (client.posts.get(POST_ID), client.posts.analyze(ids(2))):
            task = asyncio.ensure_future(call)
            await asyncio.sleep(seconds)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert SECRET not in everything_shown(caught.value)


@pytest.mark.parametrize("status", [401, 402, 403, 404, 409, 422, 429, 500, 502, 503])
async def test_every_status_error_pickles_without_it(status: int) -> None:
    """Trap 24: a worker process can raise them; the numbers a caller acts on arrive."""
    body = b'{"error":{"code":"some_code","message":"some message"}}'
    answer = http(body, f"{status} Oops", X_Credits_Remaining="17", Retry_After="3")
    async with raw_rig(answer, max_retries=0) as (server, client):
        with pytest.raises(APIStatusError) as caught:
            await client.request("POST", "/v1/ai_search", json={})

        check_silent(caught.value)
        again: Any = pickle.loads(pickle.dumps(caught.value))
        assert (again.status, again.code, again.message, again.credits_remaining) == (
            status, "some_code", "some message", 17,
        )  # fmt: skip
        assert again.request_id == server.requests[0].header("x-request-id")


async def test_the_client_itself_does_not_show_it() -> None:
    """Its repr tells the origin and the key's display prefix, the only part that may be shown
    [public]."""
    async with rig() as (_, client):
        await client.posts.get(POST_ID)
        report = await client.posts.analyze(ids(2))

        for thing in (
            client,
            client.posts,
            client._engine,
            client._options,
            client.usage,
            report,
            client.with_options(),
        ):
            assert SECRET not in repr(thing) + str(thing)
            assert SECRET not in repr(getattr(thing, "__dict__", {}))
        assert TOKEN[:13] in repr(client)


@pytest.mark.parametrize(
    "token", [TOKEN + "\n", " " + TOKEN, TOKEN + "é", TOKEN + "\x00", f'"{TOKEN}" x', TOKEN * 99]
)
def test_a_token_that_cannot_be_sent_is_not_quoted(token: str) -> None:
    """A stray line break is told of without showing the rest."""
    with pytest.raises(ConfigurationError) as caught:
        TokfluenceClient(token)
    assert SECRET not in str(caught.value) + repr(caught.value) + repr(vars(caught.value))


async def test_what_a_proxy_echoes_is_masked_in_outcomes_and_logs() -> None:
    """A debug page shows the request it got; the outcome of a batch keeps the error for long."""

    async def echo(
        request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(http(b"<pre>" + request.head + b"</pre>", "503 Maintenance"))

    async with raw_rig(echo, max_retries=2) as (server, client):
        report = await client.posts.analyze(ids(2), batch_size=2)

        assert len(server.requests) == 3
        for outcome in report.outcomes:
            assert outcome.error is not None
            check_silent(outcome.error)
            assert SECRET not in repr(outcome)


async def test_another_origin_sees_nothing() -> None:
    """Two clients, two services: each token at its own; the same holds for an absolute URL given by
    mistake."""
    async with raw_rig(GOOD_POST) as (server, client), Sandbox(token=TOKEN) as other:
        with pytest.raises(ValueError, match="path"):
            await client.request("GET", f"{other.url}/v1/posts/1")
        with pytest.raises(ValueError, match="path"):
            await client.request("GET", f"//127.0.0.1:{other.port}/v1/posts/1")
        await client.with_options(timeout=Timeout(total=3)).posts.get(POST_ID)

        assert other.requests_received == 0
        assert len(server.requests) == 1


async def test_the_answer_to_a_batch_may_hold_it_too() -> None:
    """A row that echoes it is data; an error made from such rows is not."""
    async with rig(
        indexed=0.0, analyze_rows=lambda rows: [{**row, "status": TOKEN} for row in rows[:1]]
    ) as (
        sandbox,
        client,
    ):
        report = await client.posts.analyze(ids(2), batch_size=2)

        assert [outcome.ok for outcome in report.outcomes] == [True, False]
        check_silent(report.failed[0].error)  # type: ignore[arg-type]
        assert len(sandbox.times(to=ANALYZE)) == 1
        check_money(sandbox, client)
