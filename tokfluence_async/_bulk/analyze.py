"""Fanning analysis out: batches of 1 to 50, some in flight at once, outcomes as batches finish.

What must hold: a batch is one request id until a definite refusal, so that it is never billed
twice; one failed batch never loses the others' outcomes; input is read no faster than it is sent.
When the account itself is refused (401, 402, 403) or the budget is used up, nothing more is sent,
and the inputs that are left get that error as their outcome.

Source: the Tokfluence API page, `POST /v1/posts/analyze`, *Idempotency*.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from .._credits.budget import Budget
from .._errors import (
    APIResponseValidationError,
    AuthenticationError,
    BudgetExceededError,
    DuplicateRequestError,
    InsufficientCreditsError,
    JournalError,
    NotFoundError,
    PermissionDeniedError,
    TokfluenceError,
)
from .._http.retry import Past, Settled
from .._models import Analysis, Outcome
from .._tasks import finish
from .._text import plural
from .._wire.bodies import AnalyzeBody, PostBody
from .._wire.calls import MAX_BATCH, build_analyze, build_get_post
from .._wire.ids import PostRef
from .._wire.prices import ANALYZE_PRICE
from .._wire.request_ids import next_request_id
from .._wire.shapes import Shape
from .batch import BatchEvent, BatchState, event_of, past_of, step
from .planner import Planner, match_rows
from .sources import Item, ItemSource
from .stream import hand_over, take_over

if TYPE_CHECKING:
    from .._http.engine import Engine, Options
    from .._journal.records import Doubt, Entry

__all__ = [
    "DUPLICATE",
    "RESEND_WITHIN",
    "Analyzer",
    "BatchIds",
    "BatchLog",
    "Intake",
    "check_batch_size",
]

logger = logging.getLogger("tokfluence_async")

_ANALYZE: Shape[AnalyzeBody] = Shape(AnalyzeBody)
_POST: Shape[PostBody] = Shape(PostBody)

# How long a batch waits for more input from a source that is still open, once it holds something.
_LINGER = 0.25
# After a 409 whose meaning is not clear, the posts are read: at once, and again after 2, 4, 8 ...
# seconds while they are missing. "Readable after a short delay" is all the page says of it.
_VERIFY_EVERY = 2.0
_VISIBLE_WITHIN = 30.0
# Seconds for which a request id is taken to be remembered by the service; how long it is, is not
# documented. Older ones are settled by reading first.
RESEND_WITHIN = 3600.0

DUPLICATE = "duplicate_request"


def check_batch_size(batch_size: int | None) -> None:
    """Raise `ValueError` for one that is not 1 to 50 or None."""
    if batch_size is None:
        return
    number = isinstance(batch_size, int) and not isinstance(batch_size, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not number or not 1 <= batch_size <= MAX_BATCH:
        raise ValueError(
            f"batch_size must be 1 to {MAX_BATCH}, or None to let the planner choose, not {batch_size!r}"
        )


class BatchLog(Protocol):
    """Where a batch is written down, if anywhere; see `_journal`."""

    async def sending(
        self, request_id: str, posts: Sequence[PostRef], *, replaces: str | None
    ) -> None:
        """Return only when it is on disk that `posts` are about to leave under `request_id`."""
        ...

    async def sending_again(self, request_id: str) -> None:
        """Return only when it is on disk that a batch of an earlier run is about to leave once
        more."""
        ...

    def age(self, at: float | None) -> float:
        """Seconds since a time of day that was written down; 0.0 if it was not."""
        ...

    async def settled(
        self,
        request_id: str,
        outcomes: Sequence[Outcome[Analysis]],
        *,
        unsure: bool = False,
        age: float = 0.0,
    ) -> None:
        """Return only when the outcomes are on disk; they are told to nobody before."""
        ...

    async def released(self, request_id: str) -> None:
        """No attempt of this batch ran: its posts are free."""
        ...

    def forgotten(self, request_id: str) -> None:
        """The batch stays in doubt, and nobody in this process works on it any more."""
        ...

    def learn(self, **values: float) -> None:
        """Remember numbers for the next run."""
        ...


class BatchIds:
    """The request ids of one batch, each written down before it is used, and what each has been
    through.

    Attributes:
        current: The id in use, None before the first.
        state: Where the batch is, by the table of `_batch`.
        lost_here: Whether an attempt of *this process* may have run without its answer; also by a
            409 for an id that was never sent before, as a proxy that sends again by itself causes
            it (HAProxy's `retry-on` does it to analyze too).
    """

    def __init__(
        self, items: Sequence[Item], log: BatchLog | None, resumed: str | None = None
    ) -> None:
        self._items = items
        self._log = log
        self._resumed = resumed
        self._new = resumed is None
        self.state = BatchState.PLANNED if resumed is None else BatchState.MIXED
        self.current: str | None = None
        self.lost_here = False

    @property
    def past(self) -> Past:
        """What the first id has been through already, in an earlier process."""
        return past_of(self.state)

    async def next(self) -> str:
        if self._resumed is not None:
            self.current, self._resumed = self._resumed, None
            if self._log is not None:
                await self._log.sending_again(self.current)
            return self.current
        request_id, replaced = next_request_id(), self.current
        self.current = request_id
        if self._log is not None:
            await self._log.sending(
                request_id, [_ref(item) for item in self._items], replaces=replaced
            )
        self.state = step(self.state, BatchEvent.WRITTEN)
        return request_id

    def note(self, error: TokfluenceError | None) -> None:
        event = BatchEvent.LOST if error is None else event_of(error)
        answered_twice = self._new and isinstance(error, DuplicateRequestError)
        self.lost_here = self.lost_here or event is BatchEvent.LOST or answered_twice
        self.state = step(self.state, event)

    async def give_up(self) -> None:
        """The call failed. What never ran is free again; what may have run stays written down."""
        self.state = step(self.state, BatchEvent.GIVEN_UP)
        if self._log is None or self.current is None:
            return
        if self.state is BatchState.RELEASED:
            with suppress(
                JournalError
            ):  # told to whoever writes next; what made the call fail comes first
                await self._log.released(self.current)
        else:
            self._log.forgotten(self.current)


class _End:
    """How an attempt to settle some posts ended.

    Attributes:
        outcomes: What is known, whatever became of the rest.
        left: Posts of the batch that failed as a whole, and `error` why.
        free: No attempt of that batch can have run: its posts may be sent under another id.
    """

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome[Analysis]] = {}
        self.left: list[Item] = []
        self.error: TokfluenceError | None = None
        self.free = False

    @property
    def reason(self) -> TokfluenceError:
        assert self.error is not None
        return self.error


class Analyzer:
    """One call's worth of analysis.

    Args:
        budget: The call's budget, under its client's.
        force: Skip the service's freshness window.
        batch_size: URLs a batch, or None to let the planner choose.
        log: Where batches are written down.
        verify: Read the posts of a batch whose 409 proves nothing (1 credit each). Without, they
            come back as `duplicate_request` and stand in `unsure`: for a caller who reads them
            anyway.

    Attributes:
        log: Where batches are written down; set before the first is sent.
        unsure: Posts of which only such a 409 says that they were analyzed.
        unsettled: Posts of earlier batches that are still in doubt, and why; they must not be sent
            under another id.
        seconds: How long answered batches took, and `urls` how many URLs they held.
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
        verify: bool = True,
    ) -> None:
        self._verifies = verify
        self.unsure: set[str] = set()
        self.unsettled: dict[str, TokfluenceError] = {}
        self._engine = engine
        self._options = options
        self._budget = budget
        self._force = force
        self.log = log
        self._planner = Planner(options.analyze_concurrency, batch_size)
        self._halted: TokfluenceError | None = None
        self._unread: dict[str, TokfluenceError] = {}

    async def run(
        self, source: ItemSource, emit: Callable[[Item, Outcome[Analysis]], Awaitable[None]]
    ) -> None:
        """Analyze everything `source` gives; emit one outcome for each item as its batch finishes.

        What an earlier run has recorded is not sent again.
        """
        send, receive = anyio.create_memory_object_stream[Item](2 * MAX_BATCH)
        # Whose earlier analysis is looked into; what turns out not to have been done comes into the
        # stream late.
        looked_into = 0
        places = asyncio.Semaphore(2 * MAX_BATCH)
        intake = self.intake(receive, lambda: None if looked_into else source.left)

        async def feed() -> None:
            with send:
                async with anyio.create_task_group() as group:
                    while (item := await source.next()) is not None:
                        entry = source.remembered(item)
                        if entry is None:
                            await hand_over(send, item)
                        elif entry.unsure:
                            await places.acquire()
                            group.start_soon(look_into, item, entry)
                        else:
                            known = Analysis(
                                post_id=_id(item), url=entry.url, status=entry.status or DUPLICATE
                            )
                            await emit(
                                item, Outcome(input=item.given, post_id=_id(item), value=known)
                            )

        async def look_into(item: Item, entry: Entry) -> None:
            nonlocal looked_into
            looked_into += 1
            try:
                if await self._was_done(item, entry):
                    await emit(item, self._verified(item))
                else:
                    await hand_over(send, item)
            finally:
                looked_into -= 1
                places.release()

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

    def intake(
        self, receive: MemoryObjectReceiveStream[Item], left: Callable[[], int | None]
    ) -> Intake:
        """Cuts batches from a stream in the way this call's planner wants them."""
        return Intake(self._planner, receive, left)

    def expected(self, urls: int) -> float:
        """Seconds a batch of `urls` is expected to take, as far as that is known."""
        return self._planner.expected(urls)

    def expect(self, learnt: Mapping[str, float]) -> None:
        """An earlier run has `learnt` this."""
        self._planner.expect(learnt)

    def allowance(self, urls: int) -> float:
        """Seconds after which a batch of `urls` that was sent is not at work any more."""
        total = self._options.timeout.total
        return max(
            (60.0 if total is None else total) + self._options.per_url * urls,
            self._planner.limit(urls),
        )

    async def analyze(self, items: Sequence[Item]) -> list[Outcome[Analysis]]:
        """Analyze up to 50 posts under one request id, and return their outcomes, in order. Raises
        nothing of the API's.

        What the budget or the wallet holds too little for is left out and gets that error.
        """
        outcomes: dict[str, Outcome[Analysis]] = {
            _id(item): _failed(item, self.unsettled[_id(item)])
            for item in items
            if _id(item) in self.unsettled
        }
        left = [item for item in items if _id(item) not in outcomes]
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
            end = await self._settle(part)
            outcomes.update(end.outcomes)
            if isinstance(end.error, InsufficientCreditsError) and end.free:
                smaller = (end.error.credits_remaining or 0) // ANALYZE_PRICE
                if 0 < smaller < len(end.left):
                    # The work was not started; what the wallet still holds is used.
                    fitting = await self._settle(end.left[:smaller])
                    outcomes.update(fitting.outcomes)
                    outcomes.update(
                        (_id(item), _failed(item, fitting.reason)) for item in fitting.left
                    )
                    end.left = end.left[smaller:]
            if end.error is not None and (final := self.final(end.error)) is not None:
                self.halt(final)
            outcomes.update((_id(item), _failed(item, end.reason)) for item in end.left)
        if self._halted is not None:
            outcomes.update((_id(item), _failed(item, self._halted)) for item in left)
        return [outcomes[_id(item)] for item in items]

    async def resume(self, doubts: Sequence[Doubt]) -> None:
        """Settle what an earlier process left in doubt, each batch under its old id, and write down
        what became of it.

        An id older than `RESEND_WITHIN` may have been forgotten by the service, which would then do
        the work again. Its posts are read first (1 credit each); those that are missing were not
        done, and are free.
        """
        places = asyncio.Semaphore(self._options.analyze_concurrency)

        assert self.log is not None
        log = self.log

        async def settle(doubt: Doubt) -> None:
            items = [Item(0, ref.post_id, ref) for ref in doubt.posts]
            async with places:
                error, left = self._halted, items
                if error is None and doubt.age > RESEND_WITHIN:
                    await self._settle_old(doubt, items)
                elif error is None:
                    end = await self._settle(items, doubt)
                    error, left = end.error, end.left
                if error is not None:
                    if (final := self.final(error)) is not None:
                        self.halt(final)
                    logger.warning(
                        "still in doubt: %s (request %s): %s",
                        plural(len(left), "post"),
                        doubt.request_id,
                        error,
                    )
                    self.unsettled.update((_id(item), error.with_traceback(None)) for item in left)

        try:
            async with anyio.create_task_group() as group:
                for doubt in doubts:
                    group.start_soon(settle, doubt)
        finally:
            # Whatever was not settled, because it failed, was cancelled or had not begun, is
            # nobody's again.
            for doubt in doubts:
                log.forgotten(doubt.request_id)

    def final(self, error: TokfluenceError) -> TokfluenceError | None:
        """What every further request would end in, after one has ended in `error`; None if they may
        fare better."""
        if isinstance(
            error, (AuthenticationError, InsufficientCreditsError, PermissionDeniedError)
        ):
            return error
        return self._engine.not_the_api

    def halt(self, error: TokfluenceError) -> None:
        """Send nothing more; what is left gets `error`."""
        if self._halted is None:
            logger.warning("nothing more is sent: %s", error)
            self._halted = error
        if (
            isinstance(error, (AuthenticationError, PermissionDeniedError))
            or error is self._engine.not_the_api
        ):
            # Nor what waits in line for a slot. An empty wallet may still hold enough for reads.
            self._budget.close(error)

    async def _settle_old(self, doubt: Doubt, items: Sequence[Item]) -> None:
        assert self.log is not None
        if self._verifies:
            done = await self._verify(items, doubt.quiet)
            found = [self._verified(item) for item in items if _id(item) in done]
            await self.log.settled(doubt.request_id, found, age=doubt.quiet)
        else:
            self.unsure.update(_id(item) for item in items)
            await self.log.settled(
                doubt.request_id, [_duplicate(item) for item in items], unsure=True, age=doubt.quiet
            )

    async def _settle(self, items: Sequence[Item], doubt: Doubt | None = None) -> _End:
        """Send the items until every one has an outcome, or until a batch of them fails as a
        whole."""
        end = _End()
        while items:
            ids = BatchIds(items, self.log, doubt.request_id if doubt is not None else None)
            try:
                found, again, unsure = await self._send(
                    items, ids, doubt.quiet if doubt is not None else 0.0
                )
            except BaseException as error:
                # Cancelled too: the disk has the last word, and it was told before the bytes left.
                await finish(ids.give_up())
                if isinstance(error, JournalError) or not isinstance(error, TokfluenceError):
                    raise  # of a journal's: nothing may be sent that cannot be written down
                end.left, end.error, end.free = list(items), error, ids.state is BatchState.RELEASED
                return end
            if self.log is not None and ids.current is not None:
                await self.log.settled(ids.current, list(found.values()), unsure=unsure)
            end.outcomes.update(found)
            items, doubt = again, None
        return end

    async def _send(
        self, items: Sequence[Item], ids: BatchIds, quiet: float
    ) -> tuple[dict[str, Outcome[Analysis]], list[Item], bool]:
        """One batch to its end: outcomes, what has to be sent again under a new id, and whether a
        409 is all that is known.

        Args:
            quiet: Seconds since an earlier process sent it, if one did.
        """
        loop = asyncio.get_running_loop()
        call = build_analyze([_ref(item).url for item in items], self._force)
        began = loop.time()
        answer = await self._engine.perform(
            call,
            _ANALYZE,
            self._options,
            self._budget,
            batch=True,
            ids=ids,
            at_least=self._planner.limit(len(items)),
        )
        if not isinstance(answer, Settled):
            ids.state = step(ids.state, BatchEvent.ANSWERED)
            self._observe(len(items), loop.time() - began)
            rows = match_rows([_ref(item) for item in items], answer.data)
            return {_id(item): _outcome(item, rows.get(_id(item))) for item in items}, [], False
        if ids.state is not BatchState.CLAIMED:
            return {_id(item): _duplicate(item) for item in items}, [], False
        if not self._verifies:
            self.unsure.update(_id(item) for item in items)
            return {_id(item): _duplicate(item) for item in items}, [], True
        # The attempt that may still be at work is an earlier process's, or one of this call's,
        # which began just now.
        done = await self._verify(items, 0.0 if ids.lost_here else quiet + loop.time() - began)
        if not done and ids.lost_here:  # it never ran: what was counted as spent was not
            self._budget.settle(0, -call.price)
        ids.state = step(ids.state, BatchEvent.READABLE if done else BatchEvent.MISSING)
        found = {_id(item): self._verified(item) for item in items if _id(item) in done}
        return found, [item for item in items if _id(item) not in done], False

    def _observe(self, urls: int, seconds: float) -> None:
        self._planner.observe(urls, seconds)
        if self.log is not None:
            self.log.learn(**self._planner.learnt())

    async def _verify(self, items: Sequence[Item], age: float) -> set[str]:
        """The posts that can be read, after giving an attempt that began `age` seconds ago, and may
        still be at work, the time to finish.

        A batch is worked in order, so one post goes ahead, the last, until no attempt can be at
        work; then each of the others, again while it is missing, as it may take longer to become
        readable. To give up too early would pay for a post
        again: 25 credits, where a read costs 1.
        """
        loop = asyncio.get_running_loop()
        began = loop.time() - age
        at = max(began + self.expected(len(items)), loop.time())
        end = max(began + self.allowance(len(items)) + _VISIBLE_WITHIN, loop.time())
        left = list(items)
        done: set[str] = set()
        while left:
            ahead = left.pop()
            found = await self._wait_for(ahead, at, end)
            if found is not False:
                done.add(_id(ahead))
            # A read that failed says nothing of the batch: the next one goes ahead.
            if found is not None:
                break
        now = loop.time()

        async def wait(item: Item) -> None:
            if await self._wait_for(item, now, min(end, now + _VISIBLE_WITHIN)) is not False:
                done.add(_id(item))

        async with anyio.create_task_group() as group:
            for item in left:
                group.start_soon(wait, item)
        return done

    async def _was_done(self, item: Item, entry: Entry) -> bool:
        """Whether a post is readable, of whose analysis an earlier run knew only that it was paid
        for, or may have been."""
        assert self.log is not None
        now = asyncio.get_running_loop().time()
        # The attempt may still have been at work then, if a 409 was all that spoke for it.
        grace = _VISIBLE_WITHIN + (self.allowance(MAX_BATCH) if entry.status == DUPLICATE else 0.0)
        return (
            await self._wait_for(item, now, now - self.log.age(entry.analyzed_at) + grace)
            is not False
        )

    async def _wait_for(self, item: Item, at: float, end: float) -> bool | None:
        """Read a post at `at`, and again while it is missing, at growing intervals, the last time
        at `end`: whether it is there.

        None where the read itself failed; `_verified` has the error. As long as nobody knows, the
        post is not sent again, and neither its batch nor the call ends for it.
        """
        loop = asyncio.get_running_loop()
        wait = _VERIFY_EVERY
        while True:
            await asyncio.sleep(at - loop.time())
            try:
                await self._engine.perform(
                    build_get_post(_id(item)), _POST, self._options, self._budget
                )
            except TokfluenceError as error:
                if not (isinstance(error, NotFoundError) and error.is_the_services):
                    if (final := self.final(error)) is not None:
                        self.halt(final)
                    self._unread[_id(item)] = error
                    return None
                if at >= end:
                    return False
                at, wait = min(max(at, loop.time()) + wait, end), wait * 2
            else:
                return True

    def _verified(self, item: Item) -> Outcome[Analysis]:
        """The outcome of a post that is not known to be missing."""
        error = self._unread.pop(_id(item), None)
        return _duplicate(item) if error is None else _failed(item, error)


class Intake:
    """Cuts batches from a stream of items, one worker at a time.

    A batch leaves when it is as large as the planner wants, when the stream has ended, or when the
    next item is long in coming; `left` says how many items are still to come into the stream, or
    None if that is not known.
    """

    def __init__(
        self,
        planner: Planner,
        receive: MemoryObjectReceiveStream[Item],
        left: Callable[[], int | None],
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
                        items.append(await take_over(self._receive))
                        if len(items) == 1:
                            scope.deadline = anyio.current_time() + _LINGER
                except anyio.EndOfStream:
                    pass
            self._planner.cut()
        return items

    def _all(self, taken: int) -> int | None:
        left = self._left()
        return (
            None if left is None else left + taken + self._receive.statistics().current_buffer_used
        )


def _ref(item: Item) -> PostRef:
    assert item.ref is not None
    return item.ref


def _id(item: Item) -> str:
    return _ref(item).post_id


def _failed(item: Item, error: TokfluenceError) -> Outcome[Analysis]:
    # Without its traceback, which would keep every frame it passed alive as long as the outcome is.
    return Outcome(input=item.given, post_id=_id(item), error=error.with_traceback(None))


def _duplicate(item: Item) -> Outcome[Analysis]:
    return Outcome(
        input=item.given,
        post_id=_id(item),
        value=Analysis(post_id=_id(item), url=_ref(item).url, status=DUPLICATE),
    )


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
