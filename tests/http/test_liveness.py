"""Every call ends: fifty hours of mixed jobs on the virtual clock, a tenth of the answers never
coming.

A limit that is lost somewhere shows as a call that stands still for ever, and only if many calls of
many lengths meet: batches of all sizes, and a throttle whose queue is never empty.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tokfluence_async import Sandbox, Throttle, TokfluenceClient, TokfluenceError
from tokfluence_async._sandbox.ledger import ANALYZE

FIRST_ID = 7234567890123456789
HOURS = 50.0
EVERY = 20.0  # seconds between two slots: fewer than are wanted
CALLERS = 40  # requests that want a slot at once, at most
RETRIES = 5
BACKOFF = 30.0

# What is documented of one attempt: `Timeout()`, and 15 s a URL on top for a batch.
READ = 30.0  # of silence; the total is 60 s, and never reached by an answer that does not come


def batch(urls: int) -> float:
    return 60.0 + 15.0 * urls


def longest(attempt: float, calls: int = 1) -> float:
    """Seconds that a call of so many requests, one after another, may take: its attempts, what lies
    between them, and for each a wait in the line, which reads let every other batch pass."""
    return calls * (1 + RETRIES) * (attempt + BACKOFF + 2 * CALLERS * EVERY)


async def drain(stream: Any) -> None:
    async for _ in stream:
        pass


@pytest.mark.timeout(600)  # 15 s of CPU
async def test_every_call_ends() -> None:
    """Within its limits, by the sandbox's clock; so does every attempt."""
    loop = asyncio.get_running_loop()
    rng = random.Random(20261130)
    ended: Counter[str] = Counter()
    late: list[str] = []
    async with Sandbox(
        throttle=None, credits=10**9, indexed=0.6, comments_per_post=25, seconds_per_url=2.0
    ) as sandbox:
        sandbox.stall(times=None, where=lambda _: rng.random() < 0.1)
        client = TokfluenceClient(
            sandbox.token,
            base_url=sandbox.url,
            throttle=Throttle(60 / EVERY, None, burst=2),
            max_concurrency=8,
            analyze_concurrency=4,
            max_retries=RETRIES,
        )
        posts = client.posts
        until = loop.time() + HOURS * 3600

        async def again_and_again(
            name: str, limit: Callable[[int], float], call: Callable[[int], Awaitable[Any]]
        ) -> None:
            while loop.time() < until:
                size = rng.randint(1, 50)
                try:
                    async with asyncio.timeout(limit(size)):
                        await call(size)
                except TokfluenceError:
                    pass
                except TimeoutError:
                    late.append(f"{name} of {size} after {limit(size):.0f} s")
                ended[name] += 1

        def some(count: int) -> list[str]:
            first = FIRST_ID + rng.randint(0, 100_000)
            return [str(first + n) for n in range(count)]

        work = [
            *(("get", lambda _: longest(READ), lambda _: posts.get(some(1)[0])) for _ in range(6)),
            *(
                (
                    "analyze",
                    lambda size: longest(batch(size)),
                    lambda size: posts.analyze(some(size), batch_size=size),
                )
                for _ in range(6)
            ),
            *(
                (
                    "comments",
                    lambda _: longest(READ, 4),
                    lambda _: drain(posts.comments(some(1)[0], limit=10, prefetch=2)),
                )
                for _ in range(2)
            ),
            (
                "resolve",  # read, analyzed, read again; its polls are few
                lambda size: longest(READ, 8 * size) + longest(batch(50), size),
                lambda size: drain(posts.resolve(some(size))),
            ),
            (
                "get_many",
                lambda size: longest(READ, size),
                lambda size: drain(posts.get_many(some(size))),
            ),
        ]
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(again_and_again(*each))
        await client.aclose()

        assert late == []
        assert loop.time() >= until
        assert min(ended.values()) > 5
        assert sum(entry.fault == "stall" for entry in sandbox.requests) > 500
        for entry in sandbox.requests:
            if entry.ended is not None:
                urls = len(entry.post_ids) if entry.route == ANALYZE else 0
                assert entry.ended - entry.time <= (batch(urls) if urls else READ) + 1.0
        assert client.usage.requests == sandbox.requests_received
        assert client.usage.credits_spent >= sandbox.credits_spent
