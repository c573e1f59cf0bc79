"""`resolve` against a clairvoyant client, in credits: how much knowing the index and the visibility
delay beforehand would save.

Server: the sandbox, in the same loop. Everything runs on the virtual clock, with the documented
throttle; credits are the sandbox's own count. The clairvoyant client pays 1 for a post in the
index, and 25 + 1 for one that is not.

What no client without that knowledge can avoid, where cached posts are strewn at random: either 1
for each miss, or 25 for each cached post that is analyzed. "floor" is the cheaper of the two;
between 2 % and 88 % cached it is itself more than 3 % above the clairvoyant's. Run: python -m
benchmarks.cheapest_path
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Callable
from pathlib import Path

from tokfluence_async import Sandbox, TokfluenceClient
from tokfluence_async.testing import VirtualLoop

from . import plot
from .goals import Goal, judge

POSTS = 1000
# Seconds until a post is readable: the same for all, or a heavy-tailed one for each.
DELAYS: dict[str, Callable[[str], float]] = {
    "3 s": lambda post_id: 3.0,
    "1 to 9 s each": lambda post_id: min(
        9.0, 1.0 + random.Random(post_id).lognormvariate(0.3, 0.7)
    ),
}


def workloads(seed: int) -> dict[str, tuple[list[str], set[str]]]:
    """Inputs in their order, and those of them that are in the index."""
    chance = random.Random(seed)
    ids = [str(7234567890123456789 + chance.randrange(10**12)) for _ in range(POSTS)]
    half = POSTS // 2
    return {
        "95 % cached": (ids, {post_id for post_id in ids if chance.random() < 0.95}),
        "half cached": (ids, {post_id for post_id in ids if chance.random() < 0.5}),
        "2 % cached": (ids, {post_id for post_id in ids if chance.random() < 0.02}),
        "nothing cached": (ids, set()),
        "cold, then cached": (ids, set(ids[half:])),
        "runs of 100, every other cached": (
            ids,
            {post_id for n, post_id in enumerate(ids) if n // 100 % 2},
        ),
    }


async def resolve(
    ids: list[str], cached: set[str], delay: Callable[[str], float]
) -> tuple[int, int, float]:
    """Credits spent, posts that were read, and seconds on the virtual clock."""
    loop = asyncio.get_running_loop()
    async with (
        Sandbox(
            indexed=cached, visibility_delay=delay, seconds_per_url=2.0, record=False
        ) as sandbox,
        TokfluenceClient(sandbox.token, base_url=sandbox.url) as client,
    ):
        began = loop.time()
        done = 0
        async for outcome in client.posts.resolve(ids):
            done += outcome.ok
        return sandbox.credits_spent, done, loop.time() - began


def measure(seed: int = 0) -> list[tuple[str, str, int, int, int, float]]:
    """(workload, delay, credits spent, the clairvoyant's, the floor, seconds) for each."""
    rows: list[tuple[str, str, int, int, int, float]] = []
    for name, (ids, cached) in workloads(seed).items():
        for delay, seconds in DELAYS.items():
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                spent, done, took = runner.run(resolve(ids, cached, seconds))
            assert done == len(ids), (name, delay, done)
            hits = sum(post_id in cached for post_id in ids)
            misses = len(ids) - hits
            floor = min(hits + 27 * misses, 26 * len(ids))
            rows.append((name, delay, spent, hits + 26 * misses, floor, took))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cheapest_path")
    parser.add_argument("--quick", action="store_true", help="goals are not judged")
    parser.add_argument(
        "--out", type=Path, default=Path("bench-results"), help="where the plot goes"
    )
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    print(__doc__)
    print(
        f"{'workload':32} {'readable after':14} {'credits':>8} {'clairvoyant':>11} {'more':>7} "
        f"{'floor':>7} {'more':>7}"
    )
    rows = measure()
    for name, delay, spent, best, floor, _ in rows:
        more, above = spent / best - 1, spent / floor - 1
        print(f"{name:32} {delay:14} {spent:8} {best:11} {more:7.2%} {floor:7} {above:7.2%}")
    total, least = sum(row[2] for row in rows), sum(row[3] for row in rows)
    more = total / least - 1
    print(f"all together: {total} credits, clairvoyant {least}\n")
    judge(
        [Goal("credits above the clairvoyant's, all together <= 3 %", f"{more:.2%}", more <= 0.03)],
        given.quick,
    )
    _draw(rows, given.out / "cheapest_path.png")


def _draw(rows: list[tuple[str, str, int, int, int, float]], path: Path) -> None:
    groups: dict[str, dict[str, plot.Bar]] = {"than the clairvoyant": {}, "than the floor": {}}
    for name, delay, spent, best, floor, _ in rows:
        for bars, least in zip(groups.values(), (best, floor), strict=True):
            bars[f"{name}, {delay}"] = plot.bar([100 * (spent / least - 1)], ".1f", " %")
    plot.grouped(groups, "credits that `resolve` spends, % more", path)


if __name__ == "__main__":
    main()
