"""What refusals teach, and how long a gate stays closed: exact values, at both sides of each
border."""

from __future__ import annotations

import math

import pytest

from tokfluence_async._throttle.pause import DAY, RequestedPause
from tokfluence_async._throttle.share import LEAST_SHARE, LearntShare, share_at

WINDOW = 60.0
LITTLE = 1e-6


def lowered(low: float, *, at: float = 1000.0, hold: float = 87.0) -> LearntShare:
    """A share that was lowered to `low` at a moment, and is held for a while."""
    share = LearntShare(WINDOW)
    share.low, share.stepped_at, share.hold_until = low, at, at + hold
    return share


def test_nothing_is_learnt_at_the_start():
    share = LearntShare(WINDOW)

    assert share.at(-1e9) == share.at(0.0) == share.settle(1e9) == 1.0
    assert not share.stepped_just_now(0.0)
    assert (share.low, share.proven) == (1.0, 1.0)
    assert share.hold_until == share.stepped_at == share.proven_until == -math.inf


# -------------------------------------------------------------------------------------------------
# back up


@pytest.mark.parametrize(
    ("after", "share"),
    [
        (-10.0, 0.4),
        (0.0, 0.4),
        (LITTLE, 0.54),  # 1.35 times what was held
        (18.0, 0.54),  # for 0.3 windows
        (18.0 + LITTLE, math.sqrt(0.54)),
        (30.0, math.sqrt(0.54)),  # for 0.2 windows
        (30.0 + LITTLE, 1.0),
    ],
)
def test_a_share_is_held_and_then_raised_in_two_flat_steps(after, share):
    assert share_at(0.4, after, WINDOW) == pytest.approx(share)
    assert lowered(0.4).at(1087.0 + after) == pytest.approx(share)


def test_a_step_never_goes_beyond_all():
    assert share_at(0.9, 1.0, WINDOW) == 1.0
    assert share_at(0.9, 20.0, WINDOW) == 1.0


def test_steps_are_parts_of_the_window():
    assert share_at(0.4, 180.0, 600.0) == pytest.approx(0.54)
    assert share_at(0.4, 181.0, 600.0) == pytest.approx(math.sqrt(0.54))
    assert share_at(0.4, 301.0, 600.0) == 1.0


def test_a_share_that_is_back_is_remembered_for_a_window():
    share = lowered(0.4)

    assert share.settle(1100.0) == pytest.approx(0.54)
    assert share.low == 0.4
    assert share.settle(1200.0) == 1.0
    assert share.low == 1.0
    assert share.proven == pytest.approx(0.44)  # a tenth more than was held
    assert share.proven_until == 1260.0


# -------------------------------------------------------------------------------------------------
# down


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (0.8, 0.4),
        (0.31, 0.155),
        (0.3, 0.225),  # further down the steps are smaller
        (0.1, 0.075),
        (0.06, LEAST_SHARE),
        (0.05, LEAST_SHARE),
    ],
)
def test_a_refusal_takes_half_and_low_down_a_quarter(before, after):
    share = lowered(before)

    share.step_down(1050.0, 20.0)

    assert share.low == pytest.approx(after)
    assert share.stepped_at == 1050.0
    assert share.hold_until == pytest.approx(1050.0 + 1.45 * WINDOW)
    assert share.proven_until == -math.inf


@pytest.mark.parametrize(
    ("pause", "since", "low", "hold"),
    [
        (1.0, math.inf, 0.95, 0.5),  # a straggler at a sliding log
        (1.0 + LITTLE, math.inf, 0.5, 1.45),  # a longer pause is no straggler's
        (1.0, 120.0 + LITTLE, 0.95, 0.5),
        (1.0, 120.0, 0.5, 1.45),  # nor is the second within two windows
    ],
)
def test_a_near_miss_after_a_long_peace_costs_little(pause, since, low, hold):
    share = LearntShare(WINDOW)
    share.stepped_at = 1000.0 - since

    share.step_down(1000.0, pause)

    assert share.low == low
    assert share.hold_until == pytest.approx(1000.0 + hold * WINDOW)


def test_a_near_miss_while_slowed_is_none():
    share = lowered(0.8, at=500.0, hold=2000.0)

    share.step_down(1000.0, 0.5)

    assert share.low == pytest.approx(0.4)


def test_what_was_held_to_the_end_is_proven_and_a_little_more():
    share = lowered(0.4)

    share.step_down(1087.0 + 10.0, 20.0)

    assert share.low == pytest.approx(0.412)  # 3 % more, not half of 0.54
    assert share.proven == pytest.approx(0.412)
    assert share.proven_until == pytest.approx(1097.0 + 4 * WINDOW)


def test_what_is_proven_is_never_more_than_what_was_refused():
    share = lowered(0.99)

    share.step_down(1087.0, 20.0)

    assert share.proven == pytest.approx(0.99)
    assert share.low == pytest.approx(0.9 * 0.99)


def test_the_end_of_the_hold_belongs_to_the_hold_and_proves():
    ended, early = lowered(0.4), lowered(0.4)

    ended.step_down(1087.0, 20.0)
    early.step_down(1087.0 - LITTLE, 20.0)

    # At its very end the share in use is 0.4 still: a refusal of it takes a tenth.
    assert ended.low == pytest.approx(0.36)
    assert ended.proven_until == -math.inf
    assert early.low == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("until", "low"),
    [(1050.0 + LITTLE, 0.5), (1050.0, 0.4)],
)
def test_a_refusal_leads_back_to_what_is_proven_as_long_as_that_counts(until, low):
    share = lowered(0.8, hold=500.0)
    share.proven, share.proven_until = 0.5, until

    share.step_down(1050.0, 20.0)

    assert share.low == pytest.approx(low)


def test_a_refusal_of_what_is_proven_takes_a_tenth_and_the_next_one_half():
    share = lowered(0.5, hold=500.0)
    share.proven, share.proven_until = 0.5, 5000.0

    share.step_down(1050.0, 20.0)
    first = share.low
    share.step_down(1100.0, 20.0)

    assert first == pytest.approx(0.45)
    assert share.low == pytest.approx(0.225)


@pytest.mark.parametrize(("after", "flying"), [(0.0, True), (1.499, True), (1.5, False)])
def test_refusals_within_a_fortieth_of_a_window_were_in_flight_together(after, flying):
    share = lowered(0.5)

    assert share.stepped_just_now(1000.0 + after) is flying


# -------------------------------------------------------------------------------------------------
# the gate


def test_a_gate_is_open_at_the_start():
    gate = RequestedPause()

    assert gate.closed_for(0.0) == gate.closed_for(-1e9) == 0.0
    assert gate.tried is False
    assert gate.answered(5.0) is False
    assert gate.until == gate.opens == -math.inf


def test_a_gate_opens_at_its_time():
    gate = RequestedPause()

    gate.close(100.0, 30.0)

    assert gate.closed_for(100.0) == 30.0
    assert gate.closed_for(129.0) == 1.0
    assert gate.closed_for(130.0) == gate.closed_for(200.0) == 0.0


def test_a_gate_is_only_ever_moved_later():
    gate = RequestedPause()

    gate.close(100.0, 30.0)
    gate.close(110.0, 5.0)
    assert (gate.until, gate.opens) == (130.0, 130.0)
    gate.close(110.0, 50.0)

    assert (gate.until, gate.opens) == (160.0, 160.0)


def test_a_pause_of_a_day_has_no_try_and_a_longer_one_has():
    day, longer = RequestedPause(), RequestedPause()

    day.close(0.0, DAY)
    longer.close(0.0, DAY + 1.0)

    assert (day.opens, day.until) == (DAY, DAY)
    assert (longer.opens, longer.until) == (DAY, DAY + 1.0)
    longer.passed(DAY)
    assert longer.opens == DAY + 1.0  # and not a day later


def test_a_request_through_an_open_gate_is_no_try():
    gate = RequestedPause()
    gate.close(0.0, 30.0)

    gate.passed(30.0)

    assert gate.tried is False
    assert gate.opens == 30.0
    assert gate.answered(31.0) is False
    gate.came_back(40.0)
    assert gate.opens == 30.0


def test_each_try_closes_the_gate_for_a_day():
    gate = RequestedPause()
    gate.close(0.0, 1e308)

    gate.passed(DAY + 5.0)

    assert gate.tried is True
    assert gate.opens == 2 * DAY + 5.0
    assert gate.until == 1e308


def test_a_refused_try_leaves_the_gate_closed_and_says_nothing_of_later_answers():
    gate = RequestedPause()
    gate.close(0.0, 1e308)
    gate.passed(DAY)

    gate.close(DAY + 1.0, 10.0)

    assert gate.tried is False
    assert gate.answered(DAY + 2.0) is False
    assert gate.opens == 2 * DAY + 1.0
    gate.came_back(DAY + 3.0)
    assert gate.opens == 2 * DAY + 1.0


def test_a_day_is_one():
    assert DAY == 24 * 60 * 60


def test_an_answered_try_opens_the_gate_once():
    gate = RequestedPause()
    gate.close(0.0, 1e308)
    gate.passed(DAY)

    assert gate.answered(DAY + 2.0) is True
    assert (gate.until, gate.opens, gate.tried) == (DAY + 2.0, DAY + 2.0, False)
    gate.close(DAY + 3.0, 1e308)
    assert gate.answered(DAY + 4.0) is False


def test_a_try_that_never_left_may_be_made_again():
    gate = RequestedPause()
    gate.close(0.0, 1e308)
    gate.passed(DAY)

    gate.came_back(DAY + 2.0)

    assert gate.closed_for(DAY + 2.0) == 0.0
    assert gate.tried is False
    assert gate.answered(DAY + 3.0) is False
