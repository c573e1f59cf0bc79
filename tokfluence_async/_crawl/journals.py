"""The two journals of a crawl: what was paid for, and what was written to its folder.

Mostly they are one, `journal.sqlite` in the folder. Where a crawl is given a journal that other
processes share, that one knows what was paid for. What was written is known by the folder's own,
which commits it together with the lines.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import NamedTuple

from msgspec.structs import replace

from .._errors import JournalError
from .._journal.journal import Journal
from .._journal.opening import JournalOrPath, enter_journal, is_redis_url
from .._journal.records import Entry
from .._journal.sqlite import SQLiteJournal
from .._text import plural
from .folder import CrawlFolder

__all__ = ["CrawlJournals", "enter_journals"]


class CrawlJournals(NamedTuple):
    """The journals of one run.

    Attributes:
        paid: Batches, and what was analyzed.
        written: What is in the output files.
        known: Both, as far as a post's entry is concerned.
    """

    paid: Journal
    written: SQLiteJournal
    known: Journal


async def enter_journals(
    stack: AsyncExitStack, folder: CrawlFolder, journal: JournalOrPath | None
) -> CrawlJournals:
    """Make the folder, and open the journals of a crawl until `stack` ends.

    A Redis journal is opened first: where that fails, as without redis-py, no folder is left.

    Raises:
        ConfigurationError: The folder cannot be made or written, or the journal's store not be
            used as things are.
        JournalError: One cannot be used; or the folder's own has batches in doubt, which nobody
            would settle beside a shared one.
    """
    if journal is None:
        journal = folder.journal
    is_file = isinstance(journal, (str, os.PathLike, SQLiteJournal)) and not is_redis_url(journal)
    if is_file:  # it may be in the folder
        folder.prepare()
    paid = await enter_journal(stack, journal)
    if not is_file:
        folder.prepare()
    if isinstance(paid, SQLiteJournal):
        return CrawlJournals(paid, paid, paid)
    written = await stack.enter_async_context(SQLiteJournal(folder.journal))
    if doubts := await written.unsettled():
        raise JournalError(
            f"The folder's own journal {folder.journal} has "
            f"{plural(len(doubts), 'batch', 'batches')} in doubt, from a run without the shared "
            "journal. Run once without it first. Nothing was sent."
        )
    return CrawlJournals(paid, written, _Known(paid, written))


class _Known(Journal):
    """What two journals know of a post."""

    def __init__(self, paid: Journal, written: Journal) -> None:
        self._paid = paid
        self._written = written

    async def is_new(self) -> bool:
        """See `Journal.is_new`."""
        return await self._paid.is_new() and await self._written.is_new()

    async def look_up(self, post_id: str) -> Entry | None:
        """What was paid for by whomever, and written here."""
        own = await self._written.look_up(post_id)
        if own is not None and own.written:
            return own
        paid = await self._paid.look_up(post_id)
        if paid is None or own is None:
            return paid or own
        return replace(paid, written=own.written, cursor=own.cursor, walked=own.walked)
