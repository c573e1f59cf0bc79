"""What is about to be sent, then what came back; written before it is told.

One SQLite file, and one rule for each side of a request: before a batch leaves, its request id and
its posts are on disk; after its answer, the outcomes are, before anyone hears of them. So a process
that dies anywhere leaves either nothing, or a batch in doubt whose id is known, or outcomes. What a
batch in doubt means is in `_batch`.

What is hard about files, and is coped with:

- **Durability costs an fsync.** Records of concurrent coroutines share one commit
  (`synchronous=FULL`: with NORMAL a power cut lost acknowledged rows in 148 of 150 tries, with FULL
  in none); each goes on only after it. What nobody waits for (the lines of a crawl) is committed
  ten times a second, in the order it was given, so that a crash loses a suffix and never a middle.
- **Output files and journal must agree.** A commit writes the lines, syncs the files, and only then
  records their new lengths together with the rows that say what the lines hold. After a crash a
  file is cut to its recorded length: torn lines and lines the journal knows nothing of go, to be
  bought and written again.
- **Two crawls on one journal would pay twice.** The connection holds the file's lock as long as it
  is open (`locking_mode=EXCLUSIVE`, released by the operating system when the process dies, however
  it dies); a second one is told so.
- **Everything blocks.** All of it runs in one thread of its own; the event loop never waits for a
  disk.

Ages are told by the time of day: they span processes. A clock that was set back makes ages shorter,
never negative.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from .._errors import JournalError
from .._models import Analysis, Outcome
from .._platform import OPEN_FLAGS, read_at, sync_data, sync_folder, write_all
from .._text import plural
from .._wire.ids import PostRef, signed

__all__ = ["Doubt", "Entry", "Journal", "Output", "enter_journal", "is_there"]

T = TypeVar("T")

_APPLICATION = 0x746B666A  # "tkfj"
_SCHEMA = 2
# Seconds that what nobody waits for may lie in memory; a crash costs what was bought in them.
_LAZY = 0.1
# Bytes that may wait for the disk before those who write have to wait too.
_BACKLOG = 8 * 2**20
# Pages of comments whose place is remembered while a post's comments are walked: with 200 a page,
# the 10,000 comments that may arrive between two runs without one being written twice.
_PAGES = 50
# Seconds another process may take to let go of the file.
_PATIENCE = 1.0

_TABLES = """
CREATE TABLE batches (request_id TEXT PRIMARY KEY, sent_at REAL NOT NULL, posts BLOB NOT NULL, sent_again_at REAL) WITHOUT ROWID;
CREATE TABLE posts (
    post_id INTEGER PRIMARY KEY, status TEXT, url TEXT, unsure INTEGER NOT NULL DEFAULT 0, analyzed_at REAL,
    written INTEGER NOT NULL DEFAULT 0, cursor INTEGER NOT NULL DEFAULT 0, walked INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE pages (post_id INTEGER NOT NULL, cursor INTEGER NOT NULL, start INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY (post_id, cursor)) WITHOUT ROWID;
CREATE TABLE outputs (name TEXT PRIMARY KEY, length INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE learnt (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
"""

# From each older format to the next.
_UPGRADES = {1: "ALTER TABLE batches ADD COLUMN sent_again_at REAL"}


# What one statement takes; old SQLites allow 999. After each, the thread has to wait for the
# interpreter, up to 5 ms while the event loop computes: beside a loop that does nothing else a
# thousand rows took 4 s one by one, and a tenth of that in hundreds.
_VALUES = 500


class _Statement:
    """A statement for many rows at once, or for one at a time where `row` is empty."""

    __slots__ = ("_sizes", "_width")

    def __init__(self, before: str, row: str = "", after: str = "") -> None:
        self._width = (row or before).count("?")
        most = _VALUES // self._width if row else 1
        # A commit of any length takes few statements, and SQLite keeps what it has made of each.
        self._sizes = {
            rows: f"{before} {', '.join([row] * rows)} {after}"
            for rows in sorted({most, most // 10 or 1, 1})
        }

    def run(self, db: sqlite3.Connection, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run it for `values`, those of one row after the other's. Returns what it finds."""
        found: list[tuple[Any, ...]] = []
        at = 0
        for rows, sql in reversed(self._sizes.items()):
            step = rows * self._width
            while len(values) - at >= step:
                found += db.execute(sql, values[at : at + step])
                at += step
        return found


_SENDING = _Statement("INSERT INTO batches VALUES", "(?, ?, ?, NULL)")
_SENDING_AGAIN = _Statement("UPDATE batches SET sent_again_at = ? WHERE request_id = ?")
_GONE = _Statement("DELETE FROM batches WHERE request_id IN (", "?", ")")
_ANALYZED = _Statement(
    "INSERT INTO posts (post_id, status, url, unsure, analyzed_at) VALUES",
    "(?, ?, ?, ?, ?)",
    "ON CONFLICT (post_id) DO UPDATE SET status = excluded.status, url = excluded.url, unsure = excluded.unsure, "
    "analyzed_at = excluded.analyzed_at",
)
_WRITTEN = _Statement(
    "INSERT INTO posts (post_id, written) VALUES",
    "(?, 1)",
    "ON CONFLICT (post_id) DO UPDATE SET written = 1, unsure = 0",
)
_WALKED = _Statement(
    "INSERT INTO posts (cursor, walked, post_id) VALUES",
    "(?, ?, ?)",
    "ON CONFLICT (post_id) DO UPDATE SET cursor = excluded.cursor, walked = excluded.walked",
)
_PAGE = _Statement("INSERT OR REPLACE INTO pages VALUES", "(?, ?, ?, ?)")
_NO_PAGES = _Statement("DELETE FROM pages WHERE post_id IN (", "?", ")")
_LENGTH = _Statement(
    "INSERT INTO outputs VALUES",
    "(?, ?)",
    "ON CONFLICT (name) DO UPDATE SET length = excluded.length",
)
_LEARNT = _Statement(
    "INSERT INTO learnt VALUES", "(?, ?)", "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
# The order within a commit, whatever the order they were given in. A post is analyzed before it is
# written, and written before its comments are; its pages are forgotten when no more are to come.
_ORDER = (
    _SENDING,
    _SENDING_AGAIN,
    _GONE,
    _ANALYZED,
    _WRITTEN,
    _WALKED,
    _PAGE,
    _NO_PAGES,
    _LEARNT,
    _LENGTH,
)
_LOOK_UP = _Statement(
    "SELECT post_id, status, url, unsure, analyzed_at, written, cursor, walked FROM posts WHERE post_id IN (",
    "?",
    ")",
)


# What reading a row leaves by that is not what was written; SQLite's own words for it may be no
# UTF-8 either.
_UNREADABLE = (ValueError, TypeError, msgspec.MsgspecError)


class Doubt(Struct, frozen=True):
    """A batch that was about to be sent, of which nothing more is known.

    Attributes:
        sent_at: Time of day, in seconds since 1970, at which it was first sent.
        age: Seconds since then: how long the service has to have remembered the id.
        quiet: Seconds since it was last sent, by whichever process: how long an attempt may have
            been at work.
    """

    request_id: str
    posts: list[PostRef]
    sent_at: float
    age: float
    quiet: float


class Entry(Struct, frozen=True, gc=False):
    """What is known of a post.

    Attributes:
        status: The service's word for its analysis, or None if there was none.
        unsure: Only a 409 speaks for that analysis; reading the post will tell.
        analyzed_at: Time of day of the analysis' answer.
        written: The post stands in the output of the crawl.
        cursor: Where the walk over its comments goes on.
        walked: All its comments stand in the output.
    """

    status: str | None
    url: str | None
    unsure: bool
    analyzed_at: float | None
    written: bool
    cursor: int
    walked: bool


class Output:
    """A file of JSON lines that grows in step with the journal; see `Journal.attach`.

    Attributes:
        length: Bytes it will have when everything given so far is written.
    """

    __slots__ = ("durable", "fd", "length", "name", "path")

    def __init__(self, name: str, path: Path, fd: int, length: int) -> None:
        self.name = name
        self.path = path
        self.fd = fd
        self.length = length
        self.durable = length


class _Work:
    """What one trip to the thread takes along."""

    __slots__ = ("lines", "lookups", "reads", "size", "waiters", "writes")

    def __init__(self) -> None:
        self.writes: dict[_Statement, list[Any]] = {}  # the values of all rows in a row
        self.lines: dict[Output, list[bytes]] = {}
        self.size = 0
        self.waiters: list[asyncio.Future[None]] = []
        self.lookups: list[tuple[int, asyncio.Future[Entry | None]]] = []
        self.reads: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []

    def add(self, write: _Statement, *row: Any) -> None:
        self.writes.setdefault(write, []).extend(row)

    def __bool__(self) -> bool:
        return bool(self.writes or self.lines or self.waiters or self.lookups or self.reads)


class Journal:
    """The crash-safe record of what was submitted and paid for, in one SQLite file.

        async with Journal("crawl.sqlite") as journal:
            report = await client.posts.analyze(urls, journal=journal)

    The same inputs with the same journal after any death: nothing is analyzed again, and everything
    is settled. Wherever `journal=` is taken, a path will do; the call then opens and closes it.

    Args:
        path: The file; it is made if it does not exist.
        clock: The time of day in seconds, for the ages of batches in doubt.

    Raises, when it is opened:
        JournalError: The file is held by another process, damaged, of a newer version, or no
            journal at all; or the path is no file's, as `":memory:"`, which would not outlive the
            process.

    One process at a time can have a journal open, and one event loop. Calls that share one and run
    at the same time have to be given different posts: what one of them is about to send, the other
    does not know yet.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = Path(path)
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._db: sqlite3.Connection | None = None
        self._outputs: dict[str, Output] = {}
        self._next = _Work()
        self._current: _Work | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._broken: JournalError | None = None
        # Batches of this process that are under way; they are in doubt for other processes only.
        self._live: set[str] = set()

    # --- opening and closing ----------------------------------------------------------------------

    async def open(self) -> Journal:
        """Open the file, or do nothing if it is open. Returns the journal itself."""
        loop = asyncio.get_running_loop()
        if self._executor is not None:
            if self._loop is not loop:
                raise RuntimeError(
                    "This journal is open in another event loop; close it there first."
                )
            return self
        self._loop = loop
        self._broken = None
        self._next = _Work()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="tokfluence-journal")
        try:
            await loop.run_in_executor(self._executor, self._connect)
        except BaseException:
            executor, self._executor = self._executor, None
            executor.submit(self._disconnect)
            executor.shutdown(wait=False)
            raise
        return self

    async def aclose(self) -> None:
        """Write what is left and close the file. Idempotent.

        Raises:
            JournalError: What was left could not be written.
        """
        executor = self._executor
        if executor is None:
            return
        assert self._loop is not None
        try:
            if self._broken is None:
                await self.flush()
        finally:
            self._executor = None
            self._cancel_timer()
            try:
                await asyncio.shield(self._loop.run_in_executor(executor, self._disconnect))
            finally:
                executor.shutdown(wait=False)

    async def __aenter__(self) -> Journal:
        return await self.open()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        state = "broken" if self._broken else "closed" if self._executor is None else "open"
        return f"<Journal {str(self.path)!r}, {state}, {plural(self._next.size, 'byte')} waiting>"

    def _connect(self) -> None:
        try:
            name = str(self.path)
            # What SQLite does not take for a file of that name, but for a database in memory, or
            # for options.
            if "\0" in name or name == ":memory:" or name.startswith("file:") or self.path.is_dir():
                raise JournalError(
                    f"The journal {name!r} cannot be opened: give the path of a file. What was paid for is remembered there, so it "
                    "has to outlive this process. Nothing was sent."
                )
            new = not self.path.exists() or self.path.stat().st_size == 0
            self._db = sqlite3.connect(
                self.path,
                timeout=_PATIENCE,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=64,
            )
            self._set_up()
            if new:
                sync_folder(self.path.parent)
        except (sqlite3.Error, *_UNREADABLE) as error:
            raise self._error(error) from error
        except OSError as error:
            raise JournalError(
                f"The journal {self.path} cannot be opened: {error.strerror or error}."
            ) from error

    def _set_up(self) -> None:
        db = self._db
        assert db is not None
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and application != _APPLICATION:
            raise JournalError(
                f"{self.path} is an SQLite database, but no journal of this package; give another path."
            )
        if version > _SCHEMA:
            raise JournalError(
                f"The journal {self.path} was written by a newer version of this package (format {version}, this one "
                f"reads up to {_SCHEMA}). Update tokfluence_async, or give another path."
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA cache_size = -8192")
        if tables:
            found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise JournalError(self._damaged(found))
            # A write takes the lock, and shows here and now whether one is possible.
            db.execute("BEGIN IMMEDIATE")
            for older in range(max(version, 1), _SCHEMA):
                db.execute(_UPGRADES[older])
            db.execute(f"PRAGMA user_version = {_SCHEMA}")
            db.execute("COMMIT")
            return
        db.execute("BEGIN IMMEDIATE")
        for statement in _TABLES.split(";"):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {_APPLICATION}")
        db.execute(f"PRAGMA user_version = {_SCHEMA}")
        db.execute("COMMIT")

    def _disconnect(self) -> None:
        for output in self._outputs.values():
            os.close(output.fd)
        self._outputs.clear()
        if self._db is not None:
            self._db.close()
            self._db = None

    def _damaged(self, why: object) -> str:
        return (
            f"The journal {self.path} is damaged ({why}). It is left as it is. Restore it from a copy; or begin with a "
            "new one, which may pay again for what only this one remembered."
        )

    def _error(self, error: Exception) -> JournalError:
        code = getattr(error, "sqlite_errorname", "") or ""
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return JournalError(
                f"The journal {self.path} is in use by another process, or by another Journal of this one. Two runs must "
                "not share a journal, or both would pay. Wait for the other, or give another path."
            )
        # The statements are right for the tables as they were written, so where SQLite finds a
        # mistake in one, the tables are not.
        if (
            code.startswith(
                (
                    "SQLITE_CORRUPT",
                    "SQLITE_NOTADB",
                    "SQLITE_ERROR",
                    "SQLITE_MISMATCH",
                    "SQLITE_CONSTRAINT",
                )
            )
            or isinstance(error, _UNREADABLE)
            or str(error).startswith("Could not decode")
        ):
            return JournalError(self._damaged(error))
        if code.startswith("SQLITE_CANTOPEN"):
            return JournalError(
                f"The journal {self.path} cannot be opened: no such folder, or no permission."
            )
        return JournalError(
            f"The journal {self.path} cannot be written: {error}. What was recorded before stands; make room and run "
            "again with the same journal."
        )

    # --- batches ----------------------------------------------------------------------------------

    async def sending(
        self, request_id: str, posts: Sequence[PostRef], *, replaces: str | None
    ) -> None:
        """Return only when it is on disk that `posts` are about to leave under `request_id`."""
        self._check()
        self._next.add(_SENDING, request_id, self._clock(), msgspec.msgpack.encode(posts))
        if replaces is not None:
            self._next.add(_GONE, replaces)
            self._live.discard(replaces)
        self._live.add(request_id)
        await self.flush()

    async def sending_again(self, request_id: str) -> None:
        """Return only when it is on disk that a batch of an earlier run is about to leave once
        more, under its old id."""
        self._check()
        self._next.add(_SENDING_AGAIN, self._clock(), request_id)
        await self.flush()

    async def settled(
        self,
        request_id: str,
        outcomes: Sequence[Outcome[Analysis]],
        *,
        unsure: bool = False,
        age: float = 0.0,
    ) -> None:
        """Return only when the outcomes are on disk; they are told to nobody before.

        Args:
            unsure: Only a 409 speaks for them.
            age: Seconds since the analysis, as far as is known.
        """
        self._check()
        at = self._clock() - age
        for o in outcomes:
            if o.value is not None:
                self._next.add(
                    _ANALYZED, signed(o.post_id), o.value.status, o.value.url, unsure, at
                )
            else:
                # A post that a 200 left out was charged: only reading it will tell what became of
                # it.
                self._next.add(_ANALYZED, signed(o.post_id), "", None, True, at)
        self._next.add(_GONE, request_id)
        await self.flush()
        self._live.discard(request_id)

    async def released(self, request_id: str) -> None:
        """No attempt of this batch ran: its posts are free."""
        self._check()
        self._next.add(_GONE, request_id)
        await self.flush()
        self._live.discard(request_id)

    def forgotten(self, request_id: str) -> None:
        """The batch stays in doubt, and nobody in this process works on it any more."""
        self._live.discard(request_id)

    async def unsettled(self) -> list[Doubt]:
        """The batches in doubt: sent or about to be when their process ended or gave up, oldest
        first."""
        live = self._live
        now = self._clock()

        def read() -> list[Doubt]:
            assert self._db is not None
            rows = self._db.execute(
                "SELECT request_id, posts, sent_at, coalesce(sent_again_at, sent_at) FROM batches ORDER BY sent_at"
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
                if request_id not in live
            ]

        return await self._read(read)

    async def take_up(self) -> list[Doubt]:
        """As `unsettled`; they count as under way from now on."""
        doubts = [doubt for doubt in await self.unsettled() if doubt.request_id not in self._live]
        self._live.update(doubt.request_id for doubt in doubts)
        return doubts

    def age(self, at: float | None) -> float:
        """Seconds since a time of day that was recorded; 0.0 if it was not."""
        return 0.0 if at is None else max(self._clock() - at, 0.0)

    # --- posts ------------------------------------------------------------------------------------

    async def look_up(self, post_id: str) -> Entry | None:
        """What is known of a post. Concurrent look-ups share a trip to the disk."""
        self._check()
        assert self._loop is not None
        future: asyncio.Future[Entry | None] = self._loop.create_future()
        self._next.lookups.append((signed(post_id), future))
        self._go()
        return await future

    async def is_new(self) -> bool:
        """Whether nothing is known of any post: a first crawl that looks nothing up takes two
        thirds of the CPU a post."""

        def read() -> bool:
            assert self._db is not None
            return self._db.execute("SELECT 1 FROM posts LIMIT 1").fetchone() is None

        return await self._read(read)

    async def is_empty(self) -> bool:
        """Whether nothing is known of any post, and no batch is in doubt."""
        return await self.is_new() and not await self.unsettled()

    async def known(self) -> list[str]:
        """The posts that were analyzed or read, all of them."""

        def read() -> list[str]:
            assert self._db is not None
            rows = self._db.execute(
                "SELECT post_id FROM posts WHERE written OR status IS NOT NULL"
            ).fetchall()
            return [str(number % 2**64) for (number,) in rows]

        return await self._read(read)

    async def write_post(self, output: Output, post_id: str, line: bytes) -> None:
        """Append a post's line."""
        self._append(output, line)
        self._next.add(_WRITTEN, signed(post_id))
        self._later()
        if self._next.size >= _BACKLOG:
            await self._room_made()

    async def write_page(
        self, output: Output, post_id: str, lines: bytes, cursor: int, next_cursor: int | None
    ) -> None:
        """Append a page of a post's comments; the walk goes on at `next_cursor`, or is over."""
        number = signed(post_id)
        start = output.length
        self._append(output, lines)
        if next_cursor is None:
            self._next.add(_WALKED, cursor, 1, number)
            self._next.add(_NO_PAGES, number)
        else:
            self._next.add(_WALKED, next_cursor, 0, number)
            self._next.add(_PAGE, number, cursor, start, len(lines))
        self._later()
        if self._next.size >= _BACKLOG:
            await self._room_made()

    async def last_pages(self, output: Output, post_id: str) -> list[bytes]:
        """The pages of comments written last for a post whose walk is not over, as they stand in
        `output`."""

        def read() -> list[bytes]:
            assert self._db is not None
            rows = self._db.execute(
                "SELECT start, length FROM pages WHERE post_id = ? ORDER BY cursor DESC LIMIT ?",
                (signed(post_id), _PAGES),
            ).fetchall()
            return [read_at(output.fd, length, start) for start, length in reversed(rows)]

        return await self._read(read)

    async def attach(self, name: str, path: Path) -> Output:
        """Open an output file, made if it does not exist, and cut what the journal knows nothing
        of.

        Raises:
            JournalError: It cannot be written; or it is shorter than the journal says, or holds
                lines although the journal is new, so that the two do not belong together. Neither
                is touched.
        """

        def read() -> Output:
            assert self._db is not None
            row = self._db.execute("SELECT length FROM outputs WHERE name = ?", (name,)).fetchone()
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | OPEN_FLAGS, 0o666)
            except OSError as error:
                raise JournalError(f"{path} cannot be written: {error.strerror}.") from error
            try:
                size = os.fstat(fd).st_size
                if row is None and size:
                    raise JournalError(
                        f"{path} holds {plural(size, 'byte')}, but the journal {self.path} knows nothing of them: it is new, or "
                        "another crawl's. Give the folder's own journal, or another folder."
                    )
                length: int = row[0] if row else 0
                if size < length:
                    raise JournalError(
                        f"{path} has {plural(size, 'byte')}, {length - size:,} less than the journal {self.path} says were written. "
                        "Restore it, or begin in another folder."
                    )
                os.ftruncate(fd, length)
                if row is None:
                    sync_folder(path.parent)
                    _LENGTH.run(self._db, (name, 0))
            except BaseException:
                os.close(fd)
                raise
            output = self._outputs[name] = Output(name, path, fd, length)
            return output

        return await self._read(read)

    # --- what was learnt --------------------------------------------------------------------------

    async def learnt(self) -> dict[str, float]:
        """Numbers that an earlier run found out, by name."""

        def read() -> dict[str, float]:
            assert self._db is not None
            return dict(self._db.execute("SELECT name, value FROM learnt").fetchall())

        return await self._read(read)

    def learn(self, **values: float) -> None:
        """Remember numbers for the next run, with the next commit."""
        if self._executor is not None and self._broken is None:
            for name, value in values.items():
                self._next.add(_LEARNT, name, float(value))
            self._later()

    # --- the way to the disk ----------------------------------------------------------------------

    async def flush(self) -> None:
        """Return when everything given so far is on disk."""
        self._check()
        assert self._loop is not None
        future: asyncio.Future[None] = self._loop.create_future()
        self._next.waiters.append(future)
        self._go()
        await future

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken
        if self._executor is None:
            raise RuntimeError(
                "This journal is not open: `async with journal`, or `await journal.open()`."
            )

    async def _read(self, read: Callable[[], T]) -> T:
        self._check()
        assert self._loop is not None
        future: asyncio.Future[T] = self._loop.create_future()
        self._next.reads.append((read, future))
        self._go()
        return await future

    def _append(self, output: Output, lines: bytes) -> None:
        self._check()
        if lines:
            self._next.lines.setdefault(output, []).append(lines)
            self._next.size += len(lines)
            output.length += len(lines)

    async def _room_made(self) -> None:
        self._room.clear()
        self._go()
        await self._room.wait()
        self._check()

    def _later(self) -> None:
        if self._timer is None and self._current is None:
            assert self._loop is not None
            self._timer = self._loop.call_later(_LAZY, self._go)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go(self) -> None:
        """Send what has gathered to the thread, unless it is busy: then it goes when it is back."""
        self._cancel_timer()
        if self._current is not None or not self._next or self._executor is None:
            return
        assert self._loop is not None
        work, self._next = self._next, _Work()
        self._current = work
        self._loop.run_in_executor(self._executor, self._do, work).add_done_callback(self._done)

    def _done(self, future: asyncio.Future[list[Any]]) -> None:
        work, self._current = self._current, None
        assert work is not None
        error = future.exception()
        if error is not None:
            self._break(work, error)
            return
        for waiter in work.waiters:
            if not waiter.done():
                waiter.set_result(None)
        answers = future.result()
        for (_, asker), answer in zip([*work.lookups, *work.reads], answers, strict=True):
            if asker.done():
                continue
            if isinstance(answer, BaseException):
                asker.set_exception(answer)
            else:
                asker.set_result(answer)
        self._room.set()
        if (
            self._next.waiters
            or self._next.lookups
            or self._next.reads
            or self._next.size >= _BACKLOG
        ):
            self._go()
        elif self._next:
            self._later()

    def _break(self, work: _Work, error: BaseException) -> None:
        self._broken = (
            error
            if isinstance(error, JournalError)
            else JournalError(f"The journal failed: {error!r}")
        )
        self._broken.__cause__ = error.__cause__
        for part in (work, self._next):
            askers: list[asyncio.Future[Any]] = [*part.waiters]
            askers += [asker for _, asker in part.lookups]
            askers += [asker for _, asker in part.reads]
            for asker in askers:
                if not asker.done():
                    asker.set_exception(self._broken)
        self._next = _Work()
        self._room.set()

    # --- in the thread ----------------------------------------------------------------------------

    def _do(self, work: _Work) -> list[Any]:
        if work.writes or work.lines:
            try:
                self._save(work)
            except (sqlite3.Error, UnicodeError) as error:
                self._undo(work)
                raise self._error(error) from error
            except OSError as error:
                self._undo(work)
                raise JournalError(
                    f"The output beside the journal {self.path} cannot be written: {error.strerror or error}. What was recorded "
                    "before stands; make room and run again."
                ) from error
        answers = self._look_up([number for number, _ in work.lookups])
        return answers + [self._answer(read) for read, _ in work.reads]

    def _look_up(self, numbers: list[int]) -> list[Any]:
        together = self._answer(partial(self._entries, numbers))
        if not isinstance(together, BaseException):
            return list(together)
        # A row that cannot be read is its own asker's error.
        found = [self._answer(partial(self._entries, [number])) for number in numbers]
        return [each if isinstance(each, BaseException) else each[0] for each in found]

    def _answer(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (sqlite3.Error, *_UNREADABLE) as error:
            told = self._error(error)
            told.__cause__ = error
            return told
        except Exception as error:  # the reader's own, told to whoever asked
            return error

    def _entries(self, numbers: list[int]) -> list[Entry | None]:
        assert self._db is not None
        rows = _LOOK_UP.run(self._db, numbers)
        found = {
            number: Entry(
                status, url, bool(unsure), analyzed_at, bool(written), cursor, bool(walked)
            )
            for number, status, url, unsure, analyzed_at, written, cursor, walked in rows
        }
        return [found.get(number) for number in numbers]

    def _save(self, work: _Work) -> None:
        assert self._db is not None
        self._append_lines(work)
        for output in work.lines:
            work.add(_LENGTH, output.name, output.durable)
        self._db.execute("BEGIN IMMEDIATE")
        for write in _ORDER:
            if values := work.writes.get(write):
                write.run(self._db, values)
        self._commit()

    def _append_lines(self, work: _Work) -> None:
        for output, lines in work.lines.items():
            write_all(output.fd, lines)
            sync_data(output.fd)
            output.durable += sum(map(len, lines))

    def _commit(self) -> None:
        assert self._db is not None
        self._db.execute("COMMIT")

    def _undo(self, work: _Work) -> None:
        """Cut the output files back to what the journal knows. If not even that works, the next run
        does it."""
        assert self._db is not None
        with suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        with suppress(sqlite3.Error, OSError):
            for output in work.lines:
                row = self._db.execute(
                    "SELECT length FROM outputs WHERE name = ?", (output.name,)
                ).fetchone()
                os.ftruncate(output.fd, row[0])


async def enter_journal(
    stack: AsyncExitStack, journal: Journal | str | os.PathLike[str]
) -> Journal:
    """An open journal: the caller's own as it is, or the one at a path until `stack` ends."""
    if isinstance(journal, Journal):
        return await journal.open()
    return await stack.enter_async_context(Journal(journal))


def is_there(journal: Journal | str | os.PathLike[str]) -> bool:
    """Whether there is anything to open."""
    return isinstance(journal, Journal) or Path(journal).exists()
