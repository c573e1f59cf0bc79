"""The cheapest way to readable posts: read first (1 credit), analyze what is missing (25), read
that when it is visible.

Three stages in one task tree, with a bounded stream between each two, so that a million inputs take
the memory of a few hundred. What to do next with a post is in `_visibility`, `_plan` and `_retry`;
here are the loops.

Source: the Tokfluence API page, *Posts*, *Credits*.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from .._credits.budget import Budget
from .._errors import NotFoundError, PostNotReadyError, TokfluenceError
from .._models import Analysis, Outcome
from .._wire.answers import check_post
from .._wire.calls import MAX_BATCH, build_get_post
from .._wire.shapes import Shape
from .analyze import DUPLICATE, RESEND_WITHIN, Analyzer
from .sources import Item, ItemSource
from .stream import hand_over
from .visibility import HitRate, Visibility

if TYPE_CHECKING:
    from .._http.engine import Engine, Options
    from .._journal.records import Entry

__all__ = ["Resolver", "waiting_batches"]

P = TypeVar("P")

# Batches whose posts are waited for at once, for each batch being analyzed: what bounds memory
# between the last two stages. Waiting costs nothing, so it is generous.
_WAITING_BATCHES = 8


def waiting_batches(analyze_concurrency: int) -> int:
    """Batches whose posts may be waited for at once."""
    return _WAITING_BATCHES * analyze_concurrency


class Resolver(Generic[P]):
    """One call's worth of resolving.

    Args:
        shape: The body of `GET /v1/posts/:id`; its `data` becomes the outcome's value.
        analyzer: Analyzes what is missing.
        read_first: Whether to read before analyzing.
        analyze_missing: Whether to analyze at all.
        patience: Seconds after its analysis that a post may take to become readable.
        age: Seconds since a time of day in the journal.

    Attributes:
        age: As given.
        hit_rate: Whether reading first still pays.
        visibility: What is known of the delay between an analysis and its post being readable.
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
        age: Callable[[float | None], float] = lambda _: 0.0,
    ) -> None:
        self.age = age
        self._engine = engine
        self._options = options
        self._budget = budget
        self._shape = shape
        self._analyzer = analyzer
        self._read_first = read_first
        self._analyze_missing = analyze_missing
        self._patience = patience
        self.visibility = Visibility()
        self.hit_rate = HitRate()
        self._one_by_one = asyncio.Lock()
        self._halted: TokfluenceError | None = None

    async def run(
        self, source: ItemSource, emit: Callable[[Item, Outcome[P]], Awaitable[None]]
    ) -> None:
        """Resolve everything `source` gives; emit one outcome for each item as it is settled."""
        send, receive = anyio.create_memory_object_stream[Item](2 * MAX_BATCH)
        # Missing posts come from the readers: none are to come once those have all finished, which
        # ends the stream.
        intake = self._analyzer.intake(receive, lambda: 0 if not reading else None)
        reading = 0
        waiting = anyio.Semaphore(waiting_batches(self._options.analyze_concurrency))
        total = source.total
        readers = self._options.max_concurrency
        if total is not None:
            readers = max(1, min(readers, total))

        async def read(group: TaskGroup) -> None:
            nonlocal reading
            reading += 1
            try:
                while (item := await source.next()) is not None:
                    entry = source.remembered(item)
                    if entry is not None:  # an earlier run has paid for its analysis
                        await waiting.acquire()
                        group.start_soon(
                            wait, [(item, self._recall(item, entry))], self.age(entry.analyzed_at)
                        )
                        continue
                    outcome = await self._first(item)
                    if outcome is None:
                        await hand_over(send, item)
                    else:
                        await emit(item, outcome)
            finally:
                reading -= 1
                if not reading:
                    send.close()

        async def analyze(group: TaskGroup) -> None:
            while items := await intake.take():
                answered = await self._analyze(items, emit)
                if answered:
                    await waiting.acquire()
                    group.start_soon(wait, answered, 0.0)

        async def wait(answered: Sequence[tuple[Item, Analysis]], age: float) -> None:
            try:
                while answered:
                    missing = await self._read_when_visible(answered, age, emit)
                    answered = await self._analyze(missing, emit) if missing else []
                    age = 0.0
            finally:
                waiting.release()

        with send, receive:
            async with anyio.create_task_group() as group:
                for _ in range(self._options.analyze_concurrency if self._analyze_missing else 0):
                    group.start_soon(analyze, group)
                for _ in range(readers):
                    group.start_soon(read, group)
        if source.error is not None:
            raise source.error

    def halt(self, error: TokfluenceError) -> None:
        """Begin nothing more: what has not been sent gets `error`. What is in flight goes on."""
        if self._halted is None:
            self._halted = error
        self._analyzer.halt(error)

    def _recall(self, item: Item, entry: Entry) -> Analysis:
        assert item.ref is not None
        # A 409 that was taken for "done" and has left no post to read after all this time was
        # something else: a 500 that did no work and used up its id.
        if entry.unsure or (
            entry.status == DUPLICATE and self.age(entry.analyzed_at) > RESEND_WITHIN
        ):
            self._analyzer.unsure.add(item.ref.post_id)
        return Analysis(post_id=item.ref.post_id, url=entry.url, status=entry.status or DUPLICATE)

    async def _analyze(
        self, items: Sequence[Item], emit: Callable[[Item, Outcome[P]], Awaitable[None]]
    ) -> list[tuple[Item, Analysis]]:
        """The items that were analyzed; outcomes of the others are emitted."""
        answered: list[tuple[Item, Analysis]] = []
        for item, analysis in zip(items, await self._analyzer.analyze(items), strict=True):
            if analysis.value is None:
                await emit(
                    item, Outcome(input=item.given, post_id=analysis.post_id, error=analysis.error)
                )
            else:
                answered.append((item, analysis.value))
        return answered

    async def _first(self, item: Item) -> Outcome[P] | None:
        """The outcome of reading an item, or None if it has to be analyzed."""
        if item.ref is None:
            return Outcome(input=item.given, error=item.error)
        if self._halted is not None:
            return self._failed(item, self._halted)
        if not self._read_first:
            return None
        if not self._analyze_missing or not self.hit_rate.sparse:
            return await self._read_first_time(item)
        async with self._one_by_one:
            return await self._read_first_time(item) if self.hit_rate.wants_read() else None

    async def _read_first_time(self, item: Item) -> Outcome[P] | None:
        try:
            outcome = await self._read(item)
        except TokfluenceError as error:
            if self._analyze_missing and isinstance(error, NotFoundError) and error.is_the_services:
                self.hit_rate.found(False)
                return None
            return self._failed(item, error)
        self.hit_rate.found(True)
        return outcome

    async def _read(self, item: Item) -> Outcome[P]:
        assert item.ref is not None
        try:
            body: Any = await self._engine.perform(
                build_get_post(item.ref.post_id), self._shape, self._options, self._budget
            )
        except TokfluenceError as error:
            final = self._analyzer.final(error)
            if final is not None:
                self.halt(final)
                self._budget.close(
                    final
                )  # also for those in line for a slot: not even a read would end otherwise
            raise
        check_post(body.data, item.ref.post_id)
        return Outcome(input=item.given, post_id=item.ref.post_id, value=body.data)

    def _failed(self, item: Item, error: TokfluenceError) -> Outcome[P]:
        # Without its traceback, which would keep every frame it passed alive as long as the outcome
        # is.
        return Outcome(
            input=item.given,
            post_id=item.ref.post_id if item.ref else None,
            error=error.with_traceback(None),
        )

    async def _read_when_visible(
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
            # The attempt that did the work may still be at it; to give up too early would pay for
            # it again.
            patience = max(patience, self._analyzer.allowance(len(answered)))
        missing: list[Item] = []

        async def poll(item: Item) -> None:
            if not await self._poll(item, began, patience, emit):
                missing.append(item)

        items = [item for item, _ in answered]
        # One goes ahead, the one worked last; the rest follow at the age that it finds, or at the
        # end of patience.
        await poll(items.pop())
        async with anyio.create_task_group() as group:
            for item in items:
                group.start_soon(poll, item)
        return missing

    async def _poll(
        self,
        item: Item,
        began: float,
        patience: float,
        emit: Callable[[Item, Outcome[P]], Awaitable[None]],
    ) -> bool:
        """Read until the post is there and emit it, or its error. False if it has to be analyzed
        again instead."""
        assert item.ref is not None
        unsure = self._analyzer.unsure
        loop = asyncio.get_running_loop()
        polls = 0
        age: float | None = min(max(self.visibility.first(), loop.time() - began), patience)
        while age is not None:
            await asyncio.sleep(max(0.0, began + age - loop.time()))
            asked_at = loop.time() - began
            try:
                outcome = await self._read(item)
            except TokfluenceError as error:
                if not (isinstance(error, NotFoundError) and error.is_the_services):
                    await emit(item, self._failed(item, error))
                    return True
                polls += 1
                self.visibility.failed(asked_at)
                age = self.visibility.after(asked_at, patience)
            else:
                unsure.discard(item.ref.post_id)
                self.visibility.succeeded(asked_at)
                await emit(item, outcome)
                return True
        if item.ref.post_id in unsure and self._analyze_missing:
            unsure.discard(item.ref.post_id)
            return False
        await emit(
            item,
            self._failed(item, PostNotReadyError(item.ref.post_id, loop.time() - began, polls)),
        )
        return True
