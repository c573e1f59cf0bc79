"""Outcomes of inputs and analyses."""

from __future__ import annotations

from typing import Any

from .._errors import APIResponseValidationError, TokfluenceError
from .._journal.records import DUPLICATE
from .._models import Analysis, Outcome
from .._wire.ids import PostRef
from .sources import Item

__all__ = ["analyzed", "duplicate", "failed", "malformed", "post_id_of", "ref_of"]


def ref_of(item: Item) -> PostRef:
    """The post of an item that names one."""
    assert item.ref is not None
    return item.ref


def post_id_of(item: Item) -> str:
    """The post's id of an item that names one."""
    return ref_of(item).post_id


def malformed(item: Item) -> Outcome[Any]:
    """The outcome of an input that names no post."""
    return Outcome(input=item.given, error=item.error)


def failed(item: Item, error: TokfluenceError) -> Outcome[Any]:
    """The outcome of an item whose post could not be had."""
    # Without its traceback, which would keep every frame it passed alive as long as the outcome is.
    return Outcome(input=item.given, post_id=post_id_of(item), error=error.with_traceback(None))


def duplicate(item: Item) -> Outcome[Analysis]:
    """The outcome of an item that an earlier attempt has had analyzed."""
    ref = ref_of(item)
    return Outcome(
        input=item.given,
        post_id=ref.post_id,
        value=Analysis(post_id=ref.post_id, url=ref.url, status=DUPLICATE),
    )


def analyzed(item: Item, analysis: Analysis | None) -> Outcome[Analysis]:
    """The outcome of an item by an answer, in which its row may be missing."""
    if analysis is not None:
        return Outcome(input=item.given, post_id=post_id_of(item), value=analysis)
    message = (
        f"The service left post {post_id_of(item)} out of its answer. It was charged: read it with "
        "posts.get (1 credit) before analyzing it again."
    )
    return failed(item, APIResponseValidationError(message, status=200))
