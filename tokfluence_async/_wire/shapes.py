"""A body to a value of a type. All ways of failing end in one of `DECODING_ERRORS`.

What the decoder refuses is read leniently, as it is paid for: `nearly_json` puts the bytes right,
`repair` single fields. What was odd is logged, each kind once.

A decoder raises four kinds of errors (`ValidationError`, `DecodeError`, `UnicodeDecodeError`,
`RecursionError`), and `checks` one more. `answers` makes `APIResponseValidationError` of them.
"""

from __future__ import annotations

import logging
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw

from .bodies import AnalyzeBody, CommentsBody, CostBody, ErrorBody, PostBody, RawCommentsBody
from .checks import TooMuchError, check_size
from .nearly_json import repair_json
from .repair import mend

__all__ = ["DECODING_ERRORS", "RawPages", "Shape"]

T = TypeVar("T")

logger = logging.getLogger("tokfluence_async")

DECODING_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TooMuchError)

# Types without a `Raw` in them: every value that they keep was decoded. A `Raw` is kept as it came,
# and may be no UTF-8, or a number that nothing reads.
_DECODED = (PostBody, CommentsBody, AnalyzeBody, ErrorBody, CostBody, dict, list, Any)
_MOST_TOLD = 100

_readable = msgspec.json.Decoder(Any).decode


class Shape(Generic[T]):
    """A type and its decoder, made once."""

    def __init__(self, type: Any) -> None:
        self.type = type
        self._keeps_bytes = type not in _DECODED
        self._decode = msgspec.json.Decoder(type).decode

    def decode(self, body: bytes) -> T:
        """The body as `type`; raises one of `DECODING_ERRORS`. Depth and number of values are
        checked first."""
        check_size(body, counted=self.type is not Raw)
        try:
            return self._read(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return self._read_leniently(body, error)

    def _read(self, body: bytes) -> T:
        if self._keeps_bytes:
            # Whoever opens the kept bytes later, with whatever reader, has to be able to read them.
            # (To decode a large body to objects would take too much memory.)
            body.decode() if self.type is Raw else _readable(body)
        return self._decode(body)  # type: ignore[no-any-return]

    def _read_leniently(self, body: bytes, error: Exception) -> T:
        text, oddities = repair_json(body)
        if text is body and not isinstance(error, msgspec.ValidationError):
            raise error
        check_size(text, counted=self.type is not Raw)
        try:
            value = self._read(text)
        except msgspec.ValidationError as odd:
            mended = mend(text, self.type)
            if mended is text:
                raise
            value = self._read(bytes(mended))
            oddities.add(f"a value of another type ({odd}); what cannot be read is None")
        for oddity in oddities:
            _tell(oddity)
        return value


class RawPages(Shape[RawCommentsBody]):
    """A page of comments as the bytes that came, and their ids. The values that show whether the
    bytes can be read hold the ids already."""

    def __init__(self) -> None:
        super().__init__(RawCommentsBody)

    def _read(self, body: bytes) -> RawCommentsBody:
        values = _readable(body)
        page = self._decode(body)
        try:
            ids: list[Any] = [comment["comment_id"] for comment in values["data"]]
        except (KeyError, TypeError):
            ids = [None]
        if not all(type(each) is str for each in ids):
            raise msgspec.ValidationError("a comment without a `comment_id`")
        return RawCommentsBody(page.data, page.meta, ids)


_told: set[str] = set()


def _tell(oddity: str) -> None:
    """Log it once, as a crawl may meet it a million times. That a time without a zone is UTC is not
    worth a warning."""
    level = logging.DEBUG
    if oddity not in _told and len(_told) < _MOST_TOLD:
        _told.add(oddity)
        level = logging.DEBUG if "timezone" in oddity else logging.WARNING
    logger.log(level, "An answer holds %s.", oddity)
