"""Finding out by reads, 1 credit each, which posts of a batch were analyzed.

This is for a batch whose 409 proves nothing. To believe too early that a post was not analyzed pays
for it again: 25 credits, where a read costs 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum

import anyio

from .._errors import TokfluenceError
from .._journal.records import DUPLICATE
from .._models import Analysis, Outcome
from .._wire.bodies import PostBody
from .._wire.calls import MAX_BATCH
from .._wire.shapes import Shape
from .planner import Planner
from .requests import Requests, is_missing
from .sources import Item

__all__ = ["Verifier"]

_POST: Shape[PostBody] = Shape(PostBody)

# While a post is missing, it is read again after 2, 4, 8 ... seconds.
_READ_AGAIN = 2.0
# "Readable after a short delay" is all the page says of an analyzed post. This is taken to be long
# enough.
_VISIBLE_WITHIN = 30.0


class _Found(Enum):
    """What a post's reads have shown."""

    READABLE = True
    MISSING = False


class Verifier:
    """Reads the posts of batches, for one call."""

    def __init__(self, requests: Requests, planner: Planner) -> None:
        self._requests = requests
        self._planner = planner

    def allowance(self, urls: int) -> float:
        """Seconds after which a batch of `urls` that was sent is not at work any more."""
        return max(self._requests.analyze_timeout(urls), self._planner.limit(urls))

    async def verify(self, items: Sequence[Item], age: float) -> dict[str, Outcome[Analysis]]:
        """The outcomes of a batch's posts, without those that were not analyzed.

        A post whose read failed is among them, with that error: as long as nobody knows, it is not
        sent again.

        Args:
            age: Seconds since the last attempt began. It may still be at work.
        """
        # A batch is worked in order, so its last post goes ahead until no attempt can be at work.
        # Then each of the others follows, again while it is missing.
        loop = asyncio.get_running_loop()
        began = loop.time() - age
        at = max(began + self._planner.expected(len(items)), loop.time())
        end = max(began + self.allowance(len(items)) + _VISIBLE_WITHIN, loop.time())
        left = list(items)
        found: dict[str, Outcome[Analysis]] = {}
        while left:
            ahead = left.pop()
            state = await self._wait_for(ahead, at, end)
            _note(found, ahead, state)
            # A read that failed says nothing of the batch: the next post goes ahead.
            if isinstance(state, _Found):
                break
        now = loop.time()

        async def wait(item: Item) -> None:
            _note(found, item, await self._wait_for(item, now, min(end, now + _VISIBLE_WITHIN)))

        async with anyio.create_task_group() as group:
            for item in left:
                group.start_soon(wait, item)
        return found

    async def verify_earlier(
        self, item: Item, age: float, status: str | None
    ) -> Outcome[Analysis] | None:
        """The outcome of a post of which an earlier run knew only that it was paid for, or may have
        been; None if it was not analyzed."""
        # If only a 409 spoke for it, the attempt may still have been at work then.
        grace = _VISIBLE_WITHIN + (self.allowance(MAX_BATCH) if status == DUPLICATE else 0.0)
        now = asyncio.get_running_loop().time()
        found: dict[str, Outcome[Analysis]] = {}
        _note(found, item, await self._wait_for(item, now, now - age + grace))
        return found.get(item.post_id)

    async def _wait_for(self, item: Item, at: float, end: float) -> _Found | TokfluenceError:
        """Read a post at `at`, and again while it is missing, the last time at `end`. The error
        where the read itself failed."""
        loop = asyncio.get_running_loop()
        wait = _READ_AGAIN
        while True:
            await asyncio.sleep(at - loop.time())
            try:
                await self._requests.read(item.post_id, _POST)
            except TokfluenceError as error:
                if not is_missing(error):
                    return error
            else:
                return _Found.READABLE
            if at >= end:
                return _Found.MISSING
            at, wait = min(max(at, loop.time()) + wait, end), wait * 2


def _note(found: dict[str, Outcome[Analysis]], item: Item, state: _Found | TokfluenceError) -> None:
    if isinstance(state, TokfluenceError):
        found[item.post_id] = item.failed(state)
    elif state is _Found.READABLE:
        found[item.post_id] = item.duplicate()
