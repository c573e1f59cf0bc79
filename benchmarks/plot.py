"""Bars as PNG, where matplotlib is installed; a benchmark without it prints its tables and says so once."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .turns import Row

__all__ = ["bars", "figure", "save"]

_told = False


def figure(width: float = 9.0, height: float = 4.5) -> tuple[Any, Any] | None:
    """A figure and its axes, or None without matplotlib."""
    global _told
    if importlib.util.find_spec("matplotlib") is None:
        if not _told:
            print("(no plots: matplotlib is not installed)", file=sys.stderr)
            _told = True
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn: tuple[Any, Any] = pyplot.subplots(figsize=(width, height), layout="constrained")
    return drawn


def save(drawn: tuple[Any, Any], path: Path) -> None:
    from matplotlib import pyplot

    drawn[0].savefig(path, dpi=120)
    pyplot.close(drawn[0])
    print(f"plot: {path}\n", flush=True)


def bars(groups: Mapping[str, Sequence[Row]], title: str, path: Path) -> None:
    """A group of horizontal bars for each condition, with quartiles as whiskers, on a logarithmic axis."""
    names = list(dict.fromkeys(row.label for rows in groups.values() for row in rows))
    drawn = figure(height=1.5 + 0.45 * len(names) * max(1, len(groups) / 2))
    if drawn is None:
        return
    axes = drawn[1]
    thick = 0.8 / len(groups)
    for place, (condition, rows) in enumerate(groups.items()):
        found = {row.label: row for row in rows}
        heights = [index + (place - (len(groups) - 1) / 2) * thick for index in range(len(names))]
        axes.barh(
            heights,
            [found[name].micros for name in names],
            height=thick,
            xerr=[found[name].spread for name in names],
            label=condition,
        )
        for height, name in zip(heights, names, strict=True):
            row = found[name]
            axes.text(row.micros * 1.05, height, f"{row.micros:.3g} (x{row.ratio:.2f})", va="center", fontsize=7)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.set_xlabel(title)
    if len(groups) > 1:
        axes.legend()
    save(drawn, path)
