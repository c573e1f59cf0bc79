"""When a read pays: before an analysis, and after it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfluence_async import Sandbox, TokfluenceClient
from tokfluence_async._bulk.visibility import HitRate, Visibility
from tokfluence_async._credits.reads import count_early_reads

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


# --- by how much: each number told from its double and its half -----------------------------------


def made_sparse(rate: HitRate) -> int:
    """Misses until reads are left out."""
    count = 0
    while not rate.sparse:
        rate.found(False)
        count += 1
    return count


def test_fifty_one_misses_leave_reads_out() -> None:
    """A read pays as long as one in 26 hits; two hits are taken to have been seen before."""
    assert made_sparse(HitRate()) == 51


def test_hits_put_that_off_by_26_reads_each() -> None:
    rate = HitRate()
    for hit in (True, False, True):
        rate.found(hit)
    assert made_sparse(rate) == 51 + 2 * 26 - 3


def test_old_answers_fade() -> None:
    """400 hits do not keep reads going for 26 times as many misses."""
    rate = HitRate()
    for _ in range(400):
        rate.found(True)
    assert made_sparse(rate) == 968


def test_every_eighth_post_is_read_while_reads_are_left_out() -> None:
    rate = HitRate()
    assert [rate.wants_read() for _ in range(9)] == [True] * 9
    made_sparse(rate)
    assert [rate.wants_read() for _ in range(24)] == ([False] * 7 + [True]) * 3


@pytest.mark.parametrize("hits_at", [(), (7,)])
def test_a_single_hit_is_looked_into_for_eight_reads(hits_at: tuple[int, ...]) -> None:
    """Fewer than two more among them: it was a single one."""
    rate = HitRate()
    made_sparse(rate)
    rate.found(True)
    for n in range(8):
        assert rate.wants_read()
        rate.found(n in hits_at)
        assert rate.sparse
    assert [rate.wants_read() for _ in range(8)] == [False] * 7 + [True]


@pytest.mark.parametrize("second", [1, 7])
def test_two_more_hits_among_them_are_a_run(second: int) -> None:
    """Then every post is read again, and it takes twice as much to be wrong another time."""
    rate = HitRate()
    made_sparse(rate)
    rate.found(True)
    for n in range(second + 1):
        assert rate.sparse
        rate.found(n in (0, second))
    assert not rate.sparse
    assert made_sparse(rate) == 101
    for _ in range(3):
        rate.found(True)
    assert not rate.sparse
    assert made_sparse(rate) == 201


def test_a_run_that_was_no_run_is_looked_into_anew() -> None:
    """Hits of the last look do not count in the next one."""
    rate = HitRate()
    made_sparse(rate)
    rate.found(True)
    for n in range(8):
        rate.found(n == 0)
    rate.found(True)
    rate.found(True)
    assert rate.sparse
    rate.found(True)
    assert not rate.sparse


def test_a_miss_of_a_probe_changes_nothing() -> None:
    rate = HitRate()
    made_sparse(rate)
    for _ in range(60):
        rate.found(False)
    assert rate.sparse
    assert not rate.wants_read()


def test_reads_that_come_too_early_are_followed_at_twice_the_age() -> None:
    """As long as nothing has worked; the first is at 2 s."""
    visibility = Visibility()
    assert visibility.first() == 2.0
    visibility.failed(2.0)
    assert visibility.first() == 4.0
    visibility.failed(7.0)
    assert visibility.first() == 14.0
    visibility.failed(3.0)  # an older one, told late
    assert visibility.first() == 14.0
    assert visibility.after(3.0, 60.0) == 14.0
    assert visibility.after(7.5, 60.0) == 15.0
    assert Visibility().after(0.5, 60.0) == 2.0
    assert visibility.after(59.0, 60.0) == 60.0
    assert visibility.after(60.0, 60.0) is None


def test_the_lowest_age_that_worked_is_used() -> None:
    visibility = Visibility()
    visibility.succeeded(9.0)
    assert visibility.known == visibility.first() == 9.0
    visibility.succeeded(12.0)
    assert visibility.known == 9.0
    visibility.succeeded(5.0)
    assert visibility.known == 5.0
    assert visibility.after(5.0, 60.0) == 10.0


def test_a_service_that_is_quick_is_believed() -> None:
    """Also below the two seconds that are tried first; after a miss those are waited again."""
    visibility = Visibility()
    visibility.succeeded(3.0)
    visibility.succeeded(0.5)
    assert visibility.first() == 0.5
    assert visibility.after(0.5, 60.0) == 2.0


def test_an_age_that_failed_since_is_not_trusted() -> None:
    """A quarter is added to the one that failed; and a success below a failure is luck."""
    visibility = Visibility()
    visibility.succeeded(8.0)
    visibility.failed(4.0)
    assert visibility.known == 8.0
    visibility.failed(8.0)
    assert visibility.known == 10.0
    visibility.succeeded(8.0)
    assert visibility.known == 10.0
    visibility.succeeded(9.0)
    assert visibility.known == 9.0
    visibility.failed(12.0)
    assert visibility.known == 15.0


def test_a_first_success_below_a_failure_is_all_that_is_known() -> None:
    visibility = Visibility()
    visibility.failed(6.0)
    visibility.succeeded(5.0)
    assert visibility.known == 5.0


# --- on the wire ----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("patience", [1.0, 2.0, 3.0, 4.0, 8.0, 9.0, 60.0, 600.0])
def test_an_estimate_counts_the_reads_that_are_made_of_a_post_that_never_comes(
    patience: float,
) -> None:
    """By another formula; what is estimated bounds what is paid."""
    visibility = Visibility()
    age: float | None = min(visibility.first(), patience)
    reads = 0
    while age is not None:
        reads += 1
        visibility.failed(age)
        age = visibility.after(age, patience)

    assert count_early_reads(patience) == reads


def test_a_post_is_late_at_an_age_at_which_all_others_were_there() -> None:
    """As long as none was, none is late."""
    visibility = Visibility()
    assert visibility.latest > 1e300
    for age, latest in ((9.0, 9.0), (5.0, 9.0), (12.0, 12.0)):
        visibility.succeeded(age)
        assert visibility.latest == latest


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
