"""Walking a post's comments, page by page, in order, each comment once.

The cursor counts comments to skip, and comments keep arriving. They move everything behind them,
so a page may repeat comments already given; `recent` remembers the last ones. Pages asked for ahead
are placed by the stride seen so far, and dropped where the list has changed under them. Their
window grows by one with every page consumed, so a reader who stops early has never caused more
pages to be bought than it has read.

`docs/design/comments.md` has the rules for the window, and their measurements.

Source: the Tokfluence API page, `GET /v1/posts/:id/comments`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from .._errors import APIResponseValidationError
from .._http.engine import ClosedError
from .._models import Comment, CommentPage
from .._tasks import end
from .._wire.bodies import CommentsBody, RawCommentsBody
from .._wire.calls import MAX_LIMIT, build_comments
from .._wire.lines import comment_ids
from .._wire.shapes import Shape
from .recent import NEAR, REMEMBERED, Recent
from .requests import Requests

__all__ = ["Page", "check_paging", "comment_pages", "raw_walk"]

C = TypeVar("C")
P = TypeVar("P")

logger = logging.getLogger("tokfluence_async")

_PAGE: Shape[CommentsBody] = Shape(CommentsBody)
_RAW_PAGE: Shape[RawCommentsBody] = Shape(RawCommentsBody)

# Empty pages in a row that are taken for a gap and not for a list without an end; each costs 2
# credits.
_MAX_EMPTY = 5
# By how many comments `total` may have grown for the few hundred ids that are always looked at
# (`recent`) to be enough.
_FEW = NEAR // 2
_MAX_CURSOR = 2**63 - 1
# Foretold pages in a row that open the window again after a page ahead was useless, and how many
# times as many after the next one.
_WARY = 2
_WARIER = 4


class Page(Struct, Generic[C], frozen=True):
    """A page of a walk, its comments as Structs or as bytes; the fields are `CommentPage`'s."""

    items: list[C]
    total: int | None
    cursor: int
    next_cursor: int | None
    repeated: int


def check_paging(cursor: int, limit: int, max_items: int | None, prefetch: int) -> None:
    """Raise `ValueError` for a number out of its range, before anything is sent."""
    for name, value, low, high in (
        ("cursor", cursor, 0, _MAX_CURSOR),
        ("limit", limit, 1, MAX_LIMIT),
        ("max_items", max_items, 0, None),
        ("prefetch", prefetch, 0, 1000),
    ):
        if value is None and name == "max_items":
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name} must be an integer, not {value!r}")
        if value < low or (high is not None and value > high):
            raise ValueError(
                f"{name} must be {low} {f'to {high}' if high is not None else 'or more'}, not "
                f"{value}"
            )


class Walk(Generic[C, P]):
    """One walk over a post's comments, as Structs or as the bytes that came.

    Args:
        shape: The body of an answer, with `data` and `meta`.
        ids: The comments' ids, in their order.
        page: What a page is given as, made of the fields of `CommentPage`.
    """

    def __init__(
        self,
        requests: Requests,
        post_id: str,
        *,
        shape: Shape[Any],
        ids: Callable[[list[C]], list[str]],
        page: Callable[..., P],
        cursor: int,
        limit: int,
        max_items: int | None,
        prefetch: int,
    ) -> None:
        self._requests = requests
        self._post_id = post_id
        self._shape = shape
        self._ids = ids
        self._page = page
        self._cursor = cursor
        self._next_cursor: int | None = cursor
        self._limit = limit
        self._left = max_items
        self._prefetch = prefetch
        self._recent = Recent()
        self._total: int | None = None
        self._grown = 0  # by how much `total` has, since the walk began
        self._jump = 0  # and since the last page
        self._repeats = 0  # in all
        self._useless = (
            0  # pages in a row that neither gave anything nor can be put down to what arrived
        )
        self._behind = False  # whether what comes may have been given long ago
        self._stride = 0  # how far the last page reached; 0 as long as that is not known
        self._foretold = 0  # pages in a row that reached as far as the one before
        self._wary = 0  # of those, how many are asked for before the window opens
        self._closed = 0  # how often a useless page closed the window
        self._told = False  # whether the last page said how many comments there are
        # Where each begins, and how often the window had been closed when it was asked for.
        self._ahead: deque[tuple[int, asyncio.Task[Any], int]] = deque()

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
            await self._drop()

    def _made_of(self, body: Any) -> P:
        """The page for the answer at the cursor."""
        data, cursor, next_cursor = body.data, self._cursor, body.meta.next_cursor
        self._check(next_cursor)
        items = self._recent.new(data, self._ids(data), back=self._to_look_back())
        self._behind = bool(data) and not items  # and it goes on so until something new comes
        repeated = len(data) - len(items)
        reached = next_cursor
        if self._left is not None:
            if len(items) > self._left:
                # Resuming begins with the first comment that was not given.
                items = items[: self._left]
                reached = cursor + data.index(items[-1]) + 1
            self._left -= len(items)
        if next_cursor is not None:
            stride = next_cursor - cursor
            self._foretold = self._foretold + 1 if stride == self._stride or not self._stride else 0
            self._stride = stride
        self._next_cursor = next_cursor
        # Comments that arrived can make a page repeat what was given, as many as they are. A
        # service that repeats more than that (one that ignores the cursor, say) gives nothing, at 2
        # credits a page.
        self._repeats += repeated
        self._useless = 0 if items or (data and self._repeats <= self._grown) else self._useless + 1
        return self._page(
            items=items, total=self._total, cursor=cursor, next_cursor=reached, repeated=repeated
        )

    def _to_look_back(self) -> int:
        far = self._behind or not self._told or self._jump > _FEW
        return REMEMBERED if far else 0

    async def _go_on(self, next_cursor: int) -> None:
        if self._repeats > self._grown and self._prefetch:
            # More than the totals tell of: they are no measure of which page is the older one.
            self._prefetch = 0
            await self._drop()
        if self._useless >= _MAX_EMPTY:
            raise self._endless(
                f"gave nothing new on {self._useless} pages in a row, up to cursor "
                f"{next_cursor}, and no end"
            )
        self._cursor = next_cursor

    def wind_up(self) -> bool:
        """Ask for nothing more ahead; whether a page is left that is under way, or was bought."""
        self._prefetch = 0
        return bool(self._ahead)

    async def _next(self) -> Any:
        self._top_up()
        if self._ahead:
            cursor, task, closed = self._ahead[0]
            if cursor == self._cursor:
                self._ahead.popleft()
                body = await _result(task)
                if not _may_be_older(body.meta.total, self._total if self._told else None):
                    return self._noted(body)
            else:
                await self._drop()
            self._foretold = 0
            if closed == self._closed:  # else it was under way when another one closed the window
                self._closed += 1
                self._wary = max(_WARY, _WARIER * self._wary)
        return self._noted(await self._fetch(self._cursor))

    def _fetch(self, cursor: int) -> Coroutine[Any, Any, Any]:
        call = build_comments(self._post_id, cursor, self._limit)
        requests = self._requests
        return requests.engine.perform(call, self._shape, requests.options)

    def _top_up(self) -> None:
        """Have as many pages under way as are foreseen, wanted and still of use."""
        ahead = min(self._foretold - self._wary, self._prefetch)
        if ahead <= 0 or self._total is None or not self._told:
            return
        wanted = ahead + 1
        if self._left is not None:
            wanted = min(wanted, -(-self._left // self._stride))
        cursor = self._ahead[-1][0] + self._stride if self._ahead else self._cursor
        while len(self._ahead) < wanted and cursor < self._total:
            self._ahead.append(
                (cursor, self._requests.engine.spawn(self._fetch(cursor)), self._closed)
            )
            cursor += self._stride

    def _noted(self, body: Any) -> Any:
        total = body.meta.total
        self._told = total is not None
        self._jump = 0
        if total is not None:
            if self._total is not None and total > self._total:
                self._jump = total - self._total
                self._grown += self._jump
                logger.info(
                    "post %s: %d comments arrived while its comments are walked; of those put "
                    "before cursor %d this walk gives none",
                    self._post_id,
                    total - self._total,
                    self._cursor,
                )
            self._total = total
        return body

    def _check(self, next_cursor: int | None) -> None:
        if next_cursor is not None and not self._cursor < next_cursor <= _MAX_CURSOR:
            raise self._endless(f"do not advance: after cursor {self._cursor} comes {next_cursor}")

    def _endless(self, what: str) -> APIResponseValidationError:
        return APIResponseValidationError(
            f"The comments of post {self._post_id} {what}. What was given before stands; every "
            "page was charged."
        )

    async def _drop(self) -> None:
        tasks = [task for _, task, _ in self._ahead]
        self._ahead.clear()
        await end(tasks)


async def _result(task: asyncio.Task[Any]) -> Any:
    try:
        return await task
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if task.cancelled() and not (current and current.cancelling()):
            raise ClosedError from None
        await end([task])  # popped, so `_drop` does not see it any more
        raise


def _may_be_older(total: int | None, than: int | None) -> bool:
    return total is None or than is None or total < than


def _comment_ids(comments: list[Comment]) -> list[str]:
    return [comment.comment_id for comment in comments]


def _raw_ids(comments: list[Raw]) -> list[str]:
    try:
        return comment_ids(comments)
    except msgspec.ValidationError as error:
        raise APIResponseValidationError(
            f"A comment is not what the API promises: {error}. The page was charged.", status=200
        ) from None


def comment_pages(
    requests: Requests, post_id: str, **paging: Any
) -> AsyncGenerator[CommentPage, None]:
    """The walk in Structs; see `Posts.comment_pages`."""
    return Walk(
        requests, post_id, shape=_PAGE, ids=_comment_ids, page=CommentPage, **paging
    ).pages()


def raw_walk(requests: Requests, post_id: str, **paging: Any) -> Walk[Raw, Page[Raw]]:
    """The walk in bytes, for writing comments out with every field the service sent."""
    return Walk(requests, post_id, shape=_RAW_PAGE, ids=_raw_ids, page=Page[Raw], **paging)
