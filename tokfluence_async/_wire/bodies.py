"""The documented bodies, as types. Decoding is in `shapes`.

What is required is only what an answer is useless without. Everything else may be missing or null,
and a value of another type is mended (`repair`): an answer is paid for, so one odd field must not
cost the rest of it.

Source: the Tokfluence API page, *Posts* and *Errors*.
"""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct, field

from .._models import Comment, Post

__all__ = [
    "AnalyzeBody",
    "AnalyzeRow",
    "CommentsBody",
    "Cost",
    "CostBody",
    "ErrorBody",
    "PageMeta",
    "PostBody",
    "RawCommentsBody",
    "RawPostBody",
]


class PostBody(Struct, frozen=True, gc=False):
    data: Post


class PageMeta(Struct, frozen=True, gc=False):
    # Required although it may be null. Only null ends a walk; a missing one taken for null would
    # lose comments.
    next_cursor: int | None
    total: int | None = None


class CommentsBody(Struct, frozen=True, gc=False):
    data: list[Comment]
    meta: PageMeta


class RawCommentsBody(Struct, frozen=True, gc=False):
    """The same page, with each comment as the bytes that came, as `crawl` writes unknown fields
    too; `RawPages` adds the comments' ids."""

    data: list[Raw]
    meta: PageMeta
    ids: Any = None


class RawPostBody(Struct, frozen=True, gc=False):
    data: Raw


class AnalyzeRow(Struct, frozen=True, gc=False):
    """A row of an analyze answer, before it is matched to an input. Any type is taken for what may
    identify it."""

    url: Any = None
    post_id: Any = field(default=None, name="postId")
    status: Any = None


class AnalyzeBody(Struct, frozen=True, gc=False):
    """An analyze answer. It is paid for, at 25 credits a URL, so one odd row or an odd `meta` must
    not cost the other rows."""

    data: list[AnalyzeRow | str | int | float | bool | list[Any] | None]
    meta: Any = None


class _Fault(Struct, frozen=True, gc=False):
    code: str | None = None
    # Any, as an odd message must not cost the code, which says whether the call was charged.
    message: Any = None


class ErrorBody(Struct, frozen=True, gc=False):
    error: _Fault


class Cost(Struct, frozen=True, gc=False):
    cost: int | None = None


class CostBody(Struct, frozen=True, gc=False):
    meta: Cost | None = None
