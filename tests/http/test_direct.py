"""The short way to the wire, beside the way through the session: same requests, same errors, exact
limits, nothing left behind."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from tokfluence_async import (
    APIConnectionError,
    APIResponseValidationError,
    APITimeoutError,
    NotFoundError,
    Sandbox,
    Timeout,
    TokfluenceClient,
)
from tokfluence_async._http.direct import Alarm, Deadlines, Direct, _Limits
from tokfluence_async._http.transport import Transport

POST_ID = "7234567890123456789"
POST = "GET /v1/posts/:id"

# The way a client's requests take: without the session between, or through it as with untested
# versions of aiohttp.
WAYS = {"direct": True, "session": False}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name = str(request.param)
    if not WAYS[name]:
        monkeypatch.setattr(aiohttp, "__version__", "3.99.0")
    return name


@pytest.fixture
async def via(way: str, sandbox: Sandbox) -> AsyncIterator[Callable[..., TokfluenceClient]]:
    made: list[TokfluenceClient] = []

    def make(**options: Any) -> TokfluenceClient:
        made.append(
            TokfluenceClient(sandbox.token, base_url=sandbox.url, **{"max_retries": 0, **options})
        )
        return made[-1]

    yield make
    for client in made:
        await client.aclose()


async def test_both_ways_send_the_same_headers(sandbox: Sandbox) -> None:
    """Users see no difference, and neither does whoever routes by headers."""
    async with TokfluenceClient(sandbox.token, base_url=sandbox.url) as client:
        await client.posts.get(POST_ID)
    async with aiohttp.ClientSession() as session:
        client = TokfluenceClient(sandbox.token, base_url=sandbox.url, session=session)
        await client.posts.get(POST_ID)

    direct, through = (entry.headers for entry in sandbox.requests)

    assert direct.keys() == through.keys()
    changes = {name for name in direct if direct[name] != through[name]}
    assert changes <= {"x-request-id", "user-agent"}


async def test_a_body_is_sent_with_its_length_and_type(
    sandbox: Sandbox, via: Callable[..., TokfluenceClient]
) -> None:
    """An analyze batch, and a write without a body."""
    client = via()
    report = await client.posts.analyze([POST_ID])
    sandbox.answer(b'{"ok": true}', to="DELETE /v1/campaigns/:id")
    deleted = await client.request(
        "DELETE", "/v1/campaigns/tkc_0123456789abcdef", response_type=dict
    )

    assert [outcome.ok for outcome in report] == [True]
    assert deleted == {"ok": True}
    assert sandbox.requests[0].headers["content-type"] == "application/json"
    assert sandbox.requests[1].headers["content-length"] == "0"


async def test_connections_are_used_again(
    sandbox: Sandbox, via: Callable[..., TokfluenceClient]
) -> None:
    """Answered and refused alike; a pool that opens one per request pays TLS every time."""
    client = via()
    await client.posts.get(POST_ID)
    sandbox.index("7234567890123456790")
    async for _ in client.posts.comments(POST_ID, limit=200, max_items=10):
        pass
    sandbox.world.indexed = 0.0
    await client.posts.get(POST_ID)

    assert sandbox.open_connections == 1


async def test_a_silence_ends_at_its_time(
    sandbox: Sandbox, via: Callable[..., TokfluenceClient]
) -> None:
    """`Timeout.read`: seconds without a byte arriving."""
    sandbox.stall(to=POST)
    client = via(timeout=Timeout(read=3.0, total=50.0))
    began = asyncio.get_running_loop().time()

    with pytest.raises(APITimeoutError, match="stalled for 3 s") as caught:
        await client.posts.get(POST_ID)

    assert asyncio.get_running_loop().time() - began == pytest.approx(3.0, abs=0.1)
    assert caught.value.sent


async def test_bytes_that_arrive_put_the_silence_off(
    sandbox: Sandbox, via: Callable[..., TokfluenceClient]
) -> None:
    """A slow answer is no silent one, as long as something comes; then the silence counts from the
    last byte."""
    sandbox.drip(piece=100, every=2.0)
    sandbox.stall(seconds=7.0, nth=2, to=POST)
    client = via(timeout=Timeout(read=3.0, total=500.0))
    began = asyncio.get_running_loop().time()

    post = await client.posts.get(POST_ID)

    assert post.post_id == POST_ID
    assert asyncio.get_running_loop().time() - began > 6.0


async def test_a_drip_ends_at_the_total(
    sandbox: Sandbox, via: Callable[..., TokfluenceClient]
) -> None:
    """Never silent for long, and never done."""
    sandbox.drip(piece=1, every=1.0)
    client = via(timeout=Timeout(read=3.0, total=20.0))
    began = asyncio.get_running_loop().time()

    with pytest.raises(APITimeoutError, match="within 20 s"):
        await client.posts.get(POST_ID)

    assert asyncio.get_running_loop().time() - began == pytest.approx(20.0, abs=0.1)


async def test_limits_of_equal_length_do_not_put_each_other_off(
    sandbox: Sandbox, via: Callable[..., TokfluenceClient]
) -> None:
    """A total as long as the silence it allows still counts from the beginning."""
    sandbox.drip(piece=1, every=1.0)
    client = via(timeout=Timeout(read=5.0, total=5.0))
    began = asyncio.get_running_loop().time()

    with pytest.raises(APITimeoutError, match="within 5 s"):
        await client.posts.get(POST_ID)

    assert asyncio.get_running_loop().time() - began == pytest.approx(5.0, abs=0.1)


async def test_no_limits_at_all(sandbox: Sandbox, via: Callable[..., TokfluenceClient]) -> None:
    """`timeout=None` waits as long as it takes."""
    sandbox.stall(seconds=5_000.0, to=POST)

    assert (await via(timeout=None).posts.get(POST_ID)).post_id == POST_ID


async def test_a_limit_does_not_swallow_a_cancellation(
    sandbox: Sandbox, via: Callable[..., TokfluenceClient]
) -> None:
    """Both at the same moment: whoever cancelled is told so, and a limit leaves no cancellation
    behind."""
    sandbox.stall(to=POST, times=2)
    client = via(timeout=Timeout(read=None, total=5.0))
    loop = asyncio.get_running_loop()
    call = asyncio.create_task(client.posts.get(POST_ID))
    await asyncio.sleep(0)
    loop.call_at(loop.time() + 5.0, call.cancel)

    with pytest.raises((asyncio.CancelledError, APITimeoutError)):
        await call

    async def twice() -> int:
        with pytest.raises(APITimeoutError):
            await client.posts.get(POST_ID)
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(1.0)
        return task.cancelling()

    assert await asyncio.create_task(twice()) == 0


async def test_a_body_over_the_cap_is_refused_in_either_piece(
    sandbox: Sandbox, via: Callable[..., TokfluenceClient]
) -> None:
    """Whether it comes with its headers at once, or in pieces."""
    client = via(max_body=300)
    with pytest.raises(APIResponseValidationError, match="larger than 300 bytes"):
        await client.posts.get(POST_ID)
    sandbox.drip(piece=200, every=0.1)
    with pytest.raises(APIResponseValidationError, match="larger than 300 bytes"):
        await client.posts.get(POST_ID)
    await asyncio.sleep(1.0)  # for the server to see it

    assert sandbox.open_connections == 0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 2x0 what\r\n\r\n", "not HTTP"),
        (b"\x00\x01\x02 nothing\r\n\r\n", "not HTTP"),
        (b"", "broke before the answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "broke before the answer"),
    ],
)
async def test_what_is_no_answer_is_a_connection_error(way: str, answer: bytes, said: str) -> None:
    """Whatever a thing in between sends; the request may have been done."""
    assert way

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        TokfluenceClient("t", base_url=f"http://127.0.0.1:{port}", max_retries=0) as client,
    ):
        with pytest.raises(APIConnectionError, match=said) as caught:
            await client.posts.get(POST_ID)

    assert caught.value.sent


async def test_interim_answers_are_passed_over(way: str) -> None:
    """A 103 in front of the answer is not the answer."""
    assert way
    body = b'{"data":{"post_id":"7"}}'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await asyncio.sleep(1.0)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, TokfluenceClient("t", base_url=f"http://127.0.0.1:{port}/") as client:
        assert (await client.posts.get(7)).post_id == "7"


async def test_a_path_in_front_of_the_api_is_kept_and_quoted(way: str) -> None:
    """A gateway's prefix is part of the base URL; a blank or an umlaut in it must not break the
    request line."""
    assert way
    lines: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append((await reader.readuntil(b"\r\n\r\n")).splitlines()[0])
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        TokfluenceClient("t", base_url=f"http://127.0.0.1:{port}/gate wäy%2F/") as client,
    ):
        with pytest.raises(NotFoundError):
            await client.posts.get(7)

    assert lines == [b"GET /gate%20w%C3%A4y%2F/v1/posts/7 HTTP/1.1"]


async def test_only_tested_versions_go_directly(way: str, sandbox: Sandbox) -> None:
    """What the short way uses is promised to nobody."""
    transport = Transport(sandbox.url, max_body=1, session=None)
    try:
        assert isinstance(transport._direct, Direct) is (way == "direct")
    finally:
        await transport.aclose()


async def test_replaced_session_methods_are_gone_through(
    client: TokfluenceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aioresponses and tracing put their own in the place of `ClientSession._request`, and want to
    see calls."""
    seen: list[str] = []
    original = aiohttp.ClientSession._request

    async def spy(self: aiohttp.ClientSession, method: str, url: Any, **options: Any) -> Any:
        seen.append(method)
        return await original(self, method, url, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "_request", spy)
    await client.posts.get(POST_ID)

    assert seen == ["GET"]


# --- limits of one length -------------------------------------------------------------------------


async def _wait(deadlines: Deadlines, began: list[float], stop_after: float | None) -> float:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    limits = _Limits(task)
    started = loop.time()
    began.append(started)
    deadlines.start(limits, started)
    try:
        await asyncio.sleep(1e6 if stop_after is None else stop_after)
    except asyncio.CancelledError:
        assert limits.expired is deadlines
        task.uncancel()
    finally:
        deadlines.stop(limits)
    return loop.time() - started


async def test_each_limit_is_exact_and_an_idle_one_leaves_no_timer() -> None:
    """Of two lengths, started at different times, some stopped in between: one timer serves all, to
    the moment."""
    loop = asyncio.get_running_loop()
    alarm = Alarm(loop)
    kinds = [Deadlines(loop, alarm, 10.0), Deadlines(loop, alarm, 3.0)]
    began: list[float] = []
    waits = []
    for index in range(40):
        waits.append(
            asyncio.create_task(_wait(kinds[index % 2], began, None if index % 3 else 2.0))
        )
        await asyncio.sleep(0.7)

    lasted = await asyncio.gather(*waits)

    full = [10.0, 3.0]
    assert lasted == pytest.approx(
        [full[index % 2] if index % 3 else 2.0 for index in range(40)], abs=1e-3
    )
    assert [len(kind) for kind in kinds] == [0, 0]
    assert alarm.when == math.inf


async def test_one_request_after_another_sets_one_timer_each(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its total and its silence: a timer and its cancelling are 3 µs."""
    loop = asyncio.get_running_loop()
    set_: list[float] = []
    call_at = loop.call_at

    async with TokfluenceClient(sandbox.token, base_url=sandbox.url) as client:
        await client.posts.get(POST_ID)
        direct = client._engine.home().transport._direct
        assert direct is not None
        alarm = direct._alarm

        def counted(
            when: float, callback: Callable[..., object], *args: Any, **more: Any
        ) -> asyncio.TimerHandle:
            if callback == alarm._ring:
                set_.append(when)
            return call_at(when, callback, *args, **more)

        monkeypatch.setattr(loop, "call_at", counted)
        await client.posts.get(POST_ID)

        assert len(set_) == 1
        assert alarm.when == math.inf


async def test_lengths_nobody_uses_are_forgotten(sandbox: Sandbox) -> None:
    """Every size of analyze batch has a total of its own; a client that lives for months must not
    keep them all."""
    async with TokfluenceClient(sandbox.token, base_url=sandbox.url) as client:
        for seconds in range(10, 40):
            await client.with_options(timeout=float(seconds)).posts.get(POST_ID)
        direct = client._engine.home().transport._direct

        assert direct is not None
        assert len(direct._totals) <= 4
