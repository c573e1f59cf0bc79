"""Measuring in turns: every contender has a process, and one after another does the same piece of
work, round by round.

The machine's speed drifts from second to second (other processes, the clock of the core), so a
round's figures are compared with the reference's of the same round, and the medians over the rounds
are told with their spread. One start of a process differs from another of the same contender, by up
to a fifth and more in a walk of comments, and stays so while it is up. So all of them are started
anew several times, and the spread is over all starts.
"""

from __future__ import annotations

import contextlib
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .contenders import CONTENDERS, Contender, is_installed

__all__ = ["Row", "measure", "measure_each", "quartiles", "ratios", "spread", "table"]


@dataclass(frozen=True)
class Row:
    """One contender's figures.

    Attributes:
        micros: Median CPU microseconds a unit of work.
        spread: Half of the distance between the quartiles of `micros`.
        ratio: Median, over the rounds, of its CPU time against the reference's in the same round.
        low, high: Quartiles of that ratio.
        wall: Median wall microseconds a unit.
        rounds: CPU microseconds a unit, of each round.
    """

    name: str
    label: str
    micros: float
    spread: float
    ratio: float
    low: float
    high: float
    wall: float
    rounds: tuple[float, ...]


def _kind(name: str) -> type[Contender]:
    """Whose process it is. `NAME@PATH` is contender NAME with the package of another checkout."""
    return CONTENDERS[name.partition("@")[0]]


class _Process:
    def __init__(self, name: str, url: str) -> None:
        self.name = name
        kind, _, checkout = name.partition("@")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", kind, url, checkout],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"contender {self.name} ended with status {self._process.wait()}")
        return dict(json.loads(line))

    def do(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def _started(names: Sequence[str], url: str) -> Iterator[list[_Process]]:
    with contextlib.ExitStack() as stack:
        processes = []
        for name in names:
            process = _Process(name, url)
            stack.callback(process.close)
            processes.append(process)
        yield processes


def measure(
    names: Sequence[str],
    url: str,
    order: dict[str, Any],
    *,
    rounds: int,
    starts: int,
    reference: str = "hand",
) -> list[Row]:
    """Have every installed contender of `names` do `order` in each of `rounds` after each of
    `starts`, in a new order each round."""
    return measure_each(names, url, {"": order}, rounds=rounds, starts=starts, reference=reference)[
        ""
    ]


def measure_each(
    names: Sequence[str],
    url: str,
    orders: Mapping[str, dict[str, Any]],
    *,
    rounds: int,
    starts: int,
    reference: str = "hand",
) -> dict[str, list[Row]]:
    """As `measure`, with all of `orders` in every round, so that one order's figures may be
    compared with another's."""
    present = [name for name in names if is_installed(_kind(name))]
    per_unit: dict[tuple[str, str], list[float]] = {
        (what, name): [] for what in orders for name in present
    }
    walls: dict[tuple[str, str], list[float]] = {
        (what, name): [] for what in orders for name in present
    }
    rng = random.Random(7)
    for _ in range(starts):
        with _started(present, url) as processes:
            for index in range(rounds + 1):
                # Shuffled: who goes first, or twice in a row, as forwards and backwards in turn
                # would have it, is slower by a tenth.
                rng.shuffle(processes)
                for what, order in rng.sample(list(orders.items()), len(orders)):
                    for process in processes:
                        figures = process.do(order)
                        if index:  # the first is for warming up
                            per_unit[what, process.name].append(
                                1e6 * figures["cpu"] / figures["done"]
                            )
                            walls[what, process.name].append(
                                1e6 * figures["wall"] / figures["done"]
                            )
    return {what: _rows(what, present, per_unit, walls, reference) for what in orders}


def _rows(
    what: str,
    present: Sequence[str],
    per_unit: Mapping[tuple[str, str], list[float]],
    walls: Mapping[tuple[str, str], list[float]],
    reference: str,
) -> list[Row]:
    rows = []
    for name in present:
        micros = per_unit[what, name]
        low, ratio, high = quartiles(ratios(micros, per_unit[what, reference]))
        lower, middle, upper = quartiles(micros)
        rows.append(
            Row(
                name,
                _kind(name).label + (" (before)" if "@" in name else ""),
                middle,
                (upper - lower) / 2,
                ratio,
                low,
                high,
                statistics.median(walls[what, name]),
                tuple(micros),
            )
        )
    return rows


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Of each round."""
    return [one / other for one, other in zip(mine, theirs, strict=True)]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile; three times the value where there is
    one."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median, and the quartiles behind it where there is more than one value."""
    low, middle, high = quartiles(values)
    return (
        f"{middle:{form}} ({low:{form}} to {high:{form}})"
        if len(values) > 1
        else f"{middle:{form}} (one run)"
    )


def table(
    title: str,
    unit: str,
    rows: Sequence[Row],
    against: str = "the hand-written loop",
    *,
    server: str,
) -> str:
    """Where ours is not what all are compared with, a column has how much it does in the same CPU
    time."""
    ours = next(
        (row for row in rows if row.name == "ours" and not row.low == row.high == 1.0), None
    )
    head, line = ("| ours does in the same CPU time ", "---|") if ours else ("", "")
    lines = [
        f"### {title}",
        f"Server: {server}.",
        "",
        f"| contender | CPU µs a {unit} | against {against} (quartiles) | {unit}s per CPU "
        f"second {head}| wall µs |",
        f"|---|---|---|---|---|{line}",
    ]
    lines += [
        f"| {row.label} | {row.micros:.2f} ± {row.spread:.2f} | **{row.ratio:.2f}** "
        f"({row.low:.2f} to {row.high:.2f}) "
        f"| {1e6 / row.micros:,.0f} | "
        f"{f'x{spread(ratios(row.rounds, ours.rounds))} | ' if ours else ''}{row.wall:.2f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"
