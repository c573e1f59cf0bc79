"""How the records of many coroutines share one commit.

A commit costs an fsync, so records are gathered while the thread is at work, and leave together
when it is back. Who has to know that a record is on disk waits for `flush`. What nobody waits for
(the lines of a crawl) leaves ten times a second, in the order it was given: a crash loses a suffix
and never a middle. Lines that wait for a slow disk are bounded; then those who write wait too.

The first failure breaks the writer for good: everybody who waits gets it, and everybody who comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from .._errors import JournalError
from .._tasks import finish

if TYPE_CHECKING:
    from .outputs import Output
    from .records import Entry
    from .schema import Statement
    from .store import Store

__all__ = ["Work", "Writer"]

T = TypeVar("T")

# Seconds that what nobody waits for may lie in memory; a crash costs what was bought in them.
LAZY = 0.1
# Bytes that may wait for the disk before those who write have to wait too.
BACKLOG = 8 * 2**20


class Work:
    """What one trip to the thread takes along.

    Attributes:
        writes: For each statement, the values of all its rows one after the other.
        lines: What is appended to the output files.
        size: Bytes of these lines.
        waiters: Who waits for the commit.
        lookups, reads: Questions, and who waits for each answer.
    """

    __slots__ = ("lines", "lookups", "reads", "size", "waiters", "writes")

    def __init__(self) -> None:
        self.writes: dict[Statement, list[Any]] = {}
        self.lines: dict[Output, list[bytes]] = {}
        self.size = 0
        self.waiters: list[asyncio.Future[None]] = []
        self.lookups: list[tuple[int, asyncio.Future[Entry | None]]] = []
        self.reads: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []

    def add(self, write: Statement, *row: Any) -> None:
        self.writes.setdefault(write, []).extend(row)

    def fail(self, error: BaseException) -> None:
        """Give `error` to everybody who waits for this."""
        askers: list[asyncio.Future[Any]] = [*self.waiters]
        askers += [asker for _, asker in self.lookups]
        askers += [asker for _, asker in self.reads]
        for asker in askers:
            if not asker.done():
                asker.set_exception(error)

    @property
    def is_waited_for(self) -> bool:
        return bool(self.waiters or self.lookups or self.reads or self.size >= BACKLOG)

    def __bool__(self) -> bool:
        return bool(self.writes or self.lines or self.waiters or self.lookups or self.reads)


class Writer:
    """Gathers records for a `Store`, and runs it in a thread of its own.

    It belongs to the event loop it was opened in.

    Attributes:
        size: Bytes that wait for the disk.
        broken: The first failure, or None.
    """

    def __init__(self, store: Store) -> None:
        self.loop = asyncio.get_running_loop()
        self.broken: JournalError | None = None
        self._store = store
        self._executor: ThreadPoolExecutor | None = ThreadPoolExecutor(
            1, thread_name_prefix="tokfluence-journal"
        )
        self._next = Work()
        self._current: Work | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._room.set()

    @property
    def size(self) -> int:
        return self._next.size

    async def open(self) -> None:
        assert self._executor is not None
        try:
            await self.loop.run_in_executor(self._executor, self._store.connect)
        except BaseException:
            executor, self._executor = self._executor, None
            executor.submit(self._store.disconnect)
            executor.shutdown(wait=False)
            raise

    async def aclose(self) -> None:
        """Write what is left, and close the store; also when cancelled, as it was paid for."""
        if self._executor is not None:
            await finish(self._close(self._executor))

    async def _close(self, executor: ThreadPoolExecutor) -> None:
        try:
            if self.broken is None:
                await self.flush()
        finally:
            self._executor = None
            self._cancel_timer()
            try:
                await self.loop.run_in_executor(executor, self._store.disconnect)
            finally:
                executor.shutdown(wait=False)

    def check(self) -> None:
        if self.broken is not None:
            raise self.broken
        if self._executor is None:
            raise RuntimeError(
                "This journal is not open: `async with journal`, or `await journal.open()`."
            )

    # --- what is given ----------------------------------------------------------------------------

    def add(self, write: Statement, *row: Any) -> None:
        """A row for the next commit, which somebody flushes, or `later` begins."""
        self.check()
        self._next.add(write, *row)

    def append(self, output: Output, lines: bytes) -> None:
        """Lines for the next commit."""
        self.check()
        if lines:
            self._next.lines.setdefault(output, []).append(lines)
            self._next.size += len(lines)
            output.length += len(lines)

    def later(self) -> None:
        """Nobody waits for what was given: commit it within `LAZY` seconds."""
        if self._timer is None and self._current is None:
            self._timer = self.loop.call_later(LAZY, self._go)

    async def room(self) -> None:
        """Wait while more lines than `BACKLOG` wait for the disk."""
        if self._next.size >= BACKLOG:
            self._room.clear()
            self._go()
            await self._room.wait()
            self.check()

    async def flush(self) -> None:
        """Return when everything given so far is on disk."""
        self.check()
        future: asyncio.Future[None] = self.loop.create_future()
        self._next.waiters.append(future)
        self._go()
        await future

    async def read(self, read: Callable[[], T]) -> T:
        """What `read` returns in the thread, after everything given so far."""
        self.check()
        future: asyncio.Future[T] = self.loop.create_future()
        self._next.reads.append((read, future))
        self._go()
        return await future

    async def look_up(self, number: int) -> Entry | None:
        """A post's row. Concurrent look-ups share a trip and a statement."""
        self.check()
        future: asyncio.Future[Entry | None] = self.loop.create_future()
        self._next.lookups.append((number, future))
        self._go()
        return await future

    # --- trips ------------------------------------------------------------------------------------

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go(self) -> None:
        """Send what was gathered to the thread; if that is busy, once the thread is back."""
        self._cancel_timer()
        if self._current is not None or not self._next or self._executor is None:
            return
        work, self._next = self._next, Work()
        self._current = work
        self.loop.run_in_executor(self._executor, self._store.do, work).add_done_callback(
            self._done
        )

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
        for (_, asker), answer in zip([*work.lookups, *work.reads], future.result(), strict=True):
            if asker.done():
                continue
            if isinstance(answer, BaseException):
                asker.set_exception(answer)
            else:
                asker.set_result(answer)
        self._room.set()
        if self._next.is_waited_for:
            self._go()
        elif self._next:
            self.later()

    def _break(self, work: Work, error: BaseException) -> None:
        self.broken = (
            error
            if isinstance(error, JournalError)
            else JournalError(f"The journal failed: {error!r}")
        )
        self.broken.__cause__ = error.__cause__
        for part in (work, self._next):
            part.fail(self.broken)
        self._next = Work()
        self._room.set()
