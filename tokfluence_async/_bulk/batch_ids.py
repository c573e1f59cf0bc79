"""The request ids of a batch, each written down before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from .._errors import DuplicateRequestError, JournalError, TokfluenceError
from .._http.retry import Past
from .._models import Analysis, Outcome
from .._wire.ids import PostRef
from .._wire.request_ids import next_request_id
from .batch import BatchEvent, BatchState, event_of, past_of, step

if TYPE_CHECKING:
    from .._journal.records import Doubt, Entry

__all__ = ["BatchIds", "BatchLog"]


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

    async def settled(
        self,
        request_id: str,
        outcomes: Sequence[Outcome[Analysis]],
        *,
        unsure: bool = False,
        age: float = 0.0,
    ) -> None:
        """Return only when the outcomes are on disk. Nobody is told of them before."""
        ...

    @property
    def holds(self) -> bool:
        """Whether what this process has claimed is certainly still its own."""
        ...

    async def confirm(self, request_id: str) -> None:
        """Return only if the batch is still this call's. Raises `TakenError`."""
        ...

    async def wait_for(self, posts: Sequence[str]) -> None:
        """Return when none of `posts` is in a batch that somebody works on."""
        ...

    async def take_up(self, posts: Sequence[str] = ()) -> list[Doubt]:
        """The batches in doubt that `posts` are in; they are this call's from now on."""
        ...

    async def look_up(self, post_id: str) -> Entry | None:
        """What is known of a post."""
        ...

    async def released(self, request_id: str) -> None:
        """No attempt of this batch ran: its posts are free."""
        ...

    def forgotten(self, request_id: str) -> None:
        """The batch stays in doubt, and nobody in this process works on it any more."""
        ...

    def age(self, at: float | None) -> float:
        """Seconds since a time of day that was written down; 0.0 if it was not."""
        ...

    def learn(self, **values: float) -> None:
        """Remember numbers for the next run."""
        ...


class BatchIds:
    """The request ids of one batch, and what each has been through.

    Args:
        resumed: The id of an earlier process, under which the batch is asked about first.

    Attributes:
        current: The id in use, None before the first.
        state: Where the batch is, by the table of `batch`.
        lost_here: Whether an attempt of *this process* may have run without its answer.
        answered_twice: The 409 of an id that was never sent before: something in between has sent
            it twice (HAProxy's `retry-on` does that to analyze as well). The first answer is lost.
    """

    def __init__(
        self, posts: Sequence[PostRef], log: BatchLog | None, resumed: str | None = None
    ) -> None:
        self._posts = posts
        self._log = log
        self._resumed = resumed
        self.state = BatchState.PLANNED if resumed is None else BatchState.MIXED
        self.current: str | None = None
        self.lost_here = False
        self.answered_twice: DuplicateRequestError | None = None

    @property
    def past(self) -> Past:
        """What the first id has been through already, in an earlier process."""
        return past_of(self.state)

    async def next(self) -> str:
        """The id for the next attempt, written down."""
        if self._resumed is not None:
            self.current, self._resumed = self._resumed, None
            if self._log is not None:
                await self._log.sending_again(self.current)
            return self.current
        request_id, replaced = next_request_id(), self.current
        self.current = request_id
        if self._log is not None:
            await self._log.sending(request_id, self._posts, replaces=replaced)
        self.happened(BatchEvent.WRITTEN)
        return request_id

    def holds(self) -> bool:
        """Whether the current id is certainly still this call's to send."""
        return self._log is None or self._log.holds

    async def confirm(self) -> None:
        """Return only if the current id may be sent once more.

        Raises:
            TakenError: Another process has taken the batch over.
        """
        if self._log is not None and self.current is not None:
            await self._log.confirm(self.current)

    def note(self, error: TokfluenceError | None) -> None:
        """An attempt ended in `error`; None if it was cancelled after its bytes may have left."""
        event = BatchEvent.LOST if error is None else event_of(error)
        if self.state is BatchState.READY and isinstance(error, DuplicateRequestError):
            self.answered_twice = error
        self.lost_here = self.lost_here or event is BatchEvent.LOST
        self.happened(event)

    def happened(self, event: BatchEvent) -> None:
        """Go on to the state that follows."""
        self.state = step(self.state, event)

    async def give_up(self) -> None:
        """The call failed. What never ran is free again; what may have run stays written down."""
        self.happened(BatchEvent.GIVEN_UP)
        if self._log is None or self.current is None:
            return
        if self.state is BatchState.RELEASED:
            # A journal's failure is told to whoever writes next: why the call failed comes first.
            with suppress(JournalError):
                await self._log.released(self.current)
        else:
            self._log.forgotten(self.current)
