"""Progress that redraws itself in a notebook. What objects show there, they say themselves
(`_repr_html_`, by `Card`)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ._models import Progress
from ._text import html_of, plural

__all__ = ["show_progress"]


def show_progress() -> Callable[[Progress], None]:
    """A ready-made `on_progress`: in a notebook a bar that redraws itself, elsewhere one line on
    standard error.

        await client.posts.analyze(urls, on_progress=show_progress())

    Make one per call: each draws in the cell it was made in.
    """
    display = _display()
    if display is None:
        return _print_progress
    handle: Any = None

    def show(progress: Progress) -> None:
        nonlocal handle
        shown = {"text/html": html_of(progress), "text/plain": _line(progress)}
        if handle is None:
            handle = display(shown, raw=True, display_id=True)
        else:
            handle.update(shown, raw=True)

    return show


def _display() -> Callable[..., Any] | None:
    """IPython's `display`, if a kernel is running. IPython is never imported for it: that takes
    half a second."""
    ipython = sys.modules.get("IPython")
    if ipython is None or not hasattr(ipython.get_ipython(), "kernel"):
        return None
    return ipython.display.display  # type: ignore[no-any-return]  # IPython has no types


def _line(progress: Progress) -> str:
    of = "" if progress.total is None else f" of {progress.total:,}"
    comments = f", {plural(progress.comments, 'comment')}" if progress.comments else ""
    return (
        f"{progress.done:,}{of} done{comments}, {progress.failed:,} failed, "
        f"{plural(progress.credits_spent, 'credit')}, {progress.elapsed:,.0f} s"
    )


def _print_progress(progress: Progress) -> None:
    # On a terminal each line takes the place of the one before; a log gets them one after another.
    end = "\r" if sys.stderr.isatty() else "\n"
    print(_line(progress), end=end, file=sys.stderr, flush=True)
