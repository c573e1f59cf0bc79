"""While no connection can be made at all: jobs wait, and one of them tries now and then.

Promises: an outage of the network fails no input of a job. It is said in the log when it begins and
when it ends. It is waited out for a limited time; then the job ends with the error, and inputs that
were not sent are not tried one by one. A job that begins later tries, and waits, anew.

Relies on: the caller tells of every connection that could not be made, and of every sign that the
other side is there.

Hard: a wrong address looks the same. So where no connection was ever made, the limit is shorter.
A single call does not wait here: it keeps its own errors and limits.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from .._errors import APIConnectionError
from .._text import plural

__all__ = ["Outage"]

logger = logging.getLogger("tokfluence_async")

# Seconds from the beginning of an outage that jobs wait for its end: as long as a closed gate is
# waited for, and less where nobody has ever been reached.
_LONGEST = 900.0
_LONGEST_AT_FIRST = 60.0
# Seconds between two tries: as long as jobs have waited already, within these limits.
_FIRST_TRY = 0.5
_LAST_TRY = 5.0
# Seconds: what is over sooner is not told. A server that restarts, or a test that ends, is no news.
_WORTH_TELLING = 1.0


class Outage:
    """Whether the other side of one event loop's connections is there.

    Attributes:
        since: The loop's time when the first connection failed, with none made after it; None
            while connections can be made.
        error: What a job ends in, once it has waited long enough; None before, and when a later
            job tries anew.
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._loop = asyncio.get_running_loop()
        self._reached = False
        self._turn = asyncio.Lock()  # held by the call that tries next
        self._waiting = 0
        self._over = asyncio.Event()  # nobody has to wait any more
        self._failed_at = 0.0
        self._told = False  # whether the log says that jobs wait
        self._waits_since: float | None = None  # when the jobs of now began to wait
        self.since: float | None = None
        self.error: APIConnectionError | None = None

    @property
    def lasts(self) -> float:
        """Seconds since it began; 0.0 while there is none."""
        return 0.0 if self.since is None else self._loop.time() - self.since

    def failed(self, error: APIConnectionError) -> None:
        """A connection could not be made."""
        now = self._failed_at = self._loop.time()
        if self.since is None:
            self.since = now
        if self._waits_since is None:
            self._waits_since = now
            self._told = False
            self._over.clear()
            return
        waited = now - self._waits_since
        if not self._told and waited >= _WORTH_TELLING:
            self._told = True
            logger.warning(
                "No connection to %s: jobs wait for it, %.0f s at most. (%s)",
                self._origin,
                self._longest,
                error.message,
            )
        if self.error is None and waited >= self._longest:
            self.error = error
            self._over.set()

    def reached(self) -> None:
        """A connection was made, or an answer came."""
        self._reached = True
        if self.since is None:
            return
        if self._told:
            logger.warning(
                "%s is reached again, after %.0f s; %s had waited for it.",
                self._origin,
                self.lasts,
                plural(self._waiting, "call"),
            )
            self._told = False
        self.since = self._waits_since = self.error = None
        self._over.set()

    async def passed(self) -> None:
        """Wait until the outage is over, or it is this call's turn to try.

        Raises:
            APIConnectionError: It has lasted for too long.
        """
        if self.error is not None:
            if self._loop.time() < self._failed_at + _LAST_TRY:
                raise self.error.with_traceback(None)
            # The jobs that had waited are over. This is a later one, and the first of it to try.
            self._waits_since = self.error = None
            self._over.clear()
            return
        self._waiting += 1
        try:
            async with self._turn:
                waited = 0.0 if self._waits_since is None else self._loop.time() - self._waits_since
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(max(waited, _FIRST_TRY), _LAST_TRY)):
                        await self._over.wait()
        finally:
            self._waiting -= 1
        if self.error is not None:
            raise self.error.with_traceback(None)

    @property
    def _longest(self) -> float:
        return _LONGEST if self._reached else _LONGEST_AT_FIRST
