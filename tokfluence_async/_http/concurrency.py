"""Two waits before the throttle's queue: for a gate that a 429 has closed, and for the service's
own limit on concurrent batches.

They are separate from the queue because a queued call already holds a concurrency slot.

Promises: first come, first served in both. A limit on batches is found by being refused, kept as
long as it holds, and given up when it is gone.

Hard: the service does not say how many batches it works on at once, and refuses the next with the
same 429 that means "too often". See `BatchConcurrency`.
"""

from __future__ import annotations

import asyncio
import logging
import math

import anyio

from .._errors import RateLimitError
from .._throttle.lanes import Lanes
from .attempt import Attempt

__all__ = ["BatchConcurrency", "ClosedGate"]

logger = logging.getLogger("tokfluence_async")

# Of the failed tries of one batch more at once that are told apart: after the fifth, 32 rounds of
# answers pass before the next.
_WARIEST = 5


class ClosedGate:
    """Calls that wait while a 429 keeps a gate closed: first come, first served, with one timer for
    all.

    They hold no concurrency slot, as other keys want it. A sleep for each would end all of them in
    one turn, in whatever order the loop's heap has them.
    """

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._opens: asyncio.Event | None = None  # None while nobody waits

    async def passed(self, deadline: float) -> float:
        """Wait until the gate is open, and return the seconds that took.

        Args:
            deadline: Seconds that a call waits in all.
        Raises:
            RateLimitError: With what was waited already, that is longer than `deadline`; nothing
                was sent.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while (closed_for := self._lanes.gate_closed_for) > 0:
            if loop.time() - began + closed_for > deadline:
                raise RateLimitError(
                    429,
                    "rate_limited",
                    f"not sent: the service asks to wait for {closed_for:.0f} s more, and a call "
                    f"waits for no longer than {deadline:.0f} s in all",
                    retry_after=closed_for,
                )
            if self._opens is None:
                # One timer for all. It is never too late: a pause is only ever made longer.
                self._opens = asyncio.Event()
                loop.call_later(closed_for, self._open)
            with self._lanes.waiting_outside():
                await self._opens.wait()
        return loop.time() - began

    def _open(self) -> None:
        """Let all look again, in the order in which they came: it may be closed for longer."""
        assert self._opens is not None
        self._opens.set()
        self._opens = None


class BatchConcurrency:
    """How many analyze batches of one key the service takes at once: no limit until it shows one.

    A service may limit how many batches it works on and refuse the next, with 429 or a proxy's 503.
    No pace cures that. The limit is found so:

    - A batch that is refused *again*, after the wait it was asked for, while others are under way,
      shows a limit. From then on as many go at once as were accepted.
    - A first refusal shows nothing: ordinary ones, of a budget that is shared, hit whoever comes.
      But once a limit is known, it counts where one more than ever before was tried.
    - One more is tried after two rounds of answers, and after twice as many each time that it
      fails. So a limit that stays costs ever fewer refusals, and one that went away is found out.
    """

    def __init__(self) -> None:
        self._limiter = anyio.CapacityLimiter(math.inf)
        self._under_way: set[Attempt] = set()
        self._most = 1  # the largest limit that a caller has set
        self._proven = 0  # the most that were under way when one of them was answered
        self._failed = 0  # how often one more was refused; 0 as long as no limit is known
        self._grown = False  # whether the last change was one more
        self._answers = 0  # since the last change

    @property
    def limit(self) -> float:
        """How many go at once; infinite as long as no limit is known."""
        return self._limiter.total_tokens

    async def enter(self, batch: Attempt, most: int) -> None:
        """Wait until one more may be under way; first come, first served.

        Args:
            most: How many its caller lets go at once.
        """
        await self._limiter.acquire()
        self._most = max(self._most, most)
        self._under_way.add(batch)

    def leave(self, batch: Attempt) -> None:
        """It has ended. Nothing, if it never came so far as to enter."""
        if batch in self._under_way:
            self._limiter.release()
            self._under_way.remove(batch)

    def refused(self, again: bool) -> bool:
        """A batch, which has left, got 429 or 503, for the first time or `again`. Returns whether
        such a limit explains it."""
        accepted = self._sent()
        if 0 < accepted < self.limit and (again or (self._failed and accepted >= self._proven)):
            self._limiter.total_tokens = self._proven = accepted
            if not self._failed:
                logger.info(
                    "more than %d analyze batches at once are refused: fewer are sent from now "
                    "on, and more tried now and then",
                    accepted,
                )
            if self._grown or not self._failed:
                self._failed = min(self._failed + 1, _WARIEST)
            self._grown = False
            self._answers = 0
        return self._failed > 0 and accepted >= self._proven

    def answered(self) -> None:
        """A batch, which has left, got another answer."""
        if not self._failed:
            return
        self._proven = max(self._proven, self._sent() + 1)
        self._answers += 1
        limit = int(self.limit)
        if self._answers < limit << self._failed:
            return
        if self._grown:  # twice in a row
            self._failed = max(self._failed - 1, 1)
        self._grown = True
        self._answers = 0
        if limit < self._most:
            self._limiter.total_tokens = limit + 1
        else:  # as many as anybody wants: no limit is known any more
            self._limiter.total_tokens = math.inf
            self._failed = self._proven = 0
            self._grown = False

    def _sent(self) -> int:
        return sum(batch.sent for batch in self._under_way)
