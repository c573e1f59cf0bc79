"""Rows of one Struct type as CSV or Parquet, written as they come.

CSV is safe in spreadsheets, which take a cell that begins with `=`, `+`, `-` or `@` for a formula:
a comment can be `=HYPERLINK("http://…"&A1)`. Such texts get an apostrophe in front, which
spreadsheets show as text. Every other text comes back as it was from `csv`, pandas, polars and
DuckDB; a null is an empty cell, as an empty text is. Numbers are numbers, also negative ones. Lists
are JSON, music is spread over columns `music.title` and so on. Excel needs a byte order mark, and
rounds ids of nineteen digits when it opens a CSV by itself: import the column as text, or use
Parquet.

Parquet has the types of `frames.schema`; a row group is written whenever enough rows have come, so
memory stays flat. Its index is written last: without `close` there is no readable file, so files
are written under another name first.
"""

# pyarrow comes without type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Protocol, cast, get_args, get_type_hints

import msgspec
from msgspec import Struct

from .._wire.shapes import Shape
from .arrow import ArrowColumns, need

__all__ = ["LineReader", "RowWriter", "check_format", "open_writer"]

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


class RowWriter(Protocol):
    """Takes rows; `close` makes what was written complete, `drop` gives up. The stream itself stays
    open."""

    def write(self, rows: Sequence[Struct]) -> None: ...
    def close(self) -> None: ...
    def drop(self) -> None: ...


def check_format(form: str) -> None:
    """Raise `ModuleNotFoundError` if `form` is Parquet and pyarrow is not installed."""
    if form == "parquet":
        need("pyarrow")


def open_writer(form: str, row_type: type[Struct], stream: Any, *, mark: bool = False) -> RowWriter:
    """A writer of `row_type` rows to a binary stream.

    Args:
        form: "csv" or "parquet".
        mark: Begin CSV with a byte order mark, without which Excel takes it for another encoding.
    """
    check_format(form)
    return _Parquet(row_type, stream) if form == "parquet" else _Csv(row_type, stream, mark)


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


class _Csv:
    def __init__(self, row_type: type[Struct], stream: Any, mark: bool) -> None:
        self._stream = stream
        self._lines: list[str] = ["\ufeff"] if mark else []
        # CPython before 3.11.9 and 3.12.3 quotes `\r` only if the line terminator has one. So it
        # gets one, which `_take` takes away again.
        self._writer = csv.writer(_Lines(self._take), lineterminator="\r\n")
        self._encode = msgspec.json.Encoder().encode
        self._nested = _nested(row_type)
        self._names = row_type.__struct_fields__
        header: list[str] = []
        for name in self._names:
            header.extend(
                f"{name}.{inner}" for inner in self._nested[name]
            ) if name in self._nested else header.append(name)
        self._put([header])

    def write(self, rows: Sequence[Struct]) -> None:
        self._put(self._cells(row) for row in rows)

    def close(self) -> None:
        pass

    def drop(self) -> None:
        pass

    def _put(self, lines: Any) -> None:
        self._writer.writerows(lines)
        self._stream.write("".join(self._lines).encode("utf-8", "replace"))
        self._lines.clear()

    def _take(self, line: str) -> None:
        self._lines.append(line.removesuffix("\r\n") + "\n")

    def _cells(self, row: Struct) -> list[Any]:
        cells: list[Any] = []
        for name in self._names:
            value: object = getattr(row, name)
            inner = self._nested.get(name)
            if inner is None:
                cells.append(self._cell(value))
            else:
                cells.extend(
                    None if value is None else self._cell(getattr(value, part)) for part in inner
                )
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


class _Lines:
    """What `csv.writer` wants: an object whose `write` is called once for each row."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write


def _nested(row_type: type[Struct]) -> dict[str, tuple[str, ...]]:
    """Fields that are Structs themselves, with the names of theirs."""
    nested: dict[str, tuple[str, ...]] = {}
    for name, hint in get_type_hints(row_type).items():
        for part in (hint, *get_args(hint)):
            if isinstance(part, type) and issubclass(part, Struct):
                nested[name] = part.__struct_fields__
    return nested


class _Parquet:
    def __init__(self, row_type: type[Struct], stream: Any) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._columns = ArrowColumns(row_type)
        self._rows: list[Struct] = []
        self._stream = _Unclosed(stream)
        self._sink = pa.PythonFile(self._stream, mode="w")
        self._writer = pq.ParquetWriter(self._sink, self._columns.schema, compression="zstd")

    def write(self, rows: Sequence[Struct]) -> None:
        self._rows.extend(rows)
        if len(self._rows) >= ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self._sink.close()

    def drop(self) -> None:
        # Arrow writes a file's index when the writer is collected at the latest; by then the stream
        # is closed.
        self._stream.discard = True
        self._rows = []
        self.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_batch(self._columns.batch(self._rows))
            self._rows = []


class _Unclosed:
    """A stream that Arrow may not close, as it is standard output or somebody else's file."""

    closed = False
    discard = False

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._position = 0

    def write(self, data: Any) -> int:
        data = bytes(data)
        if not self.discard:
            self._stream.write(data)
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        if not self.discard:
            self._stream.flush()

    def close(self) -> None:
        pass

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False
