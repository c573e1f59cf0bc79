"""What an exchange that failed is called, and what its words tell to do."""

from __future__ import annotations

import asyncio
import ssl
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from tokfluence_async import (
    APIConnectionError,
    APITimeoutError,
    Sandbox,
    Throttle,
    Timeout,
    TokfluenceClient,
)
from tokfluence_async._credits.halt import Halt
from tokfluence_async._http.attempt import Attempt
from tokfluence_async._http.failures import late, lost
from tokfluence_async._throttle.origin import Origin
from tokfluence_async._wire.secret import Secret
from tokfluence_async.testing import VirtualLoop

CHECK = "Check base_url (TOKFLUENCE_BASE_URL) and the network"


def _attempt(timeout: Timeout = Timeout()) -> Attempt:  # noqa: B008 - frozen
    throttle = Throttle(None, None)
    lanes = throttle.lanes("https://example.com", "key")
    return Attempt("r", Secret("x"), lanes, asyncio.get_running_loop(), timeout, Halt())


def _left(timeout: Timeout = Timeout()) -> Attempt:  # noqa: B008 - frozen
    attempt = _attempt(timeout)
    attempt.leaves()
    return attempt


@pytest.mark.parametrize(
    ("timeout", "what", "advice"),
    [
        (Timeout(total=60.0, read=None), "within 60 s", "raise timeout="),
        (Timeout(total=None, read=5.0), "stalled for 5 s", "raise timeout=Timeout(read="),
        (Timeout(total=60.0, read=5.0), "stalled for 5 s", "raise timeout=Timeout(read="),
        (Timeout(total=5.0, read=60.0), "within 5 s", "raise timeout="),
        (Timeout(total=5.0, read=5.0), "within 5 s", "raise timeout="),
        (Timeout(total=None, read=None), "operating system", "network"),
    ],
)
async def test_a_late_answer_says_which_limit_to_raise(
    timeout: Timeout, what: str, advice: str
) -> None:
    """And what became of the money, be it a read or a batch."""
    attempt = _left(timeout)
    error = TimeoutError()  # the operating system's
    if timeout.total or timeout.read:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout_at(attempt.start_clock()) as attempt.clock:
                await asyncio.sleep(1000)
        error = caught.value

    told = str(late(error, attempt))

    for part in (what, advice, "may have been done and charged", "read", "batch"):
        assert part in told


async def test_a_late_connection_says_where_to_look() -> None:
    """An address that swallows packets is as often a wrong one as a slow one."""
    error = late(aiohttp.ConnectionTimeoutError(), _attempt(Timeout(connect=3.0)))

    assert "No connection within 3 s. Nothing was sent and nothing was charged." in str(error)
    assert CHECK in str(error)
    assert "raise timeout=Timeout(connect=" in str(error)


async def test_a_service_that_is_not_there_says_where_to_look() -> None:
    """Refused, or a name that nobody knows."""
    async with Sandbox() as gone:
        url = gone.url
    async with TokfluenceClient("x", base_url=url, max_retries=0) as client:
        with pytest.raises(APIConnectionError) as refused:
            await client.posts.get(1)
    key: Any = SimpleNamespace(host="nowhere.invalid", port=443, ssl=True)
    unknown = lost(aiohttp.ClientConnectorDNSError(key, OSError("no such name")), _attempt())

    for error, host in ((refused.value, "127.0.0.1"), (unknown, "nowhere.invalid")):
        assert not error.sent
        assert host in str(error)
        assert f"Nothing was sent and nothing was charged. {CHECK}." in str(error)


@pytest.mark.parametrize("kind", [True, False, ssl.create_default_context()])
async def test_no_word_is_lost_on_an_encryption_that_is_not_the_matter(kind: Any) -> None:
    """aiohttp says `ssl:default` of an http address, too."""
    key: Any = SimpleNamespace(host="127.0.0.1", port=9, ssl=kind)

    told = str(lost(aiohttp.ClientConnectorError(key, OSError(111, "refused")), _attempt()))

    assert told.startswith("Cannot connect to host 127.0.0.1:9 [refused]. Nothing was sent")


async def test_a_certificate_that_is_refused_is_told() -> None:
    """There it is the matter."""
    key: Any = SimpleNamespace(host="127.0.0.1", port=9, ssl=True, is_ssl=True)
    error = aiohttp.ClientConnectorCertificateError(key, ssl.CertificateError("expired"))

    assert "expired" in str(lost(error, _attempt()))


async def test_a_connection_that_broke_is_not_a_wrong_address() -> None:
    """Somebody was there."""
    told = str(lost(aiohttp.ServerDisconnectedError(), _left()))

    assert "base_url" not in told
    assert "may have been done and charged" in told


@pytest.mark.parametrize("own", [True, False], ids=["our session", "the caller's"])
@pytest.mark.parametrize("call", ["get", "analyze"])
async def test_a_call_keeps_its_limits_where_the_loop_was_late_with_its_slot(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, call: str, own: bool
) -> None:
    """On a pooled connection, a request that had to take a second slot waited for ever."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    granted = Origin.tick
    late_by = [0.0, 0.4]

    def tick(*args: Any) -> None:
        granted(*args)
        if late_by:
            loop.advance(late_by.pop())

    async with (
        aiohttp.ClientSession() as session,
        TokfluenceClient(
            sandbox.token,
            base_url=sandbox.url,
            timeout=5,
            max_retries=0,
            throttle=Throttle(burst=1),
            session=None if own else session,
        ) as client,
    ):
        await client.posts.get(1)
        sandbox.stall(times=None)
        monkeypatch.setattr(Origin, "tick", tick)
        if call == "get":
            work = asyncio.ensure_future(client.posts.get(2))
        else:
            work = asyncio.ensure_future(client.posts.analyze([2]))
        await asyncio.wait([work], timeout=3600)

        assert work.done()
        error = work.exception() if call == "get" else work.result().outcomes[0].error
        assert isinstance(error, APITimeoutError)
        assert late_by == [0.0] or not late_by
