"""Fanning analysis out: batches of 1 to 50, some in flight at once, outcomes as batches finish.

What must hold: a batch is one request id until a definite refusal, so that it is never billed twice; one failed batch
never loses the others' outcomes; input is read no faster than it is sent. When the account itself is refused (401,
402, 403) or the budget is used up, nothing more is sent, and the inputs that are left get that error as their outcome.

Source: api/tokfluence-api.md, `POST /v1/posts/analyze` [seed], *Idempotency* [public].
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from ._budget import Budget
from ._errors import (
    APIResponseValidationError,
    AuthenticationError,
    BudgetExceededError,
    InsufficientCreditsError,
    NotFoundError,
    PermissionDeniedError,
    TokfluenceError,
)
from ._ids import PostRef
from ._models import Analysis, Outcome
from ._plan import Planner, match_rows
from ._request_id import next_request_id
from ._retry import Past, Settled
from ._sources import Item, Source
from ._wire import ANALYZE_PRICE, MAX_BATCH, AnalyzeBody, PostBody, Shape, build_analyze, build_get_post

if TYPE_CHECKING:
    from ._engine import Engine, Options

__all__ = ["Analyzer", "BatchIds", "BatchLog", "Intake", "is_final"]

logger = logging.getLogger("tokfluence_async")

_ANALYZE: Shape[AnalyzeBody] = Shape(AnalyzeBody)
_POST: Shape[PostBody] = Shape(PostBody)

# How long a batch waits for more input from a source that is still open, once it holds something.
_LINGER = 0.25
# After a 409 whose meaning is not clear, the posts are read: at once, and again after these seconds for what is
# missing. "Readable after a short delay" is all the page says.
_VERIFY_AFTER = (2.0, 8.0, 20.0)

DUPLICATE = "duplicate_request"


def is_final(error: TokfluenceError | None) -> bool:
    """Whether an error means that every further request would fail the same way."""
    return isinstance(error, (AuthenticationError, InsufficientCreditsError, PermissionDeniedError))


class BatchLog(Protocol):
    """Where a batch is written down, if anywhere; see `_journal`."""

    async def sending(self, request_id: str, items: Sequence[Item], *, replaces: str | None) -> None:
        """Return only when it is on disk that `items` are about to leave under `request_id`."""
        ...

    async def settled(self, request_id: str, outcomes: Sequence[Outcome[Analysis]]) -> None:
        """Return only when the outcomes are on disk; they are told to nobody before."""
        ...


class BatchIds:
    """The request ids of one batch, each written down before it is used.

    Attributes:
        past: What `resumed` has been through in an earlier process.
        current: The id in use, None before the first.
    """

    def __init__(self, items: Sequence[Item], log: BatchLog | None, resumed: str | None = None) -> None:
        self._items = items
        self._log = log
        self._resumed = resumed
        self.past = Past.FRESH if resumed is None else Past.MAYBE
        self.current: str | None = None

    async def next(self) -> str:
        if self._resumed is not None:
            self.current, self._resumed = self._resumed, None
            return self.current
        request_id = next_request_id()
        if self._log is not None:
            await self._log.sending(request_id, self._items, replaces=self.current)
        self.current = request_id
        return request_id


class Analyzer:
    """One call's worth of analysis.

    Args:
        budget: The call's budget, under its client's.
        force: Skip the service's freshness window.
        batch_size: URLs a batch, or None to let the planner choose.
        log: Where batches are written down.
    """

    def __init__(
        self,
        engine: Engine,
        options: Options,
        budget: Budget,
        *,
        force: bool = False,
        batch_size: int | None = None,
        log: BatchLog | None = None,
    ) -> None:
        self._engine = engine
        self._options = options
        self._budget = budget
        self._force = force
        self._log = log
        self._planner = Planner(options.analyze_concurrency, batch_size)
        self._halted: TokfluenceError | None = None

    async def run(self, source: Source, emit: Callable[[Item, Outcome[Analysis]], Awaitable[None]]) -> None:
        """Analyze everything `source` gives; emit one outcome for each item as its batch finishes."""
        send, receive = anyio.create_memory_object_stream[Item](2 * MAX_BATCH)
        intake = self.intake(receive, lambda: source.left)

        async def feed() -> None:
            with send:
                while (item := await source.next()) is not None:
                    await send.send(item)

        async def worker() -> None:
            while items := await intake.take():
                valid = [item for item in items if item.ref is not None]
                for item in items:
                    if item.ref is None:
                        await emit(item, Outcome(input=item.given, error=item.error))
                if valid:
                    outcomes = await self.analyze(valid)
                    for item, outcome in zip(valid, outcomes, strict=True):
                        await emit(item, outcome)

        with send, receive:
            async with anyio.create_task_group() as group:
                group.start_soon(feed)
                for _ in range(self._options.analyze_concurrency):
                    group.start_soon(worker)
        if source.error is not None:
            raise source.error

    def intake(self, receive: MemoryObjectReceiveStream[Item], left: Callable[[], int | None]) -> Intake:
        """Cuts batches from a stream in the way this call's planner wants them."""
        return Intake(self._planner, receive, left)

    def expected(self, urls: int) -> float:
        """Seconds a batch of `urls` is expected to take, as far as that is known."""
        return self._planner.expected(urls)

    async def analyze(self, items: Sequence[Item], resumed: str | None = None) -> list[Outcome[Analysis]]:
        """Analyze up to 50 posts under one request id, and return their outcomes, in order. Raises nothing of the API's.

        What the budget or the wallet holds too little for is left out and gets that error.

        Args:
            resumed: The request id under which an earlier process may have sent exactly these items.
        """
        outcomes: dict[str, Outcome[Analysis]] = {}
        left = list(items)
        while left and self._halted is None:
            fits = self._budget.available
            count = len(left) if fits is None else min(len(left), fits // ANALYZE_PRICE)
            if count == 0:
                left_error: TokfluenceError = BudgetExceededError(
                    ANALYZE_PRICE * len(left), fits or 0, self._budget.tightest or 0
                )
                outcomes.update((_id(item), _failed(item, left_error)) for item in left)
                return [outcomes[_id(item)] for item in items]
            part, left = left[:count], left[count:]
            try:
                outcomes.update(await self._settle(part, resumed))
            except InsufficientCreditsError as error:
                smaller = (error.credits_remaining or 0) // ANALYZE_PRICE
                if 0 < smaller < len(part):
                    # The work was not started; what the wallet still holds is used.
                    outcomes.update(await self._settle_or_fail(part[:smaller]))
                    part = part[smaller:]
                self._halt(error)
                outcomes.update((_id(item), _failed(item, error)) for item in part)
            except TokfluenceError as error:
                if is_final(error):
                    self._halt(error)
                outcomes.update((_id(item), _failed(item, error)) for item in part)
            resumed = None
        if self._halted is not None:
            outcomes.update((_id(item), _failed(item, self._halted)) for item in left)
        return [outcomes[_id(item)] for item in items]

    def _halt(self, error: TokfluenceError) -> None:
        if self._halted is None:
            logger.warning("nothing more is sent: %s", error)
            self._halted = error

    async def _settle_or_fail(self, items: Sequence[Item]) -> dict[str, Outcome[Analysis]]:
        try:
            return await self._settle(items, None)
        except TokfluenceError as error:
            return {_id(item): _failed(item, error) for item in items}

    async def _settle(self, items: Sequence[Item], resumed: str | None) -> dict[str, Outcome[Analysis]]:
        """Send the items until every one has an outcome; raise the error of a batch that failed as a whole."""
        outcomes: dict[str, Outcome[Analysis]] = {}
        while items:
            ids = BatchIds(items, self._log, resumed)
            call = build_analyze([_ref(item).url for item in items], self._force)
            began = asyncio.get_running_loop().time()
            answer = await self._engine.perform(call, _ANALYZE, self._options, self._budget, batch=True, ids=ids)
            if isinstance(answer, Settled):
                done = await self._verify(items) if answer.verify else {_id(item) for item in items}
                if not done:  # it never ran: what was counted as spent was not
                    self._budget.settle(0, -call.price)
                found = {
                    _id(item): Analysis(post_id=_id(item), url=_ref(item).url, status=DUPLICATE)
                    for item in items
                    if _id(item) in done
                }
                again = [item for item in items if _id(item) not in done]
            else:
                self._planner.observe(len(items), asyncio.get_running_loop().time() - began)
                found = match_rows([_ref(item) for item in items], answer.data)
                again = []
            fresh = {_id(item): _outcome(item, found.get(_id(item))) for item in items if item not in again}
            if self._log is not None and ids.current is not None:
                await self._log.settled(ids.current, list(fresh.values()))
            outcomes.update(fresh)
            items, resumed = again, None
        return outcomes

    async def _verify(self, items: Sequence[Item]) -> set[str]:
        """The posts that can be read, after giving an attempt that may still be at work the time to finish.

        A batch is worked in order, so its last post is read first, again while it is missing; then each other once.
        """
        last = items[-1]
        done: set[str] = set()
        waits = (self._planner.expected(len(items)), *_VERIFY_AFTER)
        for wait in waits:
            await asyncio.sleep(wait)
            if await self._is_readable(last):
                done.add(_id(last))
                break
        async with anyio.create_task_group() as group:

            async def read(item: Item) -> None:
                if await self._is_readable(item):
                    done.add(_id(item))

            for item in items[:-1]:
                group.start_soon(read, item)
        return done

    async def _is_readable(self, item: Item) -> bool:
        try:
            await self._engine.perform(build_get_post(_id(item)), _POST, self._options, self._budget)
        except NotFoundError:
            return False
        return True


class Intake:
    """Cuts batches from a stream of items, one worker at a time.

    A batch leaves when it is as large as the planner wants, when the stream has ended, or when the next item is long
    in coming; `left` says how many items are still to come into the stream, or None if that is not known.
    """

    def __init__(
        self, planner: Planner, receive: MemoryObjectReceiveStream[Item], left: Callable[[], int | None]
    ) -> None:
        self._planner = planner
        self._receive = receive
        self._left = left
        self._turn = asyncio.Lock()

    async def take(self) -> list[Item]:
        """The next batch, malformed inputs among it; empty at the end."""
        items: list[Item] = []
        async with self._turn:
            with anyio.CancelScope() as scope:
                try:
                    while len(items) < self._planner.next_size(self._all(len(items))):
                        items.append(await self._receive.receive())
                        if len(items) == 1:
                            scope.deadline = anyio.current_time() + _LINGER
                except anyio.EndOfStream:
                    pass
        return items

    def _all(self, taken: int) -> int | None:
        left = self._left()
        return None if left is None else left + taken + self._receive.statistics().current_buffer_used


def _ref(item: Item) -> PostRef:
    assert item.ref is not None
    return item.ref


def _id(item: Item) -> str:
    return _ref(item).post_id


def _failed(item: Item, error: TokfluenceError) -> Outcome[Analysis]:
    # Without its traceback, which would keep every frame it passed alive as long as the outcome is.
    return Outcome(input=item.given, post_id=_id(item), error=error.with_traceback(None))


def _outcome(item: Item, analysis: Analysis | None) -> Outcome[Analysis]:
    if analysis is None:
        return _failed(
            item,
            APIResponseValidationError(
                f"The service left post {_id(item)} out of its answer. It was charged: read it with posts.get (1 credit) "
                "before analyzing it again.",
                status=200,
            ),
        )
    return Outcome(input=item.given, post_id=_id(item), value=analysis)
