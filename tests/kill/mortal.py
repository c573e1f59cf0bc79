"""A crawl in a process of its own, which is to be killed; run by multiprocessing's fork server,
which imports this once.

It can kill itself at the n-th boundary: each time the journal's thread is about to write lines, has
written them (or half of them), is about to commit, or has committed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import tokfluence_async._http.transport  # noqa: F401 - loaded once, before the forks
from tokfluence_async import Throttle, TokfluenceClient, crawl
from tokfluence_async._bulk import intake as _intake
from tokfluence_async._bulk import visibility as _visibility
from tokfluence_async._journal import redis as _redis
from tokfluence_async._journal import redis_store as _redis_store
from tokfluence_async._journal import writer as _writer
from tokfluence_async._journal.outputs import Output
from tokfluence_async._journal.sqlite import SQLiteJournal
from tokfluence_async._journal.store import Store


def _hurry() -> None:
    """The sandbox is quick here, as the clock is real. In the child only: the tests' own process
    imports this file too."""
    vars(_visibility)["FIRST_READ"] = 0.02
    _intake._LINGER = 0.01
    _writer.LAZY = 0.004  # more boundaries


class MortalStore(Store):
    """A store that kills its process at the n-th boundary; 0 for never."""

    left = 0

    def _boundary(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def append(self, lines: dict[Output, list[bytes]]) -> None:
        self._boundary()
        if lines and self.left == 1:
            output, each = next(iter(lines.items()))
            os.write(output.fd, b"".join(each)[: max(1, len(each[0]) // 2)])
            self._boundary()
        super().append(lines)
        self._boundary()

    def commit(self) -> None:
        self._boundary()
        super().commit()
        self._boundary()


class MortalJournal(SQLiteJournal):
    """A journal over a `MortalStore`."""

    def __init__(self, path: Path, boundary: int) -> None:
        super().__init__(path)
        self._store = MortalStore(path)
        self._store.left = boundary


def live(
    url: str, token: str, out: str, inputs: list[str], boundary: int, options: dict[str, Any]
) -> None:
    """Crawl until done or killed. The exit status is 0 when all is done, 3 when stopped by a
    signal."""
    _hurry()
    Path(out).mkdir(exist_ok=True)
    sys.exit(asyncio.run(_live(url, token, Path(out), inputs, boundary, options)))


async def _live(
    url: str, token: str, out: Path, inputs: list[str], boundary: int, options: dict[str, Any]
) -> int:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    journal = MortalJournal(out / "journal.sqlite", boundary)
    client = TokfluenceClient(
        token, base_url=url, throttle=Throttle(None, None), analyze_concurrency=3
    )
    async with client, journal:
        report = await crawl(
            client, inputs, out, comments=True, journal=journal, stop=stop, **options
        )
    return 3 if report.stopped_by else 1 if report.failed else 0


def share(url: str, token: str, journal: str, inputs: list[str], batch_size: int) -> None:
    """Analyze over a journal that others share, in a hurry. The exit status is 0 if every input
    was analyzed."""
    _hurry()
    _redis_store.HEARTBEAT = 1.5
    _redis_store._TRY = 0.4
    _redis_store._BEAT = 0.3
    _redis._LOOK = 0.05
    sys.exit(asyncio.run(_share(url, token, journal, inputs, batch_size)))


async def _share(url: str, token: str, journal: str, inputs: list[str], batch_size: int) -> int:
    client = TokfluenceClient(
        token, base_url=url, throttle=Throttle(None, None), analyze_concurrency=3
    )
    async with client:
        report = await client.posts.analyze(inputs, journal=journal, batch_size=batch_size)
    return 1 if report.failed else 0
