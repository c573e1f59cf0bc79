"""Mends an answer with an odd field, so that it has the types that are promised. Slow, and only
used after the usual decoder has failed.

The page of facts shows one value of each field and promises no type, and an answer is paid for. So
a value that does not fit costs its own field and nothing else. It is read as what it plainly says:
`"12"` and `12.0` are 12, 1 is true where a flag is expected, a number is its digits where a text is
expected, a time without a zone is UTC. Otherwise it is null, which means "the service did not say".
What is required (ids, `next_cursor`) is never made up.

Each value is looked at by itself, as bytes, so none can spoil another. What comes out is JSON
again, and is decoded by the usual decoder, which also says what is still wrong.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Raw, Struct

from .._models import Comment, Music, Post
from .bodies import AnalyzeBody, AnalyzeRow, Cost, PageMeta

__all__ = ["mend"]

B = TypeVar("B", bytes, Raw)

# Objects in which an odd field is mended. The error body is not among them: a code that is no text
# is not the service's.
_DOCUMENTED = (Post, Comment, Music, PageMeta, AnalyzeBody, AnalyzeRow, Cost)

_object = msgspec.json.Decoder(dict[str, Raw]).decode
_list = msgspec.json.Decoder(list[Raw]).decode
_NULL = Raw(b"null")

_NAIVE = re.compile(rb"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?")
_NUMBER = re.compile(rb"-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_TRUTH = {b"0": b"false", b"1": b"true"}


def mend(raw: B, kind: Any, ours: bool = False) -> B | Raw:
    """JSON with every field that does not fit put right or left out, in objects of the documented
    types.

    Args:
        kind: What it is to be decoded as. In a caller's own type only the documented types are
            mended.
        ours: Whether it is part of a documented object.
    Returns:
        JSON; `raw` itself if `kind` holds nothing that could be mended.
    """
    for option in _options(kind):
        try:
            if isinstance(option, type) and issubclass(option, Struct):
                return _mended_object(raw, option)
            if get_origin(option) is list:
                (inner,) = get_args(option)
                may_be_null = NoneType in _options(inner)
                return _encoded([_mended(item, inner, ours, may_be_null) for item in _list(raw)])
        except msgspec.ValidationError:  # no object, or no list
            continue
    return raw


def _mended_object(raw: B, kind: type[Struct]) -> B | Raw:
    ours = issubclass(kind, _DOCUMENTED)
    if ours and _fits(raw, kind):
        return raw
    found = _object(raw)
    for name, type, required in _fields_of(kind):
        item = found.get(name)
        if item is not None:
            found[name] = _mended(item, type, ours, not required)
    return _encoded(found)


def _mended(raw: Raw, kind: Any, ours: bool, may_be_null: bool) -> Raw:
    if ours and _fits(raw, kind):
        return raw
    mended = mend(raw, kind, ours)
    if not ours or _fits(mended, kind):
        return mended
    for reading in _readings(bytes(mended), may_be_null):
        if _fits(reading, kind):
            return Raw(reading)
    return _NULL if may_be_null else mended


def _readings(text: bytes, free: bool) -> Iterator[bytes]:
    """What else a value may mean, the likeliest first. A value that is not `free` identifies
    something, so there a number is not read as a text."""
    quoted = text.startswith(b'"')
    bare = text[1:-1].strip() if quoted else text
    if quoted and _NAIVE.fullmatch(bare):
        yield b'"' + bare + b'Z"'
    number = _NUMBER.fullmatch(bare)
    # Not `"null"`: a cursor that says so is no end of a walk.
    if quoted and (number or bare in _TRUTH.values()):
        yield bare
    if number is None:
        return
    if number[1] or number[2]:
        value = float(bare)
        if value.is_integer():
            yield b"%d" % int(value)
    elif free and not quoted:
        yield b'"' + bare + b'"'
    if bare in _TRUTH:
        yield _TRUTH[bare]


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _encoded(value: Any) -> Raw:
    return Raw(msgspec.json.encode(value))


# To read annotations takes 200 µs, more than all the rest for one comment.
@functools.lru_cache(maxsize=32)
def _fields_of(kind: type[Struct]) -> list[tuple[str, Any, bool]]:
    return [
        (field.encode_name, field.type, field.required) for field in msgspec.structs.fields(kind)
    ]


@functools.cache  # of the documented types and their fields' only
def _decoder(kind: Any) -> Callable[[Any], Any]:
    return msgspec.json.Decoder(kind).decode


def _fits(raw: Any, kind: Any) -> bool:
    try:
        _decoder(kind)(raw)
    except msgspec.ValidationError:
        return False
    return True
