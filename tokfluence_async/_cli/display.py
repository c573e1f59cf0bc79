"""The screen of a terminal: a display that redraws itself, and messages that scroll by above it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .._text import escape_controls, one_line
from .snapshot import Snapshot, duration

__all__ = ["Display", "TerminalScreen"]


class Display:
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
        times = f"{duration(snapshot.elapsed)} gone"
        if snapshot.eta is not None:
            times += f", {duration(snapshot.eta)} to go"
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


class TerminalScreen:
    """A live display on a terminal; messages scroll by above it."""

    def __init__(self, console: Console, *, live: bool) -> None:
        self._console = console
        self.display = Display()
        # Transient: at the end its place is taken by the summary.
        self._live = (
            Live(
                self.display,
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
        self.display.snapshot = snapshot

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
