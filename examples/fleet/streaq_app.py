"""A crawl in shards, as tasks of streaq (`pip install streaq`).

    streaq run streaq_app:worker --workers 4        # on each machine; they may be killed
    python streaq_app.py urls.txt out 16            # once: a task for each of 16 shards

streaq hands a dead worker's task to another one after `idle_timeout` seconds. That one goes on in
the same folder, so `out` has to be there for all workers. TOKFLUENCE_TOKEN comes from the workers'
environment.
"""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from streaq import Worker

from tokfluence_async import Throttle, TokfluenceClient, crawl

REDIS = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")

worker = Worker(redis_url=REDIS, concurrency=1, prefetch=0, idle_timeout=8)


def lines(path: str) -> Iterator[str]:
    with Path(path).open(encoding="utf-8") as file:
        yield from file


@worker.task(max_tries=None, ttl=86_400)
async def crawl_shard(urls: str, out: str, shard: int, shards: int) -> int:
    """Work one shard to its end; returns how many posts it has written this time."""
    folder = f"{out}/{shard}-of-{shards}"
    async with TokfluenceClient(throttle=Throttle(shared=REDIS)) as client:
        report = await crawl(client, lines(urls), folder, comments=True, shard=(shard, shards))
    return report.posts


async def main(urls: str, out: str, shards: int) -> None:
    async with worker:
        tasks = [await crawl_shard.enqueue(urls, out, shard, shards) for shard in range(shards)]
        for task in tasks:
            await task.result()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
