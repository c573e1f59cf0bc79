"""Structs as Arrow record batches: what `frames` and the Parquet tables of a crawl share.

Columns are typed from the Struct and never guessed from the data (see `frames` for what becomes
what). pyarrow is imported when it is first needed, as it belongs to the extra `[frames]`.
"""

# pyarrow comes without type information, so what it returns is unknown to pyright; mypy takes it
# for Any.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportUnknownArgumentType=false

from __future__ import annotations

import datetime as dt
import types
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from .._models import Outcome
from .._text import plural

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ArrowColumns", "need"]

_INT64 = range(-(2**63), 2**63)


def need(module: str) -> None:
    """Raise `ModuleNotFoundError` that says how to install `module` if it is not there."""
    try:
        __import__(module)
    except ModuleNotFoundError as error:
        extra = "'tokfluence_async[frames]' (or from a checkout: pip install '.[frames]')"
        what = extra if module == "pyarrow" else module
        raise ModuleNotFoundError(
            f"Frames need {module}, which is not installed: pip install {what}", name=error.name
        ) from None


class _Column(NamedTuple):
    """How one field becomes a column; `convert` makes its cells fit for it (None: they are)."""

    name: str
    type: pa.DataType
    convert: Callable[[Any], Any] | None


class ArrowColumns:
    """Structs of one type to record batches."""

    def __init__(self, row_type: Any) -> None:
        import pyarrow as pa

        self.outcomes = get_origin(row_type) is Outcome
        struct = get_args(row_type)[0] if self.outcomes else row_type
        if not (isinstance(struct, type) and issubclass(struct, Struct)) or struct is Outcome:
            raise TypeError(
                f"{row_type!r} has no columns; rows are Structs such as Post, or Outcomes of them"
            )
        self.struct = struct
        hints = get_type_hints(struct, include_extras=True)
        self.columns = [
            _Column(name, *_arrow_type(hints[name], name)) for name in struct.__struct_fields__
        ]
        fields = [pa.field(column.name, column.type) for column in self.columns]
        if self.outcomes:
            fields = [pa.field("input", pa.string()), *fields, pa.field("error", pa.string())]
        self.schema = pa.schema(fields)

    def batch(self, rows: Sequence[Any]) -> pa.RecordBatch:
        import pyarrow as pa

        wanted = Outcome if self.outcomes else self.struct
        for row in rows:
            if not isinstance(row, wanted):
                raise TypeError(
                    f"a row is of type {type(row).__name__}, not {wanted.__name__} as the first one"
                )
        if not self.outcomes:
            return pa.RecordBatch.from_arrays(self._arrays(rows), schema=self.schema)
        arrays = [
            pa.array([_text(str(row.input)) for row in rows], pa.string()),
            *self._arrays([row.value for row in rows], [row.post_id for row in rows]),
            pa.array(
                [None if row.error is None else _text(str(row.error)) for row in rows], pa.string()
            ),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _arrays(
        self, values: Sequence[Any], post_ids: Sequence[str | None] | None = None
    ) -> list[pa.Array]:
        arrays: list[pa.Array] = []
        for column in self.columns:
            name = column.name
            cells = [None if value is None else getattr(value, name) for value in values]
            if post_ids is not None and name == "post_id":
                cells = [cell or post_id for cell, post_id in zip(cells, post_ids, strict=True)]
            arrays.append(_array(cells, column))
        return arrays


def _array(cells: list[Any], column: _Column) -> pa.Array:
    import pyarrow as pa

    if column.convert is None:
        try:
            return pa.array(cells, column.type)
        except (OverflowError, pa.ArrowInvalid):
            # One cell in millions at most, so nothing is checked before it fails.
            cells = [_fitting(cell) for cell in cells]
    else:
        cells = [None if cell is None else column.convert(cell) for cell in cells]
    lost = sum(cell is _LOST for cell in cells)
    if lost:
        warnings.warn(
            f"{column.name}: {lost:,} of {plural(len(cells), 'integer')} "
            f"{'needs' if lost == 1 else 'need'} more than 64 bits and became null",
            RuntimeWarning,
            stacklevel=2,
        )
        cells = [None if cell is _LOST else cell for cell in cells]
    return pa.array(cells, column.type)


_LOST: Any = object()


def _fitting(cell: Any) -> Any:
    if isinstance(cell, int) and cell not in _INT64:
        return _LOST
    return cell


def _text(text: str) -> str:
    """`text` with lone surrogates, which UTF-8 cannot hold, replaced: an input is whatever a caller
    gave."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


def _float(cell: float) -> Any:
    try:
        return float(cell)
    except OverflowError:
        return _LOST


def _arrow_type(hint: Any, name: str) -> tuple[pa.DataType, Callable[[Any], Any] | None]:
    """The column type of a field's annotation, and how its cells are made fit for it (None: they
    are)."""
    import pyarrow as pa

    hint = _plain(hint)
    parts = {_plain(part) for part in get_args(hint)} - {type(None)} if _is_union(hint) else {hint}
    if parts == {int, float}:
        return pa.float64(), _float
    if len(parts) == 1:
        (part,) = parts
        simple = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
        if part in simple:
            return simple[part], None
        if part is dt.datetime:
            return pa.timestamp("us", tz="UTC"), None
        if get_origin(part) is list:
            return pa.list_(_arrow_type(get_args(part)[0], name)[0]), None
        if isinstance(part, type) and issubclass(part, Struct):
            hints = get_type_hints(part, include_extras=True)
            inner = [
                pa.field(field, _arrow_type(hints[field], field)[0])
                for field in part.__struct_fields__
            ]
            return pa.struct(inner), msgspec.structs.asdict
    raise TypeError(f"no column holds the field {name}: {hint!r}")


def _plain(hint: Any) -> Any:
    """An annotation without what msgspec reads in it (`Annotated[datetime, Meta(tz=True)]`)."""
    metadata = getattr(hint, "__metadata__", None)
    return get_args(hint)[0] if metadata is not None else hint


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)
