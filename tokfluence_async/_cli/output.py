"""Rows to standard output. What a terminal would obey is escaped when standard output is one; files
and pipes get it unchanged."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from .._text import escape_controls
from .inputs import UsageError

__all__ = ["Output", "OutputGoneError"]


class OutputGoneError(Exception):
    """Whoever read standard output has gone; that is their right, and no reason for a word."""


class Output:
    """Standard output, written by a thread so that a slow reader holds back the next page and
    nothing else.

    Args:
        form: "jsonl", "csv" or "parquet".
        row_type: The Struct that every row is.
    """

    def __init__(self, form: str, row_type: type[msgspec.Struct]) -> None:
        self._stream = sys.stdout.buffer
        self._terminal = sys.stdout.isatty()
        self._encoder = msgspec.json.Encoder()
        self._rows = None
        if form != "jsonl":
            from .._crawl.tables import open_writer

            if form == "parquet" and self._terminal:
                raise UsageError("Parquet is not for a terminal: send it to a file with > or |")
            self._rows = open_writer(
                form, row_type, _Escaped(self._stream) if self._terminal else self._stream
            )

    @property
    def terminal(self) -> bool:
        return self._terminal

    async def write(self, rows: Sequence[msgspec.Struct]) -> None:
        await self._do(self._write, rows)

    async def close(self) -> None:
        await self._do(self._close)

    async def _do(self, what: Any, *args: Any) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(None, what, *args)
        except BrokenPipeError:
            _silence()
            raise OutputGoneError from None

    def _write(self, rows: Sequence[msgspec.Struct]) -> None:
        if self._rows is not None:
            self._rows.write(rows)
        else:
            data = self._encoder.encode_lines(rows)
            self._stream.write(escape_controls(data.decode()).encode() if self._terminal else data)
        self._stream.flush()

    def _close(self) -> None:
        if self._rows is not None:
            self._rows.close()
        self._stream.flush()


class _Escaped:
    """A binary stream in front of a terminal."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, data: bytes) -> int:
        self._stream.write(escape_controls(data.decode()).encode())
        return len(data)

    def flush(self) -> None:
        self._stream.flush()


def _silence() -> None:
    # The interpreter flushes standard output once more at its end, and would complain there.
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):  # no descriptor: a stand-in in tests
        return
