"""Finding out by reads, 1 credit each, which posts of a batch were analyzed.

This is for a batch whose 409 proves nothing. To believe too early that a post was not analyzed pays
for it again: 25 credits, where a read costs 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

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
            outcome = await self._wait_for(ahead, at, end)
            if outcome is None:
                break
            found[ahead.post_id] = outcome
            # A read that failed says nothing of the batch: the next post goes ahead.
            if outcome.ok:
                break
        now = loop.time()

        async def wait(item: Item) -> None:
            outcome = await self._wait_for(item, now, min(end, now + _VISIBLE_WITHIN))
            if outcome is not None:
                found[item.post_id] = outcome

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
        return await self._wait_for(item, now, now - age + grace)

    async def _wait_for(self, item: Item, at: float, end: float) -> Outcome[Analysis] | None:
        """Read a post at `at`, and again while it is missing, the last time at `end`. None if it
        was missing then; a read that failed is the outcome too."""
        loop = asyncio.get_running_loop()
        wait = _READ_AGAIN
        while True:
            await asyncio.sleep(at - loop.time())
            try:
                await self._requests.read(item.post_id, _POST)
            except TokfluenceError as error:
                if not is_missing(error):
                    return item.failed(error)
            else:
                return item.duplicate()
            if at >= end:
                return None
            at, wait = min(max(at, loop.time()) + wait, end), wait * 2
