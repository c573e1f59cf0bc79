"""The cheapest way to readable posts: read first (1 credit), analyze what is missing (25), read that when it is visible.

Three stages in one task tree, with a bounded stream between each two, so that a million inputs take the memory of a
few hundred. What to do next with a post is in `_visibility`, `_plan` and `_retry`; here are the loops.

Source: api/tokfluence-api.md, *Posts* [seed], *Credits* [public].
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from ._analyze import DUPLICATE, Analyzer, is_final
from ._budget import Budget
from ._errors import NotFoundError, PostNotReadyError, TokfluenceError
from ._models import Analysis, Outcome
from ._sources import Item, Source
from ._visibility import Visibility
from ._wire import MAX_BATCH, Shape, build_get_post

if TYPE_CHECKING:
    from ._engine import Engine, Options

__all__ = ["Resolver"]

P = TypeVar("P")

# Batches whose posts are waited for at once, for each batch being analyzed: what bounds memory between the last two
# stages. Waiting costs nothing, so it is generous.
_WAITING_BATCHES = 8


class Resolver(Generic[P]):
    """One call's worth of resolving.

    Args:
        shape: The body of `GET /v1/posts/:id`; its `data` becomes the outcome's value.
        analyzer: Analyzes what is missing.
        read_first: Whether to read before analyzing.
        analyze_missing: Whether to analyze at all.
        patience: Seconds after its analysis that a post may take to become readable.
    """

    def __init__(
        self,
        engine: Engine,
        options: Options,
        budget: Budget,
        *,
        shape: Shape[Any],
        analyzer: Analyzer,
        read_first: bool = True,
        analyze_missing: bool = True,
        patience: float = 60.0,
    ) -> None:
        self._engine = engine
        self._options = options
        self._budget = budget
        self._shape = shape
        self._analyzer = analyzer
        self._read_first = read_first
        self._analyze_missing = analyze_missing
        self._patience = patience
        self._visibility = Visibility()
        self._halted: TokfluenceError | None = None

    async def run(self, source: Source, emit: Callable[[Item, Outcome[P]], Awaitable[None]]) -> None:
        """Resolve everything `source` gives; emit one outcome for each item as it is settled."""
        send, receive = anyio.create_memory_object_stream[Item](2 * MAX_BATCH)
        # Missing posts come from the readers: none are to come once those have all finished, which ends the stream.
        intake = self._analyzer.intake(receive, lambda: 0 if not reading else None)
        reading = 0
        waiting = anyio.Semaphore(_WAITING_BATCHES * self._options.analyze_concurrency)
        total = source.total
        readers = self._options.max_concurrency
        if total is not None:
            readers = max(1, min(readers, total))

        async def read() -> None:
            nonlocal reading
            reading += 1
            try:
                while (item := await source.next()) is not None:
                    outcome = await self._first(item)
                    if outcome is None:
                        await send.send(item)
                    else:
                        await emit(item, outcome)
            finally:
                reading -= 1
                if not reading:
                    send.close()

        async def analyze(group: TaskGroup) -> None:
            while items := await intake.take():
                analyses = await self._analyzer.analyze(items)
                answered: list[tuple[Item, Analysis]] = []
                for item, analysis in zip(items, analyses, strict=True):
                    if analysis.value is None:
                        await emit(item, Outcome(input=item.given, post_id=analysis.post_id, error=analysis.error))
                    else:
                        answered.append((item, analysis.value))
                if answered:
                    await waiting.acquire()
                    group.start_soon(wait, answered)

        async def wait(answered: Sequence[tuple[Item, Analysis]]) -> None:
            try:
                await self._read_when_visible(answered, emit)
            finally:
                waiting.release()

        with send, receive:
            async with anyio.create_task_group() as group:
                for _ in range(self._options.analyze_concurrency if self._analyze_missing else 0):
                    group.start_soon(analyze, group)
                for _ in range(readers):
                    group.start_soon(read)
        if source.error is not None:
            raise source.error

    async def _first(self, item: Item) -> Outcome[P] | None:
        """The outcome of reading an item, or None if it has to be analyzed."""
        if item.ref is None:
            return Outcome(input=item.given, error=item.error)
        if self._halted is not None:
            return self._failed(item, self._halted)
        if not self._read_first:
            return None
        try:
            return await self._read(item)
        except TokfluenceError as error:
            if self._analyze_missing and isinstance(error, NotFoundError):
                return None
            return self._failed(item, error)

    async def _read(self, item: Item) -> Outcome[P]:
        assert item.ref is not None
        try:
            body: Any = await self._engine.perform(
                build_get_post(item.ref.post_id), self._shape, self._options, self._budget
            )
        except TokfluenceError as error:
            if is_final(error):
                self._halted = error
            raise
        return Outcome(input=item.given, post_id=item.ref.post_id, value=body.data)

    def _failed(self, item: Item, error: TokfluenceError) -> Outcome[P]:
        # Without its traceback, which would keep every frame it passed alive as long as the outcome is.
        return Outcome(
            input=item.given, post_id=item.ref.post_id if item.ref else None, error=error.with_traceback(None)
        )

    async def _read_when_visible(
        self, answered: Sequence[tuple[Item, Analysis]], emit: Callable[[Item, Outcome[P]], Awaitable[None]]
    ) -> None:
        began = asyncio.get_running_loop().time()
        patience = self._patience
        if any(analysis.status == DUPLICATE for _, analysis in answered):
            # The attempt that did the work may still be at it.
            patience += self._analyzer.expected(len(answered))
        items = [item for item, _ in answered]
        # One goes ahead, the one worked last; the rest follow at the age that it finds, or at the end of patience.
        await self._poll(items.pop(), began, patience, emit)
        async with anyio.create_task_group() as group:
            for item in items:
                group.start_soon(self._poll, item, began, patience, emit)

    async def _poll(
        self,
        item: Item,
        began: float,
        patience: float,
        emit: Callable[[Item, Outcome[P]], Awaitable[None]],
    ) -> None:
        loop = asyncio.get_running_loop()
        polls = 0
        age: float | None = min(max(self._visibility.first(), loop.time() - began), patience)
        while age is not None:
            await asyncio.sleep(max(0.0, began + age - loop.time()))
            asked_at = loop.time() - began
            try:
                outcome = await self._read(item)
            except NotFoundError:
                polls += 1
                self._visibility.failed(asked_at)
                age = self._visibility.after(asked_at, patience)
            except TokfluenceError as error:
                await emit(item, self._failed(item, error))
                return
            else:
                self._visibility.succeeded(asked_at)
                await emit(item, outcome)
                return
        assert item.ref is not None
        await emit(item, self._failed(item, PostNotReadyError(item.ref.post_id, loop.time() - began, polls)))
