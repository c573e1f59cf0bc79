"""Bars and dots as PNG, where matplotlib is installed; a benchmark without it prints its tables and
says so once."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .turns import Row, quartiles

__all__ = ["Bar", "bar", "bars", "figure", "grouped", "save"]

_told = False


def figure(
    width: float = 9.0, height: float = 4.5, panels: tuple[int, int] = (1, 1)
) -> tuple[Any, Any] | None:
    """A figure and its axes (an array of them where there are more panels), or None without
    matplotlib."""
    global _told
    if importlib.util.find_spec("matplotlib") is None:
        if not _told:
            print("(no plots: matplotlib is not installed)", file=sys.stderr)
            _told = True
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn: tuple[Any, Any] = pyplot.subplots(*panels, figsize=(width, height), layout="constrained")
    return drawn


def save(drawn: tuple[Any, Any], path: Path) -> None:
    from matplotlib import pyplot

    drawn[0].savefig(path, dpi=120)
    pyplot.close(drawn[0])
    print(f"plot: {path}\n", flush=True)


@dataclass(frozen=True)
class Bar:
    """A value, its quartiles, and what is written beside it."""

    value: float
    low: float
    high: float
    text: str


def bar(values: Sequence[float], form: str = ".3g", text: str = "") -> Bar:
    """The median of `values` and their quartiles."""
    low, middle, high = quartiles(values)
    return Bar(middle, low, high, f"{middle:{form}}{text}")


def grouped(
    groups: Mapping[str, Mapping[str, Bar]],
    title: str,
    path: Path,
    *,
    log: bool = False,
    goal: float | None = None,
) -> None:
    """Horizontal bars by label, one of each group for each, with quartiles as whiskers and a line
    at the goal.

    Where the axis is logarithmic, which has no place for bars to begin at, dots instead.
    """
    names = list(dict.fromkeys(name for found in groups.values() for name in found))
    drawn = figure(height=1.5 + 0.45 * len(names) * max(1, len(groups) / 2))
    if drawn is None:
        return
    axes = drawn[1]
    thick = 0.8 / len(groups)
    for place, (condition, found) in enumerate(groups.items()):
        here = [(index, found[name]) for index, name in enumerate(names) if name in found]
        heights = [index + (place - (len(groups) - 1) / 2) * thick for index, _ in here]
        shown = [each for _, each in here]
        values = [each.value for each in shown]
        whiskers = [
            [each.value - each.low for each in shown],
            [each.high - each.value for each in shown],
        ]
        if log:
            axes.errorbar(
                values, heights, xerr=whiskers, fmt="o", markersize=4, capsize=2, label=condition
            )
        else:
            axes.barh(heights, values, height=thick, xerr=whiskers, label=condition)
        for height, each in zip(heights, shown, strict=True):
            # Beside the bar, or the dot, and its whisker.
            axes.annotate(
                each.text,
                (max(each.value, each.high), height),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    if log:
        axes.set_xscale("log")
        axes.grid(axis="x", linewidth=0.3)
    axes.margins(x=0.2)  # for what is written beside the bars
    if not log:
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    if goal is not None:
        axes.axvline(goal, color="black", linewidth=0.8, linestyle="--", label="goal")
    axes.set_xlabel(title)
    if len(groups) > 1 or goal is not None:
        drawn[0].legend(loc="outside upper right", ncols=len(groups) + 1, fontsize=8)
    save(drawn, path)


def bars(groups: Mapping[str, Sequence[Row]], title: str, path: Path) -> None:
    """CPU of every contender, in each condition, on a logarithmic axis.

    What is written is the table's ratio, which need not be the distance of two dots: the machine
    drifts between rounds.
    """
    grouped(
        {
            condition: {
                row.label: bar(
                    row.rounds, ",.0f" if row.micros >= 100 else ".3g", f" (x{row.ratio:.2f})"
                )
                for row in rows
            }
            for condition, rows in groups.items()
        },
        f"{title}: medians and quartiles of all rounds\nx: median, over rounds, of what it took "
        "of the hand-written loop's in the same round",
        path,
        log=True,
    )
