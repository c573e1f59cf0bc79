"""Time limits, and cancelling at any moment: prompt, and nothing stays taken."""

from __future__ import annotations

import asyncio
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from tokfluence_async import APITimeoutError, Sandbox, Throttle, Timeout, TokfluenceClient
from tokfluence_async._sandbox.ledger import ANALYZE, POST
from tokfluence_async.testing import VirtualLoop

from .conftest import GOOD_POST, POST_ID, SECRET, TOKEN, Request, ids, raw_rig, rig


def now() -> float:
    return asyncio.get_running_loop().time()


# --- the three limits -----------------------------------------------------------------------------


async def test_a_connection_that_is_never_accepted_meets_the_connect_limit() -> None:
    """Nothing was sent then, and nothing is charged; the backlog of a listener that never accepts
    plays the black hole."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = []
        for _ in range(3):  # a full backlog answers no SYN
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        async with TokfluenceClient(
            TOKEN,
            base_url=f"http://127.0.0.1:{address[1]}",
            timeout=Timeout(connect=3, read=50, total=70),
            max_retries=1,
        ) as client:
            began = now()
            with pytest.raises(APITimeoutError, match="No connection within 3 s") as caught:
                await client.posts.get(POST_ID)

            assert 6 <= now() - began < 10
            assert not caught.value.sent
            assert (client.usage.requests, client.usage.credits_spent) == (0, 0)
        for filler in fillers:
            filler.close()


async def test_silence_meets_the_read_limit() -> None:
    """Before the total, which is for those who keep sending."""
    async with rig({"timeout": Timeout(read=4, total=70), "max_retries": 0}) as (sandbox, client):
        for fault in ({}, {"in_body": True}):
            sandbox.stall(to=POST, **fault)
            began = now()
            with pytest.raises(APITimeoutError, match="stalled for 4 s") as caught:
                await client.posts.get(POST_ID)
            assert now() - began == pytest.approx(4, abs=1)
            assert caught.value.sent
        assert client.usage.credits_spent == sandbox.credits_spent == 2


async def test_a_slow_drip_meets_the_total() -> None:
    """Trap 28: a byte every three seconds never stalls; only the total ends it."""
    async with rig({"timeout": Timeout(read=4, total=20), "max_retries": 0}) as (sandbox, client):
        sandbox.drip(every=3.0)
        began = now()
        with pytest.raises(APITimeoutError, match="within 20 s"):
            await client.posts.get(POST_ID)
        assert now() - began == pytest.approx(20, abs=0.5)


async def test_the_head_of_an_answer_is_as_late_as_its_first_byte() -> None:
    """Dripped byte by byte, it is no answer yet: it has to be there within `Timeout.read`."""

    async def drip(_: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in GOOD_POST:
            writer.write(bytes([byte]))
            await asyncio.sleep(3)

    async with raw_rig(drip, max_retries=0, timeout=Timeout(read=4, total=20)) as (_, client):
        began = now()
        with pytest.raises(APITimeoutError, match="stalled for 4 s"):
            await client.posts.get(POST_ID)
        assert now() - began == pytest.approx(4, abs=0.5)


async def test_the_limit_of_analyze_grows_with_the_batch() -> None:
    """Fifty cold URLs at ten seconds each are minutes of silence, and normal [seed]."""
    async with rig({"max_retries": 0}, indexed=0.0, seconds_per_url=10.0) as (sandbox, client):
        report = await client.posts.analyze(ids(50), batch_size=50)

        report.raise_for_errors()
        assert sandbox.requests_received == client.usage.requests == 1


async def test_a_dead_analyze_is_noticed_at_last() -> None:
    """60 s and 15 s per URL; then the repeat under the same id finds out what became of it."""
    async with rig(indexed=0.0) as (sandbox, client):
        sandbox.stall(to=ANALYZE)
        began = now()

        report = await client.posts.analyze(ids(2), batch_size=2)

        assert [outcome.unwrap().status for outcome in report.outcomes] == ["duplicate_request"] * 2
        assert 90 <= now() - began < 120
        assert sandbox.billed_twice() == []


async def test_none_switches_every_limit_off() -> None:
    """An hour of silence is then waited for."""
    async with rig({"timeout": None, "max_retries": 0}) as (sandbox, client):
        sandbox.stall(3600.0)
        assert (await client.posts.get(POST_ID)).post_id == POST_ID


@pytest.mark.parametrize("own", [True, False], ids=["own session", "user's session"])
async def test_waiting_for_a_slot_and_a_place_is_not_timed(own: bool) -> None:
    """Trap 2: under load calls wait for minutes, with limits of seconds, and none dies without
    having been sent."""
    session = None if own else aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=2))
    options = {
        "session": session,
        "timeout": Timeout(connect=1, read=2, total=2),
        "max_concurrency": 4,
    }
    async with rig(
        {**options, "max_retries": 0, "throttle": Throttle(20, 60, burst=1)}, latency=1.0
    ) as (_, client):
        began = now()
        posts = await asyncio.gather(*(client.posts.get(post_id) for post_id in ids(60)))
        assert len(posts) == 60
        assert now() - began > 120
        if session is not None:
            await session.close()


async def test_a_users_small_pool_is_waited_for() -> None:
    """Its limit is below our concurrency; that wait is no failure to connect."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session,
        rig(
            {"session": session, "timeout": Timeout(connect=2, read=5, total=6), "max_retries": 0},
            latency=3.0,
        ) as (
            sandbox,
            client,
        ),
    ):
        posts = await asyncio.gather(*(client.posts.get(post_id) for post_id in ids(8)))
        assert len(posts) == 8
        assert sandbox.peak_in_flight(POST) == 1


async def test_a_slow_connection_takes_a_slot_when_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slot is good for the moment it was given: fifty slots gathered while connecting would leave
    as one burst."""
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect

    async def slowly(sock: socket.socket, address: Any) -> None:
        await asyncio.sleep(5)
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", slowly)
    async with rig({"throttle": Throttle(30, None, burst=1), "max_concurrency": 30}, per_ip=30) as (
        sandbox,
        client,
    ):
        await asyncio.gather(*(client.posts.get(post_id) for post_id in ids(60)))

        assert sandbox.rate_limited == 0
        assert sandbox.peak(60) <= 30
        times = [entry.time for entry in sandbox.requests]
        assert max(sum(t <= u < t + 1 for u in times) for t in times) <= 3


@pytest.mark.parametrize(
    ("name", "scene"),
    [
        ("a stalled server", lambda s: s.stall(times=None)),
        ("a stalled body", lambda s: s.stall(times=None, in_body=True)),
        ("a backoff", lambda s: s.proxy_error(503, times=None)),
        ("a closed gate", lambda s: s.rate_limit(times=None, retry_after=500)),
        ("a slow batch", lambda s: setattr(s, "latency", 500.0)),
    ],
)
@pytest.mark.parametrize("call", ["get", "analyze", "comments", "resolve", "get_many"])
async def test_a_callers_timeout_is_prompt_everywhere(
    call: str, name: str, scene: Callable[[Sandbox], Any]
) -> None:
    """`asyncio.timeout` ends a call at its second, wherever it waits, and the client is as good as
    new."""
    async with rig(
        {"max_concurrency": 1, "analyze_concurrency": 1, "max_retries": 1000}, indexed=0.0
    ) as (
        sandbox,
        client,
    ):
        sandbox.index(POST_ID)
        scene(sandbox)
        posts = client.posts
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "get": lambda: posts.get(POST_ID),
            "analyze": lambda: posts.analyze(ids(20)),
            "comments": lambda: drain(posts.comments(POST_ID, prefetch=3)),
            "resolve": lambda: drain(posts.resolve(ids(5))),
            "get_many": lambda: drain(posts.get_many(ids(5))),
        }
        began = now()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(17):
                await calls[call]()
        assert now() - began == pytest.approx(17, abs=0.01)

        sandbox.clear_faults()
        sandbox.latency = 0.0
        assert client.usage.credits_reserved == 0
        assert (await posts.get(POST_ID)).post_id == POST_ID
        (await posts.analyze(ids(1, start=500))).raise_for_errors()
        assert client.usage.credits_spent >= sandbox.credits_spent


async def drain(source: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in source]


# --- cancelled at every turn ----------------------------------------------------------------------


class CountingLoop(VirtualLoop):
    """A virtual loop that does something at a turn of one's choice."""

    turns = 0
    at: int | None = None
    action: Callable[[], Any]

    def _run_once(self) -> None:
        self.turns += 1
        if self.turns == self.at:
            self.action()
        super()._run_once()  # type: ignore[misc]


async def first_comments(client: TokfluenceClient) -> Any:
    source = client.posts.comments(POST_ID, limit=50, prefetch=3)
    async for _ in source:
        pass


async def closing(client: TokfluenceClient) -> Any:
    calls = [asyncio.create_task(client.posts.get(post_id)) for post_id in ids(3)]
    try:
        await asyncio.sleep(0.5)
        await client.aclose()
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


CANCELLED: dict[str, tuple[Callable[[TokfluenceClient], Awaitable[Any]], dict[str, Any]]] = {
    "get": (lambda client: client.posts.get(POST_ID), {}),
    "get after a dead connection": (lambda client: client.posts.get(POST_ID), {"fault": "drop"}),
    "analyze": (lambda client: client.posts.analyze(ids(3), batch_size=1), {"indexed": 0.0}),
    "analyze whose answer was lost": (
        lambda client: client.posts.analyze(ids(2), batch_size=2),
        {"indexed": 0.0, "fault": "drop"},
    ),
    "comments": (first_comments, {"comments_per_post": 300}),
    "resolve": (lambda client: drain(client.posts.resolve(ids(3))), {"indexed": 0.0}),
    "aclose": (closing, {"latency": 1.0}),
}


@pytest.mark.real_time  # the loop is of its own making
@pytest.mark.parametrize("name", CANCELLED)
def test_cancelling_at_any_turn_leaves_nothing(name: str) -> None:
    """At the k-th turn of the loop, for every k: no task, no place, no slot, no reservation, no
    connection outlives it."""
    do, options = CANCELLED[name]
    options = dict(options)
    fault = options.pop("fault", None)

    async def scene(at: int | None, loop: CountingLoop) -> int:
        """Run it, cancelled `at` turns after its start; returns how many turns it took."""
        async with Sandbox(token=TOKEN, **options) as sandbox:
            client = TokfluenceClient(
                TOKEN,
                base_url=sandbox.url,
                max_concurrency=1,
                analyze_concurrency=1,
                throttle=Throttle(60, None, burst=9),
            )
            sandbox.index(POST_ID)
            if fault == "drop":
                await client.posts.get(POST_ID)
                sandbox.drop_answer()
            before = asyncio.all_tasks()
            began = loop.turns
            work = asyncio.create_task(do(client))  # type: ignore[arg-type]
            if at is not None:
                loop.at, loop.action = began + at, work.cancel
            with suppress(asyncio.CancelledError):
                await work
            turns = loop.turns - began
            if work.cancelled():
                try:
                    work.result()
                except asyncio.CancelledError as error:
                    shown = "".join(
                        traceback.TracebackException.from_exception(
                            error, capture_locals=True
                        ).format()
                    )
                    assert SECRET not in shown

            await asyncio.sleep(300)  # what the sandbox was at, it finishes
            ours = {
                task
                for task in asyncio.all_tasks() - before
                if "tokfluence_async" in repr(task.get_coro())
            }
            assert not {task for task in ours if "_sandbox" not in repr(task.get_coro())}
            assert client.usage.credits_reserved == 0
            assert client.usage.credits_spent >= sandbox.credits_spent
            assert client.usage.requests >= sandbox.requests_received
            assert sandbox.open_connections <= 2
            assert sandbox.rate_limited == 0
            if name != "aclose":
                async with asyncio.timeout(10):
                    await client.posts.get(POST_ID)
                async with asyncio.timeout(300):
                    (await client.posts.analyze(ids(1, start=900), force=True)).raise_for_errors()
            assert sandbox.billed_twice() == []
            await client.aclose()
            await asyncio.sleep(0.01)
            assert sandbox.open_connections == 0
            return turns

    def run(at: int | None) -> int:
        with asyncio.Runner(loop_factory=CountingLoop) as runner:
            loop = runner.get_loop()
            assert isinstance(loop, CountingLoop)
            return runner.run(scene(at, loop))

    turns = run(None)
    assert turns > 5
    for at in range(1, turns + 1):
        run(at)
