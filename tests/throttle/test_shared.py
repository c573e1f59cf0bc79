"""A throttle that processes share, on the virtual clock: what they use together, and what happens
when one is refused, leaves, or finds the store away."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tokfluence_async import ConfigurationError
from tokfluence_async._throttle import stores
from tokfluence_async._throttle.lanes import GateClosedError, Lanes
from tokfluence_async._throttle.statistics import ThrottleStatistics
from tokfluence_async._throttle.store import StoreError
from tokfluence_async._throttle.throttle import Throttle

from .fleet import jain
from .memory import MemoryStore, Schedules
from .service import ALGORITHMS, LIMIT, PERIOD, Service, crawl

SPAN = 60.57
INTERVAL = SPAN / 600
AWAY = StoreError("redis://there:6379/0 cannot be reached", lasting=False)
FULL = StoreError("redis://there:6379/0 is full: OOM command not allowed", lasting=True)

every_algorithm = pytest.mark.parametrize("rule", ALGORITHMS.values(), ids=ALGORITHMS.keys())


@dataclass
class Process:
    """One of those who share."""

    throttle: Throttle
    lanes: Lanes
    store: MemoryStore

    @property
    def statistics(self) -> ThrottleStatistics:
        return self.throttle.statistics()


Join = Callable[..., Process]


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
def schedules() -> Schedules:
    """What the store holds."""
    return Schedules()


@pytest.fixture
def join(
    schedules: Schedules, origin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Join:
    """One more process. In truth all of them are this one, and each file that is named is a way of
    its own to the same store."""
    ways: dict[str, MemoryStore] = {}

    def open_store(shared: str, clock: str | None) -> MemoryStore:
        return ways.setdefault(shared, MemoryStore(schedules, Path(shared).name))

    monkeypatch.setattr(stores, "open_store", open_store)
    numbers = itertools.count()

    def one_more(
        ip: str = "default", key: str = "key", name: str | None = None, **options
    ) -> Process:
        path = tmp_path / (name or f"p{next(numbers)}")
        throttle = Throttle(shared=path, ip=ip, **options)
        lanes = throttle.lanes(origin, key)
        assert lanes.gate_closed_for == 0.0
        return Process(throttle, lanes, ways[str(path)])

    return one_more


async def times(lanes: Lanes, count: int, into: list[float] | None = None) -> list[float]:
    granted: list[float] = [] if into is None else into

    async def one() -> None:
        await lanes.acquire()
        granted.append(now())

    await asyncio.gather(*(one() for _ in range(count)))
    return granted


async def until_told(processes: list[Process]) -> None:
    """Everybody has been to the store once."""
    await asyncio.gather(*(each.lanes.acquire() for each in processes))


# -------------------------------------------------------------------------------------------------
# the promise


@every_algorithm
async def test_four_processes_use_the_budget_in_full_and_are_never_refused(rule, join, schedules):
    """Each alone would take the whole of it: twelve refusals in 20 s, and 90 % of the rate."""
    schedules.trip = 0.001
    service = Service(rule(LIMIT, PERIOD))
    began = now()
    processes = [join() for _ in range(4)]
    shares = [Service(service.rule, seed=n) for n in range(4)]
    minutes = 3

    await asyncio.gather(
        *(
            crawl(each.lanes, share, began + minutes * PERIOD + 0.6, workers=25)
            for each, share in zip(processes, shares, strict=True)
        )
    )

    assert [share.refused for share in shares] == [[]] * 4
    arrived = [moment for share in shares for moment in share.accepted if moment >= began + 0.6]
    assert len(arrived) / (minutes * LIMIT) >= 0.985
    assert jain(len(share.accepted) for share in shares) >= 0.99


@pytest.mark.parametrize("addresses", [2, 3])
async def test_addresses_under_one_key_get_equal_shares_of_it(join, addresses):
    processes = [join(ip=f"ip {number}") for number in range(addresses)]
    granted: list[list[float]] = [[] for _ in processes]
    crowd = [
        asyncio.ensure_future(times(each.lanes, 3000, into))
        for each, into in zip(processes, granted, strict=True)
    ]

    await asyncio.sleep(3 * SPAN)
    for each in crowd:
        each.cancel()

    assert sum(map(len, granted)) >= 0.985 * 3 * 1200
    assert jain(map(len, granted)) >= 0.999
    everything = sorted(itertools.chain(*granted))
    gaps = [b - a for a, b in zip(everything, everything[1200:], strict=False)]
    assert min(gaps) >= SPAN - 1e-3


async def test_a_cold_start_of_many_is_even(join):
    processes = [join() for _ in range(30)]
    granted: list[float] = []

    await asyncio.gather(*(times(each.lanes, 5, granted) for each in processes))

    gaps = [b - a for a, b in itertools.pairwise(sorted(granted))]
    assert min(gaps) == pytest.approx(INTERVAL, rel=0.01)
    assert max(gaps) == pytest.approx(INTERVAL, rel=0.01)


async def test_a_store_far_away_costs_no_slots(join, schedules):
    """200 ms a trip: more slots are leased ahead."""
    schedules.trip = 0.2
    processes = [join() for _ in range(3)]
    granted: list[float] = []
    crowd = [asyncio.ensure_future(times(each.lanes, 900, granted)) for each in processes]
    await asyncio.sleep(5.0)  # until the length of a trip is known
    began, before = now(), len(granted)

    await asyncio.sleep(60.0)
    for each in crowd:
        each.cancel()

    assert len(granted) - before >= 0.985 * 60.0 / INTERVAL
    assert now() - began == pytest.approx(60.0)


async def test_at_first_the_pace_is_that_of_a_restarted_process(join):
    """Nothing is saved: what a store that was emptied has handed out is not known."""
    began = now()

    granted = await times(join().lanes, 10)

    assert granted[0] - began == pytest.approx(4 * INTERVAL, rel=0.01)
    assert granted[-1] - began == pytest.approx(13 * INTERVAL, rel=0.01)


# -------------------------------------------------------------------------------------------------
# the process' own line


async def test_first_come_first_served_within_a_process(join):
    lanes = join().lanes
    order: list[int] = []

    async def one(number: int) -> None:
        await lanes.acquire()
        order.append(number)

    await asyncio.gather(*(one(number) for number in range(100)))

    assert order == list(range(100))


async def test_an_analyze_batch_passes_the_reads_of_its_process(join):
    lanes = join().lanes
    reads = asyncio.ensure_future(times(lanes, 300))
    await asyncio.sleep(5)

    assert await lanes.acquire(priority=True) <= 2 * INTERVAL
    reads.cancel()


async def test_a_lease_nobody_waits_for_any_more_goes_to_another_process(join):
    one, other = join(), join()
    await until_told([one, other])
    task = asyncio.ensure_future(one.lanes.acquire())
    await asyncio.sleep(0)
    began = now()

    task.cancel()
    await asyncio.sleep(0)
    await other.lanes.acquire()

    assert now() - began <= INTERVAL + 1e-3


async def test_a_slot_of_one_who_was_cancelled_goes_to_the_next_in_line(join):
    lanes = join().lanes
    await lanes.acquire()
    began = now()
    first, second = (asyncio.ensure_future(lanes.acquire()) for _ in range(2))
    await asyncio.sleep(0)
    timer = next(iter(lanes._origin.line.loops.values())).when
    asyncio.get_running_loop().call_at(timer + 1e-12, first.cancel)

    await second

    assert first.cancelled()
    assert now() - began == pytest.approx(INTERVAL, rel=0.01)


async def test_a_slot_that_is_given_back_in_time_is_used(join):
    lanes = join().lanes
    await lanes.acquire()
    granted = now()
    waiting = asyncio.ensure_future(lanes.acquire())
    await asyncio.sleep(0.01)

    lanes.forfeit(now() - granted)

    await waiting
    assert now() - granted == pytest.approx(0.01, abs=1e-3)


async def test_a_loop_that_stands_still_lets_its_leases_lapse(join):
    """A slot used seconds after its time would bunch up with those of that time."""
    processes = [join() for _ in range(2)]
    granted: list[float] = []
    crowd = [asyncio.ensure_future(times(each.lanes, 200, granted)) for each in processes]
    await asyncio.sleep(5)

    asyncio.get_running_loop().advance(3.0)
    resumed = now()
    await asyncio.sleep(2)

    after = [moment for moment in granted if moment >= resumed]
    assert len(after) <= 2.0 / INTERVAL + 2
    for each in crowd:
        each.cancel()


async def test_a_trip_of_a_loop_that_stands_still_does_not_silence_the_others(join, schedules):
    """A notebook's loop between two cells, whose answer nobody fetches."""
    process = join()
    await process.lanes.acquire()
    (key,) = process.lanes._origin._lanes()
    standing = asyncio.new_event_loop()
    key.asked[standing] = 1
    before = len(schedules.asks)

    await asyncio.sleep(10)
    assert len(schedules.asks) >= before + 3  # that the process is alive
    async with asyncio.timeout(1):
        await process.lanes.acquire()
    standing.close()


async def test_statistics_say_how_many_share(join):
    processes = [join() for _ in range(3)]
    before = processes[0].statistics
    await until_told(processes)
    await until_told(processes[:1])

    assert (before.processes, before.shared) == (1, False)
    assert (processes[0].statistics.processes, processes[0].statistics.shared) == (3, True)
    assert processes[0].statistics.lanes[0].limit == 600


async def test_the_dead_are_not_counted_for_long(join):
    one, dead = join(), join()
    await until_told([one, dead, one])
    assert one.statistics.processes == 2
    dead.store.schedules = Schedules()  # nobody hears of it any more

    await asyncio.sleep(12)

    assert one.statistics.processes == 1


async def test_who_asks_for_nothing_is_alive_for_a_window(join):
    """What it has sent still counts."""
    one, idle = join(), join()
    await until_told([idle, one])

    for _ in range(5):
        await asyncio.sleep(10)
        await one.lanes.acquire()

    assert one.statistics.processes == 2


async def test_who_closes_gives_back_and_is_not_counted(join, schedules):
    one, other = join(), join()
    await until_told([one, other, one])
    assert one.statistics.processes == 2

    await other.lanes.aclose()
    await one.lanes.acquire()

    assert other.store.closed == 1
    assert one.statistics.processes == 1
    await other.lanes.acquire()  # and can be used again
    await one.lanes.acquire()
    assert one.statistics.processes == 2


# -------------------------------------------------------------------------------------------------
# refusals


@pytest.mark.parametrize(
    ("count", "numbers"), [(12, {}), (40, {}), (30, {"period": 6.0, "jitter": 0.057})]
)
async def test_a_refusal_of_one_pauses_all(join, schedules, count, numbers):
    """At most a handful of leased requests leave after it, and none later than 0.8 s. Many
    processes hold leases that open seconds later, so they look at the gate in between."""
    schedules.trip = 0.001
    processes = [join(**numbers) for _ in range(count)]
    granted: list[float] = []
    crowd = [asyncio.ensure_future(times(each.lanes, 400, granted)) for each in processes]
    await asyncio.sleep(10)
    refused = now()

    processes[5].lanes.refused(10.0)
    await asyncio.sleep(10.5)
    for each in crowd:
        each.cancel()

    leaked = [moment - refused for moment in granted if refused < moment < refused + 9.9]
    assert len(leaked) <= 20
    assert max(leaked, default=0.0) <= 0.8
    assert any(moment > refused + 9.9 for moment in granted)


async def test_the_lowered_pace_is_everybodys(join):
    processes = [join() for _ in range(4)]
    granted: list[float] = []
    crowd = [asyncio.ensure_future(times(each.lanes, 400, granted)) for each in processes]
    await asyncio.sleep(20)

    processes[0].lanes.refused(5.0)
    await asyncio.sleep(6.0)
    seen = [each.statistics for each in processes]
    before = len(granted)
    await asyncio.sleep(20.0)
    for each in crowd:
        each.cancel()

    assert [each.slowed for each in seen] == [True] * 4
    assert len(granted) - before == pytest.approx(20.0 / INTERVAL / 2, abs=3)


async def test_refusals_in_flight_together_lower_the_pace_once(join):
    """Two processes meet the same loss, before either hears of the other's."""
    one, other = join(), join()
    await until_told([one, other])

    one.lanes.refused(5.0)
    other.lanes.refused(5.0)
    await asyncio.sleep(5.5)
    await until_told([one, other])

    assert {round(each.statistics.pace * INTERVAL, 3) for each in (one, other)} == {0.5}


async def test_who_has_no_patience_for_a_gate_of_others_leaves(join):
    one, other = join(), join()
    await until_told([one, other])
    one.lanes.refused(100.0)

    with pytest.raises(GateClosedError):
        await other.lanes.acquire(patience=50.0)
    assert await other.lanes.acquire(patience=200.0) == pytest.approx(100.0, abs=1.0)


async def test_a_gate_closed_for_long_is_tried_once_a_day_by_one_of_all(join):
    """And an answer opens it for all."""
    processes = [join() for _ in range(2)]
    await until_told(processes)
    began = now()
    processes[0].lanes.refused(1e308)
    tried: list[float] = []

    async def come_again(process: Process) -> None:
        await process.lanes.acquire()
        tried.append(now() - began)
        await asyncio.sleep(1000.0)
        process.lanes.answered()

    await asyncio.gather(*(come_again(each) for each in processes))

    assert tried == [pytest.approx(86_400.0, abs=1.0), pytest.approx(87_400.0, abs=5.0)]


# -------------------------------------------------------------------------------------------------
# the store is away


async def test_a_process_whose_store_goes_away_goes_on_alone_at_its_share(join, schedules, caplog):
    """At the whole limit, four would send four times of it; if everybody waited, 22 % were lost."""
    processes = [join() for _ in range(4)]
    granted: list[float] = []
    crowd = [asyncio.ensure_future(times(each.lanes, 900, granted)) for each in processes]
    await asyncio.sleep(20)

    schedules.error = AWAY
    await asyncio.sleep(1.0)
    before = len(granted)
    await asyncio.sleep(60.0)
    alone = len(granted) - before
    seen = [each.statistics for each in processes]
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    schedules.error = None
    await asyncio.sleep(2.0)
    before = len(granted)
    await asyncio.sleep(20.0)
    back = len(granted) - before
    for each in crowd:
        each.cancel()

    assert [(each.processes, each.shared) for each in seen] == [(4, False)] * 4
    assert alone == pytest.approx(60.0 / INTERVAL / 1.1, abs=10)
    assert len(warned) == 4  # one for each process
    assert "4 shared it" in warned[0].getMessage()
    assert all(each.statistics.shared for each in processes)
    assert back == pytest.approx(20.0 / INTERVAL, abs=3)
    everything = sorted(granted)
    gaps = [b - a for a, b in zip(everything, everything[600:], strict=False)]
    assert min(gaps) >= 60.0


@pytest.mark.parametrize("error", [AWAY, FULL])
async def test_a_store_that_never_worked_ends_the_calls_that_wait(join, schedules, error):
    """With the reason, within seconds, and nothing is sent."""
    schedules.error = error
    process = join()
    began = now()

    outcomes = await asyncio.gather(
        *(process.lanes.acquire() for _ in range(3)), return_exceptions=True
    )

    assert [type(each) for each in outcomes] == [ConfigurationError] * 3
    assert str(error) in str(outcomes[0])
    assert now() - began <= 15.0
    assert process.statistics.waiting == 0
    schedules.error = None
    assert await process.lanes.acquire() <= 1.0  # and the next call tries again


async def test_a_store_that_is_late_at_the_start_is_waited_for(join, schedules):
    """A server that starts at the same time as its clients."""
    schedules.error = AWAY
    process = join()
    waiting = asyncio.ensure_future(process.lanes.acquire())
    await asyncio.sleep(3.0)

    schedules.error = None

    assert await waiting <= 4.0


async def test_a_refusal_that_the_store_did_not_hear_of_is_told_when_it_is_back(join, schedules):
    one, other = join(), join()
    await until_told([one, other])
    schedules.error = AWAY
    one.lanes.refused(60.0)
    await asyncio.sleep(5.0)

    schedules.error = None
    await asyncio.sleep(5.0)  # a try to reach it again, and a sign of life of the other

    assert other.statistics.gate_closed_for == pytest.approx(50.0, abs=1.0)


async def test_a_store_that_was_emptied_is_told_of_the_gate_and_the_pace(join, schedules):
    one, other = join(), join()
    await until_told([one, other])
    one.lanes.refused(60.0)
    await asyncio.sleep(5.0)

    schedules.clear()
    await asyncio.sleep(6.0)

    assert other.statistics.gate_closed_for == pytest.approx(49.0, abs=1.0)
    assert join().statistics.slowed is False
    late = join()
    waiting = asyncio.ensure_future(late.lanes.acquire())
    await asyncio.sleep(1.0)
    assert late.statistics.slowed is True
    assert not waiting.done()
    waiting.cancel()


async def test_nothing_is_refused_while_the_store_is_emptied_again_and_again(join, schedules):
    service = Service(ALGORITHMS["sliding log"](LIMIT, PERIOD))
    processes = [join() for _ in range(4)]
    crowd = asyncio.gather(
        *(crawl(each.lanes, service, now() + 4 * PERIOD, workers=25) for each in processes)
    )

    for _ in range(3):
        await asyncio.sleep(50.0)
        schedules.clear()
    await crowd

    assert service.refused == []
    assert len(service.accepted) >= 0.97 * 4 * LIMIT


async def test_a_call_that_is_cancelled_leaves_no_task(join, schedules):
    schedules.trip = 0.2
    process = join()
    task = asyncio.ensure_future(process.lanes.acquire())
    await asyncio.sleep(0.05)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task

    await process.lanes.aclose()

    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert process.statistics.waiting == 0
