"""`python -m benchmarks [--quick] [--out DIR] [NAME ...]`: every comparison side by side in one
run."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import plot
from .contenders import CONTENDERS
from .goals import Goal, judge
from .servers import PAGES, fast, fast_name
from .turns import Row, measure, measure_each, quartiles, ratios, spread, table

CAVEATS = """\
Read this first:
- CPU time is the client process's own, user and system, as the operating system counts it. Wall
  time is printed and says little: the server is on the same machine, on loopback, without TLS, and
  answers at once.
- Everything is relative. Absolute figures drift by tens of per cent from run to run on a shared
  machine. Contenders take turns, and a ratio is the median over rounds of figures taken next to
  each other. Compare nothing across runs.
- Goals are judged by medians, with these exceptions: the planner's makespans are means of its
  seeds, and its longest request is the worst of them; a large job's memory is of one run; the
  virtual throttle is judged by the worst of its algorithms.
- Ratios swing by a fifth and more from one start of the processes to the next, so the processes are
  started anew several times. Other work on the machine does the same: what is missed under load is
  to be run again on a quiet machine.
- The hand-written loop reuses its session and its decoder, has plain Structs of the documented
  fields, and does nothing else: no retry, throttle, request id, size cap or budget. "Tuned" is the
  same by somebody who has read aiohttp. The floor has no HTTP client at all, and shows what is the
  loop's, the kernel's and the decoder's.
- The openai and apify packages are measured as what they are, pointed at this server: they have
  features of their own.
- {python}, {cores} cores, load {load}. What was on the other side is told with each table.
"""

_SINGLE = (
    "ours",
    "hand",
    "ours-uvloop",
    "hand-uvloop",
    "hand-tuned",
    "floor",
    "httpx-pydantic",
    "openai",
    "openai-aiohttp",
    "apify",
)
_WALKS = ("ours", "hand", "ours-pages", "hand-pages")
_COMMENTS = (*_WALKS, "ours-uvloop", "hand-uvloop", "hand-tuned", "httpx-pydantic", "openai")

# The goal is about the loop that is asyncio's own; the command runs on uvloop where that is
# installed.
_CRAWLS = ("ours", "ours-crawl", "ours-uvloop", "ours-crawl-uvloop", "hand")


def posts(quick: bool, out: Path) -> None:
    """One request: `posts.get` at 1, 10 and 50 in flight."""
    orders: dict[str, dict[str, Any]] = {
        f"{in_flight} in flight": {
            "what": "posts",
            "count": 300 if quick else 1500,
            "in_flight": in_flight,
        }
        for in_flight in ((10,) if quick else (1, 10, 50))
    }
    with fast() as url:
        results = measure_each(_SINGLE, url, orders, rounds=3, starts=1 if quick else 4)
    for condition, rows in results.items():
        print(table(f"posts.get, {condition}", "request", rows, server=fast_name()), flush=True)
    judge(() if quick else _post_goals(results), quick)
    plot.bars(results, "posts.get: CPU µs a request", out / "posts.png")


def comments(quick: bool, out: Path) -> None:
    """Walking 20 000 comments in pages of 200. The hand-written loop gives comments twice that
    arrivals push into the next page; ours looks at the ids."""
    results = {}
    goals: list[Goal] = []
    for by_time, order, names in (
        (False, "ids in no order", _COMMENTS),
        (True, "ids that grow", _WALKS),
    ):
        with fast(by_time) as url:
            rows = measure(
                names, url, {"what": "comments", "count": 1}, rounds=3, starts=1 if quick else 7
            )
        title = f"comments, {PAGES} pages of 200, one at a time, {order}"
        print(table(title, "comment", rows, server=fast_name()), flush=True)
        pages, like = _row(rows, "ours-pages"), _row(rows, "hand-pages")
        assert pages is not None
        assert like is not None
        against = spread(ratios(pages.rounds, like.rounds))
        print(
            f"Page by page, comment_pages against the hand-written loop that also goes page by "
            f"page: {against}.\n"
        )
        goals += [_against_the_loop(f"comments, {order}, CPU a comment", rows, 1.10)]
        results[order] = rows
    judge(goals, quick)
    plot.bars(results, "comments: CPU µs a comment", out / "comments.png")


def _row(rows: Sequence[Row], name: str) -> Row | None:
    return next((row for row in rows if row.name == name), None)


def _post_goals(results: Mapping[str, Sequence[Row]]) -> Iterator[Goal]:
    for condition, rows in results.items():
        yield _against_the_loop(f"posts.get, {condition}, CPU a request", rows, 1.25)
    few, many = (_row(results[condition], "ours") for condition in ("10 in flight", "50 in flight"))
    assert few is not None
    assert many is not None
    grown = ratios(many.rounds, few.rounds)
    yield Goal(
        "flat from 10 to 50 in flight: median round at most 1.05 of the CPU a request at 10",
        spread(grown),
        quartiles(grown)[1] <= 1.05,
    )
    for name, least in (("httpx-pydantic", 4), ("openai", 5)):
        yield _times("posts.get, 10 in flight", results["10 in flight"], name, least)


def _against_the_loop(what: str, rows: Sequence[Row], most: float) -> Goal:
    ours = _row(rows, "ours")
    assert ours is not None
    return Goal(
        f"{what}, against the hand-written loop <= {most:.2f}",
        f"{ours.ratio:.2f} ({ours.low:.2f} to {ours.high:.2f})",
        ours.ratio <= most,
    )


def _times(what: str, rows: Sequence[Row], name: str, least: float) -> Goal:
    ours, other = _row(rows, "ours"), _row(rows, name)
    assert ours is not None
    goal = f"{what}, calls per CPU second against {CONTENDERS[name].label} >= x{least:g}"
    if other is None:
        return Goal(goal, "not installed", None)
    times = ratios(other.rounds, ours.rounds)
    return Goal(goal, f"x{spread(times, '.1f')}", quartiles(times)[1] >= least)


def crawl(quick: bool, out: Path) -> None:
    """Through `crawl` to disk: posts and comments as JSON lines, a journal beside them, killed at
    any time without loss."""
    jobs = (
        ("comment", "4 posts with 20 000 comments each", {"what": "comments", "count": 4}),
        # Enough for the files and the journal to be opened and closed for (40 ms).
        ("post", "10 000 posts that are in the index", {"what": "many posts", "count": 10_000}),
    )
    goals = []
    drawn = {}
    for unit, job, order in jobs:
        with fast() as url:
            rows = measure(
                _CRAWLS, url, order, rounds=2, starts=1 if quick else 5, reference="ours"
            )
        bare, through = _row(rows, "ours"), _row(rows, "ours-crawl")
        assert bare is not None
        assert through is not None
        drawn[f"{unit}s"] = {
            CONTENDERS[row.name].label: plot.bar(
                [100 * each for each in ratios(bare.rounds, row.rounds)], ".0f", " %"
            )
            for row in rows
        }
        goal = f"crawl, {unit}s per CPU second against the bare loop >= 55 %"
        goals.append(Goal(goal, f"{100 / through.ratio:.0f} %", through.ratio <= 1 / 0.55))
        rows = [
            dataclasses.replace(
                row, label=f"{row.label} ({100 / row.ratio:.0f} % of the bare loop)"
            )
            for row in rows
        ]
        print(table(f"crawl of {job}", unit, rows, "the bare loop", server=fast_name()), flush=True)
    judge(goals, quick)
    plot.grouped(drawn, "crawl: per CPU second, % of the bare loop", out / "crawl.png", goal=55)


_HERE = {"posts": posts, "comments": comments, "crawl": crawl}
# Comparisons in modules of their own, each with a `run(quick, out)`.
_MODULES: tuple[str, ...] = ("prefetch", "pieces", "planner", "imports", "memory")
# Scripts with tables of their own; too long for `--quick` unless asked for by name.
_SCRIPTS: tuple[str, ...] = ("cheapest_path", "throttle")


def main() -> int:
    names = [*_HERE, *_MODULES, *_SCRIPTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; all without"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="minutes instead of hours, to see that all of it runs: ratios are rough, goals are "
        "not judged",
    )
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
            command = [
                sys.executable,
                "-m",
                f"benchmarks.{name}",
                "--out",
                str(given.out.resolve()),
            ]
            if given.quick:
                command.append("--quick")
            subprocess.run(command, cwd=Path(__file__).parent.parent, check=True)
            continue
        run = _HERE.get(name) or importlib.import_module(f"benchmarks.{name}").run
        run(given.quick, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
