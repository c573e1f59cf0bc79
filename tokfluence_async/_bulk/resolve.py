"""The cheapest way to readable posts: read first (1 credit), analyze what is missing (25), read
that when it is visible (1).

Three stages in one task tree, with a bounded stream between each two, so that a million inputs take
the memory of a few hundred. What to do next with a post is decided by `visibility`, `planner` and
`_http.retry`; here are the loops.

Source: the Tokfluence API page, *Posts*, *Credits*.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectSendStream

from .._errors import TokfluenceError
from .._journal.records import DUPLICATE
from .._models import Analysis, Outcome
from .._wire.calls import MAX_BATCH
from .._wire.shapes import Shape
from .analyze import RESEND_WITHIN, Analyzer, recall
from .intake import Intake
from .outcomes import failed, malformed, post_id_of
from .poll import Poller, read_post
from .requests import Requests, is_missing
from .sources import Item, ItemSource
from .stream import hand_over
from .visibility import HitRate

if TYPE_CHECKING:
    from .._journal.journal import Journal
    from .._journal.records import Entry

__all__ = ["Resolver", "waiting_batches"]

P = TypeVar("P")

Emit = Callable[[Item, Outcome[P]], Awaitable[None]]

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
        analyzer: Analyzes what is missing, without reading the posts of a batch whose 409 proves
            nothing: they are read anyway.
        read_first: Whether to read before analyzing.
        analyze_missing: Whether to analyze at all.
        patience: Seconds after its analysis that a post may take to become readable.
    """

    def __init__(
        self,
        requests: Requests,
        *,
        shape: Shape[Any],
        analyzer: Analyzer,
        read_first: bool = True,
        analyze_missing: bool = True,
        patience: float = 60.0,
    ) -> None:
        self._requests = requests
        self._shape = shape
        self._analyzer = analyzer
        self._read_first = read_first
        self._analyze_missing = analyze_missing
        self._poller: Poller[P] = Poller(
            requests,
            shape=shape,
            patience=patience,
            allowance=analyzer.allowance,
            unsure=analyzer.unsure,
        )
        self._hit_rate = HitRate()
        self._one_by_one = asyncio.Lock()
        self._journal: Journal | None = None

    async def take_up(self, journal: Journal) -> None:
        """Begin with what earlier runs have left in `journal`; see `Analyzer.take_up`."""
        self._journal = journal
        self._poller.visibility.expect((await journal.learnt()).get("visible_after"))
        await self._analyzer.take_up(journal)

    async def run(self, source: ItemSource, emit: Emit[P]) -> None:
        """Resolve everything `source` gives; emit one outcome for each item as it is settled."""
        send, receive = anyio.create_memory_object_stream[Item](2 * MAX_BATCH)
        readers = self._requests.options.max_concurrency
        if source.total is not None:
            readers = max(1, min(readers, source.total))
        concurrency = self._requests.options.analyze_concurrency
        try:
            with send, receive:
                async with anyio.create_task_group() as group:
                    stages = _Stages(self, source, emit, send, group, self._requests)
                    intake = self._analyzer.intake(receive, stages.left, counted=True)
                    for _ in range(concurrency if self._analyze_missing else 0):
                        group.start_soon(stages.analyze, intake)
                    for _ in range(readers):
                        group.start_soon(stages.read)
        finally:
            known = self._poller.visibility.known
            if self._journal is not None and known is not None:
                self._journal.learn(visible_after=known)
        if source.error is not None:
            raise source.error

    async def first(self, item: Item) -> Outcome[P] | None:
        """The outcome of reading an item, or None if it has to be analyzed."""
        if item.ref is None:
            return malformed(item)
        halted = self._requests.halt.error
        if halted is not None:
            return failed(item, halted)
        if not self._read_first:
            return None
        if not self._analyze_missing or not self._hit_rate.sparse:
            return await self._read_first_time(item)
        async with self._one_by_one:
            return await self._read_first_time(item) if self._hit_rate.wants_read() else None

    async def _read_first_time(self, item: Item) -> Outcome[P] | None:
        try:
            outcome: Outcome[P] = await read_post(self._requests, item, self._shape)
        except TokfluenceError as error:
            if self._analyze_missing and is_missing(error):
                self._hit_rate.found(False)
                return None
            return failed(item, error)
        self._hit_rate.found(True)
        return outcome

    def recall(self, item: Item, entry: Entry, age: float) -> Analysis:
        """The analysis that an earlier run has recorded, `age` seconds ago."""
        # A 409 that was taken for "done" and has left no post to read after all this time was
        # something else: a 500 that did no work and used up its id.
        if entry.unsure or (entry.status == DUPLICATE and age > RESEND_WITHIN):
            self._analyzer.unsure.add(post_id_of(item))
        return recall(item, entry)

    async def analyze(self, items: Sequence[Item], emit: Emit[P]) -> list[tuple[Item, Analysis]]:
        """The items that were analyzed; outcomes of the others are emitted."""
        answered: list[tuple[Item, Analysis]] = []
        for item, outcome in zip(items, await self._analyzer.analyze(items), strict=True):
            if outcome.value is not None:
                answered.append((item, outcome.value))
            elif outcome.error is not None:
                await emit(item, failed(item, outcome.error))
        return answered

    async def read_when_visible(
        self, answered: Sequence[tuple[Item, Analysis]], age: float, emit: Emit[P]
    ) -> None:
        """Read what was analyzed `age` seconds ago; what was not after all is analyzed again."""
        while answered:
            missing = await self._poller.read(answered, age, emit)
            answered = await self.analyze(missing, emit) if missing else []
            age = 0.0


class _Stages(Generic[P]):
    """The stages of one run: `read`, `analyze`, and the waiting for posts to become readable."""

    def __init__(
        self,
        resolver: Resolver[P],
        source: ItemSource,
        emit: Emit[P],
        send: MemoryObjectSendStream[Item],
        group: TaskGroup,
        requests: Requests,
    ) -> None:
        self._resolver = resolver
        self._source = source
        self._emit = emit
        self._send = send
        self._group = group
        self._window = requests.window
        self._waiting = asyncio.Semaphore(waiting_batches(requests.options.analyze_concurrency))
        self._reading = 0

    def left(self) -> int | None:
        """Items still to come into the stream: none once all readers have finished, which ends
        it."""
        return None if self._reading else 0

    async def read(self) -> None:
        self._reading += 1
        try:
            while (item := await self._next()) is not None:
                entry = self._source.remembered(item)
                if entry is not None:  # an earlier run has paid for its analysis
                    age = self._source.age(entry.analyzed_at)
                    known = self._resolver.recall(item, entry, age)
                    await self._wait_later([(item, known)], age)
                    continue
                outcome = await self._resolver.first(item)
                if outcome is None:
                    await hand_over(self._send, item)
                else:
                    await self._emit(item, outcome)
        finally:
            self._reading -= 1
            if not self._reading:
                self._send.close()

    async def _next(self) -> Item | None:
        """The next item, when the reader has read far enough."""
        if self._window is None:
            return await self._source.next()
        await self._window.reserve(1)
        item: Item | None = None
        try:
            item = await self._source.next()
        finally:
            self._window.hold(1, () if item is None else (item.index,))
        return item

    async def analyze(self, intake: Intake) -> None:
        while items := await intake.take():
            answered = await self._resolver.analyze(items, self._emit)
            if answered:
                await self._wait_later(answered, 0.0)

    async def _wait_later(self, answered: Sequence[tuple[Item, Analysis]], age: float) -> None:
        await self._waiting.acquire()
        self._group.start_soon(self._wait, answered, age)

    async def _wait(self, answered: Sequence[tuple[Item, Analysis]], age: float) -> None:
        try:
            await self._resolver.read_when_visible(answered, age, self._emit)
        finally:
            self._waiting.release()
