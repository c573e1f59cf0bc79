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
from .analyze import RESEND_WITHIN, Analyzer
from .intake import Intake
from .poll import Poller, read_post
from .requests import Requests, is_missing
from .sources import Item, Source
from .stream import hand_over
from .visibility import HitRate

if TYPE_CHECKING:
    from .._journal.journal import Journal
    from .._journal.records import Entry

__all__ = ["Resolver", "check_refresh", "waiting_batches"]

P = TypeVar("P")

Emit = Callable[[Item, Outcome[P]], Awaitable[None]]

# Batches whose posts are waited for at once, for each batch being analyzed: what bounds memory
# between the last two stages. Waiting costs nothing, so it is generous.
_WAITING_BATCHES = 8


def waiting_batches(analyze_concurrency: int) -> int:
    """Batches whose posts may be waited for at once."""
    return _WAITING_BATCHES * analyze_concurrency


def check_refresh(refresh: str) -> None:
    """Raise `ValueError` for one that is neither "missing" nor "always"."""
    if refresh not in ("missing", "always"):
        raise ValueError(f"refresh must be 'missing' or 'always', not {refresh!r}")


class Resolver(Generic[P]):
    """One call's worth of resolving; it runs once.

    Args:
        shape: The body of `GET /v1/posts/:id`; its `data` becomes the outcome's value.
        refresh: "missing" reads before analyzing, "always" does not.
        force, batch_size: As `Analyzer`.
        patience: Seconds after its analysis that a post may take to become readable.
        analyze_missing: Whether to analyze at all.
    """

    # Of its run:
    _source: Source
    _emit: Emit[P]
    _missing: MemoryObjectSendStream[Item]
    _group: TaskGroup

    def __init__(
        self,
        requests: Requests,
        shape: Shape[Any],
        *,
        refresh: str = "missing",
        force: bool = False,
        batch_size: int | None = None,
        patience: float = 60.0,
        analyze_missing: bool = True,
    ) -> None:
        check_refresh(refresh)
        self._requests = requests
        self._shape = shape
        # The posts are read anyway, so a 409 that proves nothing is left to that reading.
        self._analyzer = Analyzer(requests, force=force, batch_size=batch_size, verify=False)
        self._read_first = refresh == "missing"
        self._analyze_missing = analyze_missing
        self._poller: Poller[P] = Poller(requests, shape, patience, self._analyzer)
        self._hit_rate = HitRate()
        self._one_by_one = asyncio.Lock()
        self._waiting = asyncio.Semaphore(waiting_batches(requests.options.analyze_concurrency))
        self._reading = 0
        self._journal: Journal | None = None

    async def take_up(self, journal: Journal) -> None:
        """Begin with what earlier runs have left in `journal`; see `Analyzer.take_up`."""
        self._journal = journal
        self._poller.visibility.expect((await journal.learnt()).get("visible_after"))
        await self._analyzer.take_up(journal)

    async def run(self, source: Source, emit: Emit[P]) -> None:
        """Resolve everything `source` gives; emit one outcome for each item as it is settled."""
        options = self._requests.options
        readers = options.max_concurrency
        if source.total is not None:
            readers = max(1, min(readers, source.total))
        self._source, self._emit = source, emit
        self._missing, receive = anyio.create_memory_object_stream[Item](2 * MAX_BATCH)
        intake = self._analyzer.intake(receive, self._left, counted=True)
        try:
            with self._missing, receive:
                async with anyio.create_task_group() as self._group:
                    for _ in range(options.analyze_concurrency if self._analyze_missing else 0):
                        self._group.start_soon(self._analyze_stage, intake)
                    for _ in range(readers):
                        self._group.start_soon(self._read_stage)
        finally:
            known = self._poller.visibility.known
            if self._journal is not None and known is not None:
                self._journal.learn(visible_after=known)

    def _left(self) -> int | None:
        """Items still to come to the analyzers: none once all readers have finished."""
        return None if self._reading else 0

    # --- read first -------------------------------------------------------------------------------

    async def _read_stage(self) -> None:
        self._reading += 1
        try:
            while (item := await self._next()) is not None:
                if item.paid is not None:
                    await self._wait_for_paid(item, item.paid)
                    continue
                outcome = await self._first(item)
                if outcome is None:
                    await hand_over(self._missing, item)
                else:
                    await self._emit(item, outcome)
        finally:
            self._reading -= 1
            if not self._reading:
                self._missing.close()

    async def _next(self) -> Item | None:
        """The next item, when the reader of the outcomes has read far enough."""
        window = self._requests.window
        if window is None:
            return await self._source.next()
        await window.reserve(1)
        item: Item | None = None
        try:
            item = await self._source.next()
        finally:
            window.hold(1, () if item is None else (item.index,))
        return item

    async def _first(self, item: Item) -> Outcome[P] | None:
        """The outcome of reading an item, or None if it has to be analyzed."""
        if item.error is not None:
            return item.failed(item.error)
        halted = self._requests.halt.error
        if halted is not None:
            return item.failed(halted)
        if not self._read_first:
            return None
        if not self._analyze_missing or not self._hit_rate.sparse:
            return await self._read(item)
        async with self._one_by_one:
            return await self._read(item) if self._hit_rate.wants_read() else None

    async def _read(self, item: Item) -> Outcome[P] | None:
        try:
            outcome: Outcome[P] = await read_post(self._requests, item, self._shape)
        except TokfluenceError as error:
            if self._analyze_missing and is_missing(error):
                self._hit_rate.found(False)
                return None
            return item.failed(error)
        self._hit_rate.found(True)
        return outcome

    # --- analyze what is missing ------------------------------------------------------------------

    async def _analyze_stage(self, intake: Intake) -> None:
        while items := await intake.take():
            if answered := await self._analyze(items):
                await self._wait_later(answered, 0.0)

    async def _analyze(self, items: Sequence[Item]) -> list[tuple[Item, Analysis]]:
        """The items that were analyzed; outcomes of the others are emitted."""
        answered: list[tuple[Item, Analysis]] = []
        for item, outcome in zip(items, await self._analyzer.analyze(items), strict=True):
            if outcome.value is not None:
                answered.append((item, outcome.value))
            elif outcome.error is not None:
                await self._emit(item, item.failed(outcome.error))
        return answered

    # --- read when it is visible ------------------------------------------------------------------

    async def _wait_for_paid(self, item: Item, entry: Entry) -> None:
        """An earlier run has paid for the analysis."""
        age = 0.0 if self._journal is None else self._journal.age(entry.analyzed_at)
        # A 409 that was taken for "done" and has left no post to read after all this time was
        # something else: a 500 that did no work and used up its id.
        if entry.unsure or (entry.status == DUPLICATE and age > RESEND_WITHIN):
            self._analyzer.unsure.add(item.post_id)
        await self._wait_later([(item, item.recalled(entry))], age)

    async def _wait_later(self, answered: Sequence[tuple[Item, Analysis]], age: float) -> None:
        await self._waiting.acquire()
        self._group.start_soon(self._wait, answered, age)

    async def _wait(self, answered: Sequence[tuple[Item, Analysis]], age: float) -> None:
        """Read what was analyzed `age` seconds ago; what was not after all is analyzed again."""
        try:
            while answered:
                missing = await self._poller.read(answered, age, self._emit)
                answered = await self._analyze(missing) if missing else []
                age = 0.0
        finally:
            self._waiting.release()
