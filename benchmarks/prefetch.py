"""Pages asked for ahead: how much sooner a walk ends, and what a reader who stops early has bought
in vain."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from tokfluence_async import Sandbox, Throttle, TokfluenceClient
from tokfluence_async.testing import VirtualLoop

from . import plot
from .bodies import PAGE_SIZE, post_id
from .contenders import TOKEN, UNLIMITED
from .goals import Goal, judge
from .servers import PAGES, RAW, raw
from .turns import quartiles, spread

__all__ = ["run"]

_LATENCY = 0.1
_AHEAD = (0, 2, 4, 8, 16, 32)
# Pages after which the reader stops, for counting what was bought in vain.
_STOPS = (1, 2, 3, 5, 10, 30)


def run(quick: bool, out: Path) -> None:
    """Wall time is what prefetching is for, and 100 ms a page is far above what a busy machine adds
    to it."""
    rounds = 1 if quick else 5
    pages = 30 if quick else PAGES
    with raw(latency=_LATENCY, comments=pages * PAGE_SIZE) as url:
        rng = random.Random(7)
        turns = [
            {ahead: asyncio.run(_walk(url, ahead)) for ahead in rng.sample(_AHEAD, len(_AHEAD))}
            for _ in range(rounds)
        ]
    took = {ahead: [turn[ahead] for turn in turns] for ahead in _AHEAD}
    times = {ahead: [turn[0] / turn[ahead] for turn in turns] for ahead in _AHEAD}
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        wasted = {ahead: runner.run(_wasted(ahead)) for ahead in _AHEAD}
    print(
        f"### comments: {pages} pages of {PAGE_SIZE}, {_LATENCY * 1e3:.0f} ms each; wall time, "
        f"median of {rounds} and quartiles"
    )
    print(
        f"Server: {RAW}. nginx cannot wait before it answers. What was bought in vain: the "
        "sandbox, on a virtual clock.\n"
    )
    heads = " | ".join(f"stop after {stop}" for stop in _STOPS)
    print(f"| prefetch | seconds | against one at a time | pages bought in vain: {heads} |")
    print("|---" * (3 + len(_STOPS)) + "|")
    for ahead in _AHEAD:
        name = f"{ahead}" + (" (default)" if ahead == 0 else "")
        vain = " | ".join(str(count) for count in wasted[ahead])
        print(f"| {name} | {spread(took[ahead])} | x{spread(times[ahead], '.1f')} | {vain} |")
    print()
    goals = (
        Goal(
            f"16 ahead over {PAGES} pages, against one at a time >= x9",
            f"x{spread(times[16], '.1f')}",
            quartiles(times[16])[1] >= 9.0,
        ),
        Goal("pages bought in vain by default, 0", str(max(wasted[0])), not any(wasted[0])),
    )
    judge(goals, quick)
    _draw(times, out / "prefetch.png")


def _draw(times: dict[int, list[float]], path: Path) -> None:
    drawn = plot.figure(6.0)
    if drawn is not None:
        found = [quartiles(times[ahead]) for ahead in _AHEAD]
        errors = [
            [middle - low for low, middle, _ in found],
            [high - middle for _, middle, high in found],
        ]
        drawn[1].errorbar(
            _AHEAD, [middle for _, middle, _ in found], yerr=errors, marker="o", capsize=3
        )
        drawn[1].set_xlabel("prefetch")
        drawn[1].set_ylabel("times as fast as one page at a time")
        plot.save(drawn, path)


async def _walk(url: str, ahead: int) -> float:
    throttle = Throttle(per_ip=UNLIMITED, per_key=UNLIMITED)
    async with TokfluenceClient(TOKEN, base_url=url, throttle=throttle) as client:
        began = time.perf_counter()
        async for _ in client.posts.comments(post_id(0), prefetch=ahead):
            pass
        return time.perf_counter() - began


async def _wasted(ahead: int) -> list[int]:
    vain = []
    async with Sandbox(
        comments_per_post=PAGES * PAGE_SIZE, latency=_LATENCY, throttle=None
    ) as sandbox:
        throttle = Throttle(per_ip=UNLIMITED, per_key=UNLIMITED)
        async with TokfluenceClient(
            sandbox.token, base_url=sandbox.url, throttle=throttle
        ) as client:
            for stop in _STOPS:
                before = sandbox.credits_spent
                pages = client.posts.comment_pages(post_id(0), prefetch=ahead)
                read = 0
                async for _ in pages:
                    read += 1
                    if read == stop:
                        break
                await pages.aclose()
                vain.append((sandbox.credits_spent - before) // 2 - stop)
    return vain
