"""The limiters in the race, each as `(take a slot, told of a refusal, told of an answer)`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiolimiter import AsyncLimiter
from pyrate_limiter import InMemoryBucket, Limiter, Rate, SingleBucketFactory

from tokfluence_async._throttle.throttle import Throttle

__all__ = ["LIMITERS", "Contender"]

_numbers = itertools.count()


@dataclass(frozen=True)
class Contender:
    """A limiter sized for `limit` requests in `period` seconds, as its own documentation would have
    it."""

    take: Callable[[], Awaitable[object]]
    refused: Callable[[float], object] = lambda _: None
    answered: Callable[[], object] = lambda: None


class _LoopBucket(InMemoryBucket):
    """pyrate-limiter's bucket on the running loop's clock, so that it may run on a virtual one."""

    def now(self) -> int:
        return int(asyncio.get_running_loop().time() * 1000)


def ours(limit: int, period: float) -> Contender:
    # The same margin at every scale: the default's part of the period.
    throttle = Throttle(limit, 2 * limit, period, jitter=Throttle().jitter * period / 60)
    lanes = throttle.lanes(f"http://benchmark-{next(_numbers)}.test", "key")

    async def take() -> None:
        if not lanes.try_acquire():
            await lanes.acquire()

    return Contender(take, lanes.refused, lanes.answered)


def aiolimiter(limit: int, period: float) -> Contender:
    return Contender(AsyncLimiter(limit, period).acquire)


def pyrate(limit: int, period: float) -> Contender:
    bucket = _LoopBucket([Rate(limit, int(period * 1000))])
    limiter = Limiter(SingleBucketFactory(bucket, schedule_leak=False))
    return Contender(limiter.try_acquire_async)


LIMITERS: dict[str, Callable[[int, float], Contender]] = {
    "tokfluence_async": ours,
    "AsyncLimiter(600, 60)": aiolimiter,
    "pyrate-limiter 600/min": pyrate,
}
