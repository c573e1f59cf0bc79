"""A service across a network with transit times, and a client that has more to ask than it may: on
any clock."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from tokfluence_async._sandbox.throttles import (
    GCRA,
    FixedWindow,
    HAProxyRate,
    NginxLimitReq,
    SlidingCounter,
    SlidingLog,
    TokenBucket,
)
from tokfluence_async._throttle.lanes import Lanes

LIMIT, PERIOD = 600, 60.0

# Eight ways of counting, some of them with two settings.
ALGORITHMS: dict[str, Callable[[int, float], Any]] = {
    "fixed window": FixedWindow,
    "fixed window, aligned elsewhere": lambda limit, period: FixedWindow(
        limit, period, offset=0.37 * period
    ),
    "sliding log": SlidingLog,
    "sliding log, refusals counted": lambda limit, period: SlidingLog(
        limit, period, count_refusals=True
    ),
    "sliding counter": SlidingCounter,
    "sliding counter, aligned elsewhere": lambda limit, period: SlidingCounter(
        limit, period, offset=0.6 * period
    ),
    "token bucket": TokenBucket,
    "token bucket of 20": lambda limit, period: TokenBucket(limit, period, burst=20),
    "GCRA": GCRA,
    "GCRA with 20": lambda limit, period: GCRA(limit, period, burst=20),
    "HAProxy http_req_rate": HAProxyRate,
    "nginx limit_req burst=20": NginxLimitReq,
}


class Service:
    """Counts what arrives; `rule` may be exchanged while it runs."""

    def __init__(
        self, rule: Any, *, scale: float = 0.3, most_transit: float = 0.57, seed: int = 1
    ) -> None:
        self.rule = rule
        self.scale, self.most = scale, most_transit
        self.random = random.Random(seed)
        self.accepted: list[float] = []
        self.refused: list[float] = []

    def transit(self) -> float:
        """Exponential, cut off at the margin the throttle is told: what the theorem speaks of. 200
        ms in the mean, after the cut."""
        while True:
            seconds = self.random.expovariate(1 / self.scale)
            if seconds <= self.most:
                return seconds

    async def answer(self) -> float:
        """One request, from the moment its bytes leave; 0.0 or the seconds in Retry-After."""
        await asyncio.sleep(self.transit())
        now = asyncio.get_running_loop().time()
        wait = float(self.rule.allow(now))
        (self.refused if wait else self.accepted).append(now)
        return wait


async def one(lanes: Lanes, service: Service, *, priority: bool = False) -> float:
    """A call as the transport makes it. Returns when its slot came, in loop time."""
    if not lanes.try_acquire():
        await lanes.acquire(priority=priority)
    sent = asyncio.get_running_loop().time()
    wait = await service.answer()
    if wait:
        lanes.refused(wait)
    else:
        lanes.answered()
    return sent


async def crawl(lanes: Lanes, service: Service, until: float, workers: int = 30) -> None:
    """Ask as fast as the throttle lets, until that loop time."""
    loop = asyncio.get_running_loop()

    async def worker() -> None:
        while loop.time() < until:
            await one(lanes, service)

    tasks = [asyncio.create_task(worker()) for _ in range(workers)]
    await asyncio.sleep(until - loop.time())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
