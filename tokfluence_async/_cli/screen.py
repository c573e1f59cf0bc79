"""What people see, on standard error: a progress display on a terminal, plain lines elsewhere, JSON
lines on request.

Everything passes through `_text` on its way, and no text is ever read as rich markup: a comment
may hold `[/nope]`, a file name `[red]`.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from rich.console import Console

from .._text import escape_controls, one_line
from .display import TerminalScreen
from .snapshot import Snapshot, duration

__all__ = ["Screen", "open_screen"]


class Screen(Protocol):
    """Where messages and progress go."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def update(self, snapshot: Snapshot) -> None: ...
    def say(self, text: str, level: str = "info", **fields: Any) -> None:
        """One message. `level` is info (not with --quiet), warning or error; `fields` say the same
        to programs."""

    def summary(self, lines: Iterable[str], fields: Mapping[str, Any]) -> None: ...


class PlainScreen:
    """Plain lines, for logs and pipes."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._next = 5.0

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def update(self, snapshot: Snapshot) -> None:
        if self._quiet or snapshot.elapsed < self._next:
            return
        # A line every five seconds at first; a job of days does not fill its log.
        step = 5.0 if snapshot.elapsed < 60 else 30.0 if snapshot.elapsed < 600 else 300.0
        self._next = snapshot.elapsed + step
        self._progress(snapshot)

    def _progress(self, snapshot: Snapshot) -> None:
        parts = [snapshot.counted(" of "), *(fact for fact, _ in snapshot.facts())]
        parts.append(f"{duration(snapshot.elapsed)} gone")
        if snapshot.eta is not None:
            parts.append(f"{duration(snapshot.eta)} to go")
        self._print(", ".join(parts))

    def say(self, text: str, level: str = "info", **fields: Any) -> None:
        if level != "info" or not self._quiet:
            self._print(one_line(text))

    def summary(self, lines: Iterable[str], fields: Mapping[str, Any]) -> None:
        if not self._quiet:
            for line in lines:
                self._print(escape_controls(line))

    def _print(self, line: str) -> None:
        # Nobody listening on standard error is no reason to lose data on its way to standard
        # output.
        with contextlib.suppress(BrokenPipeError, ValueError):
            print(line, file=sys.stderr, flush=True)


class JsonScreen(PlainScreen):
    """A JSON object per line: time, level, event, and the numbers."""

    def _progress(self, snapshot: Snapshot) -> None:
        fields = {
            name: getattr(snapshot, name) for name in snapshot.__struct_fields__ if name != "title"
        }
        self._event("info", "progress", fields | {"eta": snapshot.eta})

    def say(self, text: str, level: str = "info", **fields: Any) -> None:
        if level != "info" or not self._quiet:
            self._event(level, "message", {"message": text, **fields})

    def summary(self, lines: Iterable[str], fields: Mapping[str, Any]) -> None:
        if not self._quiet:
            self._event("info", "summary", fields)

    def _event(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        rounded = {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in fields.items()
        }
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._print(json.dumps({"time": time, "level": level, "event": event, **rounded}))


def open_screen(*, quiet: bool, as_json: bool, live: bool) -> Screen:
    """The right one for where standard error goes.

    Args:
        live: Whether a display that redraws itself may be shown; not while data goes to the same
            terminal.
    """
    if as_json:
        return JsonScreen(quiet)
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    # Not what rich thinks of it: FORCE_COLOR makes a terminal of a log for it, and the display that
    # redraws itself would fill that log with pictures.
    if quiet or not sys.stderr.isatty() or console.is_dumb_terminal:
        return PlainScreen(quiet)
    return TerminalScreen(console, live=live)
