"""One batch to its end: sent, settled by a 409 or by reads, or failed as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from .._errors import APIResponseValidationError, JournalError, TokfluenceError
from .._http.retry import Settled
from .._journal.records import TakenError
from .._models import Analysis, Outcome
from .._tasks import finish
from .._wire.bodies import AnalyzeBody
from .._wire.calls import build_analyze
from .._wire.shapes import Shape
from .batch import BatchIds
from .planner import Planner, match_rows
from .requests import Requests
from .sources import Item
from .verify import Verifier

if TYPE_CHECKING:
    from .._journal.journal import Journal
    from .._journal.records import Doubt, Entry

__all__ = ["BatchEnd", "Settler"]

_ANALYZE: Shape[AnalyzeBody] = Shape(AnalyzeBody)


class BatchEnd(Struct):
    """How an attempt to settle some posts ended.

    Attributes:
        outcomes: What is known, whatever became of the rest.
        left: Posts of the batch that failed as a whole, and `error` why.
        free: No attempt of that batch can have run: its posts may be sent under another id.
        taken: Another call has `left`, or has settled them. They were not sent.
    """

    outcomes: dict[str, Outcome[Analysis]] = {}
    left: Sequence[Item] = ()
    error: TokfluenceError | None = None
    free: bool = False
    taken: bool = False


class _Answer(NamedTuple):
    """What sending a batch has shown: outcomes by post, what has to be sent again under a new id,
    and whether a 409 is all that is known."""

    outcomes: dict[str, Outcome[Analysis]]
    again: Sequence[Item] = ()
    unsure: bool = False


class Settler:
    """Sends the batches of one call, each until every post has an outcome.

    Args:
        force: Skip the service's freshness window.
        verify: Whether to read the posts of a batch whose 409 proves nothing. Without, they come
            back as `duplicate_request` and stand in `unsure`: for a caller who reads them anyway.

    Attributes:
        verifier: What finds out by reads.
        journal: Where batches are written down.
        unsure: Posts of which only such a 409 says that they were analyzed.
    """

    def __init__(self, requests: Requests, planner: Planner, *, force: bool, verify: bool) -> None:
        self._requests = requests
        self._planner = planner
        self.verifier = Verifier(requests, planner)
        self._force = force
        self._verifies = verify
        self.journal: Journal | None = None
        self.unsure: set[str] = set()
        # Posts of which a 409 for a fresh id has come: once more they are sent, and not again.
        self._answered_twice: set[str] = set()

    async def settle(self, items: Sequence[Item], doubt: Doubt | None = None) -> BatchEnd:
        """Send the items until each has an outcome, or until a batch of them fails as a whole.

        Args:
            doubt: The batch of an earlier process that these posts were in.
        Raises:
            JournalError: Nothing may be sent that cannot be written down.
        """
        end = BatchEnd()
        while items:
            resumed = None if doubt is None else doubt.request_id
            ids = BatchIds([item.post for item in items], self.journal, resumed)
            try:
                answer = await self._send(items, ids, 0.0 if doubt is None else doubt.quiet)
            except BaseException as error:
                # Also when cancelled: the disk has the last word, and it was told of the id.
                await finish(ids.give_up())
                if isinstance(error, TakenError):
                    end.left, end.taken = items, True
                    return end
                if isinstance(error, JournalError) or not isinstance(error, TokfluenceError):
                    raise
                end.left, end.error, end.free = items, error, ids.free
                return end
            if self.journal is not None and ids.current is not None:
                await self.journal.settled(
                    ids.current, list(answer.outcomes.values()), unsure=answer.unsure
                )
            end.outcomes.update(answer.outcomes)
            items, doubt = answer.again, None
        return end

    async def recall(self, item: Item, entry: Entry) -> Outcome[Analysis] | None:
        """The outcome of a post whose analysis is written down; None if it turns out that it was
        not analyzed."""
        if not entry.unsure:
            return item.succeeded(item.recalled(entry))
        if not self._verifies:
            self.unsure.add(item.post_id)
            return item.duplicate()
        assert self.journal is not None
        age = self.journal.age(entry.analyzed_at)
        return await self.verifier.verify_earlier(item, age, entry.status)

    async def settle_old(self, doubt: Doubt, items: Sequence[Item]) -> None:
        """Settle a batch whose id the service may have forgotten: by reads, without its id."""
        assert self.journal is not None
        if self._verifies:
            found = list((await self.verifier.verify(items, doubt.quiet)).values())
        else:
            self.unsure.update(item.post_id for item in items)
            found = [item.duplicate() for item in items]
        await self.journal.settled(
            doubt.request_id, found, unsure=not self._verifies, age=doubt.quiet
        )

    async def _send(self, items: Sequence[Item], ids: BatchIds, quiet: float) -> _Answer:
        """Send a batch until an answer or a 409 ends it.

        Args:
            quiet: Seconds since an earlier process sent it, if one did.
        """
        loop = asyncio.get_running_loop()
        call = build_analyze([item.post.url for item in items], self._force)
        began = loop.time()
        answer = await self._requests.engine.perform(
            call,
            _ANALYZE,
            self._requests.options,
            ids=ids,
            at_least=self._planner.limit(len(items)),
        )
        if not isinstance(answer, Settled):
            self._observe(len(items), loop.time() - began)
            rows = match_rows([item.post for item in items], answer.data)
            return _Answer({i.post_id: _outcome_of(i, rows.get(i.post_id)) for i in items})
        duplicates = {item.post_id: item.duplicate() for item in items}
        if not answer.verify:
            return _Answer(duplicates)
        twice = ids.answered_twice
        last: set[str] = set()
        if twice is not None:
            last = self._answered_twice & duplicates.keys()
            self._answered_twice |= duplicates.keys()
        if not self._verifies:
            # Whoever reads them takes a post that is not `unsure` for analyzed, readable or not.
            self.unsure.update(duplicates.keys() - last)
            return _Answer(duplicates, unsure=True)
        # An attempt of this call, if one may have run, began just now; an earlier process's did
        # `quiet` seconds before.
        here = ids.lost_here or twice is not None
        age = 0.0 if here else quiet + loop.time() - began
        found = await self.verifier.verify(items, age)
        # It never ran: what was counted as spent was not. Unless it was sent twice: the first may
        # have been charged each time.
        if not found and ids.lost_here and twice is None:
            self._requests.budget.settle(0, -call.price)
        if twice is not None:
            missing = [i for i in items if i.post_id in last and i.post_id not in found]
            found.update((item.post_id, item.failed(twice)) for item in missing)
        return _Answer(found, [item for item in items if item.post_id not in found])

    def _observe(self, urls: int, seconds: float) -> None:
        self._planner.observe(urls, seconds)
        if self.journal is not None:
            self.journal.learn(**self._planner.learnt())


def _outcome_of(item: Item, analysis: Analysis | None) -> Outcome[Analysis]:
    """By an answer, in which the item's row may be missing."""
    if analysis is not None:
        return item.succeeded(analysis)
    message = (
        f"The service left post {item.post_id} out of its answer. It was charged: read it with "
        "posts.get (1 credit) before analyzing it again."
    )
    return item.failed(APIResponseValidationError(message, status=200))
