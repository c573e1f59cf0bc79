"""The request ids of a batch: each written down before it is used.

A batch is up to 50 URLs under one request id. A lost answer may have cost 25 credits a URL, the
service answers a repeated id with a 409 instead of that answer, and the process may die at any
line. So what an id has been through, its `Past`, decides what its 409 proves (`_http.retry.decide`)
and whether its posts may be sent under another id, which would be paid for again.
`docs/design/request-ids-and-money.md` has the life of a batch as a picture.

Source: the Tokfluence API page, *Idempotency*.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from .._errors import DuplicateRequestError, JournalError, TokfluenceError
from .._http.retry import Past, effect_of
from .._wire.ids import PostRef
from .._wire.request_ids import next_request_id

if TYPE_CHECKING:
    from .._journal.journal import Journal

__all__ = ["BatchIds"]


class BatchIds:
    """The request ids of one batch, one after the other.

    Args:
        journal: Where they are written down, if anywhere.
        resumed: The id of an earlier process, under which the batch is asked about first.

    Attributes:
        current: The id in use, None before the first.
        past: What it has been through. Of an earlier process's id that is not known, so it may be
            anything.
        lost_here: Whether an attempt of *this process* may have run without its answer.
        answered_twice: The 409 of an id that was never sent before: something in between has sent
            it twice (HAProxy's `retry-on` does that to analyze as well). The first answer is lost.
    """

    def __init__(
        self, posts: Sequence[PostRef], journal: Journal | None, resumed: str | None = None
    ) -> None:
        self._posts = posts
        self._journal = journal
        self._resumed = resumed
        self.current: str | None = None
        self.past = Past.FRESH if resumed is None else Past.REFUSED | Past.MAYBE
        self.lost_here = False
        self.answered_twice: DuplicateRequestError | None = None

    @property
    def free(self) -> bool:
        """Whether no attempt under the current id can have run, so that the posts may be sent under
        another one."""
        return not self.past & Past.MAYBE

    async def next(self) -> str:
        """The id for the next attempt, written down."""
        if self._resumed is not None:
            self.current, self._resumed = self._resumed, None
            if self._journal is not None:
                await self._journal.sending_again(self.current)
            return self.current
        request_id, replaced = next_request_id(), self.current
        self.current = request_id
        if self._journal is not None:
            await self._journal.sending(request_id, self._posts, replaces=replaced)
        self.past = Past.FRESH
        return request_id

    def holds(self) -> bool:
        """Whether the current id is certainly still this call's to send."""
        return self._journal is None or self._journal.holds

    async def confirm(self) -> None:
        """Return only if the current id may be sent once more.

        Raises:
            TakenError: Another process has taken the batch over.
        """
        if self._journal is not None and self.current is not None:
            await self._journal.confirm(self.current)

    def note(self, error: TokfluenceError | None) -> None:
        """An attempt ended in `error`; None if it was cancelled after its bytes may have left."""
        if isinstance(error, DuplicateRequestError):
            if self.past is Past.FRESH:
                self.answered_twice = error
                self.past = Past.MAYBE  # one of the two may have run; reading the posts will tell
            return
        effect = Past.MAYBE if error is None else effect_of(error)
        self.lost_here = self.lost_here or effect is Past.MAYBE
        self.past |= effect

    async def give_up(self) -> None:
        """The call failed. What never ran is free again; what may have run stays written down."""
        if self._journal is None or self.current is None:
            return
        if self.free:
            # A journal's failure is told to whoever writes next: why the call failed comes first.
            with suppress(JournalError):
                await self._journal.released(self.current)
        else:
            self._journal.forgotten(self.current)
