"""Bodies and heads that no service of good will sends: bombs, cuts, nesting, garbage."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import json
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import msgspec
import pytest

from tokfluence_async import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    InternalServerError,
    NotFoundError,
    Timeout,
    TokfluenceClient,
    TokfluenceError,
)

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

MIB = 2**20


@functools.cache
def bomb(size: int, coding: str) -> bytes:
    packer = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    piece = b" " * MIB
    return b"".join(packer.compress(piece) for _ in range(size // MIB)) + packer.flush()


# --- size -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [True, False], ids=["success", "error"])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_bomb_costs_little_memory(coding: str, own: bool) -> None:
    """Trap 28: a small body that unpacks to a thousand times its size is given up at the cap,
    whatever its status."""
    answer = http(bomb(96 * MIB, coding), "200 OK" if own else "500 Oops", Content_Encoding=coding)
    async with raw_rig(answer, max_retries=0, max_body=MIB) as (_, client):
        tracemalloc.start()
        try:
            with pytest.raises(APIResponseValidationError, match="larger"):
                await client.posts.get(POST_ID)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak < 16 * MIB


@pytest.mark.parametrize("length", ["declared", "chunked", "until the connection closes"])
@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "502 Bad Gateway"])
async def test_an_endless_body_is_read_to_the_cap_and_no_further(length: str, status: str) -> None:
    """The error says so; the connection is dropped and not drained."""
    sent = 0

    async def pour(_: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        head = {
            "declared": f"Content-Length: {10**12}",
            "chunked": "Transfer-Encoding: chunked",
        }.get(length, "Connection: close")
        writer.write(f"HTTP/1.1 {status}\r\n{head}\r\n\r\n".encode())
        while sent < 512 * MIB:
            piece = b" " * 65536
            writer.write(b"10000\r\n" + piece + b"\r\n" if length == "chunked" else piece)
            await writer.drain()
            sent += len(piece)

    async with raw_rig(pour, max_retries=0, max_body=4 * MIB) as (_, client):
        with pytest.raises(APIResponseValidationError, match="larger than 4194304 bytes"):
            await client.posts.get(POST_ID)

    assert sent < 64 * MIB
    assert client.usage.credits_spent == 1


DENSE = {
    "lists": b"[],",
    "objects": b"{},",
    "numbers": b"0,",
    "nested": b"[[[]]],",
    "texts": b'"",',
    "fields": b'{"a":{}},',
}
READ_AS: dict[str, Callable[[TokfluenceClient], Any]] = {
    "a post": lambda client: client.posts.get(POST_ID),
    "comments": lambda client: anext(client.posts.comments(POST_ID)),
    "a dict": lambda client: client.request("GET", "/v1/creators", response_type=dict),
    "a list": lambda client: client.request("GET", "/v1/creators", response_type=list[Any]),
    "raw items": lambda client: client.request(
        "GET", "/v1/creators", response_type=dict[str, list[msgspec.Raw]]
    ),
    "anything": lambda client: client.request("GET", "/v1/creators"),
}


@pytest.mark.parametrize("read_as", READ_AS)
@pytest.mark.parametrize("status", ["200 OK", "500 Oops"])
async def test_an_answer_of_a_million_small_things_costs_little_memory(
    read_as: str, status: str
) -> None:
    """Below the cap on size, 31 KiB on the wire were 1 GB of Python objects, and the event loop
    stood still for seconds."""
    for piece in DENSE.values():
        many = piece * (8 * MIB // len(piece))
        body = (
            b"[" + many + b"0]"
            if read_as in ("a list", "anything")
            else b'{"data":[' + many + b'0],"meta":{"next_cursor":null}}'
        )
        packed = http(gzip.compress(body, 1), status, Content_Encoding="gzip")
        async with raw_rig(packed, max_retries=0) as (_, client):
            tracemalloc.start()
            try:
                with pytest.raises(APIError) as caught:
                    await READ_AS[read_as](client)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

        assert status != "200 OK" or "more than 100000 values" in str(caught.value)
        assert peak < 40 * MIB  # the body, in pieces, joined, and once more to count


async def test_a_batch_of_a_million_rows_is_in_doubt() -> None:
    """The answer cannot be used; the batch may have been done, so nothing of it is sent under
    another id."""
    body = b'{"data":[' + b"[]," * (4 * MIB // 3) + b"[]]}"
    async with raw_rig(http(gzip.compress(body), Content_Encoding="gzip"), max_retries=1) as (
        server,
        client,
    ):
        report = await client.posts.analyze([POST_ID])

        assert isinstance(report.outcomes[0].error, APIResponseValidationError)
        assert len({request.header("x-request-id") for request in server.requests}) == 1


async def test_as_raw_an_answer_may_hold_whatever_it_likes() -> None:
    """One object is made of it, and what to make of that is the caller's affair."""
    body = b'{"data":[' + b"[]," * 500_000 + b"[]]}"
    async with raw_rig(http(gzip.compress(body), Content_Encoding="gzip")) as (_, client):
        assert bytes(await client.request("GET", "/v1/creators", response_type=msgspec.Raw)) == body


@pytest.mark.parametrize("fault", ["huge_body", "gzip_bomb", "nested_body"])
@pytest.mark.parametrize("call", CALLS)
async def test_a_hostile_body_in_passing_is_survived(call: str, fault: str) -> None:
    """A batch whose answer cannot be used was done: the repeat under its id shows it. Nothing is
    billed twice."""
    route, do, options = CALLS[call]
    async with rig({"max_body": 4 * MIB}, **options) as (sandbox, client):
        size = {"depth": 200_000} if fault == "nested_body" else {"size": 32 * MIB}
        getattr(sandbox, fault)(to=route, times=1, **size)

        try:
            await do(client)
        except APIResponseValidationError:
            assert call not in (
                "analyze",
                "resolve",
            )  # a page or post of that size is the same next time

        check_money(sandbox, client)


async def test_the_cap_is_on_the_body_and_not_one_byte_less() -> None:
    """What is exactly as large as allowed is an answer."""
    body = json.dumps({"data": {"post_id": POST_ID}}).encode()
    for cap, packed in (
        (len(body), False),
        (len(body), True),
        (len(body) - 1, False),
        (len(body) - 1, True),
    ):
        answer = http(gzip.compress(body), Content_Encoding="gzip") if packed else http(body)
        async with raw_rig(answer, max_retries=0, max_body=cap) as (_, client):
            if cap == len(body):
                assert (await client.posts.get(POST_ID)).post_id == POST_ID
                assert client.usage.bytes_received == len(body)
            else:
                with pytest.raises(APIResponseValidationError):
                    await client.posts.get(POST_ID)


# --- shape ----------------------------------------------------------------------------------------

DEPTH = 20_000
BODIES: dict[str, bytes] = {
    "empty": b"",
    "white space": b" \n ",
    "null": b"null",
    "a number": b"42",
    "NaN": b'{"data": NaN}',
    "an empty object": b"{}",
    "data is null": b'{"data": null}',
    "data is a list": b'{"data": []}',
    "half": b'{"data":{"post_id":"7',
    "trailing garbage": b'{"data":{"post_id":"1"}} and more',
    "two bodies": b'{"data":{"post_id":"1"}}{"data":{"post_id":"2"}}',
    "html": b"<!doctype html><title>Sign in</title>",
    "invalid utf-8": b'{"data":{"post_id":"\xff\xfe"}}',
    "lone surrogate": b'{"data":{"post_id":"\\ud800"}}',
    "utf-16": '{"data":{"post_id":"1"}}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"data":{"post_id":"1"}}',
    "nul bytes": b"\0" * 100,
    "deep lists": b"[" * DEPTH,
    "deep objects": b'{"a":' * DEPTH,
    "deep and closed": b'{"data":' + b"[" * DEPTH + b"]" * DEPTH + b"}",
    "deep in an unknown field": b'{"data":{"post_id":"1","x":'
    + b"[" * DEPTH
    + b"]" * DEPTH
    + b"}}",
    "a huge integer": b'{"data":{"post_id":"1","likes":' + b"9" * 5000 + b"}}",
    "a huge exponent": b'{"data":{"post_id":"1","likes":1e999999}}',
    "the error shape under 200": b'{"error":{"code":"x","message":"y"}}',
}


@pytest.mark.parametrize(
    "status", ["200 OK", "404 Not Found", "409 Conflict", "500 Oops", "502 Bad Gateway"]
)
@pytest.mark.parametrize("body", BODIES)
async def test_whatever_the_body_the_error_is_ours(body: str, status: str) -> None:
    """Trap 27: decoders leave by four doors, and all of them lead to one error; a status is told
    whatever its body."""
    async with raw_rig(http(BODIES[body], status), max_retries=1) as (server, client):
        for call in (
            lambda: client.posts.get(POST_ID),
            lambda: client.request(
                "POST", "/v1/posts/analyze", json={"urls": []}, response_type=dict[str, list[Any]]
            ),
        ):
            error: TokfluenceError | None = None
            try:
                await call()
            except (APIStatusError, APIResponseValidationError) as raised:
                error = raised
            if status == "200 OK":
                assert error is None or isinstance(error, APIResponseValidationError)
                assert error is None or len(error.body) <= 200
            else:
                assert isinstance(error, APIStatusError)
                assert error.status == int(status[:3])
            assert len(str(error)) < 1000

        assert client.usage.requests == len(server.requests)


@pytest.mark.real_time
def test_deep_nesting_does_not_kill_a_thread_with_a_small_stack() -> None:
    """Trap 26: msgspec recurses per level; in such a thread that is not an exception but the end of
    the process."""
    caught: list[BaseException] = []

    async def main() -> None:
        for body in (
            BODIES["deep lists"],
            BODIES["deep objects"],
            BODIES["deep in an unknown field"],
        ):
            for status in ("200 OK", "500 Oops"):
                async with raw_rig(http(body, status), max_retries=0) as (_, client):
                    try:
                        await client.posts.get(POST_ID)
                    except TokfluenceError as error:
                        caught.append(error)

    old = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=asyncio.run, args=(main(),))
        thread.start()
        thread.join()
    finally:
        threading.stack_size(old)

    assert [type(error) for error in caught] == [
        APIResponseValidationError,
        InternalServerError,
    ] * 3


# --- heads and framing ----------------------------------------------------------------------------

BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "a line break": b"\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "TLS on a plain port": b"\x15\x03\x01\x00\x02\x02\x28",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a status of letters": b"HTTP/1.1 OK 200\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "half a status line": b"HTTP/1.1 20",
    "a head without an end": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n",
    "a header without a colon": b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    "an endless status line": b"HTTP/1.1 200 " + b"O" * 100_000 + b"\r\n\r\n",
    "an endless header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "a thousand headers": b"HTTP/1.1 200 OK\r\n"
    + b"".join(b"X-%d: y\r\n" % i for i in range(5000))
    + b"\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
    "a length of letters": b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\nhello",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhellohello",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: "
    b"chunked\r\n\r\n5\r\nhello\r\n",
    "chunks of garbage": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: "
    b"chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "a chunk too short": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhello",
    "gzip that is none": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: "
    b"5\r\n\r\nhello",
    "gzip cut": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 12\r\n\r\n"
    + gzip.compress(b"{}" * 99)[:12],
    "an unknown coding": b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: "
    b"5\r\n\r\nhello",
    "a body cut": b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"data":',
    "a body cut at once": b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "switching protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: "
    b"Upgrade\r\n\r\n",
    "HTTP/1.0 without a length": b"HTTP/1.0 200 OK\r\n\r\n<html>hi</html>",
    "HTTP/0.9": b"<html>hi</html>",
    "obsolete folding": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "only a 100": b"HTTP/1.1 100 Continue\r\n\r\n",
    "bad cookies": b'HTTP/1.1 200 OK\r\nSet-Cookie: a b="\x80;;=,\r\nSet-Cookie: '
    b"=\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("broken", BROKEN)
async def test_what_is_not_http_is_an_error_of_ours(broken: str) -> None:
    """Both kinds of call; each attempt counted; the budget is told that it may have been
    charged."""
    async with raw_rig(BROKEN[broken], max_retries=1, timeout=5) as (server, client):
        with pytest.raises(APIError) as caught:
            await client.posts.get(POST_ID)
        assert not isinstance(caught.value, NotFoundError)
        report = await client.posts.analyze(ids(2), batch_size=2)

        assert all(isinstance(outcome.error, APIError) for outcome in report.outcomes)
        # Most of these say nothing of closing, so a repeat may go out on a connection that is just
        # being closed.
        assert client.usage.requests >= len(server.requests) >= 2
        batch = [request for request in server.requests if request.body]
        assert len({request.header("x-request-id") for request in batch}) == 1
        reads = [request.header("x-request-id") for request in server.requests if not request.body]
        assert len(set(reads)) == len(reads)


@pytest.mark.parametrize("broken", BROKEN)
async def test_after_garbage_the_next_answer_is_read(broken: str) -> None:
    """A read that failed is repeated, on another connection, where repeating can help."""
    async with raw_rig(BROKEN[broken], GOOD_POST, timeout=5) as (server, client):
        if broken in ("no content", "not modified", "switching protocols"):
            with pytest.raises(APIError):
                await client.posts.get(POST_ID)
            return
        post = await client.posts.get(POST_ID)

        assert post.post_id == POST_ID
        assert client.usage.requests >= len(server.requests) == 2
        assert client.usage.credits_spent == client.usage.requests


NONSENSE = {
    "5000 digits": "9" * 5000,
    "400 digits": "9" * 400,
    "a sign": "-1",
    "a word": "soon",
    "nothing": "",
    "an exponent": "1e999",
    "a zone of 20 digits": "Mon, 01 Jan 2024 00:00:00 +99999999999999999999",
    "a zone of 5000 digits": "Mon, 01 Jan 2024 00:00:00 +" + "9" * 5000,
    "a year of 20 digits": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
    "the first year": "Mon, 01 Jan 0001 00:00:00 -0000",
    "the last year": "Fri, 31 Dec 9999 23:59:59 -2359",
    "digits of other scripts": "\u0663\u00b2\uff11",
    "a cookie": "a=b; Max-Age=" + "9" * 5000 + "; Expires=Mon, 99 Jan 99999999 99:99:99 GMT",
}
HEADERS = [
    "X-Credits-Remaining",
    "Retry-After",
    "Date",
    "Content-Length",
    "Keep-Alive",
    "Set-Cookie",
]


@pytest.mark.parametrize("own", [True, False], ids=["own session", "user's session"])
@pytest.mark.parametrize("header", HEADERS)
async def test_no_header_says_what_ends_a_job(header: str, own: bool) -> None:
    """A header is an aside. Whatever it says, a batch ends in its answer or in an error of ours,
    and the other batches go on."""
    for text in NONSENSE.values():
        headers = {"Retry-After": "1", "X-Credits-Remaining": "7"} | {header: text}
        said: Any = {name.replace("-", "_"): value for name, value in headers.items()}
        row = b'{"data":[{"url":"","postId":"' + POST_ID.encode() + b'","status":"fresh"}]}'
        behaviours = [
            http(row, **said),
            http(b"<html>", "500 Oops", **said),
            http(b"", "429 Slow", **said),
        ]
        async with AsyncExitStack() as stack:
            session = None if own else await stack.enter_async_context(aiohttp.ClientSession())
            options: dict[str, Any] = {"session": session, "max_retries": 0, "timeout": 5}
            server, client = await stack.enter_async_context(raw_rig(*behaviours, **options))

            answered, broken, refused = [
                (await client.posts.analyze([POST_ID])).outcomes[0] for _ in behaviours
            ]

            assert answered.ok or header == "Content-Length"
            assert isinstance(broken.error, APIError)
            assert isinstance(refused.error, APIError)
            assert len(server.requests) == 3
            assert client.credits_remaining in (None, 7)


async def test_an_impossible_cost_does_not_end_the_budget() -> None:
    """A batch costs 25 a URL at most; a figure beyond that, believed, would leave every later call
    unsent."""
    row = (
        b'{"data":[{"url":"","postId":"'
        + POST_ID.encode()
        + b'","status":"fresh"}],"meta":{"cost":1000000000}}'
    )
    async with raw_rig(http(row), max_credits=50) as (server, client):
        for _ in range(2):
            (await client.posts.analyze([POST_ID])).raise_for_errors()

        assert len(server.requests) == 2
        assert client.usage.credits_spent == 50


@pytest.mark.parametrize("status", ["100 Continue", "102 Processing", "103 Early Hints"])
async def test_interim_answers_are_passed_over(status: str) -> None:
    """A proxy may send some before the answer; they are no answer."""
    async with raw_rig(f"HTTP/1.1 {status}\r\nX-A: b\r\n\r\n".encode() * 3 + GOOD_POST) as (
        server,
        client,
    ):
        assert (await client.posts.get(POST_ID)).post_id == POST_ID
        assert len(server.requests) == 1


async def test_interim_answers_without_end_meet_the_total() -> None:
    """A drip of 1xx keeps every read alive; the total ends it."""

    async def drip(_: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(1)

    async with raw_rig(drip, max_retries=0, timeout=Timeout(total=20)) as (_, client):
        began = asyncio.get_running_loop().time()
        with pytest.raises(APITimeoutError):
            await client.posts.get(POST_ID)
        assert asyncio.get_running_loop().time() - began == pytest.approx(20, abs=0.5)


async def test_bytes_after_an_answer_do_not_become_the_next_one() -> None:
    """A response nobody asked for (desynchronised proxy, smuggling) must not be taken for the next
    call's."""
    wanted = GOOD_POST.replace(b"Connection: close\r\n", b"")
    stray = wanted.replace(POST_ID[-3:].encode(), b"666")

    async def answer(
        request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(wanted + stray)
        await writer.drain()
        await asyncio.sleep(5)

    async with raw_rig(answer, timeout=10) as (server, client):
        for _ in range(3):
            assert (await client.posts.get(POST_ID)).post_id == POST_ID
        assert server.connections == 3


@pytest.mark.parametrize(
    "echo",
    [
        lambda token: http(token, "500 Oops"),
        lambda token: http(
            b'{"error":{"code":"' + token + b'","message":"' + token + b'"}}', "404 Not Found"
        ),
        lambda token: http(b'{"data":{"post_id":' + token),
        lambda token: b"HTTP/1.1 " + token + b"\r\n\r\n",
        lambda token: token + b"\r\n\r\n",
        lambda token: b"HTTP/1.1 200 OK\r\n" + token + b"\r\n\r\n",
        lambda token: b"HTTP/1.1 200 OK\r\nContent-Length: " + token + b"\r\n\r\n",
        lambda token: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + token + b"\r\n",
        lambda token: b"HTTP/1.1 200 OK\r\nX: \x00" + token + b"\r\n\r\n",
        lambda token: http(b"", "302 Found", Location=f"http://evil/{token.decode()}"),
        lambda token: http(b"", "429 Slow", Retry_After=token.decode()),
    ],
)
async def test_a_server_that_echoes_the_token_gets_it_into_no_error(
    echo: Callable[[bytes], bytes],
) -> None:
    """Debug pages quote what they were sent; bug reports quote errors."""
    async with raw_rig(echo(TOKEN.encode()), max_retries=0) as (_, client):
        with pytest.raises(TokfluenceError) as caught:
            await client.posts.get(POST_ID)

        assert SECRET not in str(caught.value) + repr(caught.value) + repr(vars(caught.value))


@pytest.mark.parametrize("stray", ["408 Request Timeout", "200 OK"])
@pytest.mark.parametrize("own", [True, False], ids=["own session", "user's session"])
@pytest.mark.parametrize("then", ["stays open", "closes"])
async def test_an_answer_without_a_request_is_nobodys(stray: str, own: bool, then: str) -> None:
    """HAProxy tells an idle connection 408 before it closes it; taken for the next call's, it would
    be another post's."""
    first = GOOD_POST.replace(b"Connection: close\r\n", b"")
    other = http(b'{"data":{"post_id":"666"}}', stray).replace(b"Connection: close\r\n", b"")

    async def answer(
        request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(first)
        await asyncio.sleep(1)
        writer.write(other)
        if then == "closes":
            return
        with contextlib.suppress(asyncio.IncompleteReadError):
            server.requests.append(Request(await reader.readuntil(b"\r\n\r\n"), b""))
            writer.write(first)
            await writer.drain()

    async with AsyncExitStack() as stack:
        session = None if own else await stack.enter_async_context(aiohttp.ClientSession())
        server, client = await stack.enter_async_context(
            raw_rig(answer, max_retries=0 if own else 1, session=session)
        )
        for _ in range(2):
            assert (await client.posts.get(POST_ID)).post_id == POST_ID
            await asyncio.sleep(2)


async def test_a_server_that_speaks_first_is_given_up() -> None:
    """SSH and SMTP greet their callers: that is no HTTP, on however many connections it is
    tried."""
    greeted = 0

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal greeted
        greeted += 1
        writer.write(b"220 mail.example.com ESMTP\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    listener = await asyncio.start_server(greet, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with TokfluenceClient(TOKEN, base_url=url, max_retries=2) as client:
        with pytest.raises(APIConnectionError):
            await client.posts.get(POST_ID)
    listener.close()
    await listener.wait_closed()
    await asyncio.sleep(0.1)

    assert greeted == 3
