"""Reading posts after their analysis, when they have become readable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import anyio

from .._errors import PostNotReadyError, TokfluenceError
from .._journal.records import DUPLICATE
from .._models import Analysis, Outcome
from .._wire.answers import check_post
from .._wire.shapes import Shape
from .analyze import Analyzer
from .requests import Requests, is_missing
from .sources import Item
from .visibility import Visibility

__all__ = ["Poller", "read_post"]

P = TypeVar("P")


async def read_post(requests: Requests, item: Item, shape: Shape[Any]) -> Outcome[Any]:
    """The outcome of reading a post. Raises what the read ended in."""
    body = await requests.read(item.post_id, shape)
    check_post(body.data, item.post_id)
    return item.succeeded(body.data)


class Poller(Generic[P]):
    """Reads the posts of answered batches, and learns how soon posts are readable.

    Args:
        shape: The body of `GET /v1/posts/:id`; its `data` becomes the outcome's value.
        patience: Seconds after its analysis that a post may take to become readable.
        analyzer: Who has had the posts analyzed, and knows of which only a 409 says so (`unsure`).
            One of those that does not become readable is analyzed again.

    Attributes:
        visibility: What is known of the delay.
    """

    def __init__(
        self, requests: Requests, shape: Shape[Any], patience: float, analyzer: Analyzer
    ) -> None:
        self._requests = requests
        self._shape = shape
        self._patience = patience
        self._analyzer = analyzer
        self.visibility = Visibility()

    async def read(
        self,
        answered: Sequence[tuple[Item, Analysis]],
        age: float,
        emit: Callable[[Item, Outcome[P]], Awaitable[None]],
    ) -> list[Item]:
        """Read posts that were analyzed `age` seconds ago, and emit their outcomes.

        Returns those that were not analyzed after all: a 409 was all that spoke for it, and they
        did not become readable.
        """
        began = asyncio.get_running_loop().time() - age
        patience = self._patience
        if any(analysis.status == DUPLICATE for _, analysis in answered):
            # The attempt that did the work may still be at it. To give up too early would pay for
            # it again.
            patience = max(patience, self._analyzer.allowance(len(answered)))
        missing: list[Item] = []

        async def poll(item: Item) -> None:
            try:
                outcome = await self._poll(item, began, patience, ahead)
            finally:
                ahead.set()
            if outcome is None:
                missing.append(item)
            else:
                await emit(item, outcome)

        items = [item for item, _ in answered]
        # One goes ahead, the one that was worked last. The rest follow at the age that it finds, at
        # the end of patience, or when it is later than the posts of other batches were: it may
        # never become readable.
        ahead = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(poll, items.pop())
            await ahead.wait()
            for item in items:
                group.start_soon(poll, item)
        return missing

    async def _poll(
        self, item: Item, began: float, patience: float, late: anyio.Event
    ) -> Outcome[P] | None:
        """Read until the post is there, or patience has run out. None if it has to be analyzed
        again instead. Sets `late` when a read fails at an age at which all others were readable."""
        loop = asyncio.get_running_loop()
        polls = 0
        age: float | None = min(max(self.visibility.first(), loop.time() - began), patience)
        while age is not None:
            await asyncio.sleep(max(0.0, began + age - loop.time()))
            asked_at = loop.time() - began
            try:
                outcome = await read_post(self._requests, item, self._shape)
            except TokfluenceError as error:
                if not is_missing(error):
                    return item.failed(error)
                polls += 1
                self.visibility.failed(asked_at)
                if asked_at >= self.visibility.latest:
                    late.set()
                age = self.visibility.after(asked_at, patience)
            else:
                self._analyzer.unsure.discard(item.post_id)
                self.visibility.succeeded(asked_at)
                return outcome
        if item.post_id in self._analyzer.unsure:
            self._analyzer.unsure.discard(item.post_id)
            return None
        return item.failed(PostNotReadyError(item.post_id, loop.time() - began, polls))
