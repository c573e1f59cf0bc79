"""What importing costs, in turns, in a new order each round, each in an interpreter of its own: CPU
time beyond that of an interpreter that imports nothing."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

from . import plot
from .goals import Goal, judge
from .turns import quartiles, ratios, spread

__all__ = ["run"]

_REFERENCE = "import aiohttp, msgspec"
_OURS = "import tokfluence_async"
_CLIENT = "from tokfluence_async import TokfluenceClient"
_LINES = (
    "pass",
    _OURS,
    _CLIENT,
    "import asyncio, msgspec",
    _REFERENCE,
    "import httpx, pydantic",
    "import openai",
    "import apify_client",
)
# Whose modules are told apart in what the client's import is made of.
_PACKAGES = ("tokfluence_async", "anyio", "msgspec", "aiolimiter")
_CODE = "import time\n{line}\nprint(time.process_time())"


def run(quick: bool, out: Path) -> None:
    """`process_time` begins with the process, so the interpreter's own start is in every figure and
    taken off again."""
    rounds = 3 if quick else 15
    figures: dict[str, list[float]] = {line: [] for line in _LINES if _works(line)}
    rng = random.Random(7)
    for _ in range(rounds):
        for line, found in rng.sample(list(figures.items()), len(figures)):
            code = _CODE.format(line=line)
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            found.append(float(done.stdout))
    bare = figures["pass"]
    cost = {
        line: [mine - none for mine, none in zip(found, bare, strict=True)]
        for line, found in figures.items()
    }
    print(f"### Imports; CPU, median of {rounds} rounds in turns, and quartiles")
    print("No server.\n")
    print(f"| line | ms | against `{_REFERENCE}` |")
    print("|---|---|---|")
    for line, found in cost.items():
        if line != "pass":
            against = ratios(found, cost[_REFERENCE])
            print(
                f"| `{line}` | {spread([1e3 * seconds for seconds in found], '.0f')} | "
                f"{spread(against)} |"
            )
    print(
        f"\naiohttp comes with the first call, whatever was imported. The goal's words are "
        f"`{_OURS}` against `{_REFERENCE}`, "
        f"so\n`{_CLIENT}`, as users write it, is not judged; of its weight by `-X importtime`: "
        f"{_parts(rounds)}.\n"
    )
    drawn = {
        line: plot.bar([1e3 * seconds for seconds in found], ".0f")
        for line, found in cost.items()
        if line != "pass"
    }
    plot.grouped({"": drawn}, "import: CPU ms", out / "imports.png")
    ours = ratios(cost[_OURS], cost[_REFERENCE])
    judge(
        [
            Goal(
                f"`{_OURS}` against `{_REFERENCE}` <= 0.45",
                spread(ours),
                quartiles(ours)[1] <= 0.45,
            )
        ],
        quick,
    )


def _parts(rounds: int) -> str:
    """What the client's weight is made of, by Python's own count of what each module takes without
    those it imports: medians of shares."""
    shares: dict[str, list[float]] = {}
    for _ in range(rounds):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", _CLIENT],
            capture_output=True,
            text=True,
            check=True,
        )
        micros: Counter[str] = Counter()
        # Behind the last module of the interpreter's own start.
        for line in done.stderr.rpartition(" site\n")[2].splitlines():
            itself, _, name = line.removeprefix("import time:").split("|")
            package = name.strip().partition(".")[0]
            known = package in _PACKAGES or package == "asyncio"
            micros[package if known else "others, nearly all of the standard library,"] += int(
                itself
            )
        for package, spent in micros.items():
            shares.setdefault(package, []).append(100 * spent / micros.total())
    found = sorted(
        ((statistics.median(each), package) for package, each in shares.items()), reverse=True
    )
    return ", ".join(f"{package} {share:.0f} %" for share, package in found)


def _works(line: str) -> bool:
    return subprocess.run([sys.executable, "-c", line], capture_output=True).returncode == 0
