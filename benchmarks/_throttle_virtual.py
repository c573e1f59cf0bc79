"""A saturated client against every server algorithm of the sandbox, on the virtual clock."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
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
from tokfluence_async.testing import VirtualLoop

from ._throttle_limiters import Contender

__all__ = ["ALGORITHMS", "LIMIT", "PERIOD", "drop", "steady"]

LIMIT, PERIOD = 600, 60.0
WORKERS = 40

ALGORITHMS: dict[str, Callable[[int, float], Any]] = {
    "fixed window": FixedWindow,
    "… aligned elsewhere": lambda limit, period: FixedWindow(limit, period, offset=0.37 * period),
    "sliding log": SlidingLog,
    "… refusals counted": lambda limit, period: SlidingLog(limit, period, count_refusals=True),
    "sliding counter": SlidingCounter,
    "token bucket": TokenBucket,
    "GCRA, burst 20": lambda limit, period: GCRA(limit, period, burst=20),
    "HAProxy http_req_rate": HAProxyRate,
    "nginx burst=20": NginxLimitReq,
}


@dataclass
class Service:
    """What arrives, after an exponential transit time; the answer comes back at once."""

    rule: Any
    jitter: float
    random: random.Random = field(default_factory=lambda: random.Random(20))
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    async def answer(self) -> float:
        await asyncio.sleep(self.random.expovariate(1 / self.jitter))
        now = asyncio.get_running_loop().time()
        wait = float(self.rule.allow(now))
        (self.refused if wait else self.accepted).append(now)
        return wait


async def crawl(client: Contender, service: Service, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds

    async def worker() -> None:
        while loop.time() < until:
            await client.take()
            wait = await service.answer()
            if wait:
                client.refused(wait)
            else:
                client.answered()

    workers = [asyncio.ensure_future(worker()) for _ in range(WORKERS)]
    await asyncio.sleep(seconds)
    for each in workers:
        each.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


def _run(what: Any) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(what)


def steady(
    limiter: Callable[[int, float], Contender],
    rule: Callable[[int, float], Any],
    *,
    minutes: int,
    on: float | None = None,
    off: float = 0.0,
    jitter: float = 0.2,
) -> tuple[float, int]:
    """(part of the permitted rate that got through, refusals) from a cold start; with `on`, in
    turns of demand and none."""

    async def main() -> tuple[float, int]:
        client = limiter(LIMIT, PERIOD)
        service = Service(rule(LIMIT, PERIOD), jitter)
        seconds = minutes * PERIOD
        if on is None:
            # The last requests are under way when the time is up; what arrives in the second after
            # the first counts instead.
            began = asyncio.get_running_loop().time()
            await crawl(client, service, seconds + 2)
            arrived = sum(began + 1 <= moment < began + 1 + seconds for moment in service.accepted)
            return arrived / (minutes * LIMIT), len(service.refused)
        asked = 0.0
        while asked < seconds:
            await crawl(client, service, on)
            asked += on
            await asyncio.sleep(off)
        return len(service.accepted) / (asked / PERIOD * LIMIT), len(service.refused)

    return _run(main())  # type: ignore[no-any-return]


def drop(
    limiter: Callable[[int, float], Contender], rule: Callable[[int, float], Any], *, minutes: int
) -> tuple[int, float, float, float]:
    """A service that drops to a quarter and returns: refusals in the first 1.5 s, the part refused
    after that, the part of the quarter used, and seconds from the return to the first ten seconds
    at 97 % of the full rate."""

    async def main() -> tuple[int, float, float, float]:
        loop = asyncio.get_running_loop()
        client = limiter(LIMIT, PERIOD)
        service = Service(rule(LIMIT, PERIOD), 0.2)
        await crawl(client, service, 3 * PERIOD)

        def now_with(limit: int) -> Any:
            changed = rule(limit, PERIOD)
            for moment in sorted([*service.accepted, *service.refused]):
                if moment > loop.time() - 2 * PERIOD:
                    changed.allow(moment)
            return changed

        service.refused.clear()
        service.rule = now_with(LIMIT // 4)
        dropped = loop.time()
        await crawl(client, service, minutes * PERIOD)
        returned = loop.time()
        refused, service.refused = service.refused, []
        accepted = sum(moment >= dropped for moment in service.accepted)
        service.rule = now_with(LIMIT)
        await crawl(client, service, 4 * PERIOD)
        at_once = sum(moment <= refused[0] + 1.5 for moment in refused)
        full = next(
            (
                float(start)
                for start in range(230)
                if sum(returned + start <= m < returned + start + 10 for m in service.accepted)
                >= 0.97 * LIMIT / 6
            ),
            float("inf"),
        )
        return (
            at_once,
            (len(refused) - at_once) / (len(refused) + accepted),
            accepted / (minutes * LIMIT / 4),
            full,
        )

    return _run(main())  # type: ignore[no-any-return]
