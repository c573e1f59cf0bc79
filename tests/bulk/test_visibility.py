"""When a read pays: before an analysis, and after it."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tokfluence_async import Sandbox, TokfluenceClient
from tokfluence_async._bulk.visibility import HitRate, Visibility

GET = "GET /v1/posts/:id"


def cost(hits: list[bool]) -> int:
    """Credits for posts one after the other."""
    rate = HitRate()
    spent = 0
    for hit in hits:
        if rate.wants_read():
            rate.found(hit)
            spent += 1 if hit else 27
        else:
            spent += 26
    return spent


def clairvoyant(hits: list[bool]) -> int:
    return sum(1 if hit else 26 for hit in hits)


def test_a_cold_index_is_not_read_for_long() -> None:
    """A miss is 1 credit of 26."""
    assert cost([False] * 2000) <= 1.01 * clairvoyant([False] * 2000)


def test_a_cold_start_does_not_cost_the_warm_rest() -> None:
    """Inputs come in runs; what a run of cached posts would cost unread is 26 times what it
    should."""
    inputs = [False] * 500 + [True] * 500
    assert cost(inputs) <= 1.03 * clairvoyant(inputs)


def test_runs_now_cached_and_now_not_cost_little_more_than_reading_all() -> None:
    """Being wrong again and again makes it slower to leave reads out."""
    inputs = ([False] * 100 + [True] * 100) * 20
    assert cost(inputs) <= 1.02 * sum(1 if hit else 27 for hit in inputs)


@given(st.integers(0, 100), st.integers(0, 10**6))
def test_strewn_hits_cost_little_more_than_the_better_of_both_ways(
    per_cent: int, seed: int
) -> None:
    """Nobody without clairvoyance can do better than that."""
    chance = random.Random(seed)
    inputs = [chance.random() * 100 < per_cent for _ in range(2000)]
    floor = min(sum(1 if hit else 27 for hit in inputs), 26 * len(inputs))
    assert cost(inputs) <= 1.06 * floor


def test_every_read_after_the_first_success_is_at_an_age_that_worked() -> None:
    """Polls that come too early cost a credit each."""
    visibility = Visibility()
    assert visibility.first() == 2.0
    visibility.failed(2.0)
    assert visibility.after(2.0, 60.0) == 4.0
    visibility.succeeded(4.0)
    assert visibility.first() == 4.0
    visibility.failed(4.0)
    assert visibility.first() == 5.0
    visibility.expect(7.0)
    assert visibility.first() == 7.0


def test_the_last_read_is_at_the_end_of_patience() -> None:
    """Giving up earlier would lose a post that was paid for."""
    visibility = Visibility()
    ages = [visibility.first()]
    while (age := visibility.after(ages[-1], 60.0)) is not None:
        visibility.failed(ages[-1])
        ages.append(age)
    assert ages[-1] == 60.0
    assert len(ages) <= 7


async def test_a_cold_job_leaves_reads_out_and_a_warm_one_does_not() -> None:
    """On the wire, with fifty readers at once."""
    ids = [str(7234567890123456789 + n) for n in range(400)]
    async with (
        Sandbox(indexed=set(ids[300:]), seconds_per_url=1.0) as sandbox,
        TokfluenceClient(sandbox.token, base_url=sandbox.url) as client,
    ):
        outcomes = [outcome async for outcome in client.posts.resolve(ids)]

        assert all(outcome.ok for outcome in outcomes)
        assert len(outcomes) == len(ids)
        misses = len(sandbox.times(GET, status=404))
        assert misses < 200
        assert sandbox.credits_spent <= 1.04 * (300 * 26 + 100)
