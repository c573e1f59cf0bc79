"""Who waits where: two lanes, several keys, priorities, the gate, cancellation, and what can be
asked about it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import pickle
import sys

import pytest
from aiolimiter import AsyncLimiter

from tokfluence_async._errors import ConfigurationError
from tokfluence_async._throttle.lanes import GateClosedError, Lanes
from tokfluence_async._throttle.throttle import Throttle

SPAN = 60.57  # a window and the margin, by default
INTERVAL = SPAN / 600


def now() -> float:
    return asyncio.get_running_loop().time()


async def times(
    lanes: Lanes, count: int, *, priority: bool = False, into: list | None = None, name: str = ""
) -> list:
    """Ask `count` times at once; what comes back are (name, when) in the order of the grants."""
    granted: list = [] if into is None else into

    async def one() -> None:
        await lanes.acquire(priority=priority)
        granted.append((name, now()))

    await asyncio.gather(*(one() for _ in range(count)))
    return granted


def gaps(moments: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


# -------------------------------------------------------------------------------------------------
# hierarchy


async def test_two_keys_share_the_budget_of_their_ip(origin):
    """The service counts 600 for the machine, whoever asks."""
    throttle = Throttle()
    one, other = throttle.lanes(origin, "one"), throttle.lanes(origin, "other")
    granted: list = []

    await asyncio.gather(
        times(one, 150, into=granted, name="one"), times(other, 150, into=granted, name="other")
    )

    assert gaps([when for _, when in granted]) == pytest.approx([INTERVAL] * 299)
    assert [name for name, _ in granted[2:12]].count("one") == 5  # and no key starves another


async def test_a_key_that_asks_little_is_not_starved_by_one_that_asks_much(origin):
    throttle = Throttle()
    busy, quiet = throttle.lanes(origin, "busy"), throttle.lanes(origin, "quiet")
    crowd = asyncio.ensure_future(times(busy, 500))
    await asyncio.sleep(3)

    waited = await quiet.acquire()

    assert waited <= 2 * INTERVAL + 1e-6
    crowd.cancel()


async def test_a_key_is_bound_by_its_own_budget_on_a_wide_ip(origin):
    throttle = Throttle(per_ip=6000, per_key=600)
    one, other = throttle.lanes(origin, "one"), throttle.lanes(origin, "other")
    granted: list = []

    await asyncio.gather(
        times(one, 50, into=granted, name="one"), times(other, 50, into=granted, name="other")
    )

    for key in ("one", "other"):
        own = [when for name, when in granted if name == key]
        assert gaps(own) == pytest.approx(
            [INTERVAL] * 49, abs=INTERVAL / 10 + 1e-6
        )  # give or take a slot of the IP
    assert granted[-1][1] - granted[0][1] == pytest.approx(49 * INTERVAL, abs=0.02)


async def test_both_budgets_hold_at_once(origin):
    """Two keys that may each use two thirds of their IP: it binds them together, and each one alone
    as soon as the other is quiet."""
    throttle = Throttle(600, 400)
    granted: dict[str, list[float]] = {"one": [], "other": []}

    async def crawl(name: str, begin: float, end: float) -> None:
        lanes = throttle.lanes(origin, name)
        await asyncio.sleep(begin)
        until = now() + end - begin

        async def worker() -> None:
            while now() < until:
                await lanes.acquire()
                granted[name].append(now())

        await asyncio.gather(*(worker() for _ in range(20)))

    # Alone, together, and the other one alone.
    await asyncio.gather(crawl("one", 0.0, 300.0), crawl("other", 120.0, 420.0))

    both = sorted(granted["one"] + granted["other"])
    for moments, limit in ((both, 600), (granted["one"], 400), (granted["other"], 400)):
        assert (
            min(last - first for first, last in zip(moments, moments[limit:], strict=False))
            >= SPAN - 1e-6
        )
    together = [when for when in both if both[0] + 125 < when < both[0] + 295]
    assert len(together) >= 0.99 * 170 * 600 / SPAN
    for name, since in (("one", 5.0), ("other", 305.0)):
        alone = [when for when in granted[name] if both[0] + since < when < both[0] + since + 110]
        assert len(alone) >= 0.99 * 110 * 400 / SPAN


async def test_nobody_keeps_a_slot_of_the_ip_while_waiting_for_one_of_its_key(origin):
    """The IP's slots go to those who can use them, at the IP's full pace."""
    throttle = Throttle(per_ip=600, per_key=60)
    slow = throttle.lanes(origin, "slow")
    others = [throttle.lanes(origin, f"key {n}") for n in range(20)]
    crowd = asyncio.ensure_future(times(slow, 50))
    await asyncio.sleep(0)
    granted: list = []

    await asyncio.gather(*(times(lanes, 3, into=granted) for lanes in others))
    crowd.cancel()

    # 60 slots of the others, and those of the slow key in between: one in ten.
    assert granted[-1][1] - granted[0][1] <= 68 * INTERVAL


@pytest.mark.parametrize(("per_ip", "per_key"), [(None, 600), (600, None)])
async def test_a_lane_can_be_switched_off(origin, per_ip, per_key):
    lanes = Throttle(per_ip, per_key).lanes(origin, "key")

    granted = await times(lanes, 20)

    assert gaps([when for _, when in granted]) == pytest.approx([INTERVAL] * 19)


async def test_without_lanes_nothing_waits(origin):
    lanes = Throttle(None, None).lanes(origin, "key")

    granted = await times(lanes, 5000)

    assert granted[-1][1] - granted[0][1] < 0.1
    assert all(lanes.try_acquire() for _ in range(100))


async def test_origins_have_nothing_to_do_with_each_other(origin):
    throttle = Throttle()

    assert throttle.lanes(origin, "key").try_acquire()
    assert throttle.lanes(origin + ":81", "key").try_acquire()


async def test_clients_with_the_same_key_share_its_budget(origin):
    """Ten clients in one process are one crawler."""
    one, other = Throttle().lanes(origin, "key"), Throttle().lanes(origin, "key")

    assert one.try_acquire()
    assert not other.try_acquire()


async def test_of_two_throttles_the_smaller_number_holds_as_long_as_it_is_in_use(origin):
    wide = Throttle(600, 1200).lanes(origin, "key")
    assert wide.try_acquire()
    narrow = Throttle(60, 1200).lanes(origin, "key")
    assert not narrow.try_acquire()

    granted = await times(wide, 5)
    assert gaps([when for _, when in granted]) == pytest.approx([SPAN / 60] * 4)

    del narrow
    gc.collect()
    granted = await times(wide, 50)
    assert gaps([when for _, when in granted])[10:] == pytest.approx([INTERVAL] * 39)


async def test_a_wider_ip_budget_does_not_forget_what_a_key_has_used(origin):
    """While 600 for the IP implied the key's 700, the key's own log was not kept; it has to be
    right from the first moment."""
    narrow = Throttle(600, 700, burst=1).lanes(origin, "key")
    wide = Throttle(6000, 700, burst=1)
    moments = [when for _, when in await times(narrow, 600)]
    del narrow
    gc.collect()

    moments += [when for _, when in await times(wide.lanes(origin, "key"), 300)]

    assert min(b - a for a, b in zip(moments, moments[700:], strict=False)) >= SPAN - 1e-6


# -------------------------------------------------------------------------------------------------
# order


async def test_first_come_first_served(origin):
    lanes = Throttle().lanes(origin, "key")
    order: list[int] = []

    async def one(number: int) -> None:
        await lanes.acquire()
        order.append(number)

    await asyncio.gather(*(one(number) for number in range(200)))

    assert order == list(range(200))


async def test_newcomers_do_not_pass_those_who_wait(origin):
    """At the moment a slot opens, somebody asks who was not in the line."""
    lanes = Throttle().lanes(origin, "key")
    await lanes.acquire()
    waiting = asyncio.ensure_future(lanes.acquire())
    await asyncio.sleep(0)

    assert not lanes.try_acquire()
    asyncio.get_running_loop().advance(5.0)  # the slot is open, its timer has not run yet
    assert not lanes.try_acquire()
    await waiting
    await asyncio.sleep(INTERVAL)
    assert lanes.try_acquire()


async def test_an_analyze_batch_passes_a_full_queue_of_reads(origin):
    """Few and long against many and short: behind a thousand reads it would wait two minutes for a
    slot."""
    lanes = Throttle().lanes(origin, "key")
    reads = asyncio.ensure_future(times(lanes, 1000))
    await asyncio.sleep(10)

    assert await lanes.acquire(priority=True) <= INTERVAL + 1e-6
    assert await lanes.acquire(priority=True) <= 2 * INTERVAL + 1e-6
    reads.cancel()


async def test_an_analyze_batch_passes_the_reads_of_other_keys_too(origin):
    throttle = Throttle()
    crowds = [
        asyncio.ensure_future(times(throttle.lanes(origin, f"key {n}"), 100)) for n in range(20)
    ]
    await asyncio.sleep(10)

    assert await throttle.lanes(origin, "analyst").acquire(priority=True) <= 2 * INTERVAL + 1e-6
    for crowd in crowds:
        crowd.cancel()


async def test_reads_are_not_starved_by_a_flood_of_analyze_calls(origin):
    lanes = Throttle().lanes(origin, "key")
    granted: list = []
    await lanes.acquire()

    await asyncio.gather(
        times(lanes, 50, into=granted, name="read"),
        times(lanes, 50, priority=True, into=granted, name="analyze"),
    )

    assert [name for name, _ in granted[:6]].count("read") == 3


# -------------------------------------------------------------------------------------------------
# the gate


async def test_after_a_429_traffic_re_enters_paced(origin):
    lanes = Throttle().lanes(origin, "key")
    crowd: list = []
    waiting = asyncio.ensure_future(times(lanes, 60, into=crowd))
    await asyncio.sleep(2)
    refused_at = now()

    assert lanes.refused(10.0) is True
    assert lanes.gate_closed_for == pytest.approx(10.0)
    await waiting

    after = [when for _, when in crowd if when > refused_at]
    assert after[0] == pytest.approx(refused_at + 10.0)
    assert min(gaps(after)) == pytest.approx(2 * INTERVAL)
    assert lanes.gate_closed_for == 0.0


async def test_the_gate_lifts_even_if_the_task_that_was_refused_is_cancelled(origin):
    lanes = Throttle().lanes(origin, "key")

    async def refused() -> None:
        await lanes.acquire()
        lanes.refused(5.0)
        await asyncio.sleep(3600)

    task = asyncio.ensure_future(refused())
    await asyncio.sleep(0.1)
    task.cancel()
    other = asyncio.ensure_future(lanes.acquire())
    await asyncio.sleep(0)

    assert await other == pytest.approx(4.9, abs=0.01)


async def test_the_gate_only_ever_moves_later_and_waiters_follow(origin):
    lanes = Throttle().lanes(origin, "key")
    assert lanes.try_acquire()
    began = now()
    lanes.refused(4.0)
    waiting = asyncio.ensure_future(lanes.acquire())
    await asyncio.sleep(1)

    lanes.refused(1.0)
    assert lanes.gate_closed_for == pytest.approx(3.0)
    lanes.refused(20.0)
    await waiting

    assert now() - began == pytest.approx(21.0)


async def test_the_gate_of_one_origin_is_open_while_another_is_closed(origin):
    throttle = Throttle()
    throttle.lanes(origin, "key").refused(100.0)

    assert throttle.lanes(origin + ":81", "key").try_acquire()


async def test_a_gate_closed_for_a_day_can_be_waited_for(origin):
    """A selector takes no such timeout; the timer is set again every hour."""
    lanes = Throttle().lanes(origin, "key")
    lanes.refused(86400.0)

    assert await lanes.acquire() == pytest.approx(86400.0)


async def fail_after_a_day(lanes: Lanes, days: list[float], refuse) -> None:
    """Callers who come again and again, and what becomes of those who get a slot."""
    while len(days) < 5:
        await lanes.acquire()
        days.append(now())
        await asyncio.sleep(0.2)
        if refuse(len(days)):
            lanes.refused(1e308)
        else:
            lanes.answered()


@pytest.mark.parametrize("pause", [1e308, sys.float_info.max, 86401.0 * 30, 252_460_800_000.0])
async def test_a_gate_closed_for_long_is_tried_once_a_day_with_a_single_request(
    origin, caplog, pause
):
    """A `Retry-After` in the year 9999 shut the origin for the life of the process. It is
    honoured, but for one request a day; however many wait, and whichever key they are of."""
    throttle = Throttle()
    lanes, other = throttle.lanes(origin, "key"), throttle.lanes(origin, "other")
    assert lanes.try_acquire()
    began = now()
    lanes.refused(pause)
    days: list[float] = []
    crowd = [
        asyncio.ensure_future(fail_after_a_day(each, days, lambda _: True))
        for each in (lanes, other, lanes)
    ]

    await asyncio.sleep(5 * 86400 + 3600)

    assert [round((when - began) / 86400, 2) for when in days] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert throttle.statistics().gate_closed_for == pytest.approx(86400 - 3600, abs=10)
    asked = [record.getMessage() for record in caplog.records if "days" in record.getMessage()]
    assert len(asked) == 1
    assert "once a day" in asked[0]
    for task in crowd:
        task.cancel()


async def test_an_answer_to_the_daily_try_opens_the_gate_for_all(origin, caplog):
    throttle = Throttle()
    lanes = throttle.lanes(origin, "key")
    began = now()
    lanes.refused(1e308)
    days: list[float] = []
    crowd = [
        asyncio.ensure_future(fail_after_a_day(lanes, days, lambda tries: tries == 1))
        for _ in range(3)
    ]

    await asyncio.gather(*crowd)

    assert [round((when - began) / 86400, 2) for when in days[:2]] == [1.0, 2.0]
    assert days[-1] - days[1] < 2.0  # the third day is not waited for
    assert "answers again" in caplog.text
    assert throttle.statistics().gate_closed_for == 0.0


async def test_an_answer_that_was_on_its_way_opens_no_gate(origin):
    """It was sent before the refusal, so it says nothing of what comes after."""
    lanes = Throttle().lanes(origin, "key")
    assert lanes.try_acquire()
    lanes.refused(1e308)

    lanes.answered()
    assert lanes.gate_closed_for == pytest.approx(86400.0)
    lanes.refused(1.0)

    assert lanes.gate_closed_for == pytest.approx(86400.0)
    await asyncio.sleep(86400.0)
    assert lanes.gate_closed_for == 0.0
    assert lanes.try_acquire()
    assert not lanes.try_acquire()
    assert lanes.gate_closed_for == pytest.approx(86400.0)


async def test_a_daily_try_that_never_left_is_made_again(origin):
    """Connecting failed: the service has not been asked."""
    lanes = Throttle().lanes(origin, "key")
    lanes.refused(1e308)
    await asyncio.sleep(86400.0)
    assert lanes.try_acquire()

    lanes.forfeit(0.0)

    assert lanes.try_acquire()
    assert not lanes.try_acquire()
    assert lanes.gate_closed_for == pytest.approx(86400.0)


async def test_a_gate_that_was_closed_for_two_days_opens_then(origin):
    """The tries in between do not make it longer."""
    lanes = Throttle().lanes(origin, "key")
    began = now()
    lanes.refused(2 * 86400.0 - 3600)
    await asyncio.sleep(86400.0)
    assert lanes.try_acquire()
    lanes.refused(None)

    await lanes.acquire()

    assert now() - began == pytest.approx(2 * 86400.0 - 3600)


async def test_an_unknown_refusal_closes_the_gate_for_all_keys_of_the_ip(origin):
    """Which budget ran out is not said; another key's requests would each cost a refusal if it was
    the IP's."""
    throttle = Throttle()
    one, other = throttle.lanes(origin, "one"), throttle.lanes(origin, "other")

    one.refused(30.0)

    assert other.gate_closed_for == pytest.approx(30.0)


async def test_a_key_refused_again_while_others_are_answered_is_alone(origin):
    """Then it is the key's own budget that somebody else uses, and the others go on."""
    throttle = Throttle()
    one, other = throttle.lanes(origin, "one"), throttle.lanes(origin, "other")
    one.refused(1.0)
    await asyncio.sleep(2)
    assert await other.acquire() >= 0
    other.answered()

    one.refused(30.0)

    assert one.gate_closed_for == pytest.approx(30.0)
    assert other.gate_closed_for == 0.0


async def test_the_caller_may_know_which_lane_refused(origin):
    throttle = Throttle()
    one, other = throttle.lanes(origin, "one"), throttle.lanes(origin, "other")

    one.refused(10.0, "key")
    assert (one.gate_closed_for, other.gate_closed_for) == (pytest.approx(10.0), 0.0)
    one.refused(20.0, "ip")
    assert other.gate_closed_for == pytest.approx(20.0)


async def test_without_retry_after_the_pause_grows_until_something_is_answered(origin):
    lanes = Throttle().lanes(origin, "key")

    pauses = []
    for _ in range(4):
        lanes.refused(None)
        pauses.append(lanes.gate_closed_for)
        await asyncio.sleep(lanes.gate_closed_for + 2)
    lanes.answered()
    lanes.refused(None)

    assert pauses == pytest.approx([1.0, 2.0, 4.0, 8.0])
    assert lanes.gate_closed_for == pytest.approx(1.0)


async def test_a_loss_of_budget_is_reported_in_one_line(origin, caplog):
    lanes = Throttle().lanes(origin, "tkf_live_secretsecretsecretsecretsecret12")

    stepped = []
    for _ in range(5):
        stepped.append(lanes.refused(20.0))
        await asyncio.sleep(30)

    assert stepped == [True] * 5
    assert len(caplog.records) == 1
    assert origin in caplog.text
    assert "50 %" in caplog.text
    assert "secret" not in caplog.text


async def test_a_gate_that_closes_for_longer_than_they_wait_empties_the_line(origin):
    """Analyses and reads leave in their order, at once; of other keys those who would not wait that
    long either, and nobody else."""
    throttle = Throttle()
    ours, hasty, calm = (throttle.lanes(origin, name) for name in ("ours", "hasty", "calm"))
    left: list[str] = []
    calm_ones: list[float] = []

    async def stand(lanes: Lanes, name: str, patience: float, priority: bool = False) -> None:
        try:
            await lanes.acquire(priority=priority, patience=patience)
        except GateClosedError:
            left.append(name)
        else:
            calm_ones.append(now())

    assert ours.try_acquire()
    tasks = [
        asyncio.ensure_future(stand(ours, f"read {n}", 900.0 if n else 100.0)) for n in range(3)
    ]
    tasks += [asyncio.ensure_future(stand(ours, f"batch {n}", 900.0, True)) for n in range(2)]
    tasks += [
        asyncio.ensure_future(stand(hasty, "hasty", 10.0)),
        asyncio.ensure_future(stand(calm, "calm", 100.0)),
    ]
    await asyncio.sleep(0)
    began = now()

    ours.refused(50.0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert left == ["hasty"]
    ours.refused(101.0)
    tasks[1].cancel()  # sent away, and cancelled before it could run: nothing to give back
    with pytest.raises(GateClosedError):
        await ours.acquire(patience=100.0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert left == ["hasty", "batch 0", "batch 1", "read 0", "read 2", "calm"]
    assert now() == pytest.approx(began)
    assert throttle.statistics().waiting == 0
    assert not ours._origin.line.loops  # no timer is left
    assert await ours.acquire(patience=102.0) == pytest.approx(101.0, abs=0.01)
    assert throttle.statistics().lanes[0].refused == 2


async def test_patience_is_that_of_those_who_stand_there_now(origin):
    """One who left took his haste along."""
    lanes = Throttle().lanes(origin, "key")
    lanes.refused(1.0)
    hasty = asyncio.ensure_future(lanes.acquire(patience=2.0))
    await asyncio.sleep(0)
    hasty.cancel()
    await asyncio.sleep(0)
    calm = asyncio.ensure_future(lanes.acquire(patience=100.0))
    await asyncio.sleep(0)

    lanes.refused(50.0)

    assert await calm == pytest.approx(50.0, abs=0.01)


# -------------------------------------------------------------------------------------------------
# cancellation


async def test_a_cancelled_waiter_leaves_its_place_to_the_next(origin):
    lanes = Throttle().lanes(origin, "key")
    await lanes.acquire()
    began = now()
    tasks = [asyncio.ensure_future(lanes.acquire()) for _ in range(10)]
    await asyncio.sleep(0)

    for task in tasks[:9]:
        task.cancel()

    assert await tasks[9] == pytest.approx(INTERVAL)
    assert now() - began == pytest.approx(INTERVAL)


async def test_a_slot_granted_to_a_task_that_is_cancelled_before_it_runs_goes_on_at_once(origin):
    lanes = Throttle().lanes(origin, "key")
    await lanes.acquire()
    began = now()
    first, second = asyncio.ensure_future(lanes.acquire()), asyncio.ensure_future(lanes.acquire())
    await asyncio.sleep(0)
    # In the turn in which the slot opens, right after the grant: the timers of one moment run in
    # their order.
    asyncio.get_running_loop().call_at(began + INTERVAL + 1e-12, first.cancel)

    await second

    assert first.cancelled()
    assert now() - began == pytest.approx(INTERVAL)


async def test_a_timeout_around_the_wait_costs_no_slot(origin):
    lanes = Throttle().lanes(origin, "key")
    await lanes.acquire()
    began = now()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(INTERVAL / 2):
            await lanes.acquire()

    await lanes.acquire()

    assert now() - began == pytest.approx(INTERVAL)
    assert not lanes._origin.line.loops  # no timer is left behind


async def test_a_crowd_that_gives_up_leaves_nothing_behind(origin):
    """A gate closed for an hour, and callers with a minute's patience, all day long: the line may
    not grow."""
    throttle = Throttle()
    lanes = throttle.lanes(origin, "key")
    lanes.refused(1e6)

    for _ in range(20):
        tasks = [asyncio.ensure_future(lanes.acquire()) for _ in range(100)]
        await asyncio.sleep(1)
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0)

    assert throttle.statistics().waiting == 0
    assert not lanes._origin.line.reads


async def test_a_slot_that_was_not_used_can_be_given_back(origin):
    """Connecting took too long, so the bytes never left."""
    lanes = Throttle().lanes(origin, "key")
    await lanes.acquire()
    waiting = asyncio.ensure_future(lanes.acquire())
    await asyncio.sleep(0.05)

    lanes.forfeit(0.05)

    assert await waiting == pytest.approx(0.05)


# -------------------------------------------------------------------------------------------------
# what can be asked


async def test_statistics_say_how_many_wait_the_pace_and_the_gate(origin):
    throttle = Throttle(600, 1200)
    lanes = throttle.lanes(origin, "key")
    assert throttle.statistics().lanes == ()

    crowd = asyncio.ensure_future(times(lanes, 42))
    await asyncio.sleep(0.001)
    busy = throttle.statistics()
    lanes.refused(30.0)
    closed = throttle.statistics()
    crowd.cancel()
    await asyncio.sleep(0.001)

    assert (busy.waiting, busy.gate_closed_for, busy.slowed) == (41, 0.0, False)
    assert busy.pace == pytest.approx(1 / INTERVAL)
    assert closed.gate_closed_for == pytest.approx(30.0)
    assert closed.slowed
    assert closed.pace == pytest.approx(0.5 / INTERVAL)
    assert [
        (lane.lane, lane.origin, lane.limit, lane.waiting, lane.refused) for lane in closed.lanes
    ] == [
        ("ip", origin, 600, 41, 1),
        ("key", origin, 1200, 41, 1),
    ]
    assert throttle.statistics().waiting == 0


async def test_statistics_speak_of_the_throttles_own_lanes_only(origin):
    mine, yours = Throttle(), Throttle()
    assert mine.lanes(origin, "mine").try_acquire()
    assert not yours.lanes(origin, "yours").try_acquire()
    assert yours.lanes(origin + ":81", "yours").try_acquire()

    assert [lane.lane for lane in mine.statistics().lanes] == ["ip", "key"]
    assert len(yours.statistics().lanes) == 4


def test_statistics_need_no_event_loop():
    statistics = Throttle().statistics()

    assert (statistics.waiting, statistics.gate_closed_for, statistics.slowed) == (0, 0.0, False)
    assert statistics.pace == math.inf


async def test_the_key_stands_nowhere_in_clear(origin):
    """Lanes end up in tracebacks, statistics in logs."""
    token = "tkf_live_" + "s3cret" * 5 + "ab"
    throttle = Throttle()
    lanes = throttle.lanes(origin, token)
    lanes.try_acquire()
    lanes.refused(1.0)

    seen = [
        repr(lanes),
        repr(throttle),
        repr(throttle.statistics()),
        repr(vars_of(lanes)),
        repr(vars_of(lanes._origin)),
    ]

    assert not any("s3cret" in text for text in seen)
    with pytest.raises(TypeError):
        pickle.dumps(lanes)


def vars_of(thing: object) -> dict:
    names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    return {name: getattr(thing, name) for name in names if hasattr(thing, name)} | getattr(
        thing, "__dict__", {}
    )


async def test_half_the_jitter_is_left_to_the_network(origin):
    """A slot that is older than the other half when the bytes may leave is taken anew."""
    assert Throttle(jitter=0.6).lanes(origin, "key").slot_lifetime == 0.3


@pytest.mark.parametrize(
    "wrong",
    [
        {"per_ip": 0},
        {"per_ip": -5},
        {"per_key": math.inf},
        {"per_key": math.nan},
        {"period": 0},
        {"period": math.inf},
        {"burst": 0},
        {"jitter": -0.1},
        {"jitter": math.inf},
    ],
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Throttle(**wrong)


def test_a_throttle_shows_its_numbers():
    assert (
        repr(Throttle(5, None, 2))
        == "Throttle(per_ip=5, per_key=None, period=2.0, burst=10, jitter=0.57)"
    )


def test_a_slot_needs_an_event_loop(origin):
    with pytest.raises(RuntimeError, match="event loop"):
        Throttle().lanes(origin, "key").try_acquire()


async def test_aiolimiter_lets_more_through_in_one_window(origin):
    """What everybody writes; kept here so that the difference stays true."""
    limiter, lanes = AsyncLimiter(600, 60), Throttle().lanes(origin, "key")
    began = now()
    theirs = ours = 0

    async def take_theirs() -> None:
        nonlocal theirs
        while True:
            await limiter.acquire()
            theirs += 1

    async def take_ours() -> None:
        nonlocal ours
        while True:
            await lanes.acquire()
            ours += 1

    tasks = [asyncio.ensure_future(take_theirs()), asyncio.ensure_future(take_ours())]
    await asyncio.sleep(began + 60 - now())
    for task in tasks:
        task.cancel()

    assert theirs >= 1199
    assert ours <= 600
