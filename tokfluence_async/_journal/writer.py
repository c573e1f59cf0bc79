"""How the records of many coroutines share one commit.

A commit costs an fsync, so records are gathered while the thread is at work, and leave together
when it is back. Who has to know that a record is on disk waits for `flush`. What nobody waits for
(the lines of a crawl) leaves ten times a second, in the order it was given: a crash loses a suffix
and never a middle. Lines that wait for a slow disk are bounded; then those who write wait too.

The first failure breaks the writer for good: everybody who waits gets it, and everybody who comes.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .._errors import JournalError
from .._tasks import finish
from .outputs import Output
from .schema import Statement
from .store import Question, Store, Work

__all__ = ["Writer"]

# Seconds that what nobody waits for may lie in memory; a crash costs what was bought in them.
LAZY = 0.1
# Bytes that may wait for the disk before those who write have to wait too.
BACKLOG = 8 * 2**20


class Writer:
    """Gathers records for a `Store`, and runs it in a thread of its own.

    It belongs to the event loop it was opened in.

    Attributes:
        size: Bytes that wait for the disk.
        broken: The first failure, or None. After it, nothing may be given or asked.
    """

    def __init__(self, store: Store) -> None:
        self.loop = asyncio.get_running_loop()
        self.broken: JournalError | None = None
        self._store = store
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="tokfluence-journal")
        self._next = Work()
        self._current: Work | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def size(self) -> int:
        return self._next.size

    async def open(self) -> None:
        try:
            await self.loop.run_in_executor(self._executor, self._store.connect)
        except BaseException:
            self._executor.submit(self._store.disconnect, finished=False)
            self._executor.shutdown(wait=False)
            raise

    async def aclose(self) -> None:
        """Write what is left, and close the store; also when cancelled, as it was paid for."""
        await finish(self._close())

    async def _close(self) -> None:
        try:
            if self.broken is None:
                await self.flush()
        finally:
            self._cancel_timer()
            try:
                await self.loop.run_in_executor(
                    self._executor, self._store.disconnect, self.broken is None
                )
            finally:
                self._executor.shutdown(wait=False)

    # --- what is given ----------------------------------------------------------------------------

    def add(self, write: Statement, *row: Any) -> None:
        """A row for the next commit, which a question brings about, or `later`."""
        self._next.add(write, *row)

    def append(self, output: Output, lines: bytes) -> None:
        """Lines for the next commit."""
        if lines:
            self._next.lines.setdefault(output, []).append(lines)
            self._next.size += len(lines)
            output.length += len(lines)

    def later(self) -> None:
        """Nobody waits for what was given: commit it within `LAZY` seconds."""
        if self._timer is None and self._current is None:
            self._timer = self.loop.call_later(LAZY, self._go)

    async def room(self) -> None:
        """Wait if more lines than `BACKLOG` wait for the disk."""
        if self._next.size >= BACKLOG:
            await self.flush()

    def ask(self, question: Question) -> asyncio.Future[Any]:
        """The answer of the thread, after everything given so far. Concurrent questions share a
        trip, and those for posts a statement."""
        future: asyncio.Future[Any] = self.loop.create_future()
        self._next.asked.append((question, future))
        self._go()
        return future

    async def flush(self) -> None:
        """Return when everything given so far is on disk."""
        await self.ask(lambda: None)

    # --- trips ------------------------------------------------------------------------------------

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go(self) -> None:
        """Send what was gathered to the thread; if that is busy, once the thread is back."""
        self._cancel_timer()
        if self._current is not None:
            return
        self._current, self._next = self._next, Work()
        self.loop.run_in_executor(self._executor, self._store.do, self._current).add_done_callback(
            self._done
        )

    def _done(self, future: asyncio.Future[list[Any]]) -> None:
        work, self._current = self._current, None
        assert work is not None
        error = future.exception()
        if error is not None:
            self._break(work, error)
            return
        for (_, asker), answer in zip(work.asked, future.result(), strict=True):
            if asker.done():
                continue
            if isinstance(answer, BaseException):
                asker.set_exception(answer)
            else:
                asker.set_result(answer)
        if self._next.asked:
            self._go()
        elif self._next.writes:
            self.later()

    def _break(self, work: Work, error: BaseException) -> None:
        if not isinstance(error, JournalError):
            error = JournalError(f"The journal failed: {error!r}")
        self.broken = error
        for _, asker in work.asked + self._next.asked:
            if not asker.done():
                asker.set_exception(error)
        self._next = Work()
