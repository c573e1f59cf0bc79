"""While no connection can be made: jobs wait for it, single calls say so, and it ends some time."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tokfluence_async import (
    APIConnectionError,
    APITimeoutError,
    Progress,
    Sandbox,
    TokfluenceClient,
    crawl,
)
from tokfluence_async._http.outage import Outage

IDS = [str(7234567890123456789 + n) for n in range(600)]


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "swallowed"])
@pytest.mark.sandbox(indexed=0.7, comments_per_post=30)
async def test_an_outage_of_forty_seconds_fails_no_input_of_a_crawl(
    sandbox: Sandbox, tmp_path: Path, silent: bool
) -> None:
    """Nobody has to look for 238 of 600 inputs afterwards, and nothing is paid for twice."""
    loop = asyncio.get_running_loop()
    loop.call_later(20, lambda: sandbox.lose_network(40, silent=silent))
    async with TokfluenceClient(sandbox.token, base_url=sandbox.url) as client:
        report = await crawl(client, IDS, tmp_path, comments=True)

        assert (report.posts, report.failed) == (600, 0)
        assert sandbox.billed_twice() == []
        assert client.usage.credits_spent >= sandbox.credits_spent


@pytest.mark.parametrize("call", ["get_many", "analyze", "resolve"])
async def test_every_bulk_call_waits(sandbox: Sandbox, call: str) -> None:
    """Also where the network goes while batches are at work."""
    asyncio.get_running_loop().call_later(3, sandbox.lose_network, 60)
    async with TokfluenceClient(sandbox.token, base_url=sandbox.url) as client:
        if call == "analyze":
            outcomes = (await client.posts.analyze(IDS[:100])).outcomes
        else:
            stream = getattr(client.posts, call)(IDS[:100])
            outcomes = [outcome async for outcome in stream]

    assert [outcome.error for outcome in outcomes if not outcome.ok] == []
    assert sandbox.billed_twice() == []


async def test_an_outage_is_told_of(
    sandbox: Sandbox, client: TokfluenceClient, caplog: pytest.LogCaptureFixture
) -> None:
    """When it begins, how long it lasts, and when it is over."""
    caplog.set_level(logging.WARNING)
    seen: list[float] = []
    loop = asyncio.get_running_loop()
    loop.call_later(10, sandbox.lose_network, 60)
    loop.call_later(40, lambda: seen.append(client.usage.no_connection_for))

    async for _ in client.posts.get_many(IDS[:400]):
        pass

    assert seen[0] == pytest.approx(30, abs=2)
    assert client.usage.no_connection_for == 0.0
    began, ended = (
        record.message for record in caplog.records if record.name == "tokfluence_async"
    )
    assert f"No connection to {sandbox.url}: jobs wait for it, 900 s at most." in began
    assert "is reached again, after 6" in ended


async def test_few_are_tried_while_nobody_answers(sandbox: Sandbox) -> None:
    """Not fifty connections every few seconds, for as long as it takes."""
    tried = 0
    opened = asyncio.get_running_loop().create_connection

    async def counted(*args: object, **more: object) -> object:
        nonlocal tried
        tried += 1
        return await opened(*args, **more)  # type: ignore[arg-type, misc]

    asyncio.get_running_loop().create_connection = counted  # type: ignore[method-assign, assignment]
    asyncio.get_running_loop().call_later(5, sandbox.lose_network, 300)
    async with TokfluenceClient(sandbox.token, base_url=sandbox.url) as client:
        async for outcome in client.posts.get_many(IDS[:200]):
            assert outcome.ok
    del asyncio.get_running_loop().create_connection  # type: ignore[attr-defined]

    assert tried < 250  # 50 at work, twice; and one in five seconds


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "swallowed"])
async def test_a_single_call_keeps_its_errors_and_limits(sandbox: Sandbox, silent: bool) -> None:
    """An application that awaits one call handles what that call ended in."""
    async with TokfluenceClient(sandbox.token, base_url=sandbox.url, max_retries=1) as client:
        await client.posts.get(IDS[0])
        sandbox.lose_network(silent=silent)
        began = now()

        with pytest.raises(APITimeoutError if silent else APIConnectionError) as caught:
            await client.posts.get(IDS[1])

        assert caught.value.attempts == 2
        assert now() - began < 125


async def test_a_job_ends_when_nobody_comes_back(sandbox: Sandbox, tmp_path: Path) -> None:
    """After a quarter of an hour, with what was done; the rest is not tried input by input."""
    told: list[Progress] = []
    asyncio.get_running_loop().call_later(20, sandbox.lose_network)
    async with TokfluenceClient(sandbox.token, base_url=sandbox.url) as client:
        began = now()
        outcomes = [
            outcome async for outcome in client.posts.get_many(IDS, on_progress=told.append)
        ]

    assert 900 <= now() - began < 1000
    assert 100 < sum(outcome.ok for outcome in outcomes) < 400
    assert {type(outcome.error) for outcome in outcomes if not outcome.ok} == {APIConnectionError}
    assert told[-1].done == 600


async def test_a_wrong_address_is_not_waited_for_long() -> None:
    """Where nobody was ever reached, an outage and a wrong address look the same."""
    async with TokfluenceClient("t", base_url="http://127.0.0.1:9") as client:
        began = now()
        outcomes = [outcome async for outcome in client.posts.get_many(IDS)]

    assert 60 <= now() - began < 70
    assert all("127.0.0.1" in str(outcome.error) for outcome in outcomes)


async def test_who_is_cancelled_while_waiting_keeps_nobody_waiting() -> None:
    """The turn to try goes to the next."""
    outage = Outage("https://example.com")
    outage.reached()
    outage.failed(APIConnectionError("refused"))
    first, second = asyncio.ensure_future(outage.passed()), asyncio.ensure_future(outage.passed())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0.6)

    assert second.done()
    assert second.exception() is None


@pytest.mark.parametrize("call", ["get_many", "analyze", "resolve"])
async def test_a_job_after_one_that_had_waited_for_too_long_tries_again(
    sandbox: Sandbox, call: str
) -> None:
    """A client that lives for weeks outlives an outage of an hour."""

    async def job() -> list[bool]:
        if call == "analyze":
            return [outcome.ok for outcome in await client.posts.analyze(IDS[:50])]
        return [outcome.ok async for outcome in getattr(client.posts, call)(IDS[:50])]

    async with TokfluenceClient(sandbox.token, base_url=sandbox.url) as client:
        await client.posts.get(IDS[0])
        sandbox.lose_network(3000)
        assert not any(await job())  # 900 s
        await asyncio.sleep(600)
        began = now()
        assert not any(await job())  # waits anew
        assert 900 <= now() - began < 1000

        await asyncio.sleep(1200)
        assert all(await job())
        assert client.usage.no_connection_for == 0.0


@pytest.mark.parametrize("call", ["get_many", "analyze"])
async def test_an_outage_that_is_waited_out_is_not_the_services_time(
    sandbox: Sandbox, client: TokfluenceClient, call: str
) -> None:
    """The limit for all attempts of a call together is for a service that keeps failing."""
    loop = asyncio.get_running_loop()

    def goes(_: object) -> bool:
        loop.call_soon(sandbox.lose_network, 500)
        return True

    await client.posts.get(IDS[0])
    sandbox.drop_answer(times=2, where=goes)
    sandbox.proxy_error(503)
    if call == "analyze":
        [outcome] = await client.posts.analyze(IDS[1:2])
    else:
        [outcome] = [outcome async for outcome in client.posts.get_many(IDS[1:2])]

    assert outcome.error is None
    assert now() > 1000


async def _refusing_proxy(status: int, asked: list[bytes]) -> asyncio.Server:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 %d Refused\r\nContent-Length: 0\r\n\r\n" % status)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(refuse, "127.0.0.1", 0)


@pytest.mark.parametrize("status", [502, 503, 504, 407, 403])
async def test_a_proxy_that_cannot_reach_the_service_is_an_outage(status: int) -> None:
    """As it says so by a status, inputs failed one by one. A proxy that wants a login is asked in
    vain for as long as one likes, so that is not waited for."""
    asked: list[bytes] = []
    server = await _refusing_proxy(status, asked)
    proxy = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with (
        server,
        TokfluenceClient("t", base_url="https://service.invalid", proxy=proxy) as client,
    ):
        began = now()
        outcomes = [outcome async for outcome in client.posts.get_many(IDS[:50])]

    assert {type(outcome.error) for outcome in outcomes} == {APIConnectionError}
    assert "The proxy refused to connect" in str(outcomes[0].error)
    assert (now() - began >= 60) == (status >= 500)
    assert (len(asked) < 100) == (status >= 500)
