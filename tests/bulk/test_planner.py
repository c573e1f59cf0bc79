"""How large the next batch is, and what it may take; the makespans themselves are
`benchmarks/planner.py`'s to show."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokfluence_async._bulk.planner import Planner
from tokfluence_async._wire.calls import MAX_BATCH

SIZES = st.integers(1, MAX_BATCH)


def seen(planner: Planner, pairs: list[tuple[int, float]]) -> Planner:
    for urls, seconds in pairs:
        planner.observe(urls, seconds)
    return planner


# The same seconds for every size: what is left for the URLs is nothing, and came out a little below
# it.
@example(8, None, [(urls, 1.3) for urls in (14, 15, 29, 7, 1, 28)], 0)
@given(
    st.integers(1, 64),
    st.none() | st.integers(0, 2_000_000),
    st.lists(st.tuples(SIZES, st.floats(0.0, 1e5, allow_nan=False)), max_size=40),
    st.integers(0, 100),
)
def test_a_size_is_always_from_1_to_50(
    concurrency: int, left: int | None, pairs: list[tuple[int, float]], cuts: int
) -> None:
    """Whatever was seen, the service takes no other."""
    planner = seen(Planner(concurrency), pairs)
    for _ in range(cuts):
        planner.cut()

    assert 1 <= planner.next_size(left) <= MAX_BATCH
    overhead, slope = planner.fit()
    assert overhead >= 0.0
    assert slope >= 0.0
    assert planner.limit(50) >= planner.expected(50) >= 0.0


def test_a_size_that_was_asked_for_is_kept() -> None:
    """`batch_size=` is the caller's word, whatever the answers say."""
    planner = seen(Planner(8, batch_size=33), [(33, 10_000.0)])

    assert planner.next_size(1_000) == 33
    assert planner.next_size(None) == 33


def test_the_first_batches_are_small_and_differ() -> None:
    """A URL may take a minute, and one size alone does not tell what a request costs from what a
    URL costs."""
    planner = Planner(8)
    sizes = []
    for _ in range(6):
        sizes.append(planner.next_size(10_000))
        planner.cut()

    assert sizes == [10, 4, 7, 10, 4, 7]
    assert Planner(8).next_size(20) == 2  # guided: two for each worker, with nothing to go by


def test_batches_shrink_towards_the_end() -> None:
    """Guided: the last ones are single URLs, so that no worker is left alone with fifty."""
    planner = seen(Planner(8), [(10, 20.0)])
    left, sizes = 1_000, []
    while left:
        sizes.append(min(planner.next_size(left), left))
        left -= sizes[-1]
        planner.cut()

    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


@pytest.mark.parametrize("per_url", [0.92, 1.0, 4.0, 30.0, 90.0])
def test_no_batch_is_expected_to_take_longer_than_45_seconds(per_url: float) -> None:
    """Or than one URL takes: fewer in doubt when an answer is lost, and proxies do not time out."""
    planner = seen(Planner(8), [(n, per_url * n) for n in (10, 4, 7, 10, 4, 7)] * 200)

    assert planner.expected(planner.next_size(100_000)) <= max(45.0, per_url)


def test_seconds_that_do_not_grow_with_the_batch_lead_to_large_batches() -> None:
    """A service that works a batch at once: small batches would only add rounds."""
    parallel = seen(Planner(8), [(n, 5.0) for n in (10, 4, 7, 10, 4, 7)])
    serial = seen(Planner(8), [(n, 0.5 * n) for n in (10, 4, 7, 10, 4, 7)])

    assert parallel.fit() == (pytest.approx(5.0), pytest.approx(0.0, abs=1e-9))
    # 320 URLs for 8 workers: an even share each, and not 27, 24, 22 ... down to single ones.
    sizes = []
    for _ in range(8):
        sizes.append(parallel.next_size(320 - sum(sizes)))
        parallel.cut()
    assert sizes == [40] * 8
    assert serial.next_size(320) == 27


def test_a_cost_per_request_beside_one_per_url_is_told_from_both() -> None:
    """The fit is by least squares, so exact numbers come out exactly."""
    planner = seen(Planner(8), [(n, 3.0 + 2.0 * n) for n in (10, 4, 7, 10, 4, 7)])

    assert planner.fit() == (pytest.approx(3.0), pytest.approx(2.0))
    assert planner.expected(20) == pytest.approx(43.0)
    assert planner.next_size(100_000) == 16  # of 45 s, 3 are the request's


def test_a_cost_per_request_is_never_more_than_a_batch_takes() -> None:
    """Where the larger batches were the quicker ones."""
    planner = seen(Planner(8), [(n, 12.0 - n) for n in (10, 4, 7, 10, 4, 7)] * 5)

    assert planner.fit() == (pytest.approx(5.0), 0.0)


def test_scattered_seconds_are_not_taken_for_a_cost_per_request() -> None:
    """Of heavy-tailed URLs a few batches say little; guided cutting is not given up for a guess."""
    planner = seen(Planner(8), [(10, 12.0), (4, 31.0), (7, 9.0), (10, 64.0), (4, 8.0)])

    assert planner.fit() == (0.0, pytest.approx(124.0 / 35))


def test_what_an_earlier_run_saw_saves_the_small_first_batches() -> None:
    """A journal's run is resumed with what it learnt: the seconds of a URL, and whether they come
    with the URL or with the request."""
    serial = seen(Planner(8), [(n, 2.0 * n) for n in (10, 4, 7, 10, 4, 7)] * 50)
    parallel = seen(Planner(8), [(n, 5.0) for n in (10, 4, 7, 10, 4, 7)] * 50)

    planner = Planner(8)
    planner.expect(serial.learnt() | {"visible_after": 2.0})
    assert planner.expected(10) == pytest.approx(20.0)
    assert planner.next_size(10_000) == 18  # 45 s, and two tenths in doubt, as of a hundred URLs

    planner = Planner(8)
    planner.expect(parallel.learnt())
    assert planner.fit() == (pytest.approx(5.0), pytest.approx(0.0, abs=1e-9))
    assert planner.next_size(320) == 40


@pytest.mark.parametrize(
    "learnt", [{}, {"urls": 100.0, "seconds": 300.0}, {"urls": -1.0, "batches": float("nan")}]
)
def test_what_an_older_version_kept_is_nothing_to_go_by(learnt: dict[str, float]) -> None:
    """Without the squares a mean cannot be told from its error."""
    planner = Planner(8)
    planner.expect(learnt)

    assert planner.expected(50) == 0.0
    assert planner.next_size(10_000) == 10


def test_an_earlier_run_counts_as_a_hundred_urls() -> None:
    """The service may have become slower; two batches of this run's own weigh as much."""
    planner = Planner(8)
    planner.expect(seen(Planner(8), [(10, 10.0)] * 1000).learnt())
    seen(planner, [(50, 250.0)] * 2)

    assert planner.expected(1) == pytest.approx(3.0)


def test_as_long_as_few_urls_were_seen_they_may_take_longer_than_it_seems() -> None:
    """Heavy-tailed seconds begin with a mean that is too low; a batch cut by it is the longest
    request of the job."""
    sizes = [
        seen(Planner(8), [(urls, 3.0 * urls)]).next_size(100_000)
        for urls in (1, 4, 25, 100, 10_000)
    ]

    # 45 s at 3 s a URL, which may be 3 times, twice, 1.4, 1.2 and 1.02 times as many.
    assert sizes == [5, 7, 10, 12, 14]


def test_of_few_batches_a_cost_per_request_has_to_be_very_plain() -> None:
    """Four points lie near some line by chance; then a serial service would get batches of
    fifty."""
    rising = [(10, 22.5), (4, 12.5), (7, 19.0), (8, 18.0)]  # about 6 + 1.6 a URL, give or take one

    assert seen(Planner(8), rising).fit()[0] == 0.0
    assert seen(Planner(8), rising * 5).fit()[0] > 3.0


def test_a_limit_is_several_times_what_is_expected_and_nothing_before_anything_was_seen() -> None:
    """Too short a limit sends a paid batch again; seconds per URL are heavy-tailed."""
    planner = Planner(8)
    assert planner.limit(50) == 0.0

    planner.observe(10, 300.0)

    assert planner.limit(10) >= 2 * planner.expected(10) == pytest.approx(600.0)


# --- exactly: each number told from its double ----------------------------------------------------


def test_the_cheapest_size_is_a_balance_of_rounds_and_waiting() -> None:
    """n = sqrt(2 * left * a / (concurrency * b)) where a request costs 4 s and a URL half a one; an
    even share of what is left where that is less."""
    sizes = {}
    for left in (50, 190, 200, 1_000, 10_000):
        planner = seen(Planner(8), [(n, 4.0 + 0.5 * n) for n in (10, 4, 7, 10, 4, 7)] * 50)
        assert planner.fit() == (pytest.approx(4.0), pytest.approx(0.5))
        sizes[left] = planner.next_size(left)
    # Of 50: the root is 10, an even share 7. Of 190: 19.5 and 24. Of 200: 20 and 25. Of more,
    # guided cutting alone wants 50, which is the most.
    assert sizes == {50: 7, 190: 20, 200: 20, 1_000: 50, 10_000: 50}


def test_an_even_share_of_two_rounds_is_half_of_one() -> None:
    """500 URLs by eight at once need two rounds of at most 50, so 32 each."""
    planner = seen(Planner(8), [(n, 5.0) for n in (10, 4, 7, 10, 4, 7)] * 50)
    assert planner.next_size(500) == 42  # guided cutting wants more than the even share of 32
    planner = seen(Planner(2), [(n, 5.0) for n in (10, 4, 7, 10, 4, 7)] * 50)
    assert planner.next_size(102) == 34
    planner = seen(Planner(8), [(n, 5.0) for n in (10, 4, 7, 10, 4, 7)] * 50)
    assert planner.next_size(30) == 4
    planner = seen(Planner(8), [(n, 0.5) for n in (10, 4, 7, 10, 4, 7)] * 50)
    assert planner.next_size(320) == 40  # however little a request costs
    planner = seen(Planner(8), [(n, 5.0) for n in (10, 4, 7, 10, 4, 7)] * 50)
    assert planner.next_size(0) == 1


LITTLE = {
    "batches": 1.0,
    "urls": 0.5,
    "seconds": 0.5,
    "urls_urls": 0.5,
    "urls_seconds": 0.5,
    "seconds_seconds": 0.5,
}


def test_what_an_earlier_run_saw_is_taken_whole_up_to_a_hundred_urls() -> None:
    """And added to what this one has seen."""
    planner = Planner(8)
    planner.expect(LITTLE)
    assert planner.learnt() == LITTLE
    seen(planner, [(10, 20.0)])
    planner.expect(seen(Planner(8), [(50, 100.0)]).learnt())
    learnt = planner.learnt()
    assert (learnt["batches"], learnt["urls"], learnt["seconds"]) == (3.0, 60.5, 120.5)
    planner.expect(seen(Planner(8), [(50, 100.0)] * 4).learnt())
    assert planner.learnt()["urls"] == 160.5


def test_seconds_of_nothing_are_something_seen() -> None:
    """A service whose posts are all fresh."""
    planner = Planner(8)
    planner.expect(seen(Planner(8), [(50, 0.0)] * 2).learnt())
    assert planner.next_size(10_000) == 50


@pytest.mark.parametrize("odd", [float("inf"), float("nan"), -0.5])
def test_numbers_that_cannot_be_are_nothing_to_go_by(odd: float) -> None:
    """A journal that somebody has edited."""
    planner = Planner(8)
    planner.expect(LITTLE | {"seconds_seconds": odd})
    assert planner.next_size(10_000) == 10


def test_a_limit_is_four_times_what_is_expected() -> None:
    planner = seen(Planner(8), [(10, 30.0)])
    assert planner.expected(7) == pytest.approx(21.0)
    assert planner.limit(7) == pytest.approx(84.0)


def test_a_size_can_be_bounded_from_outside_unless_it_was_asked_for() -> None:
    """By how far a call may run ahead of its reader."""
    planner = seen(Planner(8), [(10, 10.0)] * 50)
    assert planner.next_size(10_000) == 41
    assert planner.next_size(10_000, 9) == 9
    assert planner.next_size(10_000, 0) == 1
    assert Planner(8).next_size(10_000, 3) == 3
    assert Planner(8, 25).next_size(10_000, 3) == 25


@pytest.mark.parametrize("seed", range(12))
def test_the_fit_is_least_squares(seed: int) -> None:
    """As numpy reads it: `a` less its standard error, twice and more where few were seen, and `b`
    so that all seconds stay accounted for."""
    chance = random.Random(seed)
    a, b, noise = chance.uniform(0, 30), chance.uniform(0.05, 4), chance.choice((0.05, 0.5, 2.0))
    count = (4, 5, 7, 12, 60)[seed % 5]
    data = [
        (urls, max(0.1, a + b * urls + chance.gauss(0, noise)))
        for urls in (chance.randint(1, 50) for _ in range(count))
    ]
    n, t = np.array(data).T
    design = np.stack([np.ones(count), n], axis=1)
    (intercept, slope), *_ = np.linalg.lstsq(design, t, rcond=None)
    variance = ((t - design @ (intercept, slope)) ** 2).sum() / (count - 2)
    error = math.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0])
    sure = min(intercept - 2.0 * (1.0 + 3.0 / (count - 2)) * error, t.sum() / count)
    expected = (sure, max(0.0, (t.sum() - sure * count) / n.sum()))
    if sure <= 0.0:
        expected = (0.0, t.sum() / n.sum())

    assert seen(Planner(8), data).fit() == pytest.approx(expected, rel=1e-6)


def test_four_batches_are_the_fewest_that_tell_a_request_from_its_urls() -> None:
    """And they have to differ in size."""
    exact = [(n, 4.0 + 0.5 * n) for n in (10, 4, 7, 9)]
    assert seen(Planner(8), exact[:3]).fit() == (0.0, pytest.approx(22.5 / 21))
    assert seen(Planner(8), exact).fit() == (pytest.approx(4.0), pytest.approx(0.5))
    assert seen(Planner(8), [(7, 8.0)] * 9).fit() == (0.0, pytest.approx(8.0 / 7))
    # What an earlier run kept is scaled, so equal sizes differ by a rounding error.
    planner = Planner(8)
    planner.expect(seen(Planner(8), [(49, 60.0 + k % 3) for k in range(24)]).learnt())
    assert planner.fit() == (0.0, pytest.approx(61.0 / 49))
    tiny = [(n, 0.4 + 0.05 * n) for n in (10, 4, 7, 9)]
    assert seen(Planner(8), tiny).fit() == (pytest.approx(0.4), pytest.approx(0.05))
