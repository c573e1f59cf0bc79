"""The limits of the service hold on the bad days too: jitter on the way, faults, retries, several
clients, keys, loops."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest

from tokfluence_async import RateLimitError, Sandbox, Throttle, TokfluenceClient, TokfluenceError
from tokfluence_async._sandbox.ledger import ANALYZE
from tokfluence_async._sandbox.throttles import ALGORITHMS
from tokfluence_async.testing import VirtualLoop

from .conftest import POST_ID, TOKEN, check_money, ids, rig

LIMITS: dict[str, Any] = {"per_ip": 60, "per_key": 120}


def throttle() -> Throttle:
    return Throttle(60, 120, burst=5)


async def hammer(client: TokfluenceClient, count: int, start: int = 0) -> None:
    async for outcome in client.posts.get_many(ids(count, start)):
        assert outcome.ok or isinstance(outcome.error, TokfluenceError)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_no_429_under_jitter_faults_and_retries(algorithm: str) -> None:
    """On the way they take 200 ms in the mean and differ by twice that, a third of them fails; none
    is one too many."""
    rng = random.Random(7)
    # A sliding counter takes the last window for even. At 60 that is right to a request, and one
    # may be one too many; see `_pace`.
    fine = algorithm == "sliding_counter"
    options = {"throttle": None if fine else throttle(), "max_retries": 8}
    limits = {} if fine else LIMITS
    async with rig(options, throttle=algorithm, transit=lambda: rng.uniform(0, 0.4), **limits) as (
        sandbox,
        client,
    ):
        sandbox.drop_reused(times=None, where=lambda entry: entry.number % 5 == 0)
        sandbox.proxy_error(503, times=None, where=lambda entry: entry.number % 7 == 0)
        sandbox.cut_body(times=None, where=lambda entry: entry.number % 11 == 0)

        await hammer(client, 700 if fine else 150)

        assert sandbox.rate_limited == client.usage.rate_limited == 0
        assert sandbox.peak(60) <= (600 if fine else 60)
        check_money(sandbox, client)


async def test_clients_of_one_process_share_the_limits() -> None:
    """Three clients, two keys, one IP: together they stay below what the IP may."""
    async with rig({"throttle": throttle()}, **LIMITS) as (sandbox, client):
        other = sandbox.add_key("tkf_live_" + "B" * 32)
        async with (
            TokfluenceClient(TOKEN, base_url=sandbox.url, throttle=throttle()) as second,
            TokfluenceClient(other.token, base_url=sandbox.url, throttle=throttle()) as third,
        ):
            sandbox.drop_answer(times=20, nth=10)
            await asyncio.gather(
                *(hammer(each, 70, 100 * n) for n, each in enumerate((client, second, third)))
            )

            assert sandbox.rate_limited == 0
            assert sandbox.peak(60) <= 60
            total = sum(each.usage.requests for each in (client, second, third))
            assert total == sandbox.requests_received


async def test_a_new_client_does_not_start_with_a_full_bucket() -> None:
    """Trap 9: a crash loop makes a client a second; the process remembers what it has sent."""
    async with Sandbox(token=TOKEN, **LIMITS) as sandbox:
        for n in range(12):
            async with TokfluenceClient(TOKEN, base_url=sandbox.url, throttle=throttle()) as client:
                await hammer(client, 10, 10 * n)

        assert sandbox.rate_limited == 0
        assert sandbox.peak(60) <= 60


async def test_waiters_that_give_up_swallow_no_slot() -> None:
    """Trap 11: of two hundred callers every second one is cancelled while it waits; the pace of the
    others is whole."""
    async with rig({"throttle": throttle(), "max_concurrency": 200}, **LIMITS) as (sandbox, client):
        calls = [asyncio.create_task(client.posts.get(post_id)) for post_id in ids(200)]
        await asyncio.sleep(5)
        for call in calls[1::2]:
            call.cancel()
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*calls, return_exceptions=True)

        assert asyncio.get_running_loop().time() - began < 110
        assert sandbox.rate_limited == 0
        assert client.usage.credits_reserved == 0


async def test_a_shared_budget_is_slowed_down_for() -> None:
    """Somebody else uses the same IP: 429s come although our own limits hold, and they stay few."""
    async with rig({"throttle": throttle(), "max_retries": 50}, per_ip=30, per_key=None) as (
        sandbox,
        client,
    ):
        await hammer(client, 150)

        assert sandbox.rate_limited <= 20
        assert client.usage.slowed
        assert sandbox.statuses[200] == 150
        check_money(sandbox, client)


async def test_long_batches_and_reads_share_the_limits() -> None:
    """Analysis takes its slots like everything else."""
    async with rig({"throttle": throttle()}, indexed=0.0, seconds_per_url=0.1, **LIMITS) as (
        sandbox,
        client,
    ):
        await asyncio.gather(hammer(client, 80), client.posts.analyze(ids(80, 500), batch_size=1))

        assert sandbox.rate_limited == 0
        assert sandbox.peak(60) <= 60
        assert len(sandbox.times(to=ANALYZE)) == 80


async def test_a_full_queue_of_reads_delays_an_analysis_by_a_slot_or_two() -> None:
    """Batches are few and long, reads many and short; and the reads go on meanwhile."""
    async with rig({"throttle": throttle(), "max_concurrency": 200}, **LIMITS) as (sandbox, client):
        reads = [asyncio.create_task(client.posts.get(post_id)) for post_id in ids(200)]
        for n in range(8):
            await asyncio.sleep(10 + 0.37 * n)
            received = sandbox.requests_received
            await client.posts.analyze(ids(50, 1000 * (n + 1)), batch_size=50)

            before = [entry.route for entry in sandbox.requests[received:]].index(ANALYZE)
            assert before <= 1

        done = sum(read.done() for read in reads)
        await asyncio.gather(*reads)
        assert done >= 60
        assert sandbox.rate_limited == 0


async def test_a_key_that_is_refused_keeps_no_other_from_its_slots() -> None:
    """Calls that wait for a slot hold a place each; one key's stand there while its gate is closed
    for five minutes."""
    async with rig({"throttle": throttle(), "max_concurrency": 20}, **LIMITS) as (sandbox, client):
        other = client.with_options(token=sandbox.add_key("tkf_live_" + "B" * 32).token)
        of_one = {"to": "GET /v1/posts/:id", "where": lambda entry: entry.key == TOKEN[:13]}
        sandbox.rate_limit(retry_after=2, nth=5, **of_one)
        sandbox.rate_limit(
            retry_after=300, nth=10, **of_one
        )  # the other key is answered meanwhile: this key's own gate
        one = [asyncio.create_task(client.posts.get(post_id)) for post_id in ids(100)]

        async with asyncio.timeout(200):
            await hammer(other, 60, 500)

        assert sandbox.rate_limited == 2
        for task in one:
            task.cancel()
        await asyncio.gather(*one, return_exceptions=True)


@pytest.mark.parametrize(("stall", "fresh"), [(0.2, False), (0.9, True), (30.0, True)])
async def test_a_loop_that_is_late_sends_nothing_on_an_old_slot(stall: float, fresh: bool) -> None:
    """Somebody computes in the loop just when a slot is granted. Its request, which runs after
    that, does not leave as if the slot were new: it lets it go and takes another, unless half the
    margin covers the delay."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    async with rig({"throttle": Throttle(60, None, burst=1)}, per_ip=60, per_key=None) as (
        sandbox,
        client,
    ):
        await client.posts.get(POST_ID)
        reads = [asyncio.create_task(client.posts.get(post_id)) for post_id in ids(2)]
        await asyncio.sleep(0.1)
        (timer,) = client._engine.lanes(client._options.token)._origin.line.loops.values()
        granted = timer.when
        loop.call_at(granted, loop.advance, stall)

        await asyncio.gather(*reads)

        interval = 60.57 / 60
        late = granted + stall
        after = late if not fresh else granted + interval if stall < interval else late
        first, second = sandbox.times()[1:]
        assert first == pytest.approx(after, abs=0.01)
        assert second - first >= 0.1
        assert sandbox.rate_limited == 0


async def test_those_in_line_for_a_slot_learn_at_once_of_a_wait_that_is_too_long() -> None:
    """A 429 that asks for a day: nobody hangs, wherever a call stands; a patient client's calls
    stay, and keep their order."""
    async with rig({"throttle": throttle(), "max_concurrency": 50}, **LIMITS) as (sandbox, client):
        patient = client.with_options(token=sandbox.add_key("tkf_live_" + "B" * 32).token)
        sandbox.rate_limit(retry_after=86_400, nth=20)
        calls = [asyncio.create_task(client.posts.get(post_id)) for post_id in ids(150)]
        analysis = asyncio.create_task(client.posts.analyze(ids(5, 500), batch_size=1))
        other = [asyncio.create_task(patient.posts.get(post_id)) for post_id in ids(150)]

        async with asyncio.timeout(120):
            outcomes = await asyncio.gather(*calls, *other, return_exceptions=True)
            report = await analysis

        failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(failed) > 200
        for error in [*failed, *(outcome.error for outcome in report.failed)]:
            assert isinstance(error, RateLimitError)
            assert error.retry_after is not None
            assert error.retry_after > 86_000
        assert sandbox.rate_limited == 1
        assert sandbox.requests_received == len(outcomes) - len(failed) + len(report.succeeded) + 1
        assert client.throttle.statistics().waiting == 0
        assert client.usage.credits_reserved == 0


async def test_a_gate_that_is_closed_again_and_again_holds_a_call_no_longer_than_its_deadline() -> (
    None
):
    """Each closing is below it, and together they are not."""
    async with rig({"throttle": throttle()}, **LIMITS) as (sandbox, client):
        loop = asyncio.get_running_loop()
        lanes = client._engine.lanes(client._options.token)
        await client.posts.get(POST_ID)
        lanes.refused(800)

        async def close_again() -> None:
            while True:
                await asyncio.sleep(790)
                lanes.refused(800)

        closing = asyncio.create_task(close_again())
        began = loop.time()
        with pytest.raises(RateLimitError, match="not sent"):
            await client.posts.get(POST_ID)

        assert loop.time() - began <= 900
        assert sandbox.requests_received == 1
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)


async def test_what_those_who_are_sent_away_have_waited_is_counted() -> None:
    async with rig({"throttle": Throttle(60, None, burst=1)}, per_ip=60, per_key=None) as (
        sandbox,
        client,
    ):
        sandbox.rate_limit(retry_after=2000, nth=10)
        reads = [asyncio.create_task(client.posts.get(post_id)) for post_id in ids(30)]

        outcomes = await asyncio.gather(*reads, return_exceptions=True)

        assert sum(isinstance(outcome, RateLimitError) for outcome in outcomes) == 21
        # Nine waited for 1 to 9 slots, the tenth and those behind it for nine.
        assert client.usage.throttled_seconds == pytest.approx(
            (sum(range(10)) + 20 * 9) * 60.57 / 60, rel=0.05
        )


@pytest.mark.real_time
def test_two_threads_share_the_limits() -> None:
    """Each has a loop and a client of its own; the slots come from one place."""
    ready, stop = threading.Event(), threading.Event()
    served: list[Sandbox] = []

    async def serve() -> None:
        async with Sandbox(token=TOKEN, per_ip=20, per_key=None, period=1.0) as sandbox:
            served.append(sandbox)
            ready.set()
            await asyncio.get_running_loop().run_in_executor(None, stop.wait)

    def use(start: int) -> None:
        async def main() -> None:
            own = Throttle(20, None, 1.0, burst=3, jitter=0.2)
            async with TokfluenceClient(TOKEN, base_url=served[0].url, throttle=own) as client:
                await hammer(client, 25, start)

        asyncio.run(main())

    server = threading.Thread(target=asyncio.run, args=(serve(),))
    server.start()
    ready.wait(10)
    users = [threading.Thread(target=use, args=(1000 * n,)) for n in range(2)]
    for user in users:
        user.start()
    for user in users:
        user.join(60)
    received, refused = served[0].requests_received, served[0].rate_limited
    stop.set()
    server.join(10)

    assert (received, refused) == (50, 0)
