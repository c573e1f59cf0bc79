"""What people see, on standard error: a progress display on a terminal, plain lines elsewhere, JSON
lines on request.

Everything passes through `_text` on its way, and no text is ever read as rich markup: a comment
may hold `[/nope]`, a file name `[red]`.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from msgspec import Struct
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .._text import escape_controls, one_line, plural

__all__ = ["Screen", "Snapshot", "open_screen"]

# Seconds over which the request rate is measured: long enough that one page more or less does not
# show.
_RATE_OVER = 10.0


class Snapshot(Struct, frozen=True, kw_only=True):
    """How far a command is. `unit` is what is counted by `done` and `total`; what no credits were
    left for is in neither `done` nor `failed`."""

    title: str
    unit: str = "posts"
    done: int = 0
    total: int | None = None
    failed: int = 0
    not_affordable: int = 0
    comments: int | None = None
    credits_spent: int = 0
    credits_reserved: int = 0
    credits_remaining: int | None = None
    elapsed: float = 0.0
    requests: int = 0
    rate: float = 0.0
    permitted: float | None = None
    rate_limited: int = 0
    slowed: bool = False

    @property
    def eta(self) -> float | None:
        """Seconds still to go at the pace so far; None as long as that would be a guess."""
        if self.total is None or not 0 < self.done < self.total or self.not_affordable:
            return None
        # The first posts of a crawl are finished late, so what they say of the others is far too
        # much.
        if self.elapsed < 30 and self.done < 0.15 * self.total:
            return None
        return (self.total - self.done) * self.elapsed / self.done

    def counted(self, of: str) -> str:
        """`3 posts`, and where the end is known `3 of 8 posts`."""
        one = self.unit.removesuffix("s")
        return (
            plural(self.done, one)
            if self.total is None
            else f"{self.done:,}{of}{plural(self.total, one)}"
        )

    def _pace(self) -> str:
        if self.permitted is None:
            return f"{self.rate:.1f} requests/s"
        if round(self.rate, 1) <= round(self.permitted, 1):
            return f"{self.rate:.1f} of {self.permitted:.1f} requests/s"
        # Measured over seconds, permitted over the throttle's minute: not a limit that does not
        # work.
        if self.slowed:
            return f"{self.rate:.1f} requests/s, slowed to {self.permitted:.1f}"
        return f"{self.rate:.1f} requests/s in a burst, {self.permitted:.1f} in the long run"

    def facts(self) -> list[tuple[str, str]]:
        """Short phrases with their styles, the most important first."""
        facts: list[tuple[str, str]] = []
        if self.comments is not None:
            facts.append((plural(self.comments, "comment"), ""))
        if self.failed:
            facts.append((f"{self.failed:,} failed", "red"))
        if self.not_affordable:
            facts.append((f"{self.not_affordable:,} not sent for want of credits", "yellow"))
        # What is left has lost the price of what is in flight already; of some of it the charge may
        # be taken back.
        coming = f", up to {self.credits_reserved:,} on their way" if self.credits_reserved else ""
        left = "" if self.credits_remaining is None else f", {self.credits_remaining:,} left"
        facts.append((f"{plural(self.credits_spent, 'credit')} spent{coming}{left}", ""))
        facts.append((self._pace(), "yellow" if self.slowed else ""))
        facts.append((f"{self.rate_limited:,} x 429", "yellow" if self.rate_limited else ""))
        return facts


class Meter:
    """Requests per second over the last few seconds, from a growing count."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def rate(self, now: float, count: int) -> float:
        marks = self._marks
        marks.append((now, count))
        while len(marks) > 2 and now - marks[1][0] >= _RATE_OVER:
            marks.popleft()
        seconds = now - marks[0][0]
        return (count - marks[0][1]) / seconds if seconds > 0 else 0.0


class Screen(Protocol):
    """Where messages and progress go."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def update(self, snapshot: Snapshot) -> None: ...
    def say(self, text: str, level: str = "info", **fields: Any) -> None:
        """One message. `level` is info (not with --quiet), warning or error; `fields` say the same
        to programs."""

    def summary(self, lines: Iterable[str], fields: Mapping[str, Any]) -> None: ...


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class _Plain:
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
        parts.append(f"{_duration(snapshot.elapsed)} gone")
        if snapshot.eta is not None:
            parts.append(f"{_duration(snapshot.eta)} to go")
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


class _Json(_Plain):
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


class _Display:
    """The progress of a `Snapshot`, as wide as the terminal."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        snapshot = self.snapshot
        if snapshot is None:
            return
        yield Group(
            self._bar(snapshot, options.max_width), *self._facts(snapshot, options.max_width)
        )

    def _bar(self, snapshot: Snapshot, width: int) -> RenderableType:
        row = Table.grid(padding=(0, 1, 0, 0))
        for _ in range(4):
            row.add_column(no_wrap=True)
        count = snapshot.counted("/")
        times = f"{_duration(snapshot.elapsed)} gone"
        if snapshot.eta is not None:
            times += f", {_duration(snapshot.eta)} to go"
        taken = len(snapshot.title) + len(count) + len(times) + 4
        bar = ProgressBar(
            total=None if snapshot.total is None else max(snapshot.total, 1),
            completed=snapshot.done,
            width=max(min(width - taken, 60), 8),
            pulse=snapshot.total is None,
        )
        row.add_row(Text(snapshot.title, style="bold"), bar, Text(count), Text(times, style="dim"))
        return row

    def _facts(self, snapshot: Snapshot, width: int) -> list[Text]:
        lines: list[Text] = []
        for fact, style in snapshot.facts():
            if lines and len(lines[-1]) + 3 + len(fact) <= width:
                lines[-1].append(" · ", style="dim").append(fact, style=style or None)
            else:
                lines.append(
                    Text(no_wrap=True, overflow="ellipsis").append(fact, style=style or None)
                )
        return lines


class _Rich:
    """A live display on a terminal; messages scroll by above it."""

    def __init__(self, console: Console, *, live: bool) -> None:
        self._console = console
        self._display = _Display()
        # Transient: at the end its place is taken by the summary.
        self._live = (
            Live(
                self._display,
                console=console,
                refresh_per_second=8,
                transient=True,
                redirect_stdout=False,
            )
            if live
            else None
        )

    def start(self) -> None:
        if self._live is not None:
            self._live.start()

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, snapshot: Snapshot) -> None:
        self._display.snapshot = snapshot

    def say(self, text: str, level: str = "info", **fields: Any) -> None:
        style = {"error": "bold red", "warning": "yellow"}.get(level, "")
        self._console.print(Text(one_line(text), style=style), soft_wrap=True)

    def summary(self, lines: Iterable[str], fields: Mapping[str, Any]) -> None:
        for number, line in enumerate(lines):
            text = escape_controls(line).lstrip(" ")
            # Wrapped between words, under its own beginning; what has no words is broken where it
            # must be.
            body = Text(text, style="" if number else "bold", overflow="fold")
            self._console.print(Padding(body, (0, 0, 0, len(line) - len(line.lstrip(" ")))))


def open_screen(*, quiet: bool, as_json: bool, live: bool) -> Screen:
    """The right one for where standard error goes.

    Args:
        live: Whether a display that redraws itself may be shown; not while data goes to the same
            terminal.
    """
    if as_json:
        return _Json(quiet)
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    if quiet or not console.is_terminal or console.is_dumb_terminal:
        return _Plain(quiet)
    return _Rich(console, live=live)
