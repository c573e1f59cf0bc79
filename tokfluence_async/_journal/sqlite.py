"""The journal in one SQLite file.

Promises, besides those of every journal: output files and journal agree after any death; two runs
never share a journal; the event loop never waits for a disk.

Relies on SQLite with `synchronous=FULL` (with NORMAL a power cut lost acknowledged rows in 148 of
150 tries, with FULL in none), and on its file lock: the connection holds it as long as it is open,
and the operating system releases it however the process dies.

Hard: durability costs an fsync, so records share commits; see `writer`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from .._models import Analysis, Outcome
from .._platform import read_at
from .._text import plural
from .._wire.ids import PostRef, signed
from . import schema
from .journal import Journal
from .records import Doubt, Entry
from .store import Store
from .writer import Writer

if TYPE_CHECKING:
    from .outputs import Output

__all__ = ["SQLiteJournal"]

T = TypeVar("T")

# Pages of comments whose place is remembered while a post's comments are walked: with 200 a page,
# the 10,000 comments that may arrive between two runs without one being written twice.
_PAGES = 50


class SQLiteJournal(Journal, at_path=True):
    """The crash-safe record of what was submitted and paid for, in one SQLite file.

    One process at a time can have it open, and one event loop. Calls that share one and run at the
    same time have to be given different posts: what one of them is about to send, the other does
    not know yet. Arguments and errors: see `Journal`.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._store = Store(path)
        self.path = self._store.path
        self._writer: Writer | None = None
        # Batches of this process that are under way; they are in doubt for other processes only.
        self._live: set[str] = set()

    # --- opening and closing ----------------------------------------------------------------------

    async def open(self) -> Self:
        """Open the file, or do nothing if it is open. Returns the journal itself.

        Raises:
            JournalError: The file cannot be used.
            RuntimeError: It is open in another event loop.
        """
        if self._writer is None:
            self._writer = Writer(self._store)
            try:
                await self._writer.open()
            except BaseException:
                self._writer = None
                raise
        elif self._writer.loop is not asyncio.get_running_loop():
            raise RuntimeError("This journal is open in another event loop; close it there first.")
        return self

    async def aclose(self) -> None:
        """Write what is left and close the file. Idempotent.

        Raises:
            JournalError: What was left could not be written.
        """
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.aclose()

    async def flush(self) -> None:
        """Return when everything given so far is on disk."""
        await self._open.flush()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run `work`, which waits for the disk, when everything given so far is on disk."""
        answer: T = await self._open.ask(work)
        return answer

    async def _rows(self, sql: str) -> list[Any]:
        return await self.in_thread(lambda: self._store.db.execute(sql).fetchall())

    @property
    def _open(self) -> Writer:
        if self._writer is None:
            raise RuntimeError(
                "This journal is not open: `async with journal`, or `await journal.open()`."
            )
        if self._writer.broken is not None:
            raise self._writer.broken
        return self._writer

    def __repr__(self) -> str:
        writer = self._writer
        state = "closed" if writer is None else "broken" if writer.broken else "open"
        waiting = plural(0 if writer is None else writer.size, "byte")
        return f"<SQLiteJournal {str(self.path)!r}, {state}, {waiting} waiting>"

    # --- batches ----------------------------------------------------------------------------------

    async def sending(
        self, request_id: str, posts: Sequence[PostRef], *, replaces: str | None
    ) -> None:
        """See `Journal.sending`."""
        writer = self._open
        encoded = msgspec.msgpack.encode(posts)
        writer.add(schema.SENDING, request_id, self._clock(), encoded)
        if replaces is not None:
            writer.add(schema.GONE, replaces)
            self._live.discard(replaces)
        self._live.add(request_id)
        await writer.flush()

    async def sending_again(self, request_id: str) -> None:
        """See `Journal.sending_again`."""
        self._open.add(schema.SENDING_AGAIN, self._clock(), request_id)
        await self.flush()

    async def settled(
        self,
        request_id: str,
        outcomes: Sequence[Outcome[Analysis]],
        *,
        unsure: bool = False,
        age: float = 0.0,
    ) -> None:
        """See `Journal.settled`."""
        writer = self._open
        at = self._clock() - age
        for outcome in outcomes:
            post_id, value = signed(outcome.post_id), outcome.value
            if value is not None:
                writer.add(schema.ANALYZED, post_id, value.status, value.url, unsure, at)
            else:
                # A post that a 200 left out was charged. Reading it will tell what became of it.
                writer.add(schema.ANALYZED, post_id, "", None, True, at)
        await self.released(request_id)

    async def released(self, request_id: str) -> None:
        """See `Journal.released`."""
        self._open.add(schema.GONE, request_id)
        await self.flush()
        self._live.discard(request_id)

    def forgotten(self, request_id: str) -> None:
        """See `Journal.forgotten`."""
        self._live.discard(request_id)

    async def unsettled(self) -> list[Doubt]:
        """See `Journal.unsettled`."""
        now = self._clock()

        def read() -> list[Doubt]:
            rows = self._store.db.execute(
                "SELECT request_id, posts, sent_at, coalesce(sent_again_at, sent_at) FROM batches "
                "ORDER BY sent_at"
            ).fetchall()
            return [
                Doubt(
                    request_id,
                    msgspec.msgpack.decode(posts, type=list[PostRef]),
                    first,
                    max(now - first, 0.0),
                    max(now - last, 0.0),
                )
                for request_id, posts, first, last in rows
            ]

        doubts = await self.in_thread(read)
        return [doubt for doubt in doubts if doubt.request_id not in self._live]

    async def take_up(self, posts: Sequence[str] = ()) -> list[Doubt]:
        """See `Journal.take_up`."""
        doubts = [
            doubt
            for doubt in await self.unsettled()
            if not posts or any(ref.post_id in posts for ref in doubt.posts)
        ]
        self._live.update(doubt.request_id for doubt in doubts)
        return doubts

    def age(self, at: float | None) -> float:
        """See `Journal.age`."""
        return 0.0 if at is None else max(self._clock() - at, 0.0)

    # --- posts ------------------------------------------------------------------------------------

    async def look_up(self, post_id: str) -> Entry | None:
        """What is known of a post. Concurrent look-ups share a trip to the disk."""
        entry: Entry | None = await self._open.ask(signed(post_id))
        return entry

    async def is_new(self) -> bool:
        """See `Journal.is_new`."""
        return not await self._rows("SELECT 1 FROM posts LIMIT 1")

    async def known(self) -> list[str]:
        """See `Journal.known`."""
        rows = await self._rows("SELECT post_id FROM posts WHERE written OR status IS NOT NULL")
        return [str(number % 2**64) for (number,) in rows]

    # --- output files -----------------------------------------------------------------------------

    async def attach(self, name: str, path: Path) -> Output:
        """Open an output file, made if it does not exist, and cut what a crash has left behind what
        the journal knows.

        Raises:
            JournalError: It cannot be written; or it and the journal do not belong together.
                Neither is touched.
        """
        return await self.in_thread(lambda: self._store.attach(name, path))

    async def write_post(self, output: Output, post_id: str, line: bytes) -> None:
        """Append a post's line."""
        writer = self._open
        writer.append(output, line)
        writer.add(schema.WRITTEN, signed(post_id))
        writer.later()
        await writer.room()

    async def write_page(
        self, output: Output, post_id: str, lines: bytes, cursor: int, next_cursor: int | None
    ) -> None:
        """Append a page of a post's comments; the walk goes on at `next_cursor`, or is over."""
        writer, number = self._open, signed(post_id)
        if next_cursor is None:
            writer.add(schema.WALKED, cursor, 1, number)
            writer.add(schema.NO_PAGES, number)
        else:
            writer.add(schema.WALKED, next_cursor, 0, number)
            writer.add(schema.PAGE, number, cursor, output.length, len(lines))
        writer.append(output, lines)
        writer.later()
        await writer.room()

    async def last_pages(self, output: Output, post_id: str) -> list[bytes]:
        """The pages of comments written last for a post whose walk is not over, as they stand in
        `output`."""

        def read() -> list[bytes]:
            rows = self._store.db.execute(
                "SELECT start, length FROM pages WHERE post_id = ? ORDER BY cursor DESC LIMIT ?",
                (signed(post_id), _PAGES),
            ).fetchall()
            return [read_at(output.fd, length, start) for start, length in reversed(rows)]

        return await self.in_thread(read)

    # --- what was learnt --------------------------------------------------------------------------

    async def learnt(self) -> dict[str, float]:
        """See `Journal.learnt`."""
        return dict(await self._rows("SELECT name, value FROM learnt"))

    def learn(self, **values: float) -> None:
        """Remember numbers for the next run, with the next commit."""
        writer = self._writer
        if writer is not None and writer.broken is None:
            for name, value in values.items():
                writer.add(schema.LEARNT, name, float(value))
            writer.later()
