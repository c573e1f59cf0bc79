"""`kill -9` and SIGSTOP over a journal that processes share, on a real Redis.

The sandbox lives in this process and remembers what everybody has sent; its ledger is the judge.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mortal
import pytest
from redis_server import DURABLE, RedisServer, require_redis

from tokfluence_async import JournalError, RedisJournal, Sandbox, Throttle, TokfluenceClient
from tokfluence_async._journal import redis_store
from tokfluence_async._sandbox.ledger import ANALYZE

pytest.importorskip("redis", reason="redis-py is not installed")

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(300)]

POSTS = [str(7234567890123456789 + 7 * number) for number in range(60)]
JOB = "?job=killed"


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts a real server with its options."""
    require_redis()
    servers: list[RedisServer] = []

    def start(*options: str) -> RedisServer:
        servers.append(RedisServer(tmp_path, *options))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="module")
def processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tokfluence_async._client", "tokfluence_async._http.transport", "redis.asyncio"]
    )
    return context


def world(**changes: Any) -> Sandbox:
    """A quick service without throttles, as the clock is real."""
    options: dict[str, Any] = {
        "per_ip": None,
        "per_key": None,
        "indexed": 0.0,
        "seconds_per_url": 0.01,
        "visibility_delay": 0.02,
        "latency": 0.002,
    }
    return Sandbox(**(options | changes))


class Worker:
    """A process that analyzes all posts over the shared journal."""

    def __init__(self, processes: Any, sandbox: Sandbox, journal: str, batch_size: int) -> None:
        arguments = (sandbox.url, sandbox.token, journal, POSTS, batch_size)
        self.process = processes.Process(target=mortal.share, args=arguments)
        self.process.start()
        self.ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self.process.sentinel, self._end)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self.process.sentinel)
        self.ended.set()

    def signal(self, sign: int) -> None:
        if not self.ended.is_set():
            os.kill(self.process.pid, sign)

    async def status(self) -> int:
        await self.ended.wait()
        self.process.join()
        status: int = self.process.exitcode
        return status


def check(sandbox: Sandbox) -> None:
    charged = sandbox.times_charged(ANALYZE)
    assert set(charged) == set(POSTS)
    assert set(charged.values()) == {1}
    assert not sandbox.billed_twice()


@pytest.mark.parametrize("seed", range(3))
async def test_processes_that_are_killed_pay_for_nothing_twice(
    seed: int, processes: Any, redis_server: Callable[..., RedisServer]
) -> None:
    """Three at once over the same inputs; each that dies is started again."""
    chance = random.Random(seed)
    server = redis_server(*DURABLE)
    async with world(seed=seed, seconds_per_url=0.02) as sandbox:

        async def lives(number: int) -> int:
            kills = 0
            while True:
                worker = Worker(processes, sandbox, server.url + JOB, (3, 7, 20)[number])
                after = chance.uniform(0.05, 0.6) * (1 + kills / 10)
                if kills < 8:
                    try:
                        await asyncio.wait_for(worker.ended.wait(), after)
                    except TimeoutError:
                        worker.signal(signal.SIGKILL)
                status = await worker.status()
                if status == 0:
                    return kills
                assert status == -signal.SIGKILL
                kills += 1

        kills = await asyncio.gather(*[lives(number) for number in range(3)])

        check(sandbox)
        assert sum(kills) >= 4


@pytest.mark.parametrize("seed", range(2))
async def test_processes_that_are_stopped_beyond_their_heartbeat_pay_for_nothing_twice(
    seed: int, processes: Any, redis_server: Callable[..., RedisServer]
) -> None:
    """Others take their batches over; when they come back, they send nothing of it."""
    chance = random.Random(seed)
    server = redis_server(*DURABLE)
    async with world(seed=seed, seconds_per_url=0.02) as sandbox:
        workers = [Worker(processes, sandbox, server.url + JOB, size) for size in (2, 5, 10)]
        for worker in workers[:2] * 2:
            await asyncio.sleep(chance.uniform(0.1, 0.4))
            worker.signal(signal.SIGSTOP)
            await asyncio.sleep(chance.uniform(1.6, 2.5))
            worker.signal(signal.SIGCONT)

        assert [await worker.status() for worker in workers] == [0, 0, 0]
        check(sandbox)


async def test_a_server_that_is_killed_and_has_its_data_goes_on(
    processes: Any, redis_server: Callable[..., RedisServer]
) -> None:
    """Everything that was acknowledged is in the append-only file."""
    server = redis_server(*DURABLE)
    async with world(seconds_per_url=0.03) as sandbox:
        workers = [Worker(processes, sandbox, server.url + JOB, size) for size in (2, 5)]
        for _ in range(3):
            await asyncio.sleep(0.4)
            server.kill()
            await asyncio.sleep(0.2)
            server.start()

        assert [await worker.status() for worker in workers] == [0, 0]
        check(sandbox)


async def test_a_server_that_is_killed_without_persistence_is_not_gone_on_with(
    redis_server: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back empty: what was paid for is not known, and nothing is billed again."""
    server = redis_server()
    async with (
        world(seconds_per_url=0.2) as sandbox,
        TokfluenceClient(
            sandbox.token,
            base_url=sandbox.url,
            throttle=Throttle(None, None),
            analyze_concurrency=2,
        ) as client,
    ):
        async with RedisJournal(server.url + JOB) as journal:
            call = asyncio.create_task(client.posts.analyze(POSTS, batch_size=3, journal=journal))
            await asyncio.sleep(0.5)
            server.kill()
            server.start()
            with pytest.raises(JournalError, match="was emptied"):
                await call
            sent = len([entry for entry in sandbox.requests if entry.route == ANALYZE])
            with pytest.raises(JournalError, match="was emptied"):
                await client.posts.analyze(POSTS, journal=journal)

        assert len([e for e in sandbox.requests if e.route == ANALYZE]) == sent
        assert set(sandbox.times_charged(ANALYZE).values()) <= {1}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (DURABLE, None),
        ((), "appendonly no"),
        (("--appendonly", "yes"), "appendfsync everysec"),
    ],
)
async def test_a_real_server_is_asked_how_durable_it_is(
    redis_server: Callable[..., RedisServer],
    caplog: pytest.LogCaptureFixture,
    options: tuple[str, ...],
    word: str | None,
) -> None:
    """`appendfsync always`, or a warning."""
    server = redis_server(*options)
    with caplog.at_level(logging.WARNING):
        async with RedisJournal(server.url + JOB):
            pass

    told = [record.getMessage() for record in caplog.records]
    assert len(told) == bool(word)
    assert all(word is not None and word in text for text in told)


@pytest.mark.parametrize(
    ("options", "url", "said"),
    [
        (("--requirepass", "s3cr3t"), "redis://127.0.0.1:{port}/0?job=a", "refuses"),
        (("--requirepass", "s3cr3t"), "redis://:wr0ng@127.0.0.1:{port}/0?job=a", "refuses"),
        (("--maxmemory", "1mb"), "redis://127.0.0.1:{port}/0?job=a", "full .OOM"),
        (("--replicaof", "127.0.0.1", "1"), "redis://127.0.0.1:{port}/0?job=a", "read-only"),
    ],
)
async def test_a_server_that_cannot_be_used_is_one_clear_error(
    redis_server: Callable[..., RedisServer],
    options: tuple[str, ...],
    url: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before anything is sent, and without its password."""
    monkeypatch.setattr(redis_store, "PATIENCE", 2.0)
    server = redis_server(*options)
    async with world() as sandbox, TokfluenceClient(sandbox.token, base_url=sandbox.url) as client:
        with pytest.raises(JournalError, match=said) as caught:
            await client.posts.analyze(POSTS, journal=url.format(port=server.port))

        assert "wr0ng" not in str(caught.value)
        assert sandbox.requests_received == 0
