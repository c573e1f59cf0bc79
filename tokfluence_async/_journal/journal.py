"""What a journal promises: what is about to be sent is written before it leaves, and what came back
is written before anyone hears of it.

So a process that dies anywhere leaves nothing, or a batch in doubt whose request id is known, or
outcomes. What a batch in doubt means is in `_bulk.batch`. `sqlite` keeps these promises in a file,
for one process at a time.

Ages are told by the time of day, because they span processes. A clock that was set back makes ages
shorter, never negative.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, ClassVar, Self, cast

from .._models import Analysis, Outcome
from .._wire.ids import PostRef
from .records import Doubt, Entry

__all__ = ["Journal"]


class Journal:
    """The crash-safe record of what was submitted and paid for.

        async with Journal("crawl.sqlite") as journal:
            report = await client.posts.analyze(urls, journal=journal)

    The same inputs with the same journal after any death: nothing is analyzed again, and everything
    is settled. Wherever `journal=` is taken, a path will do; the call then opens and closes it.

    `Journal(path)` makes a `SQLiteJournal`, which one process at a time can have open, in one event
    loop.

    Args:
        path: The file; it is made if it does not exist.
        clock: The time of day in seconds, for the ages of batches in doubt.

    Raises, when it is opened:
        JournalError: The file is held by another process, damaged, of a newer version, or no
            journal at all; or the path is no file's, as `":memory:"`, which would not outlive the
            process.
    """

    _at_path: ClassVar[type[Journal]]

    def __init_subclass__(cls, *, at_path: bool = False) -> None:
        """Another kind of journal; with `at_path` it is what `Journal(path)` makes."""
        if at_path:
            Journal._at_path = cls

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return object.__new__(cast("type[Self]", cls._at_path) if cls is Journal else cls)

    def __init__(
        self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time
    ) -> None:
        """Never run: `__new__` makes a journal of another class."""

    # --- opening and closing ----------------------------------------------------------------------

    async def open(self) -> Self:
        """Open it, or do nothing if it is open. Returns the journal itself."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Write what is left, and close. Idempotent.

        Raises:
            JournalError: What was left could not be written.
        """
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    # --- batches ----------------------------------------------------------------------------------

    async def sending(
        self, request_id: str, posts: Sequence[PostRef], *, replaces: str | None
    ) -> None:
        """Return only when it is written that `posts` are about to leave under `request_id`."""
        raise NotImplementedError

    async def sending_again(self, request_id: str) -> None:
        """Return only when it is written that a batch of an earlier run is about to leave once
        more, under its old id."""
        raise NotImplementedError

    async def settled(
        self,
        request_id: str,
        outcomes: Sequence[Outcome[Analysis]],
        *,
        unsure: bool = False,
        age: float = 0.0,
    ) -> None:
        """Return only when the outcomes are written; they are told to nobody before.

        Args:
            unsure: Only a 409 speaks for them.
            age: Seconds since the analysis, as far as is known.
        """
        raise NotImplementedError

    async def released(self, request_id: str) -> None:
        """No attempt of this batch ran: its posts are free."""
        raise NotImplementedError

    def forgotten(self, request_id: str) -> None:
        """The batch stays in doubt, and nobody in this process works on it any more."""
        raise NotImplementedError

    async def unsettled(self) -> list[Doubt]:
        """The batches in doubt: sent or about to be when their process ended or gave up, oldest
        first."""
        raise NotImplementedError

    async def take_up(self, posts: Sequence[str] = ()) -> list[Doubt]:
        """As `unsettled`; they count as under way from now on.

        Args:
            posts: Only the batches that these posts are in; none for all batches.
        """
        raise NotImplementedError

    # --- sharing a journal ------------------------------------------------------------------------

    def for_call(self) -> Journal:
        """The journal as one call has it: in a shared one, a claim belongs to a call."""
        return self

    @property
    def holds(self) -> bool:
        """Whether what this process has claimed is certainly still its own."""
        return True

    async def confirm(self, request_id: str) -> None:
        """Return only if a batch is still this call's, so that it may be sent once more.

        Raises:
            TakenError: Another process has taken it over.
        """

    async def wait_for(self, posts: Sequence[str]) -> None:
        """Return when none of `posts` is in a batch that somebody works on."""

    # --- posts ------------------------------------------------------------------------------------

    async def look_up(self, post_id: str) -> Entry | None:
        """What is known of a post."""
        raise NotImplementedError

    async def is_new(self) -> bool:
        """Whether nothing is known of any post: a first run that looks nothing up takes two thirds
        of the CPU a post."""
        raise NotImplementedError

    async def is_empty(self) -> bool:
        """Whether nothing is known of any post, and no batch is in doubt."""
        return await self.is_new() and not await self.unsettled()

    async def known(self) -> list[str]:
        """The posts that were analyzed or read, all of them."""
        raise NotImplementedError

    def age(self, at: float | None) -> float:
        """Seconds since a time of day that was recorded; 0.0 if it was not."""
        raise NotImplementedError

    # --- what was learnt --------------------------------------------------------------------------

    async def learnt(self) -> dict[str, float]:
        """Numbers that an earlier run found out, by name."""
        raise NotImplementedError

    def learn(self, **values: float) -> None:
        """Remember numbers for the next run."""
        raise NotImplementedError
