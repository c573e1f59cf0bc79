"""A body to a value of a type. All ways of failing end in one of `DECODING_ERRORS`.

A decoder raises four kinds of errors (`ValidationError`, `DecodeError`, `UnicodeDecodeError`,
`RecursionError`), and `checks` one more. `answers` makes `APIResponseValidationError` of them.
"""

from __future__ import annotations

import logging
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw

from .._models import Comment, Music, Post
from .bodies import (
    AnalyzeBody,
    AnalyzeRow,
    CommentsBody,
    Cost,
    CostBody,
    ErrorBody,
    PageMeta,
    PostBody,
)
from .checks import TooMuchError, check_size, check_text
from .repair import mend

__all__ = ["DECODING_ERRORS", "Shape"]

T = TypeVar("T")

logger = logging.getLogger("tokfluence_async")

DECODING_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TooMuchError)

# Documented objects, in which an odd field is mended. The error body is not among them: a code that
# is no text is not the service's.
_LENIENT = (Post, Comment, Music, PageMeta, AnalyzeBody, AnalyzeRow, Cost)
# Types without a `Raw` in them. Every text that they keep is decoded by msgspec, which refuses what
# is not UTF-8; a `Raw` it hands on unseen.
_DECODED = (PostBody, CommentsBody, AnalyzeBody, ErrorBody, CostBody)
_MOST_TOLD = 100


class Shape(Generic[T]):
    """A type and its decoder, made once."""

    __slots__ = ("_as_it_came", "_decode", "type")

    def __init__(self, type: Any) -> None:
        self.type = type
        self._as_it_came = type not in _DECODED
        self._decode = msgspec.json.Decoder(type).decode

    def decode(self, body: bytes) -> T:
        """The body as `type`; raises one of `DECODING_ERRORS`. Count, nesting and encoding are
        checked first."""
        check_size(body, counted=self.type is not Raw)
        if self._as_it_came and not body.isascii():
            check_text(body)
        try:
            return self._decode(body)  # type: ignore[no-any-return]
        except msgspec.ValidationError as error:
            # The slow path: one odd field costs itself, not the answer.
            mended = mend(body, self.type, _LENIENT)
            if mended is body:
                raise
            value = self._decode(mended)
            _tell(str(error))
            return value  # type: ignore[no-any-return]


_told: set[str] = set()


def _tell(problem: str) -> None:
    """Log it once for each field, as a crawl may meet it a million times. That a time without a
    zone is UTC is not worth a warning."""
    level = logging.DEBUG if problem in _told or "timezone" in problem else logging.WARNING
    if len(_told) < _MOST_TOLD:
        _told.add(problem)
    logger.log(
        level,
        "an answer is not of the documented types (%s); fields that cannot be read are None",
        problem,
    )
