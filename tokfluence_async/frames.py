"""Posts, comments and outcomes as Arrow tables, polars or pandas frames (extra `[frames]`).

    from tokfluence_async import frames

    table = frames.to_arrow(posts)  # any iterable of Structs or Outcomes
    frame = await frames.to_pandas(client.posts.comments(post_id))  # an async generator

Columns are typed from the Struct, never guessed from the data. An empty list gives the same schema,
and a column that is null in every row keeps its type:

- ids and texts are strings (nineteen digits do not survive a float),
- times are timestamps in microseconds, UTC,
- counts are 64-bit integers that may be null, in pandas `Int64`; `duration` is a float,
- hashtags and mentions are lists of strings, music is a struct.

**Outcomes** give the columns of their value with `input` (as given, as text) in front and `error`
(null where all went well) at the end; `post_id` is filled for failed ones too, the rest of them is
null.

**Integers beyond 64 bits** can be decoded from JSON but fit no column. They become null, with a
`RuntimeWarning` that says how many and where. One cell must not cost the frame; JSON lines keep the
number.
"""

# pyarrow and pandas come without type information, so what they return is unknown to pyright; mypy
# takes it for Any.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from ._crawl.arrow import ArrowColumns, need
from ._models import Analysis, AnalyzeReport, Comment, CommentPage, Outcome

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

__all__ = ["schema", "to_arrow", "to_pandas", "to_polars"]

F = TypeVar("F")

# Rows converted at a time: the Structs of one chunk and its columns are alive together, not those
# of the whole job.
_CHUNK = 65_536

Rows = Iterable[Any]
AsyncRows = AsyncIterable[Any]


def schema(row_type: Any) -> pa.Schema:
    """The Arrow schema of a Struct type, or of `Outcome[...]` of one.

    Args:
        row_type: `Post`, `Comment`, `Analysis`, `Outcome[Post]` and so on; any flat Struct will do.
    Raises:
        TypeError: It is none of these, or has a field that no column holds.
    """
    return ArrowColumns(row_type).schema


@overload
def to_arrow(rows: Rows, row_type: Any = None) -> pa.Table: ...
@overload
def to_arrow(rows: AsyncRows, row_type: Any = None) -> Awaitable[pa.Table]: ...
def to_arrow(rows: Rows | AsyncRows, row_type: Any = None) -> pa.Table | Awaitable[pa.Table]:
    """A `pyarrow.Table` of Structs or Outcomes.

    Args:
        rows: An iterable, or an async iterable (then await the result): a list, a generator, a
            `CommentPage`, an `AnalyzeReport`, `client.posts.comments(...)`,
            `client.posts.get_many(...)`.
        row_type: What the rows are, such as `Post` or `Outcome[Post]`. Needed only where the rows
            cannot tell: there are none, or all of them are failed Outcomes.
    Raises:
        ValueError: The rows cannot tell, and `row_type` was not given.
        TypeError: A row is of another type than the first.
        ModuleNotFoundError: pyarrow is not installed; the message says how.
    """
    need("pyarrow")
    return _made(rows, row_type, _as_arrow)


@overload
def to_polars(rows: Rows, row_type: Any = None) -> pl.DataFrame: ...
@overload
def to_polars(rows: AsyncRows, row_type: Any = None) -> Awaitable[pl.DataFrame]: ...
def to_polars(
    rows: Rows | AsyncRows, row_type: Any = None
) -> pl.DataFrame | Awaitable[pl.DataFrame]:
    """A `polars.DataFrame` of Structs or Outcomes. Arguments and errors as for `to_arrow`."""
    need("pyarrow")
    need("polars")
    return _made(rows, row_type, _as_polars)


@overload
def to_pandas(rows: Rows, row_type: Any = None) -> pd.DataFrame: ...
@overload
def to_pandas(rows: AsyncRows, row_type: Any = None) -> Awaitable[pd.DataFrame]: ...
def to_pandas(
    rows: Rows | AsyncRows, row_type: Any = None
) -> pd.DataFrame | Awaitable[pd.DataFrame]:
    """A `pandas.DataFrame` of Structs or Outcomes. Arguments and errors as for `to_arrow`.

    Counts are `Int64` and flags `boolean`, as pandas' own types turn a column with one null into
    floats; texts are `string`, times `datetime64[us, UTC]`, lists and music are objects.
    """
    need("pyarrow")
    need("pandas")
    return _made(rows, row_type, _as_pandas)


def _as_arrow(table: pa.Table) -> pa.Table:
    return table


def _as_polars(table: pa.Table) -> pl.DataFrame:
    import polars as pl

    return cast("pl.DataFrame", pl.from_arrow(table))


def _as_pandas(table: pa.Table) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    # Of the fields that are null in one row, pandas' own types would make floats (counts) or
    # objects (flags).
    nullable = {
        pa.int64(): pd.Int64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
        pa.string(): pd.StringDtype(),
    }
    return table.to_pandas(types_mapper=nullable.get)


def _made(
    rows: Rows | AsyncRows, row_type: Any, finish: Callable[[pa.Table], F]
) -> F | Awaitable[F]:
    if isinstance(rows, AsyncIterable):
        return _gather(rows, row_type, finish)
    builder = _Builder(row_type if row_type is not None else _told_by(rows))
    for row in rows:
        builder.add(row)
    return finish(builder.table())


async def _gather(rows: AsyncRows, row_type: Any, finish: Callable[[pa.Table], F]) -> F:
    builder = _Builder(row_type)
    try:
        async for row in rows:
            builder.add(row)
    finally:
        # A generator that is left half-read would keep its background work until it is collected.
        close = getattr(rows, "aclose", None)
        if close is not None:
            await close()
    return finish(builder.table())


def _told_by(rows: Rows) -> Any:
    if isinstance(rows, CommentPage):
        return Comment
    return Outcome[Analysis] if isinstance(rows, AnalyzeReport) else None


class _Builder:
    """Rows in, record batches out. Rows that cannot tell their type wait until one can."""

    def __init__(self, row_type: Any) -> None:
        self._columns = None if row_type is None else ArrowColumns(row_type)
        self._rows: list[Any] = []
        self._batches: list[pa.RecordBatch] = []

    def add(self, row: Any) -> None:
        if self._columns is None and (row_type := _type_of(row)) is not None:
            self._columns = ArrowColumns(row_type)
        self._rows.append(row)
        if self._columns is not None and len(self._rows) >= _CHUNK:
            self._batches.append(self._columns.batch(self._rows))
            self._rows = []

    def table(self) -> pa.Table:
        import pyarrow as pa

        if self._columns is None:
            what = "every row is a failed Outcome" if self._rows else "there are no rows"
            raise ValueError(
                f"Columns are typed from the Struct, and {what}: give row_type, such as Post or "
                "Outcome[Post]."
            )
        if self._rows:
            self._batches.append(self._columns.batch(self._rows))
        return pa.Table.from_batches(self._batches, schema=self._columns.schema)


def _type_of(row: Any) -> Any:
    if isinstance(row, Outcome):
        value = row.value
        return None if value is None else Outcome[type(value)]  # type: ignore[misc]
    return type(cast("object", row))
