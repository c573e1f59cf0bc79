"""One budget over event loops, threads and clocks; none over a fork."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tokfluence_async._throttle import registry, stores
from tokfluence_async._throttle.lanes import GateClosedError, Lanes
from tokfluence_async._throttle.throttle import Throttle
from tokfluence_async.testing import VirtualLoop

from .memory import MemoryStore, Schedules

real_time = pytest.mark.real_time

# Slots so far apart that a test sees only those it arranges for.
RARE = {"per_ip": 1, "per_key": None, "period": 3600.0}
# Slots every two milliseconds.
QUICK = {"per_ip": 500, "per_key": None, "period": 1.0, "burst": 1, "jitter": 0.0}


def in_a_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(timeout=30)


async def try_once(lanes: Lanes) -> bool:
    return lanes.try_acquire()


class LoopThread:
    """An event loop in a thread, to be stopped, run again and closed by hand."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread: threading.Thread | None = None
        self.run()

    def run(self) -> None:
        started = threading.Event()
        self.loop.call_soon(started.set)
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        assert started.wait(10)

    def do(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(timeout=10)

    def start(self, what: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin it, up to where it first waits."""

        async def begin() -> asyncio.Task[Any]:
            task = asyncio.ensure_future(what)
            await asyncio.sleep(0)
            return task

        return self.do(begin())

    def stop(self) -> None:
        assert self.thread is not None
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    def close(self) -> None:
        if self.loop.is_running():
            self.do(self.cancel_all())
            self.stop()
        self.loop.close()

    async def cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_one_event_loop_after_another_goes_on_with_the_budget(origin):
    """Each `asyncio.run` of a notebook would otherwise start with a slot of its own."""
    lanes = Throttle(**RARE).lanes(origin, "key")

    assert asyncio.run(try_once(lanes)) is True
    assert asyncio.run(try_once(lanes)) is False
    assert asyncio.run(try_once(Throttle(**RARE).lanes(origin, "key"))) is False


@real_time
def test_loops_in_two_threads_share_the_budget(origin):
    lanes = Throttle(**RARE).lanes(origin, "key")

    first = in_a_thread(lambda: asyncio.run(try_once(lanes)))
    second = in_a_thread(lambda: asyncio.run(try_once(lanes)))

    assert (first, second) == (True, False)


@real_time
def test_the_limit_holds_over_threads_that_ask_at_the_same_time(origin):
    """Each grant is in the log, and has a slot of its own: when a task got to run says little on a
    busy machine."""
    throttle = Throttle(**QUICK)
    first = throttle.lanes(origin, "first")
    assert asyncio.run(try_once(first))
    opens, slot = first._origin.ip.pacer.free_at, 0.002
    ready = threading.Barrier(3)

    async def crawl(key: str) -> None:
        lanes = throttle.lanes(origin, key)
        ready.wait(10)
        await asyncio.gather(*(lanes.acquire() for _ in range(60)))

    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(lambda n=n: asyncio.run(crawl(f"key {n}"))) for n in range(3)]
        for job in jobs:
            job.result(timeout=60)

    granted = list(first._origin.ip.pacer._log)[1:]
    assert len(granted) == 180
    # Slots open at `opens` and every two milliseconds from then on; the first one asked for is the
    # newest that is open.
    slots = [math.floor((when - opens) / slot + 1e-3) for when in granted]
    assert all(number >= slots[0] + n for n, number in enumerate(slots))


@real_time
def test_a_free_slot_is_taken_once_when_threads_race_for_it(origin):
    """The way without the lock ends when the second thread comes; neither of them may miss the
    other."""
    for attempt in range(30):
        throttle = Throttle(**RARE)
        ready = threading.Barrier(2)
        name = f"{origin}/{attempt}"

        async def race(
            name: str = name, throttle: Throttle = throttle, ready: threading.Barrier = ready
        ) -> int:
            lanes = throttle.lanes(name, "key")
            ready.wait(10)
            return sum(lanes.try_acquire() for _ in range(50))

        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(lambda: asyncio.run(race())) for _ in range(2)]
            assert sum(job.result(timeout=30) for job in jobs) == 1


@real_time
async def test_a_grant_wakes_a_waiter_of_another_loop_in_its_turn(origin, monkeypatch):
    """First come, first served holds over loops; whoever's timer fires first serves all.

    Which thread gets to run first after two grants is the machine's affair, so it is the grants
    that are looked at.
    """
    lanes = Throttle(**QUICK).lanes(origin, "key")
    other = LoopThread()
    order: list[str] = []
    theirs: list[bool] = []

    async def wait(name: str) -> None:
        await lanes.acquire()
        order.append(name)

    lanes.refused(0.5)  # the gate is closed while everybody gets in line
    pick = lanes._origin.line.pick

    def watched(*args: Any) -> Any:
        picked = pick(*args)
        if picked is not None:
            theirs.append(picked[1].get_loop() is other.loop)
        return picked

    monkeypatch.setattr(lanes._origin.line, "pick", watched)
    tasks = []
    for n in range(5):
        other.start(wait(f"theirs {n}"))
        tasks.append(asyncio.ensure_future(wait(f"ours {n}")))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    await asyncio.to_thread(other.do, drained(lanes))
    other.close()

    assert sorted(order) == sorted(f"{who} {n}" for who in ("ours", "theirs") for n in range(5))
    assert theirs[:10] == [True, False] * 5
    assert [name for name in order if "ours" in name] == [f"ours {n}" for n in range(5)]
    assert [name for name in order if "theirs" in name] == [f"theirs {n}" for n in range(5)]


async def drained(lanes: Lanes) -> None:
    """Until nobody waits: one more in the line, behind them all."""
    await lanes.acquire()


@real_time
async def test_waiters_of_a_closed_loop_do_not_block_the_rest(origin):
    """A loop that ended badly never cancels its waiters; they would stand at the head of the line
    for ever."""
    throttle = Throttle(**QUICK)
    lanes = throttle.lanes(origin, "key")
    dead = LoopThread()
    lanes.refused(0.3)
    task = dead.start(lanes.acquire())
    dead.start(lanes.acquire(priority=True))
    assert throttle.statistics().waiting == 2
    dead.stop()
    dead.loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio would tell on us, rightly

    async with asyncio.timeout(10):
        await lanes.acquire()

    assert throttle.statistics().waiting == 0
    assert lanes._origin.line.loops.keys() <= {asyncio.get_running_loop()}


@real_time
async def test_a_loop_closed_while_its_waiters_are_passed_over_is_forgotten(origin):
    throttle = Throttle(**QUICK)
    lanes = throttle.lanes(origin, "key")
    dead = LoopThread()
    lanes.refused(0.3)
    task = dead.start(lanes.acquire())
    dead.stop()
    await lanes.acquire()  # passes the waiter of the loop that stands still
    assert throttle.statistics().waiting == 1

    dead.loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    lanes.refused(0.01)
    await lanes.acquire()

    assert throttle.statistics().waiting == 0


@real_time
async def test_waiters_of_a_loop_that_stands_still_keep_their_place(origin):
    """A notebook's loop between two cells: nobody waits for it, and it comes back to where it
    was."""
    throttle = Throttle(**QUICK)
    lanes = throttle.lanes(origin, "key")
    other = LoopThread()
    lanes.refused(0.3)
    first = other.start(lanes.acquire())
    second = other.start(lanes.acquire(priority=True))
    other.stop()

    await lanes.acquire()
    assert not first.done()
    assert not second.done()
    assert throttle.statistics().waiting == 2
    lanes.refused(0.2)  # the gate is closed while everybody gets in line
    behind = asyncio.ensure_future(lanes.acquire())
    await asyncio.sleep(0)
    other.run()
    await behind
    await asyncio.to_thread(other.do, both(first, second))

    assert throttle.statistics().waiting == 0
    other.close()


@real_time
def test_a_loop_that_stands_still_with_a_trip_under_way_holds_nobody_up(
    origin, tmp_path, monkeypatch
):
    """A notebook's cell is interrupted while it waits for a shared store; the next loop asks for
    itself."""
    schedules = Schedules()
    schedules.trip = 100.0
    store = MemoryStore(schedules, "one")
    monkeypatch.setattr(stores, "open_store", lambda shared, clock: store)
    lanes = Throttle(**QUICK, shared=tmp_path / "budget").lanes(origin, "key")

    async def interrupted() -> None:
        waiter = asyncio.ensure_future(lanes.acquire())
        await asyncio.sleep(0)
        assert len(schedules.asks) == 1
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)

    async def take() -> None:
        async with asyncio.timeout(10):
            await lanes.acquire()

    standing = asyncio.new_event_loop()
    standing.run_until_complete(interrupted())
    schedules.trip = 0.001

    asyncio.run(take())

    assert [ask.slots for _, ask in schedules.asks[:2]] == [1, 1]
    standing.close()


async def both(*tasks: asyncio.Task[Any]) -> None:
    await asyncio.gather(*tasks)


@real_time
async def test_a_slot_on_its_way_to_another_loop_is_passed_on_if_nobody_is_there(origin):
    """Between the grant in one thread and its arrival in the other, the waiter may have left."""
    throttle = Throttle(**RARE)
    lanes = throttle.lanes(origin, "key")
    other = LoopThread()
    assert lanes.try_acquire()
    ours = lanes._origin
    task = other.start(lanes.acquire())
    heir = other.start(lanes.acquire())
    went = threading.Event()

    def hold_and_cancel() -> None:
        went.wait(10)
        task.cancel()

    # The other loop is held in a callback while the slot is granted; the task leaves before the
    # grant arrives.
    other.loop.call_soon_threadsafe(hold_and_cancel)
    with ours.lock:
        ours.ip.pacer.refund(ours.now(None), ours.now(None))
        ours.dispatch(ours.now(None), asyncio.get_running_loop())
        assert throttle.statistics().waiting == 1  # the heir; the other one is on its way
    went.set()

    await asyncio.to_thread(other.do, both(heir))

    assert task.cancelled()
    assert heir.done()
    other.close()


@real_time
async def test_those_who_stand_in_another_loop_are_sent_away_there(origin):
    """One of them has left before it hears of it, one stands in a loop that is between two cells,
    one in a loop that is closed."""
    throttle = Throttle(**RARE)
    lanes = throttle.lanes(origin, "key")
    other, still, dead = LoopThread(), LoopThread(), LoopThread()
    assert lanes.try_acquire()
    gone = other.start(lanes.acquire(patience=1.0))
    hasty = other.start(lanes.acquire(patience=1.0))
    waits = still.start(lanes.acquire(patience=1.0))
    dead.start(lanes.acquire(patience=1.0))
    still.stop()
    dead.close()
    went = threading.Event()

    def hold_and_cancel() -> None:
        went.wait(10)
        gone.cancel()

    other.loop.call_soon_threadsafe(hold_and_cancel)
    lanes.refused(60.0)
    assert throttle.statistics().waiting == 0
    went.set()
    await asyncio.to_thread(other.do, settled(gone, hasty))
    still.run()
    await asyncio.to_thread(still.do, settled(waits))

    assert gone.cancelled()
    assert isinstance(hasty.exception(), GateClosedError)
    assert isinstance(waits.exception(), GateClosedError)
    assert throttle.statistics().waiting == 0
    other.close()
    still.close()


async def settled(*tasks: asyncio.Task[Any]) -> None:
    await asyncio.wait(tasks)


@real_time
async def test_a_slot_for_a_loop_that_closes_at_that_moment_is_given_back(origin, monkeypatch):
    lanes = Throttle(**RARE).lanes(origin, "key")
    other = LoopThread()
    assert lanes.try_acquire()
    ours = lanes._origin
    other.start(lanes.acquire())

    def closed(*_: Any) -> None:
        raise RuntimeError("Event loop is closed")

    monkeypatch.setattr(other.loop, "call_soon_threadsafe", closed)
    with ours.lock:
        ours.ip.pacer.refund(ours.now(None), ours.now(None))
        ours.dispatch(ours.now(None), asyncio.get_running_loop())
    monkeypatch.undo()

    assert lanes.try_acquire()
    other.close()


def test_a_coroutine_that_the_collector_closes_does_not_wait_for_the_lock(origin):
    """It happens at any allocation, also while this thread holds the lock: a slot is given back,
    and a count goes down. With a lock that is not reentrant the process stood still."""
    lanes = Throttle(**RARE).lanes(origin, "key")

    async def call() -> None:
        assert lanes.try_acquire()
        try:
            with lanes.waiting_outside():
                await asyncio.Event().wait()
        finally:
            lanes.forfeit(0.0)

    def left_behind() -> None:
        loop = asyncio.new_event_loop()
        coroutine = call()

        async def begin() -> None:
            coroutine.send(None)

        loop.run_until_complete(begin())
        loop.close()
        with lanes._origin.lock:
            coroutine.close()

    work = threading.Thread(target=left_behind, daemon=True)
    work.start()
    work.join(10)

    assert not work.is_alive()
    assert asyncio.run(try_once(lanes)) is True


def test_a_loop_with_a_clock_of_its_own_has_budgets_of_its_own(origin):
    """Its times mean nothing elsewhere: a test that ran for virtual hours must not close the next
    one's gate."""
    lanes = Throttle(**RARE).lanes(origin, "key")

    async def later() -> bool:
        await asyncio.sleep(36000)
        return lanes.try_acquire()

    for _ in range(2):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            assert runner.run(try_once(lanes)) is True
            assert runner.run(try_once(lanes)) is False
            assert runner.run(later()) is True
    assert asyncio.run(try_once(lanes)) is True
    assert len([loop for loop in registry.current.virtual if loop.is_closed()]) <= 1


@real_time
def test_uvloop_shares_the_budget_of_asyncio(origin):
    uvloop = pytest.importorskip("uvloop")
    lanes = Throttle(**RARE).lanes(origin, "key")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(try_once(lanes)) is True
    assert asyncio.run(try_once(lanes)) is False


@real_time
def test_waiting_works_on_uvloop(origin):
    uvloop = pytest.importorskip("uvloop")
    lanes = Throttle(**QUICK).lanes(origin, "key")

    async def some() -> None:
        await asyncio.gather(*(lanes.acquire() for _ in range(10)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(some())


@real_time
def test_a_forked_child_starts_empty():
    """It inherits neither waiters nor locks nor slots; its first slot opens after an interval, so a
    loop of forks cannot burst."""
    script = textwrap.dedent(
        """
        import asyncio, os, sys
        from tokfluence_async._throttle.throttle import Throttle

        throttle = Throttle(per_ip=1, per_key=None, period=3600.0)
        lanes = throttle.lanes("http://fork.test", "key")

        async def parent():
            assert lanes.try_acquire()
            waiting = [asyncio.ensure_future(lanes.acquire()) for _ in range(3)]
            await asyncio.sleep(0)
            assert throttle.statistics().waiting == 3
            with lanes._origin.lock:  # as if another thread held it
                child = os.fork()
                if child == 0:
                    asyncio._set_running_loop(None)
                    os._exit(asyncio.run(in_the_child()))
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        async def in_the_child():
            if throttle.statistics().waiting or throttle.statistics().lanes:
                return 10
            if lanes.try_acquire():
                return 11
            opens = lanes._origin.ip.pacer.free_at - asyncio.get_running_loop().time()
            return 0 if 3500 < opens <= 3600.6 else 12

        sys.exit(asyncio.run(parent()))
        """
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
