"""The arithmetic of the throttle: when slots open, and what a refusal does to that."""

from __future__ import annotations

import asyncio
import itertools
import math
import sys
from email.utils import formatdate

import pytest
from aiolimiter import AsyncLimiter
from hypothesis import given, settings
from hypothesis import strategies as st

from tokfluence_async._throttle.pacer import Pacer, Pacing
from tokfluence_async._throttle.retry_after import parse_date, parse_retry_after, plan_pause


def pacer(
    limit: float | None = 600,
    period: float = 60.0,
    *,
    burst: int = 10,
    jitter: float = 0.6,
    now: float = 0.0,
    **more,
) -> Pacer:
    return Pacer(Pacing(limit, period, burst, jitter), now, **more)


def saturate(lane: Pacer, start: float, end: float, late: float = 0.0) -> list[float]:
    """Take every slot from `start` to `end`, each `late` after it opened."""
    granted = []
    now = start
    while True:
        now = max(now, lane.free_at + late)
        if now >= end:
            return granted
        lane.take(now, queued=True)
        granted.append(now)


# -------------------------------------------------------------------------------------------------
# the one guarantee

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(0, 20)),
        st.tuples(st.just("demand"), st.integers(1, 12)),
        st.tuples(st.just("wait"), st.floats(0, 0.3)),
        st.tuples(st.just("queue"), st.integers(1, 40)),
        st.tuples(st.just("cancel"), st.integers(1, 3)),
        st.tuples(st.just("refused"), st.floats(0, 30)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(1, 30), st.integers(1, 40), st.floats(0, 3), st.booleans())
def test_no_window_of_period_and_jitter_ever_holds_more_than_the_limit(
    steps, limit, burst, jitter, empty
):
    """Every way of counting is met by this, as whatever arrives within one period was granted
    within period + jitter."""
    lane = pacer(limit, 10.0, burst=burst, jitter=jitter, empty=empty)
    now, granted = 0.0, []

    def take(queued: bool) -> None:
        lane.take(now, queued)
        granted.append(now)

    for step, amount in steps:
        if step == "pass":
            now += amount
        elif step == "demand":
            for _ in range(amount):
                if now >= lane.free_at:
                    take(queued=False)
        elif step == "wait":
            now = max(now, lane.free_at) + amount
            take(queued=True)
        elif step == "queue":
            for _ in range(amount):
                now = max(now, lane.free_at)
                take(queued=True)
        elif step == "cancel":
            for _ in range(min(amount, len(granted))):
                lane.refund(granted.pop(), now)
        elif step == "refused":
            lane.refused(now, amount)

    for first, beyond in zip(granted, granted[limit:], strict=False):
        assert beyond - first >= 10.0 + jitter - 1e-9


CHANGES = st.one_of(
    st.tuples(st.just("pass"), st.floats(0, 20)),
    st.tuples(st.just("demand"), st.integers(1, 12)),
    st.tuples(st.just("queue"), st.integers(1, 40)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("refused"), st.floats(0, 5)),
    st.tuples(st.just("change"), st.integers(1, 30)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(CHANGES, max_size=40), st.integers(1, 30), st.integers(1, 10), st.floats(0, 3))
def test_a_window_holds_no_more_than_the_smallest_limit_that_held_in_it(
    steps, limit, burst, jitter
):
    """While numbers change, and slots come back that are not the newest.

    A limit that went up again says nothing of grants before that: the log is as long as the limit
    was. And a slot given back is one taken since the last change.
    """
    lane = pacer(limit, 10.0, burst=burst, jitter=jitter)
    now, changed = 0.0, 0
    granted: list[float] = []
    held = [(limit, 0)]  # each limit, and how many grants there were when it began

    def take(queued: bool) -> None:
        lane.take(now, queued)
        granted.append(now)
        since = len(granted) - 1 - limit
        if since >= 0 and limit <= min(
            each for n, (each, _) in enumerate(held) if [*held, (0, math.inf)][n + 1][1] > since
        ):
            assert now - granted[since] >= 10.0 + jitter - 1e-9

    for step, amount in steps:
        if step == "pass":
            now += amount
        elif step == "demand":
            for _ in range(amount):
                if now >= lane.free_at:
                    take(queued=False)
        elif step == "queue":
            for _ in range(amount):
                now = max(now, lane.free_at)
                take(queued=True)
        elif step == "cancel":
            if len(granted) - amount > changed:
                lane.refund(granted.pop(-1 - amount), now)
        elif step == "refused":
            lane.refused(now, amount)
        else:
            limit, changed = amount, len(granted)
            held.append((limit, changed))
            lane.configure(Pacing(limit, 10.0, burst, jitter), now)


@settings(deadline=None)
@given(STEPS, st.integers(1, 30), st.integers(1, 20))
def test_a_slot_is_never_out_of_reach(steps, limit, burst):
    """Whatever happened, the next slot opens after a finite time: at the least share, a lane stands
    still for 200 intervals."""
    lane = pacer(limit, 10.0, burst=burst)
    now = 0.0
    for step, amount in steps:
        if step == "refused":
            lane.refused(now, amount)
        elif step == "queue":
            for _ in range(int(amount)):
                now = max(now, lane.free_at)
                lane.take(now, queued=True)
        else:
            now += amount

    assert lane.free_at - now <= 30 + 2 * 10.6 + 200 * 10.6 / limit + 1e-6


# -------------------------------------------------------------------------------------------------
# the pace


@pytest.mark.parametrize("late", [0.0, 0.0008, 0.02])
def test_a_saturated_lane_grants_the_limit_per_period_and_jitter(late):
    """A timer's lateness may not be lost on every slot, or the event loop alone would cost more
    than the margin."""
    lane = pacer()

    granted = saturate(lane, 0.0, 3600.0, late)

    assert len(granted) / 3600 >= 0.99 * 10 * (1 if late < 0.01 else 0.9995)


def test_slots_are_even():
    """Token buckets and GCRA refuse what comes in clumps, however few there are in a minute."""
    granted = saturate(pacer(), 0.0, 300.0)

    gaps = [later - earlier for earlier, later in itertools.pairwise(granted)]
    assert min(gaps) == pytest.approx(60.6 / 600)
    assert max(gaps) == pytest.approx(60.6 / 600)


def test_a_lane_starts_with_one_slot():
    """A crash loop has nothing to burst with: the second slot opens one interval after the
    first."""
    lane = pacer()

    lane.take(0.0)

    assert lane.free_at == pytest.approx(60.6 / 600)


def test_an_empty_lane_starts_with_none():
    """A forked child takes no time to start, so a loop of forks would burst with one slot each."""
    assert pacer(now=100.0, empty=True).free_at == pytest.approx(100.0 + 60.6 / 600)
    assert pacer(1, now=100.0, empty=True).free_at == pytest.approx(100.0 + 60.6)


def test_idleness_saves_a_burst_and_no_more():
    lane = pacer(burst=10)
    lane.take(0.0)

    at_once = 0
    while lane.free_at <= 1000.0:
        lane.take(1000.0)
        at_once += 1

    assert at_once == 10


def test_a_short_pause_saves_what_it_lasted():
    lane = pacer(burst=10)
    saturate(lane, 0.0, 100.0)
    back = lane.free_at + 3.5 * 60.6 / 600

    at_once = 0
    while lane.free_at <= back:
        lane.take(back)
        at_once += 1

    assert at_once == 4


def test_a_short_pause_saves_no_more_where_the_window_has_room():
    """Nothing but the schedule says how many: hardly a slot of the last minute was taken."""
    lane = pacer(burst=10)
    lane.take(0.0)

    assert at_once(lane, 4.5 * 60.6 / 600) == 4
    assert lane.free_at == pytest.approx(5 * 60.6 / 600)


def test_a_burst_is_paid_back_evenly_over_the_next_window():
    """The log alone would let the same burst through again one window later; a sliding counter
    counts it twice."""
    lane = pacer(burst=10)
    lane.take(0.0)
    for _ in range(10):
        lane.take(1000.0)

    granted = saturate(lane, 1000.0, 1300.0)

    gaps = [later - earlier for earlier, later in itertools.pairwise(granted)]
    first_window = [gap for moment, gap in zip(granted, gaps, strict=False) if moment < 1059]
    after = [gap for moment, gap in zip(granted, gaps, strict=False) if moment > 1063]
    assert first_window == pytest.approx([60.6 / 591] * len(first_window))
    assert after == pytest.approx([60.6 / 600] * len(after))


def test_a_late_timer_is_made_up_for_and_a_stall_is_not():
    """A busy event loop loses nothing; after a machine slept with a queue, at most a burst goes at
    once."""
    lane = pacer(burst=10)
    saturate(lane, 0.0, 100.0)

    busy = saturate(lane, lane.free_at + 0.55, lane.free_at + 0.56)
    asleep = saturate(lane, lane.free_at + 3600, lane.free_at + 3600.01)

    assert len(busy) == 6
    assert len(asleep) == 1


def test_of_a_stall_as_much_is_made_up_for_as_could_have_been_saved():
    """Nine slots that passed, and the one that is due; had ten passed, one goes."""
    for missed, made_up in ((9.5, 10), (10.5, 1)):
        lane = pacer(burst=10)
        saturate(lane, 0.0, 100.0)
        late = lane.free_at + missed * 60.6 / 600

        assert len(saturate(lane, late, late + 1e-6)) == made_up


def test_a_burst_that_is_full_fills_no_further():
    """As a bucket: after ten at once, the next slot comes an interval later, whenever in an
    interval they went."""
    lane = pacer(burst=10)
    saturate(lane, 0.0, 100.0)
    back = lane.free_at + 50.7 * 60.6 / 600

    assert at_once(lane, back) == 10
    assert lane.free_at == pytest.approx(back + 60.6 / 600)


def test_slots_saved_one_after_the_other_add_up():
    lane = pacer(burst=10)
    saturate(lane, 0.0, 100.0)
    due, interval = lane.free_at, 60.6 / 600
    for k in range(3):
        lane.take(due + (3 * k + 2.5) * interval)  # two pass unused each time

    assert at_once(lane, due + 8.9 * interval) == 6


def test_a_slot_given_back_is_as_if_never_taken():
    lane, other = pacer(), pacer()
    for each in (lane, other):
        saturate(each, 0.0, 10.0)

    now = lane.free_at
    lane.take(now, queued=True)
    lane.refund(now, now)

    assert lane.free_at == pytest.approx(other.free_at)


@pytest.mark.parametrize("taken", [1050.0, 1052.0])
def test_a_slot_given_back_is_free_again_where_the_window_is_full(taken):
    """Of three a window, the newest that was taken until then, however exact its time is."""
    lane = pacer(3, burst=3, jitter=0.0)
    for moment in (1000.0, 1001.0, 1050.0):
        lane.take(moment)
    assert lane.free_at == 1060.0

    lane.refund(taken, 1055.0)

    assert lane.free_at <= 1055.0
    lane.take(1055.0)
    assert lane.free_at == 1060.0
    lane.take(1060.0)
    assert lane.free_at < 1100.0  # not a window after 1050


def test_giving_back_what_was_never_taken_changes_nothing():
    lane = pacer()
    lane.take(5.0)
    opens = lane.free_at

    lane.refund(1.0, 5.0)

    assert lane.free_at == opens


@pytest.mark.parametrize(
    ("limit", "least", "most"), [(0.5, 29, 30), (1, 59, 60), (1.5, 59, 60), (2.9, 118, 120)]
)
def test_small_and_fractional_limits_are_rounded_to_the_safe_side(limit, least, most):
    granted = saturate(pacer(limit, burst=1), 0.0, 3600.0)

    assert least <= len(granted) <= most


def test_without_a_limit_every_slot_is_free_and_the_gate_still_works():
    lane = pacer(None)
    for _ in range(10_000):
        lane.take(0.0)

    assert lane.free_at == -math.inf
    assert lane.pace(0.0) == math.inf
    assert lane.refused(0.0, 5.0) is False
    assert lane.free_at == 5.0


def test_other_numbers_count_what_was_granted_before():
    """A smaller limit that arrives in the middle of a window must not begin with an empty log."""
    lane = pacer(600)
    granted = saturate(lane, 0.0, 60.0)

    lane.configure(Pacing(100, 60.0, 1, 0.6), 60.0)

    assert lane.free_at == pytest.approx(granted[-100] + 60.6)
    lane.configure(Pacing(100, 30.0, 1, 0.6), 60.0)
    assert (lane.numbers.limit, lane.numbers.period) == (100, 30.0)
    assert lane.pace(60.0) == pytest.approx(100 / 30.6)
    assert len(lane._log) == 100


async def test_the_pace_is_that_of_aiolimiter():
    """Two readings of the token bucket: while nothing binds but the pace, both have granted as many
    at every moment, give or take one."""
    loop = asyncio.get_running_loop()
    interval, burst = 0.1, 5
    bucket = AsyncLimiter(burst, burst * interval)
    for _ in range(burst - 1):  # ours starts with one slot
        await bucket.acquire()
    lane = Pacer(Pacing(10_000_000, 1_000_000.0, burst, 0.0), loop.time())
    gaps = [
        0.0,
        0.0,
        0.03,
        0.0,
        0.25,
        0.0,
        0.0,
        0.0,
        1.7,
        *[0.0] * 9,
        0.17,
        0.11,
        *[0.0] * 4,
        3.0,
        *[0.05] * 40,
    ]

    theirs: list[float] = []
    ours: list[float] = []
    moment = loop.time()
    for gap in gaps:
        moment += gap
        if loop.time() < moment:
            await asyncio.sleep(moment - loop.time())
        await bucket.acquire()
        theirs.append(loop.time())
        asked = max(moment, ours[-1] if ours else moment)
        granted = max(asked, lane.free_at)
        lane.take(granted, queued=granted > asked)
        ours.append(granted)

    for moment in theirs:
        assert (
            abs(sum(t <= moment + 1e-6 for t in ours) - sum(t <= moment + 1e-6 for t in theirs))
            <= 1
        )


# -------------------------------------------------------------------------------------------------
# refusals


def test_the_gate_only_ever_moves_later():
    lane = pacer()

    lane.refused(0.0, 30.0)
    lane.refused(1.0, 2.0)

    assert lane.gate.closed_for(1.0) == 29.0
    assert lane.free_at == 30.0
    lane.refused(2.0, 100.0)
    assert lane.free_at == 102.0
    assert lane.gate.closed_for(102.0) == 0.0


@pytest.mark.parametrize("pause", [0.5, 5.0])
def test_after_the_gate_traffic_is_paced_and_has_no_burst(pause):
    """Everybody waited for the same moment; at it, one may go."""
    lane = pacer()
    lane.take(0.0)
    lane.take(1000.0)
    lane.refused(1000.0, pause)

    granted = saturate(lane, 1000.0, 1006.0)

    assert granted[0] == pytest.approx(1000.0 + pause)
    assert min(b - a for a, b in itertools.pairwise(granted)) > 60.6 / 600


def test_a_refusal_halves_the_pace_and_those_in_flight_with_it_do_not():
    lane = pacer()
    saturate(lane, 0.0, 100.0)

    stepped = [lane.refused(100.0 + 0.1 * k, 20.0) for k in range(5)]

    assert stepped == [True, False, False, False, False]
    assert lane.refused_total == 5
    assert lane.learnt.at(120.0) == 0.5
    assert lane.pace(120.0) == pytest.approx(300 / 60.6)


def test_a_refusal_behind_a_closed_gate_tells_nothing_new():
    """It was sent before the gate closed: a slow answer. It may ask for a longer pause."""
    lane = pacer()
    lane.refused(100.0, 20.0)

    assert lane.refused(110.0, 30.0) is False
    assert lane.learnt.at(120.0) == 0.5
    assert lane.free_at == 140.0
    assert lane.refused(140.0, 1.0) is True  # sent when it had opened


def test_a_refusal_right_after_a_short_pause_was_in_flight_too():
    lane = pacer()
    lane.refused(100.0, 0.2)

    assert lane.refused(101.4, 0.2) is False
    assert lane.refused(102.0, 0.2) is True


def test_a_refusal_that_is_not_about_the_rate_does_not_lower_it():
    """The gate closes, and the full pace goes on after it."""
    lane = pacer()

    assert lane.refused(100.0, 20.0, lower=False) is False
    assert lane.free_at == 120.0
    assert lane.pace(120.0) == pytest.approx(600 / 60.6)


def test_a_refusal_after_the_gate_halves_again():
    lane = pacer()
    lane.refused(100.0, 20.0)

    assert lane.refused(125.0, 20.0) is True
    assert lane.learnt.at(146.0) == 0.25


def test_one_short_refusal_after_a_long_peace_costs_little():
    """A straggler at a sliding log says nothing about the limit; halving for it would cost three
    quarters of a minute."""
    lane = pacer()

    lane.refused(1000.0, 0.2)

    assert lane.learnt.at(1001.0) == 0.95
    assert lane.learnt.at(1000.0 + 120) == 1.0


def test_the_full_rate_is_back_within_two_windows_even_from_a_quarter():
    lane = pacer()
    lane.refused(100.0, 20.0)
    lane.refused(125.0, 20.0)

    shares = [lane.learnt.at(125.0 + 0.1 * k) for k in range(1200)]

    assert shares[0] == 0.25
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_share_that_was_held_is_where_the_next_refusal_leads_back_to():
    """Halving at every probe would give away half of what the service still permits."""
    lane = pacer()
    lane.refused(100.0, 20.0)
    saturate(lane, 100.0, 100 + 1.5 * 60)

    lane.refused(100 + 1.5 * 60, 1.0)

    assert lane.learnt.at(100 + 1.5 * 60) == pytest.approx(0.5 * 1.03)


def test_what_was_held_is_remembered_for_a_window_after_the_full_pace_is_reached():
    """A bucket that filled up while the pace was low lets the full pace through, for a while."""
    lane = pacer()
    lane.refused(100.0, 20.0)
    full = next(float(t) for t in range(100, 300) if lane.learnt.at(float(t)) == 1.0)
    saturate(lane, 100.0, full + 10.0)

    lane.refused(full + 10.0, 20.0)

    assert lane.learnt.at(full + 11.0) == pytest.approx(0.55)


def test_what_seemed_proven_is_given_up_step_by_step():
    lane = pacer()
    lane.refused(100.0, 20.0)
    saturate(lane, 100.0, 190.0)
    lane.refused(190.0, 1.0)
    held = lane.learnt.at(191.0)

    lane.refused(200.0, 1.0)
    little = lane.learnt.at(201.0)
    lane.refused(210.0, 1.0)

    assert little == pytest.approx(0.9 * held)
    assert lane.learnt.at(211.0) == pytest.approx(0.45 * held)


def test_the_log_is_as_long_as_a_window_and_not_as_the_limit():
    """An own deployment permits a billion, and is asked for a hundred a second, for days."""
    lane = pacer(1e9)

    for k in range(100_000):
        lane.take(0.01 * k)

    assert len(lane._log) <= 2 * 100 * 60.6 + 1


def test_a_lane_never_stands_still_for_good():
    """One request in two hundred finds out that it is over."""
    lane = pacer()
    for k in range(50):
        lane.refused(100.0 + 2 * k, 0.0)

    assert lane.pace(200.0) == pytest.approx(0.05 * 600 / 60.6)


def test_what_is_owed_for_a_burst_does_not_stop_a_lane_that_is_slowed_down():
    """Nine slots are owed of the thirty that are left."""
    lane = pacer(burst=10)
    lane.take(0.0)
    at_once(lane, 1000.0)
    for k in range(15):
        lane.refused(1000.0 + 2 * k, 0.0)

    assert lane.pace(1030.0) == pytest.approx(0.05 * 600 / 60.6)


def test_the_log_follows_the_share():
    """At half the limit, a window holds half of what it did: a sliding log that shrank would refuse
    the rest one by one."""
    lane = pacer()
    granted = saturate(lane, 0.0, 100.0)

    lane.refused(100.0, 2.0)

    assert lane.free_at == pytest.approx(granted[-300] + 60.6)


# -------------------------------------------------------------------------------------------------
# Retry-After

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        (" 3 ", 3.0),
        ("0.25", 0.25),
        (".5", 0.5),
        ("2.", 2.0),
        ("31536000", 31536000.0),
        ("99999999999999", 99999999999999.0),
        ("1e3", 1000.0),
        ("1E3", 1000.0),
        ("1e+3", 1000.0),
        ("2.5e-1", 0.25),
        ("1e308", 1e308),
        ("1e309", sys.float_info.max),  # longer than a float can say
        ("1e999", sys.float_info.max),
        ("9" * 400, sys.float_info.max),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW + 90), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        ("Tuesday, 14-Nov-23 22:14:20 GMT", 60.0),
        ("Tue Nov 14 22:14:20 2023", 60.0),
    ],
)
def test_retry_after_that_can_be_followed(text, seconds):
    assert parse_retry_after(text, NOW) == seconds


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        " ",
        "-1",
        "-0.5",
        "+3",
        "-1e308",
        "e3",
        "1e",
        "1e+",
        "1e3.5",
        "1 e3",
        "nan",
        "inf",
        "-inf",
        "infinity",
        "1_000",
        "٣",
        "²",
        "soon",
        "0x10",
        "3s",
        "1,5",
        "Tue, 99 Nov 2023 22:14:20 GMT",
        "Tue, 14 Nov 99999 22:14:20 GMT",
        "-5 Nov",
        "Fri",
    ],
)
def test_retry_after_that_says_nothing(text):
    """Nonsense is not a reason to come back at once: None leads to a pause of our own, which
    grows."""
    assert parse_retry_after(text, NOW) is None


@settings(deadline=None)
@given(st.text(max_size=40))
def test_no_retry_after_does_harm(text):
    seconds = parse_retry_after(text, NOW)

    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (formatdate(NOW, usegmt=True), NOW),
        ("Tue, 14 Nov 2023 22:13:20 -0000", NOW),  # UTC, not the zone of this machine
        (None, None),
        ("", None),
        ("yesterday", None),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", None),
        ("Mon, 01 Jan " + "9" * 30 + " 00:00:00 GMT", None),
    ],
)
def test_a_date_is_a_moment_or_nothing(text, moment):
    """The library's parser raises five kinds of error, one of them only for huge numbers; a header
    must not end a job."""
    assert parse_date(text) == moment


_PARTS = st.sampled_from(
    [
        "Mon",
        "Jan",
        "01",
        "2024",
        "00:00:00",
        "GMT",
        "+",
        "-",
        ":",
        ",",
        " ",
        "0000",
        "9" * 30,
        "1" * 4400,
    ]
)


@settings(deadline=None)
@given(
    st.text(max_size=40)
    | st.lists(_PARTS, max_size=12).map(" ".join)
    | st.lists(_PARTS, max_size=12).map("".join)
)
def test_no_date_does_harm(text):
    moment = parse_date(text)

    assert moment is None or math.isfinite(moment)


@settings(deadline=None)
@given(st.floats(0, 1e12, allow_nan=False), st.integers(1, 100))
def test_a_pause_is_never_shorter_than_what_was_asked(retry_after, refusals):
    assert plan_pause(retry_after, refusals, 60.0) >= retry_after


def test_a_pause_of_our_own_doubles_up_to_the_period():
    assert [plan_pause(None, n, 60.0) for n in (1, 2, 3, 6, 7, 1000)] == [1, 2, 4, 32, 60, 60]
    assert plan_pause(-5.0, 1, 60.0) == 1.0


def test_a_slot_given_back_after_a_refusal_opens_no_second_one_at_the_gate() -> None:
    """After the gate one slot at a time, also if a request that was refused, or never left, gives
    its slot back."""
    lane = Pacer(Pacing(600, 60.0, 10, 0.6), 0.0)
    lane.take(0.0)
    lane.refused(0.0, 5.0)
    lane.refund(0.0, 0.0)

    grants: list[float] = []
    now = 0.0
    while len(grants) < 5:
        now = max(now, lane.free_at)
        lane.take(now, True)
        grants.append(now)

    assert grants[0] == 5.0
    assert all(later - earlier > 0.09 for earlier, later in itertools.pairwise(grants))


def at_once(lane: Pacer, now: float) -> int:
    """How many slots are free at one moment."""
    count = 0
    while lane.free_at <= now:
        lane.take(now)
        count += 1
    return count


def test_a_smaller_burst_holds_for_what_was_saved_before() -> None:
    lane = pacer(burst=10)
    lane.take(0.0)
    lane.take(1000.0)  # nine are saved

    lane.configure(Pacing(600, 60.0, 3, 0.6), 1000.0)

    assert at_once(lane, 1000.0) == 2


def test_a_limit_below_one_is_a_longer_window_for_what_is_learnt_too() -> None:
    """One request in two minutes: a lowered share is held for 1.45 of these."""
    lane = pacer(0.5, 60.0)

    lane.refused(1000.0, 20.0)

    assert lane.learnt.at(1000.0 + 1.45 * 120 - 1) == 0.5
    lane.configure(Pacing(600, 60.0, 10, 0.6), 1000.0)
    assert lane.learnt.at(1000.0 + 1.45 * 120 + 0.3 * 60 + 1) == pytest.approx(math.sqrt(0.675))


def test_slots_that_pass_at_a_lowered_pace_are_not_saved() -> None:
    """Nor are any used unpaid: the pace stays what it was lowered to."""
    lane = pacer(burst=10)
    saturate(lane, 0.0, 100.0)
    lane.refused(100.0, 20.0)
    saturate(lane, 120.0, 150.0)

    idle_until = 160.0

    assert at_once(lane, idle_until) == 1
    granted = saturate(lane, idle_until, 180.0)
    gaps = [later - earlier for earlier, later in itertools.pairwise(granted)]
    assert min(gaps) == pytest.approx(2 * 60.6 / 600)


def test_a_late_timer_is_made_up_for_at_a_lowered_pace_too() -> None:
    lane = pacer(burst=10)
    lane.refused(100.0, 2.0)
    saturate(lane, 102.0, 130.0)
    late = lane.free_at + 3.5 * 2 * 60.6 / 600

    made_up = saturate(lane, late, late + 1e-6)

    assert len(made_up) == 4


def test_what_is_saved_before_a_refusal_is_gone_after_it() -> None:
    lane = pacer(burst=10)
    lane.take(0.0)
    lane.take(1000.0)  # nine are saved

    lane.refused(1000.0, 0.0, False)

    assert at_once(lane, 1000.0) == 0
    assert at_once(lane, 1000.0 + 60.6 / 600) == 1
    assert lane.refused_total == 1


def test_the_pace_that_is_told_is_less_what_is_owed() -> None:
    lane = pacer(burst=10)
    lane.take(0.0)
    for _ in range(10):
        lane.take(1000.0)

    assert lane.pace(1000.0) == pytest.approx(591 / 60.6)
    assert lane.pace(1060.7) == pytest.approx(600 / 60.6)


def test_what_was_saved_is_paid_back_after_exactly_a_window() -> None:
    lane = pacer(burst=3, jitter=0.0)
    lane.take(0.0)
    at_once(lane, 1000.0)

    assert lane.pace(1059.9) == pytest.approx(598 / 60)
    assert lane.pace(1060.0) == pytest.approx(600 / 60)


def test_an_answered_try_lets_the_next_slot_open_one_interval_later() -> None:
    lane = pacer()
    lane.refused(0.0, 1e308, False)
    lane.take(86_400.0, True)

    assert lane.free_at == 2 * 86_400.0
    assert lane.answered(86_401.0) is True
    assert lane.free_at == pytest.approx(86_401.0 + 60.6 / 600)
    assert lane.answered(86_402.0) is False


def test_an_idle_lane_with_a_gate_closed_for_long_lets_one_pass() -> None:
    """Long after the time of the try: nothing was saved meanwhile."""
    lane = pacer()
    lane.take(0.0)
    lane.refused(10.0, 1e308, False)

    assert at_once(lane, 100_000.0) == 1
    assert lane.free_at == 186_400.0


def test_a_slot_of_a_try_that_never_left_is_free_again() -> None:
    lane = pacer()
    lane.refused(0.0, 1e308, False)
    lane.take(86_400.0, True)

    lane.refund(86_400.0, 86_405.0)

    assert lane.free_at <= 86_405.0 + 60.6 / 600
    assert lane.gate.closed_for(86_405.0) == 0.0


@pytest.mark.parametrize("refused", [True, False])
def test_only_the_answer_to_a_try_opens_a_gate_closed_for_long(refused: bool) -> None:
    """Not one that was under way since before, when the try was refused or never left."""
    lane = pacer()
    lane.refused(0.0, 1e308, False)
    lane.take(86_400.0, True)
    if refused:
        lane.refused(86_401.0, 1e308, False)
    else:
        lane.refund(86_400.0, 86_401.0)

    assert lane.answered(86_402.0) is False
    assert lane.gate.until > 1e300


def test_a_request_at_the_end_of_a_pause_is_no_try() -> None:
    lane = pacer()
    lane.refused(0.0, 10.0)
    lane.take(10.0, True)

    assert lane.answered(11.0) is False
