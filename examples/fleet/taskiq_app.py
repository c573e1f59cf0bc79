"""A crawl in shards, as tasks of taskiq on NATS (`pip install taskiq taskiq-nats`).

    taskiq worker taskiq_app:broker --workers 4     # on each machine; they may be killed
    python taskiq_app.py urls.txt out 16            # once: a task for each of 16 shards

NATS hands out a task again that was not acknowledged within `ack_wait`, so that has to be longer
than the longest task: with too short a wait two workers would want one folder, and the second is
refused. `out` has to be there for all workers. TOKFLUENCE_TOKEN comes from their environment.
"""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from nats.js.api import ConsumerConfig
from taskiq_nats import PullBasedJetStreamBroker

from tokfluence_async import Throttle, TokfluenceClient, crawl

SHARED = os.environ.get("TOKFLUENCE_SHARED", "redis://127.0.0.1:6379/0")
ACK_WAIT = float(os.environ.get("ACK_WAIT", "3600"))

broker = PullBasedJetStreamBroker(
    servers=os.environ.get("NATS_URL", "nats://127.0.0.1:4222"),
    durable="crawl",
    pull_consume_batch=1,
    consumer_config=ConsumerConfig(durable_name="crawl", ack_wait=ACK_WAIT, max_ack_pending=-1),
)


def lines(path: str) -> Iterator[str]:
    with Path(path).open(encoding="utf-8") as file:
        yield from file


@broker.task
async def crawl_shard(urls: str, out: str, shard: int, shards: int) -> int:
    """Work one shard to its end; returns how many posts it has written this time."""
    folder = f"{out}/{shard}-of-{shards}"
    async with TokfluenceClient(throttle=Throttle(shared=SHARED)) as client:
        report = await crawl(client, lines(urls), folder, comments=True, shard=(shard, shards))
    return report.posts


async def main(urls: str, out: str, shards: int) -> None:
    await broker.startup()
    for shard in range(shards):
        await crawl_shard.kiq(urls, out, shard, shards)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
