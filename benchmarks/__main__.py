"""`python -m benchmarks [--quick] [--out DIR] [NAME ...]`: every comparison side by side in one run."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import platform
import subprocess
import sys
from pathlib import Path

from . import plot
from .servers import PAGES, fast, fast_name
from .turns import Row, measure, table

CAVEATS = """\
Read this first:
- CPU time of the client's process, user and system, by the operating system. Wall time is told, and says little: the
  server is on the same machine, on loopback, without TLS, and answers at once.
- Everything is relative. Absolute figures drift by tens of per cent from run to run on a shared machine; contenders take turns,
  and a ratio is the median over rounds of figures taken next to each other. Compare nothing across runs.
- The hand-written loop reuses its session and its decoder, has plain Structs of the documented fields, and does nothing
  else: no retry, throttle, request id, size cap or budget. "Tuned" is the same by somebody who has read aiohttp; the floor
  has no HTTP client at all, and shows what is the loop's, the kernel's and the decoder's.
- The openai and apify packages are measured as what they are, pointed at this server: they have features of their own.
- {python}, {cores} cores, load {load}. What was on the other side is told with each table.
"""

_SINGLE = ("ours", "hand", "ours-uvloop", "hand-uvloop", "hand-tuned", "floor", "httpx-pydantic", "openai", "apify")
_COMMENTS = ("ours", "ours-pages", "hand", "ours-uvloop", "hand-uvloop", "hand-tuned", "httpx-pydantic", "openai")


def posts(quick: bool, out: Path) -> None:
    """One request: `posts.get` at 1, 10 and 50 in flight."""
    results: dict[str, list[Row]] = {}
    with fast() as url:
        for in_flight in (10,) if quick else (1, 10, 50):
            order = {"what": "posts", "count": 300 if quick else 1500, "in_flight": in_flight}
            rows = measure(_SINGLE, url, order, rounds=3 if quick else 11)
            results[f"{in_flight} in flight"] = rows
            print(table(f"posts.get, {in_flight} in flight", "request", rows, server=fast_name()), flush=True)
    plot.bars(results, "posts.get: CPU µs a request", out / "posts.png")


def comments(quick: bool, out: Path) -> None:
    """Walking 20 000 comments in pages of 200."""
    with fast() as url:
        rows = measure(_COMMENTS, url, {"what": "comments", "count": 1}, rounds=3 if quick else 11)
    print(table(f"comments, {PAGES} pages of 200, one at a time", "comment", rows, server=fast_name()), flush=True)
    plot.bars({"comments": rows}, "comments: CPU µs a comment", out / "comments.png")


def crawl(quick: bool, out: Path) -> None:
    """Through `crawl` to disk: posts and comments as JSON lines, a journal beside them, killed at any time without loss."""
    jobs = (
        ("comment", "4 posts with 20 000 comments each", {"what": "comments", "count": 4}),
        # Enough for the files and the journal to be opened and closed for (40 ms).
        ("post", "10 000 posts that are in the index", {"what": "many posts", "count": 10_000}),
    )
    for unit, job, order in jobs:
        with fast() as url:
            rows = measure(("ours", "ours-crawl", "hand"), url, order, rounds=2 if quick else 7, reference="ours")
        rows = [
            dataclasses.replace(row, label=f"{row.label} ({100 / row.ratio:.0f} % of the bare loop)") for row in rows
        ]
        print(table(f"crawl of {job}", unit, rows, "the bare loop", server=fast_name()), flush=True)
    print("Goal: crawl at 70 % of the bare loop's posts and comments a CPU second, or more.\n")


_HERE = {"posts": posts, "comments": comments, "crawl": crawl}
# Comparisons in modules of their own, each with a `run(quick, out)`.
_MODULES: tuple[str, ...] = ("prefetch", "planner", "imports", "memory")
# Scripts with tables of their own; too long for `--quick` unless asked for by name.
_SCRIPTS: tuple[str, ...] = ("cheapest_path", "throttle")


def main() -> int:
    names = [*_HERE, *_MODULES, *_SCRIPTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; all without")
    parser.add_argument("--quick", action="store_true", help="a minute, for CI: ratios are rough, goals are not judged")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="where plots go")
    given = parser.parse_args()
    unknown = set(given.names) - set(names)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    given.out.mkdir(parents=True, exist_ok=True)
    print(
        CAVEATS.format(
            python=f"{platform.python_implementation()} {platform.python_version()}",
            cores=os.cpu_count(),
            load=f"{os.getloadavg()[0]:.2f} before the run",
        ),
        flush=True,
    )
    for name in given.names or (names if not given.quick else [*_HERE, *_MODULES]):
        if name in _SCRIPTS:
            subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=Path(__file__).parent.parent, check=True)
            continue
        run = _HERE.get(name) or importlib.import_module(f"benchmarks.{name}").run
        run(given.quick, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
