"""What a slot costs: free, and with 100 000 in the line. Ratios of one run, as the figures
themselves drift from machine to machine."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import time
import tracemalloc
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator

from aiolimiter import AsyncLimiter

from tokfluence_async._throttle.lanes import Lanes
from tokfluence_async._throttle.throttle import Throttle
from tokfluence_async.testing import VirtualLoop

__all__ = ["bytes_per_waiter", "free_slot", "real_limit", "wake"]

_numbers = itertools.count()


def _lanes(limit: float) -> Lanes:
    return Throttle(limit, 2 * limit, 60.0).lanes(f"http://cost-{next(_numbers)}.test", "key")


def _shuffled(names: Iterable[str], rounds: int) -> Iterator[str]:
    """All of them in each round, in a new order: who is measured after whom makes a difference."""
    order = list(names)
    rng = random.Random(7)
    for _ in range(rounds):
        rng.shuffle(order)
        yield from order


def free_slot(rounds: int = 61, calls: int = 10_000) -> dict[str, list[float]]:
    """CPU nanoseconds for a free slot, of each round, in turns, on the real clock."""

    async def main() -> dict[str, list[float]]:
        lanes = _lanes(6e10)  # every call finds the lane idle
        limiter = AsyncLimiter(6e10, 60)
        found: dict[str, list[float]] = {
            "try_acquire": [],
            "acquire": [],
            "AsyncLimiter.acquire": [],
        }
        waiting: dict[str, Callable[[], Awaitable[object]]] = {
            "acquire": lanes.acquire,
            "AsyncLimiter.acquire": limiter.acquire,
        }
        for name in _shuffled(found, rounds):
            began = time.process_time()
            if name == "try_acquire":
                for _ in range(calls):
                    lanes.try_acquire()
            else:
                acquire = waiting[name]
                for _ in range(calls):
                    await acquire()
            found[name].append((time.process_time() - began) / calls * 1e9)
        return found

    return asyncio.run(main())


# Seconds between two moments at which slots are taken, and how many are taken then. Half of 600 a
# minute; and bursts, each while those before it are being paid back.
PATTERNS: dict[str, tuple[float, int]] = {
    "one each 0.2 s": (0.2, 1),
    "ten at once each 3 s": (3.0, 10),
}


def real_limit(rounds: int = 21, calls: int = 5_000) -> dict[str, dict[str, list[float]]]:
    """CPU nanoseconds for a free slot of 600 a minute, of each round, in turns, by the pattern of
    taking.

    On a virtual clock that is moved by hand; what moving it takes is measured in the same round and
    taken off.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for pattern, (gap, burst) in PATTERNS.items():
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            found[pattern] = runner.run(_by_hand(gap, burst, rounds, calls))
    return found


async def _by_hand(gap: float, burst: int, rounds: int, calls: int) -> dict[str, list[float]]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    lanes = _lanes(600)
    limiter = AsyncLimiter(600, 60)

    def waits() -> None:
        raise RuntimeError("a slot was not free")

    found: dict[str, list[float]] = {"try_acquire": [], "acquire": [], "AsyncLimiter.acquire": []}
    times = calls // burst
    # A throttle begins with less than a burst, as it does not know what was sent before it.
    for _ in range(burst):
        lanes.try_acquire()
    spent: dict[str, list[float]] = {name: [] for name in ("moving the clock", *found)}
    waiting: dict[str, Callable[[], Awaitable[object]]] = {
        "acquire": lanes.acquire,
        "AsyncLimiter.acquire": limiter.acquire,
    }
    for name in _shuffled(spent, rounds):
        turns = loop.time()
        began = time.process_time()
        if name == "moving the clock":
            for _ in range(times):
                loop.advance(gap)
                for _ in range(burst):
                    pass
        elif name == "try_acquire":
            for _ in range(times):
                loop.advance(gap)
                for _ in range(burst):
                    if not lanes.try_acquire():
                        waits()
        else:
            acquire = waiting[name]
            for _ in range(times):
                loop.advance(gap)
                for _ in range(burst):
                    await acquire()
        spent[name].append(time.process_time() - began)
        if loop.time() - turns > times * gap + 1e-3:
            waits()
    for moving, *slots in zip(*spent.values(), strict=True):
        for each, seconds in zip(found.values(), slots, strict=True):
            each.append((seconds - moving) / times / burst * 1e9)
    return found


async def _sleeping(count: int) -> list[Awaitable[object]]:
    return [asyncio.sleep(1 + 0.001 * number) for number in range(count)]


async def _deque(count: int) -> list[Awaitable[object]]:
    loop = asyncio.get_running_loop()
    line: deque[asyncio.Future[None]] = deque()

    async def wait() -> None:
        future = loop.create_future()
        line.append(future)
        await future

    def tick() -> None:
        line.popleft().set_result(None)
        if line:
            loop.call_later(0.001, tick)

    loop.call_later(1.0, tick)
    return [wait() for _ in range(count)]


async def _ours(count: int) -> list[Awaitable[object]]:
    lanes = _lanes(60_000)
    return [lanes.acquire() for _ in range(count)]


async def _aiolimiter(count: int) -> list[Awaitable[object]]:
    limiter = AsyncLimiter(1, 0.001)
    return [limiter.acquire() for _ in range(count)]


WAITERS: dict[str, Callable[[int], Awaitable[list[Awaitable[object]]]]] = {
    "asyncio.sleep": _sleeping,
    "a deque and one timer": _deque,
    "tokfluence_async": _ours,
    "AsyncLimiter": _aiolimiter,
}


def wake(count: int = 100_000, rounds: int = 7) -> dict[str, list[float]]:
    """Microseconds of CPU to grant and wake each of `count` waiters, one a millisecond of virtual
    time; of each round, in turns."""

    async def main(kind: str) -> float:
        tasks = [asyncio.ensure_future(wait) for wait in await WAITERS[kind](count)]
        await asyncio.sleep(0)
        gc.collect()
        gc.disable()
        began = time.process_time()
        await asyncio.gather(*tasks)
        seconds = time.process_time() - began
        gc.enable()
        return seconds / count * 1e6

    found: dict[str, list[float]] = {kind: [] for kind in WAITERS}
    for kind in _shuffled(WAITERS, rounds):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            found[kind].append(runner.run(main(kind)))
    return found


def bytes_per_waiter(count: int = 20_000) -> dict[str, float]:
    """Memory of one waiting task, its task and coroutine included."""

    async def main(kind: str) -> float:
        gc.collect()
        tracemalloc.start()
        tasks = [asyncio.ensure_future(wait) for wait in await WAITERS[kind](count)]
        await asyncio.sleep(0)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return held / count

    result = {}
    for kind in WAITERS:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            result[kind] = runner.run(main(kind))
    return result
