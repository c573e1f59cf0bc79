"""A service that takes so many analyze batches at once and refuses the next: met by fewer at once,
whatever the pace."""

from __future__ import annotations

import asyncio
import random

import pytest

from tokfluence_async import Sandbox, TokfluenceClient
from tokfluence_async._sandbox.faults import Fault
from tokfluence_async._sandbox.ledger import ANALYZE

from .conftest import check_money, ids, rig


def limit(sandbox: Sandbox, most: int, *, status: int = 429) -> Fault:
    """No more than `most` batches at once from now on."""

    def too_many(_: object) -> bool:
        return sandbox.in_flight(ANALYZE) > most

    if status == 429:
        return sandbox.rate_limit(to=ANALYZE, times=None, retry_after=1, where=too_many)
    return sandbox.proxy_error(status, to=ANALYZE, times=None, where=too_many)


async def analyze(
    client: TokfluenceClient, count: int, start: int = 0, *, batch_size: int
) -> float:
    """Virtual seconds it took; every post was analyzed."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    report = await client.posts.analyze(ids(count, start), batch_size=batch_size)
    report.raise_for_errors()
    assert len(report.succeeded) == count
    return loop.time() - began


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("most", [1, 2, 4, 8])
async def test_fewer_are_sent_at_once(most: int, status: int) -> None:
    """Nothing fails, little is refused, the places are used, and what a proxy refused is not taken
    for spent at the end."""
    async with rig(indexed=0.0, seconds_per_url=1.0) as (sandbox, client):
        fault = limit(sandbox, most, status=status)

        seconds = await analyze(client, 300, batch_size=5)

        assert fault.hits <= 25
        assert seconds < 1.1 * 300 / most + 8
        assert client.usage.credits_spent == sandbox.credits_spent == 300 * 25
        check_money(sandbox, client)


async def test_a_limit_that_stays_costs_little_and_one_that_goes_is_found_out() -> None:
    """One place more is tried now and then, each time that fails only after twice as many
    answers."""
    async with rig(indexed=0.0, seconds_per_url=1.0) as (sandbox, client):
        fault = limit(sandbox, 3)
        await analyze(client, 400, batch_size=2)
        first = fault.hits
        assert first <= 20

        await analyze(client, 400, 1000, batch_size=2)
        assert fault.hits - first <= 5

        sandbox.clear_faults()
        await analyze(client, 500, 2000, batch_size=1)
        assert await analyze(client, 240, 3000, batch_size=1) < 1.2 * 240 / 8 + 5


@pytest.mark.parametrize("share", [0.01, 0.03])
async def test_ordinary_refusals_take_no_places_away(share: float) -> None:
    """A limit was there and has gone; from then on some batches are refused at random, as where a
    budget is shared."""
    rng = random.Random(3)
    async with rig(indexed=0.0, seconds_per_url=10.0) as (sandbox, client):
        limit(sandbox, 4)
        await analyze(client, 200, batch_size=2)
        sandbox.clear_faults()
        sandbox.rate_limit(
            to=ANALYZE, times=None, retry_after=1, where=lambda _: rng.random() < share
        )

        seconds = await analyze(client, 1000, 1000, batch_size=2)

        assert seconds < 1.2 * 1000 * 10 / 8


async def test_waiting_for_a_place_does_not_count_against_the_deadline() -> None:
    """Eight batches of 200 s, one at a time: the last waits for 23 minutes, and a call may be
    retried for 15."""
    async with rig(indexed=0.0, seconds_per_url=4.0) as (sandbox, client):
        limit(sandbox, 1)

        assert await analyze(client, 400, batch_size=50) < 1.05 * 400 * 4


@pytest.mark.parametrize("most", [1, 4])
async def test_copies_of_a_client_learn_together(most: int) -> None:
    """`with_options` has the same key, so the same places at the service."""
    async with rig(indexed=0.0, seconds_per_url=1.0) as (sandbox, client):
        fault = limit(sandbox, most)
        copy = client.with_options(analyze_concurrency=4)
        loop = asyncio.get_running_loop()
        began = loop.time()

        await asyncio.gather(
            analyze(client, 200, batch_size=5),
            analyze(copy, 200, 1000, batch_size=5),
        )

        assert fault.hits <= 30
        assert loop.time() - began < 1.2 * 400 / most + 10


async def test_reads_beside_such_a_job_keep_most_of_their_pace() -> None:
    """The refusals by which a limit is learnt close the gate for reads too, so they have to end."""
    async with rig(indexed=0.0, seconds_per_url=4.0) as (sandbox, client):
        limit(sandbox, 4)
        job = asyncio.create_task(analyze(client, 2000, batch_size=10))
        loop = asyncio.get_running_loop()
        await asyncio.sleep(100)
        began = loop.time()

        async for _ in client.posts.get_many(ids(1000, 5000)):
            pass

        assert loop.time() - began < 1.5 * 100
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
