"""Rows of one Struct type as JSON lines, CSV or Parquet, a few at a time.

CSV is safe in spreadsheets, which take a cell that begins with `=`, `+`, `-` or `@` for a formula:
a comment can be `=HYPERLINK("http://…"&A1)`. Such texts get an apostrophe in front, which
spreadsheets show as text. Every other text comes back as it was from `csv`, pandas, polars and
DuckDB; a null is an empty cell, as an empty text is. Numbers are numbers, also negative ones. Lists
are JSON, music is spread over columns `music.title` and so on. Excel needs a byte order mark, and
rounds ids of nineteen digits when it opens a CSV by itself: import the column as text, or use
Parquet.

Parquet has the types of `frames.schema`; a row group is written whenever enough rows have come, so
memory stays flat. Its index comes last: without `end` there is no readable file.
"""

# pyarrow comes without type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol, cast, get_args, get_type_hints

import msgspec
from msgspec import Struct

from .._wire.shapes import Shape
from .arrow import ArrowColumns, need

__all__ = ["LineReader", "RowEncoder", "check_format", "make_encoder"]

# Rows per row group: a few megabytes of comments, so that readers can skip and writers need not
# hold much.
ROWS_PER_GROUP = 20_000

# What a spreadsheet takes for the beginning of a formula, also behind characters that some of them
# skip: white space, control characters and such as nobody sees. A tab or a line break begins one
# by itself where the next character is taken for the cell's first.
_FORMULA = re.compile(
    r"[\t\r\n]|[\s\x00-\x1f\x7f-\xa0\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*"
    r"[=+\-@＝＋－＠]"
)


class RowEncoder(Protocol):
    """Makes bytes of rows. Nothing may come before them, and `end` makes what came complete."""

    def encode(self, rows: Sequence[Struct]) -> bytes: ...
    def end(self) -> bytes: ...


def check_format(form: str) -> None:
    """Raise `ModuleNotFoundError` if `form` is Parquet and pyarrow is not installed."""
    if form == "parquet":
        need("pyarrow")


def make_encoder(form: str, row_type: type[Struct], *, mark: bool = False) -> RowEncoder:
    """An encoder of `row_type` rows.

    Args:
        form: "jsonl", "csv" or "parquet".
        mark: Begin CSV with a byte order mark, without which Excel takes it for another encoding.
    """
    check_format(form)
    if form == "jsonl":
        return _Lines()
    return _Parquet(row_type) if form == "parquet" else _Csv(row_type, mark)


class LineReader:
    """Reads JSON lines of `row_type`. A line that is odd is read as an answer that is odd: without
    the field that does not fit, with U+FFFD for half an emoji."""

    def __init__(self, row_type: type[Struct]) -> None:
        self._lines = msgspec.json.Decoder(row_type).decode_lines
        self._shape: Shape[Struct] = Shape(row_type)

    def read(self, lines: bytes) -> list[Any]:
        try:
            return self._lines(lines)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return [self._shape.decode(line) for line in lines.split(b"\n") if line]


def defuse(text: str) -> str:
    """`text` so that no spreadsheet takes it for a formula."""
    return "'" + text if _FORMULA.match(text) else text


class _Lines:
    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode_lines

    def encode(self, rows: Sequence[Struct]) -> bytes:
        return self._encode(rows)

    def end(self) -> bytes:
        return b""


class _Csv:
    def __init__(self, row_type: type[Struct], mark: bool) -> None:
        self._lines: list[str] = ["\ufeff"] if mark else []
        # CPython before 3.11.9 and 3.12.3 quotes `\r` only if the line terminator has one. So it
        # gets one, which `write` takes away again.
        self._writer = csv.writer(self, lineterminator="\r\n")
        self._encode = msgspec.json.Encoder().encode
        self._columns = _columns(row_type)
        self._writer.writerow(
            [f"{name}.{inner}" if inner else name for name, inner in self._columns]
        )

    def encode(self, rows: Sequence[Struct]) -> bytes:
        self._writer.writerows(self._cells(row) for row in rows)
        return self.end()

    def end(self) -> bytes:
        lines = "".join(self._lines).encode("utf-8", "replace")
        self._lines.clear()
        return lines

    def write(self, line: str) -> None:
        """Takes each line from `csv.writer`."""
        self._lines.append(line.removesuffix("\r\n") + "\n")

    def _cells(self, row: Struct) -> list[Any]:
        cells: list[Any] = []
        for name, inner in self._columns:
            value: Any = getattr(row, name)
            if inner and value is not None:
                value = getattr(value, inner)
            cells.append(self._cell(value))
        return cells

    def _cell(self, value: object) -> object:
        if isinstance(value, str):
            return defuse(value)
        if isinstance(value, datetime):
            return value.isoformat().replace("+00:00", "Z")
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, (list, dict, Struct)):
            return self._encode(cast("Any", value)).decode()
        return value


def _columns(row_type: type[Struct]) -> list[tuple[str, str]]:
    """A field and ""; for a field that is a Struct itself, the field and each one of its own."""
    columns: list[tuple[str, str]] = []
    hints = get_type_hints(row_type)
    for name in row_type.__struct_fields__:
        inner = [""]
        for part in (hints[name], *get_args(hints[name])):
            if isinstance(part, type) and issubclass(part, Struct):
                inner = list(part.__struct_fields__)
        columns += [(name, each) for each in inner]
    return columns


class _Parquet:
    def __init__(self, row_type: type[Struct]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._columns = ArrowColumns(row_type)
        self._rows: list[Struct] = []
        self._sink = _Sink()
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._sink, mode="w"), self._columns.schema, compression="zstd"
        )

    def encode(self, rows: Sequence[Struct]) -> bytes:
        self._rows.extend(rows)
        if len(self._rows) >= ROWS_PER_GROUP:
            self._flush()
        return self._sink.take()

    def end(self) -> bytes:
        self._flush()
        self._writer.close()
        return self._sink.take()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_batch(self._columns.batch(self._rows))
            self._rows = []


class _Sink(io.RawIOBase):
    """Where Arrow writes; emptied by `take`."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._position += len(part)
        return len(part)

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data
