"""Scripted faults, as raw sockets and aiohttp see them, and what they do to wallet and ids."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tokfluence_async import Sandbox
from tokfluence_async._sandbox.faults import Fault
from tokfluence_async._sandbox.ledger import ANALYZE, COMMENTS, POST

from .conftest import OTHER_ID, POST_ID, url_of

GONE = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


async def raw(
    api: Any, path: str = f"/v1/posts/{POST_ID}", *, timeout: float = 1000
) -> tuple[bytes, str]:
    """Everything a plain socket gets, and how the connection ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.sandbox.port)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer "
        f"{api.sandbox.token}\r\n\r\n".encode()
    )
    got = b""
    try:
        async with asyncio.timeout(timeout):
            while piece := await reader.read(65536):
                got += piece
        end = "closed"
    except ConnectionResetError:
        end = "reset"
    except TimeoutError:
        end = "silence"
    finally:
        writer.close()
    return got, end


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


async def whole_body(api: Any) -> bytes:
    return body_of((await raw(api))[0])


# Lost answers


@pytest.mark.parametrize("reset", [False, True])
async def test_a_dropped_answer_was_done_and_charged(
    start: Callable[..., Any], reset: bool
) -> None:
    """The one case that costs money twice if a client is careless: 409 on the retry is the
    proof."""
    api = await start(indexed=0.0, visibility_delay=0)
    fault = api.sandbox.drop_answer(to=ANALYZE, reset=reset)

    with pytest.raises(GONE):
        await api.analyze(POST_ID, request_id="one")
    again = await api.analyze(POST_ID, request_id="one")

    assert again.status == 409
    assert api.sandbox.credits_spent == 25
    assert (await api.get()).status == 200
    entry = api.sandbox.requests[0]
    assert (entry.status, entry.done, entry.answered, entry.fault) == (
        200,
        True,
        False,
        "reset" if reset else "drop",
    )
    assert fault.hits == 1
    assert api.sandbox.pending_faults == []


async def test_how_a_lost_answer_ends(start: Callable[..., Any]) -> None:
    """An orderly close, or a RST, and not a byte before."""
    api = await start()
    api.sandbox.drop_answer()
    api.sandbox.drop_answer(reset=True)

    assert [await raw(api), await raw(api)] == [(b"", "closed"), (b"", "reset")]


@pytest.mark.parametrize("reset", [False, True])
async def test_a_refused_connection_costs_nothing(start: Callable[..., Any], reset: bool) -> None:
    """Before the work: not charged, and the id is still good."""
    api = await start(indexed=0.0)
    api.sandbox.refuse_connection(to=ANALYZE, reset=reset)

    with pytest.raises(GONE):
        await api.analyze(POST_ID, request_id="one")
    assert api.sandbox.credits_spent == 0

    assert (await api.analyze(POST_ID, request_id="one")).status == 200


@pytest.mark.parametrize(("when", "statuses"), [("before", [None, 200]), ("after", [200, 409])])
async def test_aiohttp_sends_a_read_again_by_itself(
    start: Callable[..., Any], when: str, statuses: list[int | None]
) -> None:
    """Trap 1, made visible: a reused connection that dies makes two requests of one call, under one
    id."""
    api = await start(reuse=True)
    api.sandbox.drop_reused(when=when)
    assert (await api.get(request_id="first")).status == 200

    answer = await api.get(request_id="second")

    sent = api.sandbox.requests[1:]
    assert [entry.request_id for entry in sent] == ["second", "second"]
    assert [entry.status for entry in sent] == statuses
    assert [entry.connection for entry in sent] == [1, 0]
    assert answer.status == statuses[-1]


async def test_idle_connections_can_be_closed(start: Callable[..., Any]) -> None:
    """Only idle ones: what is at work stays."""
    api = await start(reuse=True, indexed=0.0, seconds_per_url=10)
    working = asyncio.create_task(api.analyze(POST_ID))
    await asyncio.sleep(1)
    await asyncio.gather(api.get(), api.get())
    assert api.sandbox.open_connections == 3

    closed = api.sandbox.close_idle()
    await asyncio.sleep(0.1)

    assert closed == 2
    assert api.sandbox.open_connections == 1
    assert (await working).status == 200


async def test_idle_connections_are_closed_after_a_while(start: Callable[..., Any]) -> None:
    """As every server does, on the loop's clock."""
    api = await start(reuse=True, keepalive=10)
    await api.get()

    await asyncio.sleep(9)
    before = api.sandbox.open_connections
    await asyncio.sleep(2)

    assert (before, api.sandbox.open_connections) == (1, 0)


# Silence


async def test_silence_before_and_after_the_work(start: Callable[..., Any]) -> None:
    """What is late is done all the same; what is stalled before the work is not done yet."""
    api = await start()
    loop = asyncio.get_running_loop()
    for when, charged in (("before", 0), ("after", 1)):
        api.sandbox.stall(30, when=when)
        spent, began = api.sandbox.credits_spent, loop.time()
        late = asyncio.create_task(api.get())
        await asyncio.sleep(20)
        assert api.sandbox.credits_spent - spent == charged
        assert (await late).status == 200
        assert loop.time() - began == pytest.approx(30, abs=0.01)


async def test_silence_for_ever_ends_with_the_sandbox(start: Callable[..., Any]) -> None:
    """No task is left: closing the sandbox cancels what it was waiting for."""
    api = await start()
    api.sandbox.stall(to=POST, times=None)
    api.sandbox.stall(to=COMMENTS, when="before")

    assert await raw(api, timeout=100_000) == (b"", "silence")
    with pytest.raises(TimeoutError):
        await api.comments(timeout=100_000)
    assert api.sandbox.in_flight() == 2
    assert [entry.charged for entry in api.sandbox.requests] == [1, 0]

    await api.sandbox.aclose()
    assert api.sandbox.in_flight() == 0


async def test_silence_in_the_body(start: Callable[..., Any]) -> None:
    """Half of the body, nothing for a while, the other half."""
    api = await start()
    whole = await whole_body(api)
    api.sandbox.stall(5, in_body=True)
    api.sandbox.stall(in_body=True)

    late = await raw(api)
    never = await raw(api, timeout=100)

    assert (body_of(late[0]), late[1]) == (whole, "closed")
    assert (body_of(never[0]), never[1]) == (whole[: len(whole) // 2], "silence")


async def test_a_slow_drip(start: Callable[..., Any]) -> None:
    """A byte a second: no time limit on single reads notices."""
    api = await start()
    whole = await whole_body(api)
    api.sandbox.drip(piece=10, every=2.0)
    before = asyncio.get_running_loop().time()

    got, _ = await raw(api)

    assert body_of(got) == whole
    assert asyncio.get_running_loop().time() - before == pytest.approx(
        2.0 * -(-len(whole) // 10), abs=0.1
    )
    assert api.sandbox.requests[-1].answered


async def test_a_drip_nobody_reads_ends(start: Callable[..., Any]) -> None:
    """The client has gone in the middle: nothing is left running, and nothing is answered."""
    api = await start()
    api.sandbox.drip(every=10.0)

    with pytest.raises(TimeoutError):
        await api.get(timeout=25)
    await asyncio.sleep(30)

    assert api.sandbox.in_flight() == 0
    assert not api.sandbox.requests[-1].answered


# Proxies and other people's answers


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize(("when", "spent"), [("before", 0), ("after", 25)])
async def test_a_proxys_error_says_nothing_of_credits(
    start: Callable[..., Any], status: int, when: str, spent: int
) -> None:
    """HTML, no `X-Credits-Remaining`; the status does not tell whether the work was done."""
    api = await start(indexed=0.0)
    api.sandbox.proxy_error(status, to=ANALYZE, when=when)

    answer = await api.analyze(POST_ID, request_id="one")

    assert answer.status == status
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.raw.startswith(b"<html>")
    assert "X-Credits-Remaining" not in answer.headers
    assert api.sandbox.credits_spent == spent
    assert (await api.analyze(POST_ID, request_id="one")).status == (409 if spent else 200)


async def test_a_proxys_body_may_be_empty_or_cut(start: Callable[..., Any]) -> None:
    """Or late."""
    api = await start()
    api.sandbox.proxy_error(body=b"")
    api.sandbox.proxy_error(cut=0.5, delay=60.0)
    before = asyncio.get_running_loop().time()

    empty = await api.get()
    cut, end = await raw(api)

    assert (empty.status, empty.raw) == (502, b"")
    assert end == "closed"
    assert b"</html>" not in cut
    assert body_of(cut).startswith(b"<html>")
    assert asyncio.get_running_loop().time() - before == pytest.approx(60, abs=0.1)


async def test_anything_can_be_answered_on_any_route(start: Callable[..., Any]) -> None:
    """For endpoints the sandbox does not have, and for answers of a wrong shape."""
    api = await start()
    api.sandbox.answer(
        {"data": []}, to="POST /v1/ai_search", headers={"X-Credits-Remaining": "7"}, times=None
    )
    api.sandbox.answer([1], status=299, to="* /v1/posts/:id")
    api.sandbox.answer("\ufeff{}", to=POST)

    search = await api.call("POST", "/v1/ai_search", json={"query": "x"})
    odd = await api.call("PATCH", f"/v1/posts/{POST_ID}")
    text = await api.get()

    assert (search.status, search.body, search.credits) == (200, {"data": []}, 7)
    assert (odd.status, odd.body) == (299, [1])
    assert text.raw == "\ufeff{}".encode()
    assert api.sandbox.credits_spent == 0


async def test_redirects(start: Callable[..., Any]) -> None:
    """To another host, with a token that must not go there."""
    api = await start()
    api.sandbox.redirect("http://127.0.0.2:1/v1/posts/1", status=307)

    answer = await api.get()

    assert (answer.status, answer.headers["Location"]) == (307, "http://127.0.0.2:1/v1/posts/1")


# The API's own errors


@pytest.mark.parametrize(
    ("options", "charged", "done", "again"),
    [
        ({}, 0, False, 200),
        ({"charged": True}, 25, False, 200),
        ({"when": "after"}, 25, True, 409),
        ({"when": "after", "charged": False}, 0, True, 409),
    ],
)
async def test_an_internal_error_may_have_cost_and_done_something(
    start: Callable[..., Any], options: dict[str, Any], charged: int, done: bool, again: int
) -> None:
    """ "Whether it was charged is not documented"; an id whose work was done is always used up."""
    api = await start(indexed=0.0, visibility_delay=0)
    api.sandbox.internal_error(to=ANALYZE, **options)

    answer = await api.analyze(POST_ID, request_id="one")

    assert (answer.status, answer.code) == (500, "internal_error")
    assert answer.credits == 1_000_000 - charged
    assert api.sandbox.charged(POST_ID, ANALYZE) == charged
    assert api.sandbox.is_indexed(POST_ID) is done
    assert (await api.analyze(POST_ID, request_id="one")).status == again


@pytest.mark.parametrize(
    ("retry_after", "header"),
    [
        (1, "1"),
        (0.5, "0.5"),
        (None, None),
        ("Wed, 21 Oct 2026 07:28:00 GMT",) * 2,
        ("soon", "soon"),
        (-3, "-3"),
    ],
)
async def test_a_burst_of_429(
    start: Callable[..., Any], retry_after: Any, header: str | None
) -> None:
    """With any text as Retry-After, uncharged, as often as scripted."""
    api = await start()
    api.sandbox.rate_limit(times=2, retry_after=retry_after)

    answers = [await api.get(request_id="one") for _ in range(3)]

    assert [answer.status for answer in answers] == [429, 429, 200]
    assert [answer.headers.get("Retry-After") for answer in answers] == [header, header, None]
    assert answers[0].code == "rate_limited"
    assert api.sandbox.credits_spent == 1
    assert api.sandbox.rate_limited == 2


# Broken bodies


async def test_cut_bodies(start: Callable[..., Any]) -> None:
    """Shorter than promised, or without the last chunk; aiohttp tells while reading, after the
    status."""
    api = await start()
    whole = await whole_body(api)
    api.sandbox.cut_body(at=0.25)
    api.sandbox.cut_body(chunked=True)
    api.sandbox.cut_body(chunked=True, at=0.0)

    by_length, by_chunk, no_chunk = [(await raw(api))[0] for _ in range(3)]
    assert body_of(by_length) == whole[: len(whole) // 4]
    assert f"Content-Length: {len(whole)}".encode() in by_length
    assert body_of(by_chunk) == b"%x\r\n%s\r\n" % (len(whole) // 2, whole[: len(whole) // 2])
    assert body_of(no_chunk) == b""

    for chunked in (False, True):
        api.sandbox.cut_body(chunked=chunked)
        with pytest.raises(aiohttp.ClientPayloadError):
            await api.get()
    assert api.sandbox.credits_spent == 6
    assert not any(entry.answered for entry in api.sandbox.requests[1:])


async def test_a_reset_in_the_body(start: Callable[..., Any]) -> None:
    """RST after half of it."""
    api = await start(comments_per_post=200)
    api.sandbox.reset_body(to=COMMENTS)

    got, end = await raw(api, f"/v1/posts/{POST_ID}/comments?limit=200")

    assert end == "reset"
    assert got.startswith(b"HTTP/1.1 200")


async def test_huge_bodies(start: Callable[..., Any]) -> None:
    """Valid JSON and very much white space, in chunks or packed."""
    api = await start()
    expected = (await api.get()).body
    api.sandbox.huge_body(3_000_000)
    api.sandbox.gzip_bomb(3_000_000)

    huge = await api.get()
    bomb, _ = await raw(api)

    assert len(huge.raw) == 3_000_000
    assert huge.body == expected
    assert b"Content-Encoding: gzip" in bomb
    assert len(bomb) < 10_000
    unpacked = zlib.decompress(body_of(bomb), 31)
    assert len(unpacked) == 3_000_000
    assert json.loads(unpacked) == expected


async def test_deep_bodies(start: Callable[..., Any]) -> None:
    """As many arrays as asked for, one in the other."""
    api = await start()
    api.sandbox.nested_body(1000)

    answer = await api.get()

    assert answer.raw == b'{"data":' + b"[" * 1000 + b"]" * 1000 + b"}"


@pytest.mark.parametrize("body", [b'{"data":"\xff\xfe"}', b"", "null", {"data": [1, 2]}, ["x"]])
async def test_wrong_bodies_under_the_right_head(start: Callable[..., Any], body: Any) -> None:
    """The work is done and charged, the status is 200, the body is useless."""
    api = await start()
    api.sandbox.replace_body(body)

    answer = await api.get()

    expected = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else None
    assert answer.raw == expected if expected is not None else answer.body == body
    assert (answer.status, answer.credits) == (200, 999_999)


# Addressing


async def test_faults_hit_what_they_are_addressed_to(start: Callable[..., Any]) -> None:
    """By route, by count, by place, by any condition; one fault a request, in the order of
    scripting."""
    api = await start()
    script = api.sandbox
    script.rate_limit(to=COMMENTS, nth=2, times=2)
    script.proxy_error(503, where=lambda entry: OTHER_ID in entry.post_ids, times=None)
    script.proxy_error(504, where=lambda entry: OTHER_ID in entry.post_ids)

    pages = [(await api.comments()).status for _ in range(5)]
    others = [(await api.get(OTHER_ID)).status for _ in range(3)]

    assert pages == [200, 429, 429, 200, 200]
    assert others == [503, 503, 503]
    assert (await api.get()).status == 200
    assert [(fault.hits, fault.seen) for fault in script.pending_faults] == [(3, 3), (0, 0)]
    script.clear_faults()
    assert (await api.get(OTHER_ID)).status == 200


async def test_faults_wait_for_requests_that_get_so_far(start: Callable[..., Any]) -> None:
    """What the throttle or the token check refuses is not hit."""
    api = await start(per_ip=2)
    fault = api.sandbox.proxy_error(nth=2)

    statuses = [
        (await api.get(token="x")).status,
        (await api.get()).status,
        (await api.get()).status,
    ]

    assert statuses == [401, 200, 429]
    assert fault.seen == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "explode"},
        {"when": "during"},
        {"times": 0},
        {"nth": 0},
        {"to": "/v1/posts/:id"},
        {"to": "get /v1"},
        {"to": ""},
    ],
)
def test_faults_that_could_never_strike_are_refused(wrong: dict[str, Any]) -> None:
    """A fault that silently never comes makes a test that cannot fail."""
    with pytest.raises(ValueError):
        Fault(**{"kind": "drop", **wrong})


async def test_a_fault_of_the_sandbox_itself_is_not_passed_over(start: Callable[..., Any]) -> None:
    """It is answered 500, and raised when the sandbox closes."""

    def broken(post_id: str) -> float:
        raise ZeroDivisionError(post_id)

    api = await start(indexed=0.0, seconds_per_url=broken)

    answer = await api.analyze(POST_ID)
    with pytest.raises(ExceptionGroup) as caught:
        await api.sandbox.aclose()

    assert (answer.status, answer.code) == (500, "sandbox_failed")
    assert caught.group_contains(ZeroDivisionError)
    await api.sandbox.aclose()


async def test_a_body_that_breaks_its_own_framing_is_refused(start: Callable[..., Any]) -> None:
    """A client's chunks that are no chunks: 422 once its time is up, and no work."""
    api = await start(indexed=0.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.sandbox.port)
    writer.write(
        f"POST /v1/posts/analyze HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        f"{api.sandbox.token}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n".encode()
    )
    await asyncio.sleep(1)
    writer.write(b"zz\r\n")
    answer = await reader.read(100)
    writer.close()

    assert answer[:12] == b"HTTP/1.1 422"
    assert api.sandbox.credits_spent == 0


async def test_a_client_that_leaves_in_the_middle_of_its_body_costs_nothing(
    start: Callable[..., Any],
) -> None:
    """Half a batch is no batch."""
    api = await start(indexed=0.0)
    body = json.dumps({"urls": [url_of(POST_ID)]}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", api.sandbox.port)
    writer.write(
        f"POST /v1/posts/analyze HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        f"{api.sandbox.token}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body[:20]
    )
    await asyncio.sleep(1)
    writer.close()
    await asyncio.sleep(1)

    assert api.sandbox.in_flight() == 0
    assert api.sandbox.credits_spent == 0
    assert not api.sandbox.is_indexed(POST_ID)


# Bodies that are nearly right


def texts_of(value: Any) -> list[str]:
    """Every text that people write, wherever it stands."""
    if isinstance(value, dict):
        own = [value[name] for name in ("caption", "text", "title", "message") if name in value]
        return own + [text for each in value.values() for text in texts_of(each)]
    if isinstance(value, list):
        return [text for each in value for text in texts_of(each)]
    return []


@pytest.mark.parametrize(
    ("half", "begins", "ends"),
    [("high", False, True), ("low", True, False), ("both", True, True)],
)
async def test_texts_are_cut_in_the_middle_of_an_emoji(
    start: Callable[..., Any], half: str, begins: bool, ends: bool
) -> None:
    """The body is valid JSON, in ASCII as such services write it, and nothing else has changed."""
    api = await start(comments_per_post=30)
    right = [await api.get(), await api.comments(), await api.get("abc")]
    fault = api.sandbox.half_emoji(half, times=3)

    cut = [await api.get(), await api.comments(), await api.get("abc")]

    for before, after in zip(right, cut, strict=True):
        assert after.status == before.status
        assert after.raw.isascii()
        assert b"\\ud83d" in after.raw.lower() or not ends
        for whole, text in zip(texts_of(before.body), texts_of(after.body), strict=True):
            assert text == ("\ude02" * begins) + (whole or "") + ("\ud83d" * ends)
    assert fault.hits == 3
    assert api.sandbox.credits_spent == 2 * (1 + 2 + 1)


async def test_any_field_may_be_cut(start: Callable[..., Any]) -> None:
    """Rows of an analyze answer have no text but their URL and status."""
    api = await start(indexed=0.0, seconds_per_url=0)
    api.sandbox.half_emoji(to=ANALYZE, fields=["url"])

    answer = await api.analyze(POST_ID)

    assert answer.body["data"][0]["url"] == url_of(POST_ID) + "\ud83d"
    assert answer.body["data"][0]["status"] == "analyzed"


@pytest.mark.parametrize(
    ("how", "refused"),
    [
        ("nan", "NaN"),
        ("infinity", "Infinity"),
        ("-infinity", "-Infinity"),
        ("bom", "BOM"),
        ("newline", "control character"),
        ("tab", "control character"),
        ("latin-1", "codec can't decode"),
        ("comma", r"Expecting property name|Illegal trailing comma"),
    ],
)
async def test_bodies_that_are_nearly_json(
    start: Callable[..., Any], how: str, refused: str
) -> None:
    """Each is one thing away from what was charged, and a strict reader refuses it."""
    api = await start(comments_per_post=30)
    right = [await api.get(), await api.comments()]
    api.sandbox.nearly_json(how, times=2)

    wrong = [await api.get(), await api.comments()]

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    for before, after in zip(right, wrong, strict=True):
        assert (after.status, after.raw != before.raw) == (200, True)
        with pytest.raises(ValueError, match=refused):
            json.loads(after.raw.decode(), parse_constant=refuse)
    assert api.sandbox.credits_spent == 2 * (1 + 2)


async def test_a_function_may_make_the_wrong_body_of_the_right_one(
    start: Callable[..., Any],
) -> None:
    """For whatever has no name here."""
    api = await start()
    api.sandbox.replace_body(lambda body: body.replace(b'"post_id"', b'"postId"'))

    assert "postId" in (await api.get()).body["data"]
    assert "post_id" in (await api.get()).body["data"]


# What happens to all connections at once


async def pooled(api: Any, count: int) -> None:
    """Leave so many idle connections in the client's pool."""
    await asyncio.gather(*(api.get(str(number)) for number in range(1, count + 1)))
    assert api.sandbox.open_connections == count


async def test_all_connections_of_a_pool_are_dead_at_once(start: Callable[..., Any]) -> None:
    """Nobody is told: each is found out by the request that uses it, which was never received."""
    api = await start(reuse=True, latency=0.5)
    await pooled(api, 4)

    assert api.sandbox.lose_connections() == 4
    assert api.sandbox.open_connections == 4
    received = api.sandbox.requests_received
    for _ in range(4):
        with pytest.raises(GONE):
            await api.call("POST", "/v1/posts/analyze", data=b"{}")

    assert api.sandbox.requests_received == received
    assert (await api.get()).status == 200
    assert api.sandbox.requests[-1].connection == 0


async def test_what_is_under_way_on_a_lost_connection_is_charged(
    start: Callable[..., Any],
) -> None:
    """A balancer knows nothing of the work behind it."""
    api = await start(indexed=0.0, seconds_per_url=10)
    call = asyncio.create_task(api.analyze(POST_ID))
    await asyncio.sleep(5)

    api.sandbox.lose_connections()
    with pytest.raises(GONE):
        await call
    await asyncio.sleep(10)

    entry = api.sandbox.requests[0]
    assert (entry.charged, entry.done, entry.answered) == (25, True, False)
    assert api.sandbox.is_indexed(POST_ID)


async def test_a_connection_may_be_lost_in_silence(start: Callable[..., Any]) -> None:
    """As behind a firewall that has forgotten it: what is sent vanishes, and so do answers."""
    api = await start(reuse=True, latency=1.0)
    await pooled(api, 1)
    call = asyncio.create_task(api.get(timeout=30))
    await asyncio.sleep(0.5)

    api.sandbox.lose_connections(silent=True)
    with pytest.raises(TimeoutError):
        await call

    assert api.sandbox.requests[-1].answered is False
    assert (await api.get()).status == 200


async def test_a_network_that_is_away_for_a_while(start: Callable[..., Any]) -> None:
    """No connection is made, those there were are dead, and afterwards all is as before, at the
    same address."""
    api = await start(reuse=True)
    await pooled(api, 2)
    url = api.sandbox.url

    api.sandbox.lose_network(40)
    for _ in range(2):
        with pytest.raises(GONE):
            await api.call("POST", "/v1/posts/analyze", data=b"{}")
    with pytest.raises(aiohttp.ClientConnectorError):
        await api.get()
    await asyncio.sleep(39)
    with pytest.raises(aiohttp.ClientConnectorError):
        await api.get()
    await asyncio.sleep(1.1)

    assert (await api.get()).status == 200
    assert api.sandbox.url == url
    assert api.sandbox.requests_received == 3


async def test_a_network_that_swallows_everything(start: Callable[..., Any]) -> None:
    """Connections are made, by the system, and nothing ever comes back on them."""
    api = await start()

    api.sandbox.lose_network(silent=True)
    with pytest.raises(RuntimeError, match="away already"):
        api.sandbox.lose_network()
    with pytest.raises(TimeoutError):
        await api.get(timeout=30)
    await api.sandbox.restore_network()

    assert (await api.get()).status == 200
    assert api.sandbox.requests_received == 1


@pytest.mark.parametrize("silent", [False, True])
async def test_a_sandbox_can_be_closed_while_it_is_away(
    start: Callable[..., Any], silent: bool
) -> None:
    """Nothing waits for its return, and its port is free."""
    api = await start(reuse=True)
    await pooled(api, 1)
    api.sandbox.lose_network(3600, silent=silent)

    await api.sandbox.aclose()

    with pytest.raises(RuntimeError, match="not serving"):
        api.sandbox.lose_network()
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_the_network_can_be_taken_away_over_http(start: Callable[..., Any]) -> None:
    """From another process; the door it came by stays open."""
    api = await start(reuse=True)

    scripted = await api.call(
        "POST", "/_sandbox/faults", json={"fault": "lose_network", "seconds": 9}
    )
    ledger = await api.call("GET", "/_sandbox/ledger")

    assert (scripted.status, scripted.body) == (201, {"kind": "lose_network"})
    assert ledger.body["open_connections"] == 1
    await asyncio.sleep(10)
    assert (await api.get()).status == 200


@pytest.mark.parametrize("wrong", [{"half": "left"}, {"how": "yaml"}])
def test_bodies_nobody_can_make_are_refused(wrong: dict[str, str]) -> None:
    """When they are scripted, not when they strike."""
    sandbox = Sandbox()
    with pytest.raises(ValueError, match=r"there are|it is one of"):
        sandbox.half_emoji(**wrong) if "half" in wrong else sandbox.nearly_json(**wrong)
