"""Walking a post's comments, page by page, in order, each comment once.

The cursor counts comments to skip, and comments keep arriving. They move everything behind them,
so a page may repeat comments already given; `recent` remembers the last ones. Pages are asked for
`ahead` if the caller wants that, and not used where the list has changed under them.

`docs/design/comments.md` has the rules, and their measurements.

Source: the Tokfluence API page, `GET /v1/posts/:id/comments`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Generic, TypeVar

from msgspec import Raw, Struct

from .._errors import APIResponseValidationError
from .._models import Comment, CommentPage
from .._wire.bodies import CommentsBody, RawCommentsBody
from .._wire.calls import MAX_LIMIT, build_comments
from .._wire.shapes import RawPages, Shape
from .ahead import PagesAhead
from .recent import Recent
from .requests import Requests

__all__ = ["Page", "Paging", "comment_pages", "raw_walk"]

C = TypeVar("C")
P = TypeVar("P")

logger = logging.getLogger("tokfluence_async")

_PAGE: Shape[CommentsBody] = Shape(CommentsBody)
_RAW_PAGE = RawPages()

# Empty pages in a row that are taken for a gap and not for a list without an end; each costs 2
# credits.
_MAX_EMPTY = 5
_MAX_CURSOR = 2**63 - 1


class Paging(Struct, frozen=True, kw_only=True):
    """What a walk is asked for; see `Posts.comment_pages`.

    Raises:
        ValueError: A number is out of its range.
    """

    cursor: int = 0
    limit: int = MAX_LIMIT
    max_items: int | None = None
    prefetch: int

    def __post_init__(self) -> None:
        _check("cursor", self.cursor, 0, _MAX_CURSOR)
        _check("limit", self.limit, 1, MAX_LIMIT)
        _check("prefetch", self.prefetch, 0, 1000)
        if self.max_items is not None:
            _check("max_items", self.max_items, 0)


def _check(name: str, value: object, low: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be an integer, not {value!r}")
    if value < low or (high is not None and value > high):
        most = "or more" if high is None else f"to {high}"
        raise ValueError(f"{name} must be {low} {most}, not {value}")


class Page(Struct, Generic[C], frozen=True):
    """A page of a walk, its comments as Structs or as bytes; the fields are `CommentPage`'s."""

    items: list[C]
    total: int | None
    cursor: int
    next_cursor: int | None
    repeated: int


class Walk(Generic[C, P]):
    """One walk over a post's comments, as Structs or as the bytes that came.

    Args:
        shape: The body of an answer, with `data` and `meta`.
        ids: The ids of an answer's comments, in their order.
        page: What a page is given as, made of the fields of `CommentPage`.
    """

    def __init__(
        self,
        requests: Requests,
        post_id: str,
        paging: Paging,
        *,
        shape: Shape[Any],
        ids: Callable[[Any], list[str]],
        page: Callable[..., P],
    ) -> None:
        self._requests = requests
        self._post_id = post_id
        self._shape = shape
        self._ids = ids
        self._page = page
        self._cursor = paging.cursor
        self._limit = paging.limit
        self._left = paging.max_items
        self._next_cursor: int | None = None
        self._recent = Recent()
        self._total: int | None = None
        self._told = False  # whether the last page said how many comments there are
        self._grown = 0  # by how much `total` has, since the walk began
        self._repeats = 0  # in all
        # Pages in a row that gave nothing, and cannot be put down to what arrived.
        self._useless = 0
        self._ahead = PagesAhead(paging.prefetch)

    async def pages(self) -> AsyncGenerator[P, None]:
        try:
            while self._left is None or self._left > 0:
                page = self._made_of(await self._next())
                yield page
                del page  # before the next one is made: its memory is warm
                if self._next_cursor is None:
                    return
                await self._go_on(self._next_cursor)
        finally:
            await self._ahead.drop()

    def wind_up(self) -> bool:
        """Ask for nothing more ahead; whether a page is left that is under way, or was bought."""
        return self._ahead.wind_up()

    async def _next(self) -> Any:
        """The answer at the cursor."""
        if self._told and self._total is not None:
            self._ahead.top_up(self._ask, self._cursor, self._total, self._left)
        body = await self._ahead.take(self._cursor)
        if body is not None and self._may_be_older(body.meta.total):
            self._ahead.was_useless()
            body = None
        if body is None:
            body = await self._fetch(self._cursor)
        self._note_total(body.meta.total)
        return body

    def _ask(self, cursor: int) -> asyncio.Task[Any]:
        return self._requests.engine.spawn(self._fetch(cursor))

    def _fetch(self, cursor: int) -> Coroutine[Any, Any, Any]:
        call = build_comments(self._post_id, cursor, self._limit)
        requests = self._requests
        return requests.engine.perform(call, self._shape, requests.options)

    def _may_be_older(self, total: int | None) -> bool:
        """Whether an answer with this total may be of an older list than the page before it."""
        return total is None or not self._told or self._total is None or total < self._total

    def _note_total(self, total: int | None) -> None:
        self._told = total is not None
        if total is None:
            return
        if self._total is not None and total > self._total:
            self._grown += total - self._total
            logger.info(
                "post %s: %d comments arrived while its comments are walked; of those put "
                "before cursor %d this walk gives none",
                self._post_id,
                total - self._total,
                self._cursor,
            )
        self._total = total

    def _made_of(self, body: Any) -> P:
        """The page for the answer at the cursor."""
        data, cursor, next_cursor = body.data, self._cursor, body.meta.next_cursor
        if next_cursor is not None:
            if not cursor < next_cursor <= _MAX_CURSOR:
                raise self._endless(f"do not advance: after cursor {cursor} comes {next_cursor}")
            self._ahead.reached(next_cursor - cursor)
        self._next_cursor = next_cursor
        items = self._recent.new(data, self._ids(body))
        repeated = len(data) - len(items)
        reached = next_cursor
        if self._left is not None:
            if len(items) > self._left:
                # Resuming begins with the first comment that was not given.
                items = items[: self._left]
                reached = cursor + data.index(items[-1]) + 1
            self._left -= len(items)
        # Comments that arrived can make a page repeat what was given, as many as they are. A
        # service that repeats more than that (one that ignores the cursor, say) gives nothing, at 2
        # credits a page.
        self._repeats += repeated
        self._useless = 0 if items or (data and self._repeats <= self._grown) else self._useless + 1
        return self._page(
            items=items, total=self._total, cursor=cursor, next_cursor=reached, repeated=repeated
        )

    async def _go_on(self, next_cursor: int) -> None:
        if self._repeats > self._grown:
            # More than the totals tell of: they are no measure of which page is the older one.
            self._ahead.wind_up()
            await self._ahead.drop()
        if self._useless >= _MAX_EMPTY:
            raise self._endless(
                f"gave nothing new on {self._useless} pages in a row, up to cursor "
                f"{next_cursor}, and no end"
            )
        self._cursor = next_cursor

    def _endless(self, what: str) -> APIResponseValidationError:
        return APIResponseValidationError(
            f"The comments of post {self._post_id} {what}. What was given before stands; every "
            "page was charged."
        )


def _ids(body: CommentsBody) -> list[str]:
    return [comment.comment_id for comment in body.data]


def _raw_ids(body: RawCommentsBody) -> list[str]:
    ids: list[str] = body.ids
    return ids


def comment_pages(
    requests: Requests, post_id: str, paging: Paging
) -> AsyncGenerator[CommentPage, None]:
    """The walk in Structs; see `Posts.comment_pages`."""
    walk: Walk[Comment, CommentPage] = Walk(
        requests, post_id, paging, shape=_PAGE, ids=_ids, page=CommentPage
    )
    return walk.pages()


def raw_walk(requests: Requests, post_id: str, paging: Paging) -> Walk[Raw, Page[Raw]]:
    """The walk in bytes, for writing comments out with every field the service sent."""
    return Walk(requests, post_id, paging, shape=_RAW_PAGE, ids=_raw_ids, page=Page[Raw])
