"""Pages asked for ahead: how much sooner a walk ends, and what a reader who stops early has bought in vain."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

from tokfluence_async import Sandbox, Throttle, TokfluenceClient
from tokfluence_async.testing import VirtualLoop

from . import plot
from .bodies import PAGE_SIZE, post_id
from .contenders import TOKEN, UNLIMITED
from .servers import PAGES, raw

__all__ = ["run"]

_LATENCY = 0.1
_AHEAD = (0, 2, 4, 8, 16, 32)
# Pages after which the reader stops, for counting what was bought in vain.
_STOPS = (1, 2, 3, 5, 10, 30)


def run(quick: bool, out: Path) -> None:
    """Wall time is what prefetching is for, and 100 ms a page is far above what a busy machine adds to it."""
    rounds = 1 if quick else 3
    pages = 30 if quick else PAGES
    with raw(latency=_LATENCY, comments=pages * PAGE_SIZE) as url:
        took = {ahead: statistics.median(asyncio.run(_walk(url, ahead)) for _ in range(rounds)) for ahead in _AHEAD}
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        wasted = {ahead: runner.run(_wasted(ahead)) for ahead in _AHEAD}
    print(f"### comments: {pages} pages of {PAGE_SIZE}, {_LATENCY * 1e3:.0f} ms each; wall time, median of {rounds}\n")
    heads = " | ".join(f"stop after {stop}" for stop in _STOPS)
    print(f"| prefetch | seconds | against one at a time | pages bought in vain: {heads} |")
    print("|---" * (3 + len(_STOPS)) + "|")
    for ahead in _AHEAD:
        name = f"{ahead}" + (" (default)" if ahead == 0 else "")
        vain = " | ".join(str(count) for count in wasted[ahead])
        print(f"| {name} | {took[ahead]:.2f} | x{took[0] / took[ahead]:.1f} | {vain} |")
    print(f"\nGoals (>= x9 at 16 ahead over {PAGES} pages, 0 in vain by default): ", end="")
    print("not judged with --quick.\n" if quick else _judged(took, wasted) + "\n", flush=True)
    drawn = plot.figure(6.0)
    if drawn is not None:
        drawn[1].plot(_AHEAD, [took[0] / took[ahead] for ahead in _AHEAD], marker="o")
        drawn[1].set_xlabel("prefetch")
        drawn[1].set_ylabel("times as fast as one page at a time")
        plot.save(drawn, out / "prefetch.png")


def _judged(took: dict[int, float], wasted: dict[int, list[int]]) -> str:
    missed = [] if took[0] >= 9.0 * took[16] else [f"x{took[0] / took[16]:.1f}"]
    missed += ["default wastes"] if any(wasted[0]) else []
    return "MISSED: " + ", ".join(missed) if missed else "met."


async def _walk(url: str, ahead: int) -> float:
    throttle = Throttle(per_ip=UNLIMITED, per_key=UNLIMITED)
    async with TokfluenceClient(TOKEN, base_url=url, throttle=throttle) as client:
        began = time.perf_counter()
        async for _ in client.posts.comments(post_id(0), prefetch=ahead):
            pass
        return time.perf_counter() - began


async def _wasted(ahead: int) -> list[int]:
    vain = []
    async with Sandbox(comments_per_post=PAGES * PAGE_SIZE, latency=_LATENCY, throttle=None) as sandbox:
        throttle = Throttle(per_ip=UNLIMITED, per_key=UNLIMITED)
        async with TokfluenceClient(sandbox.token, base_url=sandbox.url, throttle=throttle) as client:
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
