"""This checkout beside another one, in turns and in one run: `python -m benchmarks.before PATH`.

For whoever changes what every call goes through: the commit before in a worktree of its own (`git
worktree add ../before HEAD~20`), both measured by the benchmarks of this one. Ratios are of the
same round: of the hand-written loop's CPU, or of the other checkout's where there is no such loop.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .servers import fast, fast_name
from .turns import measure, measure_each, ratios, spread, table

_ROOT = Path(__file__).parent.parent

# Nanoseconds of CPU for a free slot; microseconds for a grant with 100 000 in line, on a virtual
# clock; milliseconds of an import, the interpreter's start included. Public names only, as both
# checkouts have them.
_SNIPPETS: Mapping[str, str] = {
    "a free slot, ns": """
import asyncio, time
from tokfluence_async import Throttle
async def main():
    lanes = Throttle(6e10, 12e10, 60.0).lanes("http://cost.test", "key")
    for count in (5_000, 50_000):
        began = time.process_time()
        for _ in range(count):
            await lanes.acquire()
        spent = time.process_time() - began
    return spent / count * 1e9
print(asyncio.run(main()))
""",
    "a grant with 100 000 waiters, µs": """
import asyncio, gc, time
from tokfluence_async import Throttle
from tokfluence_async.testing import VirtualLoop
async def main(count=100_000):
    lanes = Throttle(60_000, 120_000, 60.0).lanes("http://cost.test", "key")
    tasks = [asyncio.ensure_future(lanes.acquire()) for _ in range(count)]
    await asyncio.sleep(0)
    gc.collect()
    gc.disable()
    began = time.process_time()
    await asyncio.gather(*tasks)
    return (time.process_time() - began) / count * 1e6
with asyncio.Runner(loop_factory=VirtualLoop) as runner:
    print(runner.run(main()))
""",
    "import tokfluence_async, ms": """
import time
import tokfluence_async
print(1e3 * time.process_time())
""",
}


def _snippet(code: str, checkout: Path) -> float:
    script = f"import sys\nsys.path.insert(0, {str(checkout)!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before", description=__doc__)
    parser.add_argument("checkout", type=Path, help="of the commit before")
    parser.add_argument("--starts", type=int, default=4, help="of every process")
    given = parser.parse_args()
    before = given.checkout.resolve()
    ours, crawled = f"ours@{before}", f"ours-crawl@{before}"

    posts: dict[str, dict[str, Any]] = {
        f"posts.get, {n} in flight": {"what": "posts", "count": 1500, "in_flight": n}
        for n in (1, 10, 50)
    }
    with fast() as url:
        for what, rows in measure_each(
            ("ours", ours, "hand"), url, posts, rounds=3, starts=given.starts
        ).items():
            print(table(what, "request", rows, server=fast_name()), flush=True)
        walk = {"what": "comments", "count": 1}
        rows = measure(("ours", ours, "hand"), url, walk, rounds=3, starts=given.starts)
        print(table("comments", "comment", rows, server=fast_name()), flush=True)
        for unit, order in (
            ("comment", {"what": "comments", "count": 4}),
            ("post", {"what": "many posts", "count": 10_000}),
        ):
            rows = measure(
                ("ours", "ours-crawl", crawled), url, order,
                rounds=2, starts=given.starts, reference="ours",
            )  # fmt: skip
            title = f"crawl to disk, {unit}s"
            print(table(title, unit, rows, "the bare loop", server=fast_name()), flush=True)

    print("| what | before | now | now against before |\n|---|---|---|---|")
    for what, code in _SNIPPETS.items():
        turns = [(_snippet(code, before), _snippet(code, _ROOT)) for _ in range(7)]
        then, now = ([turn[side] for turn in turns] for side in (0, 1))
        cells = (spread(then, ".3g"), spread(now, ".3g"), spread(ratios(now, then)))
        print(f"| {what} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
