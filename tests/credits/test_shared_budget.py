"""One limit of credits for many processes: what is leased, spent and lost, and what breaks."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_server import DURABLE, RedisServer, free_port, needs_redis, running

from tokfluence_async import (
    BudgetExceededError,
    ConfigurationError,
    Sandbox,
    SharedBudget,
    Throttle,
    TokfluenceClient,
    crawl,
)
from tokfluence_async._credits.shared import Leases
from tokfluence_async._credits.shared_store import Record

fakeredis = pytest.importorskip("fakeredis", reason="fakeredis is not installed")

IDS = [str(7200000000000000000 + n) for n in range(200)]
ANALYZE = "POST /v1/posts/analyze"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> fakeredis.FakeServer:
    """A store in this process, that follows the virtual clock."""
    server = fakeredis.FakeServer()

    def from_url(url: str, **options: Any) -> Any:
        return fakeredis.FakeAsyncRedis(
            server=server, decode_responses=options.get("decode_responses", False)
        )

    monkeypatch.setattr(redis.asyncio.Redis, "from_url", from_url)
    return server


def budget(limit: int, name: str = "job", url: str = "redis://127.0.0.1:6379/0") -> SharedBudget:
    return SharedBudget(url, name, limit)


async def counts(shared: SharedBudget) -> tuple[int, int]:
    status = await shared.status()
    return status.spent, status.leased


def fast(sandbox: Sandbox, **options: Any) -> TokfluenceClient:
    return TokfluenceClient(
        sandbox.token,
        base_url=sandbox.url,
        throttle=Throttle(per_ip=None, per_key=None),
        **options,
    )


# --- what may be spent ----------------------------------------------------------------------------


async def test_what_fits_is_sent_and_the_rest_fails(store: Any) -> None:
    """As with a number; and nothing is held afterwards."""
    shared = budget(40 * 25 + 10)
    async with Sandbox(indexed=0.0, throttle=None) as sandbox, fast(sandbox) as client:
        report = await client.posts.analyze(IDS, max_credits=shared)

        assert len(report.succeeded) == 40
        assert {type(outcome.error) for outcome in report.failed} == {BudgetExceededError}
        assert sandbox.credits_spent == 1000 == report.credits_spent
        assert await counts(shared) == (1000, 0)


@pytest.mark.parametrize("call", ["analyze", "analyze_iter", "resolve", "get_many", "crawl"])
async def test_wherever_max_credits_is_taken(store: Any, call: str, tmp_path: Path) -> None:
    """Each call spends from the same limit, and says so."""
    shared = budget(50)
    async with Sandbox(indexed=1.0, throttle=None) as sandbox, fast(sandbox) as client:
        if call == "analyze":
            await client.posts.analyze(IDS, max_credits=shared)
        elif call == "crawl":
            assert (await crawl(client, IDS, tmp_path, max_credits=shared)).stopped_by == "budget"
        else:
            async for _ in getattr(client.posts, call)(IDS, max_credits=shared):
                pass

        assert sandbox.credits_spent == 50
        assert await counts(shared) == (50, 0)


async def test_a_client_and_its_copies_can_have_one(store: Any) -> None:
    """A copy's budget stands within it; what is left of the lease is given back at the end."""
    shared = budget(100)
    async with Sandbox(indexed=1.0, throttle=None) as sandbox:
        async with fast(sandbox, max_credits=shared) as client:
            copy = client.with_options(max_credits=budget(5, "within"))
            for post_id in IDS[:5]:
                await copy.posts.get(post_id)
            with pytest.raises(BudgetExceededError):
                await copy.posts.get(IDS[6])
            for post_id in IDS[:90]:
                await client.posts.get(post_id)

            spent, leased = await counts(shared)
            assert spent + leased <= 100
        assert await counts(shared) == (95, 0)
        assert sandbox.credits_spent == 95


async def test_several_jobs_share_one(store: Any) -> None:
    """By the same object, and by others of the same name."""
    async with Sandbox(indexed=1.0, throttle=None) as sandbox, fast(sandbox) as client:
        first, second = budget(60), budget(60)

        async def job(ids: list[str], shared: SharedBudget) -> int:
            return len([o async for o in client.posts.get_many(ids, max_credits=shared) if o.ok])

        done = await asyncio.gather(
            job(IDS[:50], first), job(IDS[50:100], first), job(IDS[100:150], second)
        )

        assert sum(done) == sandbox.credits_spent <= 60
        spent, leased = await counts(first)
        assert (spent, leased) == (sandbox.credits_spent, 0)
        # What one holds ahead is a tenth of what is left at most, so hardly any is left unspent.
        assert sum(done) >= 54


async def test_a_larger_limit_goes_on(store: Any) -> None:
    """Over restarts: the store has what was spent."""
    async with Sandbox(indexed=1.0, throttle=None) as sandbox, fast(sandbox) as client:
        for limit, expected in ((10, 10), (10, 10), (25, 25)):
            async for _ in client.posts.get_many(IDS, max_credits=budget(limit)):
                pass
            assert sandbox.credits_spent == expected


async def test_a_refund_is_given_back(store: Any) -> None:
    """A refusal costs nothing, here either."""
    shared = budget(25)
    async with Sandbox(indexed=0.0, throttle=None) as sandbox, fast(sandbox) as client:
        sandbox.upstream_error(to=ANALYZE)
        report = await client.posts.analyze(IDS[:1], max_credits=shared)

        assert len(report.succeeded) == 1
        assert await counts(shared) == (25, 0)


async def test_a_lost_answer_counts_as_spent(store: Any) -> None:
    """Until it is shown otherwise."""
    shared = budget(100)
    async with (
        Sandbox(indexed=1.0, throttle=None) as sandbox,
        fast(sandbox, max_retries=0) as client,
    ):
        sandbox.drop_answer(to="GET /v1/posts/:id", times=None)
        async for _ in client.posts.get_many(IDS[:3], max_credits=shared):
            pass
        assert await counts(shared) == (3, 0)


async def test_few_trips_are_made(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks grow with what was spent; and a budget that is used up is not asked about at every
    input."""
    shared = budget(1_000)
    trips = 0
    trip = shared._store.trip

    async def counted(**asked: int) -> Any:
        nonlocal trips
        trips += bool(asked.get("want"))
        return await trip(**asked)

    monkeypatch.setattr(shared._store, "trip", counted)
    async with Sandbox(indexed=1.0, throttle=None) as sandbox, fast(sandbox) as client:
        for _ in range(10):
            async for _ in client.posts.get_many(IDS, max_credits=shared):
                pass

        assert sandbox.credits_spent == 1_000
        assert trips < 250


# --- the rule -------------------------------------------------------------------------------------


class MemoryStore:
    """The script's arithmetic in Python: an independent reading of it, that may lose answers."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.spent = self.leased = 0
        self.loses = False

    async def trip(self, *, want: int = 0, ahead: int = 0, spent: int = 0, back: int = 0) -> Record:
        self.spent += spent
        self.leased -= spent + back
        assert self.leased >= 0
        left = max(self.limit - self.spent - self.leased, 0)
        granted = min(left, want)
        if granted == want:
            granted += min(ahead, (left - granted) // 10)
        self.leased += granted
        assert self.spent + self.leased <= self.limit
        await asyncio.sleep(0.01)
        if self.loses:
            raise BudgetExceededError(want, 0, self.limit, why="lost")
        return Record(granted, left - granted, self.spent, self.leased)


@settings(max_examples=60)
@given(st.data())
def test_spent_and_leased_never_pass_the_limit(data: st.DataObject) -> None:
    """Whatever is asked, charged, refunded, lost, given back or left by the dead."""
    limit = data.draw(st.integers(0, 300))
    memory = MemoryStore(limit)

    async def work() -> None:
        holders = [Leases(memory) for _ in range(3)]  # type: ignore[arg-type]  # stands in for a store
        charged = 0
        for _ in range(data.draw(st.integers(1, 30))):
            n = data.draw(st.integers(0, 2))
            memory.loses = data.draw(st.integers(0, 9)) == 0
            what = data.draw(st.sampled_from(["call", "call", "calls", "back", "die", "cancel"]))
            if what == "back":
                await holders[n].give_back()
            elif what == "die":
                holders[n] = Leases(memory)  # type: ignore[arg-type]  # as above
            else:
                prices = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=5))
                tasks = [asyncio.create_task(call(holders[n], price)) for price in prices]
                if what == "cancel":
                    await asyncio.sleep(0.005)
                    tasks[0].cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                charged += sum(result for result in results if isinstance(result, int))
            assert memory.spent + memory.leased <= limit
            assert charged <= limit
            assert all(holder.reserved == 0 and holder.held >= 0 for holder in holders)

    async def call(holder: Leases, price: int) -> int:
        await holder.lease(price)
        holder.reserve(price)
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            holder.settle(price, price)
            return price
        spent = price if price % 3 else 0
        holder.settle(price, spent)
        return spent

    run_virtually(work)


def run_virtually(work: Any) -> None:
    from tokfluence_async.testing import VirtualLoop

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(work())


# --- a real server --------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running(folder=tmp_path) as started:
        yield started


@needs_redis
@pytest.mark.real_time
async def test_a_real_server_runs_the_script(server: RedisServer) -> None:
    """Large numbers too, which Lua would write with an exponent."""
    shared = budget(2**53, url=server.url)
    leases = shared.leases
    await leases.lease(2**52 + 1)
    leases.reserve(2**52 + 1)
    leases.settle(2**52 + 1, 2**52 - 1)
    await leases.give_back()

    assert await counts(shared) == (2**52 - 1, 0)


_SPENDER = """
import asyncio, random, sys
from tokfluence_async import BudgetExceededError, SharedBudget, TokfluenceClient, Throttle

async def main():
    url, base, limit, seed = sys.argv[1:]
    shared = SharedBudget(url, "kills", int(limit))
    rng = random.Random(seed)
    async with TokfluenceClient("tkf_live_" + "a" * 32, base_url=base,
                                throttle=Throttle(per_ip=None, per_key=None)) as client:
        while True:
            ids = [7200000000000000000 + rng.randrange(10**9) for _ in range(60)]
            count = 0
            async for outcome in client.posts.get_many(ids, max_credits=shared):
                count += outcome.error is None or not isinstance(outcome.error, BudgetExceededError)
            print(count, flush=True)
            if not count:
                return

asyncio.run(main())
"""


@needs_redis
@pytest.mark.real_time
async def test_under_kills_no_more_than_the_limit_is_spent(
    server: RedisServer, tmp_path: Path
) -> None:
    """Four processes, killed and started again; the sandbox counts what it charged."""
    limit = 3_000
    rng = random.Random(4)
    watcher = budget(limit, "kills", server.url)
    async with Sandbox(token="tkf_live_" + "a" * 32, indexed=1.0, throttle=None) as sandbox:

        async def start(seed: int) -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _SPENDER, server.url, sandbox.url, str(limit), str(seed)),
                stdout=subprocess.DEVNULL,
            )

        processes = [await start(seed) for seed in range(3)]
        kills = 0
        for _ in range(200):
            await asyncio.sleep(0.1)
            status = await watcher.status()
            assert status.spent + status.leased <= limit
            assert sandbox.credits_spent <= limit
            alive = [process for process in processes if process.returncode is None]
            if not alive:
                break
            if kills < 6 and sandbox.credits_spent > 200 * (kills + 1):
                with suppress(ProcessLookupError):
                    rng.choice(alive).send_signal(signal.SIGKILL)
                kills += 1
                processes.append(await start(100 + kills))
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()

        status = await watcher.status()
        assert kills >= 3
        assert sandbox.credits_spent <= status.spent + status.leased <= limit
        # Only what the dead held is lost to the others: their blocks, and what was in flight.
        assert sandbox.credits_spent >= limit - kills * (200 + 50) - 60


@needs_redis
@pytest.mark.real_time
async def test_while_the_store_is_away_nothing_new_is_spent(server: RedisServer) -> None:
    """The error says why; what was leased may be used up, and when the store is back it goes on."""
    shared = budget(100, url=server.url)
    async with Sandbox(indexed=1.0, throttle=None) as sandbox, fast(sandbox) as client:
        async for _ in client.posts.get_many(IDS[:3], max_credits=shared):
            pass
        server.kill()
        with pytest.raises(BudgetExceededError, match="cannot be reached") as caught:
            await client.with_options(max_credits=shared).posts.get(IDS[0])
        assert caught.value.why is not None
        assert pickle.loads(pickle.dumps(caught.value)).why == caught.value.why
        report = await client.posts.analyze(IDS[:3], max_credits=shared)
        assert {type(outcome.error) for outcome in report.failed} == {BudgetExceededError}
        assert len(report.failed) == 3

        assert sandbox.credits_spent == 3
        server.start()  # empty: it kept nothing
        with pytest.raises(BudgetExceededError, match="lost what was spent"):
            await client.with_options(max_credits=shared).posts.get(IDS[0])
        assert sandbox.credits_spent == 3


@needs_redis
@pytest.mark.real_time
async def test_a_store_that_persists_goes_on_after_a_kill(tmp_path: Path) -> None:
    """`appendfsync always`: what it has answered is on disk."""
    with running(*DURABLE, folder=tmp_path) as server:
        shared = budget(10, url=server.url)
        async with Sandbox(indexed=1.0, throttle=None) as sandbox, fast(sandbox) as client:
            async for _ in client.posts.get_many(IDS[:6], max_credits=shared):
                pass
            server.kill()
            server.start()
            async for _ in client.posts.get_many(IDS[6:20], max_credits=shared):
                pass

            assert sandbox.credits_spent == 10


@needs_redis
@pytest.mark.real_time
@pytest.mark.parametrize(
    ("options", "login", "error", "says"),
    [
        (["--requirepass", "hunter2"], ":wrong-secret@", ConfigurationError, "refuses"),
        (["--requirepass", "hunter2"], "", ConfigurationError, "refuses"),
        (["--maxmemory", "1"], "", BudgetExceededError, "OOM"),
        (["--replicaof", "127.0.0.1", "1"], "", BudgetExceededError, "READONLY|read only"),
    ],
)
async def test_a_server_that_takes_nothing_is_told_of_in_one_line(
    tmp_path: Path,
    options: list[str],
    login: str,
    error: type[Exception],
    says: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is sent, and no password is shown."""
    caplog.set_level(logging.DEBUG)
    with running(*options, folder=tmp_path) as server:
        shared = budget(100, url=server.url.replace("//", f"//{login}"))
        async with Sandbox(throttle=None) as sandbox, fast(sandbox, max_credits=shared) as client:
            with pytest.raises(error, match=says) as caught:
                await client.posts.get(IDS[0])
            report = await client.posts.analyze(IDS[:5])

            assert {type(outcome.error) for outcome in report.failed} == {error}
            assert sandbox.requests == []
    texts = [str(caught.value), repr(caught.value), repr(shared), caplog.text]
    texts.append(repr(caught.value.__dict__) + repr(caught.value.__cause__))
    assert not any("wrong-secret" in text or "hunter2" in text for text in texts)
    assert "\n" not in str(caught.value)


@needs_redis
@pytest.mark.real_time
async def test_something_else_under_our_name_is_refused(server: RedisServer) -> None:
    """A text, another hash, a hash of ours with something else in it."""
    raw = redis.asyncio.Redis.from_url(server.url)
    for n, make in enumerate(
        (
            lambda key: raw.set(key, "x"),
            lambda key: raw.hset(key, "field", "x"),
            lambda key: raw.hset(
                key, mapping={"kind": "tokfluence budget 1", "epoch": "e", "spent": "many"}
            ),
        )
    ):
        shared = budget(100, f"other{n}", server.url)
        await make(shared._store._key)
        with pytest.raises(ConfigurationError, match="something else"):
            await shared.leases.lease(1)
    await raw.aclose()


@needs_redis
@pytest.mark.real_time
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_spends_nothing_of_its_parents_lease(server: RedisServer) -> None:
    """It would be spent twice."""
    shared = budget(100, url=server.url)
    asyncio.run(shared.leases.lease(40))
    assert shared.leases.held >= 40
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - in the child
        os.write(writing, str(shared.leases.held).encode())
        os._exit(0)
    os.waitpid(pid, 0)

    assert os.read(reading, 10) == b"0"
    os.close(reading)
    os.close(writing)


@needs_redis
@pytest.mark.real_time
def test_two_threads_may_share_one(server: RedisServer) -> None:
    """Each with a loop of its own."""
    shared = budget(100, url=server.url)
    granted: list[int] = []

    async def spend() -> None:
        for _ in range(80):
            try:
                await shared.leases.lease(1)
                shared.leases.reserve(1)
            except BudgetExceededError:
                continue
            await asyncio.sleep(0)
            shared.leases.settle(1, 1)
            granted.append(1)

    threads = [threading.Thread(target=lambda: asyncio.run(spend())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(shared.leases.give_back())

    assert len(granted) <= 100
    assert asyncio.run(counts(shared)) == (len(granted), 0)


@pytest.mark.real_time
async def test_a_server_that_does_not_answer_is_not_waited_for_long() -> None:
    """A port that takes connections and says nothing."""
    listener = socket.create_server(("127.0.0.1", free_port()))
    shared = budget(100, url=f"redis://127.0.0.1:{listener.getsockname()[1]}/0")
    try:
        with pytest.raises(BudgetExceededError, match="did not answer in time"):
            await asyncio.wait_for(shared.leases.lease(1), 14)
    finally:
        listener.close()


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "a\nb", "a b", "ä", "x" * 101, "a\0", 5, None, b"job", "job\n", "{job}"]
)
def test_a_bad_name_is_refused_in_one_line(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="shared budget") as caught:
        SharedBudget("redis://127.0.0.1/0", name, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:6379", "http://h/", "/tmp/file", "redis://h:port/0", "redis://h/0\n", 5),
        *(None, "redis://user:hunter2@h:99999999/0", "redis://:hunter2@h:x/0", "rediss//h"),
    ],
)
def test_a_bad_url_is_refused_in_one_line(url: Any) -> None:
    """And its password is not shown."""
    with pytest.raises(ConfigurationError, match="shared budget") as caught:
        SharedBudget(url, "job", 1)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("limit", [-1, True, 1.5, "5", None, 2**60])
def test_a_limit_is_a_number_of_credits(limit: Any) -> None:
    with pytest.raises(ValueError, match="limit"):
        SharedBudget("redis://127.0.0.1/0", "job", limit)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ConfigurationError, match=r"\[redis\]"):
        budget(1)


def test_it_goes_to_other_processes_and_shows_no_password() -> None:
    shared = SharedBudget("redis://me:hunter2@127.0.0.1:6380/3?client_name=secret", "job", 5_000)
    assert repr(shared) == "<SharedBudget 'job' of 5,000 credits at redis://127.0.0.1:6380/3>"
    again = pickle.loads(pickle.dumps(shared))
    assert repr(again) == repr(shared)
    assert not any("hunter2" in repr(value) for value in vars(shared).values())


@pytest.mark.parametrize("wrong", [object(), "100", 1.5])
def test_anything_else_is_no_max_credits(wrong: Any) -> None:
    with pytest.raises((ValueError, ConfigurationError)):
        TokfluenceClient("tkf_live_" + "a" * 32, max_credits=wrong)
