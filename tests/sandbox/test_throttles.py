"""Each way of counting, against a plainer reading of its rule."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfluence_async._sandbox.throttles import (
    ALGORITHMS,
    GCRA,
    FixedWindow,
    HAProxyRate,
    NginxLimitReq,
    SlidingCounter,
    SlidingLog,
    TokenBucket,
    build_throttle,
)

# Arrivals in whole eighths of a second: exact in floats, and boundaries are hit often.
arrivals = st.lists(st.integers(0, 60), min_size=1, max_size=80).map(
    lambda gaps: [100 + sum(gaps[: i + 1]) / 8 for i in range(len(gaps))]
)
limits = st.integers(1, 6)
names = st.sampled_from(sorted(ALGORITHMS))


def _granted(throttle: object, times: list[float]) -> list[float]:
    return [t for t in times if throttle.allow(t) == 0.0]  # type: ignore[attr-defined]


@given(limits, arrivals, st.integers(0, 15))
def test_a_fixed_window_never_holds_more_than_the_limit(
    limit: int, times: list[float], offset: int
) -> None:
    """Counted afresh per window, and nothing is refused while there is room."""
    throttle = FixedWindow(limit, 2.0, offset=offset / 8)

    granted = _granted(throttle, times)

    windows: dict[int, list[float]] = {}
    for t in times:
        windows.setdefault(math.floor((t - offset / 8) / 2.0), []).append(t)
    assert granted == [t for inside in windows.values() for t in inside[:limit]]


@given(limits, arrivals)
def test_a_sliding_log_looks_back_exactly_one_period(limit: int, times: list[float]) -> None:
    """A request passes if fewer than the limit passed in the period before it."""
    expected: list[float] = []
    for t in times:
        if sum(t - 2.0 < e for e in expected) < limit:
            expected.append(t)

    assert _granted(SlidingLog(limit, 2.0), times) == expected


@given(limits, arrivals)
def test_a_log_that_counts_refusals_looks_at_everything_received(
    limit: int, times: list[float]
) -> None:
    """Hammering keeps the door shut."""
    expected = [t for i, t in enumerate(times) if sum(t - 2.0 < e for e in times[:i]) < limit]

    assert _granted(SlidingLog(limit, 2.0, count_refusals=True), times) == expected


@given(limits, arrivals, st.booleans())
def test_a_sliding_counter_weighs_the_last_window(
    limit: int, times: list[float], count_refusals: bool
) -> None:
    """The formula of the docstring, from the plain counts."""
    granted: list[float] = []
    counted: list[float] = []
    for t in times:
        window = math.floor(t / 2.0)
        last = sum(math.floor(e / 2.0) == window - 1 for e in counted)
        this = sum(math.floor(e / 2.0) == window for e in counted)
        passes = last * (1 - (t / 2.0 - window)) + this + 1 <= limit
        if passes:
            granted.append(t)
        if passes or count_refusals:
            counted.append(t)

    assert _granted(SlidingCounter(limit, 2.0, count_refusals=count_refusals), times) == granted


@given(limits, st.integers(1, 5), arrivals)
def test_gcra_and_the_token_bucket_are_the_same_machine(
    limit: int, burst: int, times: list[float]
) -> None:
    """Two well-known algorithms that are known to agree: each checks the other."""
    bucket = TokenBucket(limit, 2.0, burst=burst)
    gcra = GCRA(limit, 2.0, burst=burst)

    assert _granted(bucket, times) == _granted(gcra, times)


@given(limits, arrivals)
def test_a_bucket_lets_its_burst_and_the_refill_through(limit: int, times: list[float]) -> None:
    """Any stretch of the clock holds at most burst + rate x length."""
    granted = _granted(TokenBucket(limit, 2.0), times)

    for i, start in enumerate(granted):
        for j, end in enumerate(granted[i:], 1):
            assert j <= limit + (end - start) * limit / 2.0 + 1e-6


@given(names, limits, arrivals)
def test_the_wait_it_names_is_long_enough(name: str, limit: int, times: list[float]) -> None:
    """A client that comes back when it was told to, and not before, is let in."""
    throttle = build_throttle(name, limit, 2.0)

    wait = 0.0
    for t in times:
        wait = throttle.allow(t)
        assert wait >= 0.0
    if wait:
        assert throttle.allow(times[-1] + wait + 1e-6) == 0.0


@given(
    st.sampled_from(["fixed_window", "sliding_window", "sliding_counter", "token_bucket", "gcra"]),
    limits,
    arrivals,
)
def test_the_wait_it_names_is_not_too_long(name: str, limit: int, times: list[float]) -> None:
    """A millisecond before the time it names, it still refuses: Retry-After is honest."""
    early, late = build_throttle(name, limit, 2.0), build_throttle(name, limit, 2.0)

    waits = [(early.allow(t), late.allow(t))[0] for t in times]
    if waits[-1] > 0.002:
        assert early.allow(times[-1] + waits[-1] - 0.001) > 0.0


def test_a_fixed_window_lets_twice_the_limit_through_around_a_boundary() -> None:
    """This is what a margin on the rate does not help against."""
    throttle = FixedWindow(600, 60.0)

    granted = _granted(throttle, [59.9] * 700 + [60.1] * 700)

    assert len(granted) == 1200


def test_haproxy_adds_what_is_left_of_the_last_window() -> None:
    """past x remaining + this x period, over the period, rounded down (`freq_ctr_total`)."""
    throttle = HAProxyRate(10, 10.0)
    for _ in range(10):
        assert throttle.allow(100.0) == 0.0

    # 4 s into the second window: 10 x 6 / 10 of the first are still counted.
    rates = []
    for _ in range(4):
        assert throttle.allow(114.0) == 0.0
        rates.append(throttle.rate(114.0))

    assert rates == [7, 8, 9, 10]
    assert throttle.allow(114.0) > 0.0


def test_haproxy_counts_what_it_denies() -> None:
    """Tracking comes before the rule: a client that goes on at twice the limit is never let in
    again."""
    throttle = HAProxyRate(10, 1.0)

    granted = _granted(throttle, [100 + i / 20 for i in range(200)])

    assert len(granted) == 10


def test_haproxy_forgets_after_two_idle_periods() -> None:
    """Then its windows begin anew with the next request."""
    throttle = HAProxyRate(3, 1.0)
    assert throttle.rate(100.0) == 0
    for _ in range(8):
        throttle.allow(100.0)

    assert throttle.rate(101.5) == 4
    assert throttle.rate(102.5) == 0
    assert throttle.allow(102.5) == 0.0
    assert throttle.rate(103.4) == 1


def test_nginx_lets_its_burst_through_and_then_the_rate() -> None:
    """One and the burst at once (the first request leaves no excess), then one per interval;
    refusals cost nothing."""
    throttle = NginxLimitReq(10, 1.0, burst=5)

    at_once = _granted(throttle, [100.0] * 20)
    later = _granted(throttle, [100 + i / 100 for i in range(1, 101)])

    assert len(at_once) == 6
    assert len(later) == 10


def test_nginx_without_nodelay_holds_requests_back() -> None:
    """A request within the burst waits its turn: its excess at the rate."""
    throttle = NginxLimitReq(10, 1.0, burst=5, nodelay=False)

    delays = []
    for _ in range(6):
        assert throttle.allow(100.0) == 0.0
        delays.append(throttle.delay)

    assert delays == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize("make", list(ALGORITHMS.values()))
def test_impossible_numbers_are_refused(make: object) -> None:
    """At the making, not at the first request."""
    with pytest.raises(ValueError, match="limit"):
        make(0, 60.0)  # type: ignore[operator]  # any algorithm
    with pytest.raises(ValueError, match="period"):
        make(1, 0.0)  # type: ignore[operator]  # any algorithm


def test_impossible_bursts_are_refused() -> None:
    """A bucket that holds nothing lets nothing pass, ever."""
    with pytest.raises(ValueError, match="burst"):
        TokenBucket(1, 1.0, burst=0)
    with pytest.raises(ValueError, match="burst"):
        GCRA(1, 1.0, burst=0)
    with pytest.raises(ValueError, match="burst"):
        NginxLimitReq(1, 1.0, burst=-1)
    with pytest.raises(ValueError, match="slower"):
        NginxLimitReq(1, 1e6)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    """A typo must not switch the throttle off."""
    with pytest.raises(ValueError, match="sliding_window"):
        build_throttle("sliding_windows", 1, 1.0)
