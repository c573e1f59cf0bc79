"""Rows to standard output, in one of three formats. What a terminal would obey is escaped when
standard output is one; files and pipes get it unchanged."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from .._crawl.tables import make_encoder
from .._tasks import finish
from .._text import escape_controls
from . import streams
from .inputs import UsageError

__all__ = ["Output"]


class Output:
    """Standard output as rows, used by `async with`, whose end completes what was written.

    One thread writes, so that a slow reader holds back the next page and nothing else. What it was
    given it writes also if the task that gave it is cancelled: the rows are paid for.

    Args:
        form: "jsonl", "csv" or "parquet".
        row_type: The Struct that every row is.
        mark: Begin CSV with a byte order mark.
    Raises:
        UsageError: Standard output is closed, or is a terminal, and the rows are Parquet.
        ModuleNotFoundError: pyarrow is wanted and not installed.
        OutputGoneError, OutputFailedError: From `write` and at the end.
    """

    def __init__(self, form: str, row_type: type[msgspec.Struct], *, mark: bool = False) -> None:
        if sys.stdout is None:
            raise UsageError("standard output is closed: the rows have nowhere to go")
        self._terminal = sys.stdout.isatty()
        if form == "parquet" and self._terminal:
            raise UsageError("Parquet is not for a terminal: send it to a file with > or |")
        self._rows = make_encoder(form, row_type, mark=mark)
        self._failed = False
        self._thread = ThreadPoolExecutor(1, "tokfluence-output")

    async def __aenter__(self) -> Output:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await finish(self._do(self._close))  # what it holds back is paid for
        finally:
            self._thread.shutdown(wait=False)

    async def write(self, rows: Sequence[msgspec.Struct]) -> None:
        """Write rows; returns when standard output has taken them."""
        await self._do(self._write, rows)

    async def _do(self, what: Callable[..., None], *args: object) -> None:
        writing = asyncio.get_running_loop().run_in_executor(self._thread, what, *args)
        # After a cancellation nobody looks at it any more; the end does that.
        writing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(writing)

    def _write(self, rows: Sequence[msgspec.Struct]) -> None:
        self._pass_on(self._rows.encode(rows))

    def _close(self) -> None:
        self._pass_on(self._rows.end())
        streams.finish()

    def _pass_on(self, data: bytes) -> None:
        if self._failed:  # in a write that was given up; nothing fits behind half of a row
            return
        try:
            streams.write(escape_controls(data.decode()).encode() if self._terminal else data)
        except BaseException:
            self._failed = True
            raise
