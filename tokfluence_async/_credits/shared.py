"""One limit of credits for any number of processes: `SharedBudget`.

Credits are leased from a store in blocks, and what is leased may be reserved as from any budget. At
every moment `spent + leased <= limit` holds in the store. A lease is only ever given back by who
holds it, so what a dead process held counts as spent. Where the store cannot be asked, nothing new
is spent.

Hard: an answer of the store may be lost. A lease that was granted and not heard of counts as spent,
and what is given back is taken off here before the store is told. So every loss errs on the side of
spending less. `docs/do/budget.md` is for users.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from .._errors import BudgetExceededError, ConfigurationError, TokfluenceError
from .._tasks import finish
from .._text import plural

if TYPE_CHECKING:
    from .shared_store import BudgetStore

__all__ = ["SharedBudget", "SharedStatus"]

logger = logging.getLogger("tokfluence_async")

_NAME = re.compile(r"[A-Za-z0-9._:-]{1,100}\Z", re.ASCII)
_MAX_LIMIT = 2**53
# Credits that are leased ahead of what is asked for: as many as this process has spent, up to this,
# and a tenth of what is left at most. Near the end of a budget nobody holds what others need.
_AHEAD = 200
# Seconds for which an answer that too little is left is believed: a job whose budget is used up
# does not ask again for each of its inputs.
_BELIEVED = 1.0


class SharedStatus(Struct, frozen=True):
    """How much of a shared budget is used.

    Attributes:
        spent: Credits that were charged, as far as their processes have told.
        leased: Credits that processes hold, and that dead ones held.
    """

    limit: int
    spent: int
    leased: int


class SharedBudget:
    """A limit of credits that all processes share which name it, over restarts too. Wherever
    `max_credits` is taken, one of these will do.

        budget = SharedBudget("redis://127.0.0.1:6379/0", "spring", 50_000)
        report = await client.posts.analyze(urls, max_credits=budget)

    It needs neither `async with` nor closing. What a process has leased and not spent is given back
    at the end of each bulk call, and when a client closes that was made with it. What a process
    held that was killed counts as spent. The budget is as durable as its server: use one that
    persists what it is told (`appendfsync always`).

    Args:
        url: A Redis or Valkey: `redis://`, `rediss://` or `unix://`. Needs the extra `[redis]`.
        name: 1 to 100 of `A-Z a-z 0-9 . _ : -`. Who gives the same name shares the budget.
        limit: Credits that all of them may spend together. Give a larger number to go on later.

    Raises:
        ConfigurationError: The URL or the name is none, or redis-py is missing. When it is used:
            the server refuses the password, or holds something else under the name.
        ValueError: `limit` is not an integer of 0 or more.
    """

    def __init__(self, url: str, name: str, limit: int) -> None:
        from .shared_store import BudgetStore, check_url  # loads nothing of an extra

        self._url = check_url(url)
        if not isinstance(name, str) or not _NAME.match(name):
            raise ConfigurationError(
                "A shared budget is named by 1 to 100 of A-Z a-z 0-9 . _ : -, not by "
                f"{_shown(name)}. Nothing was sent."
            )
        if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= _MAX_LIMIT:
            raise ValueError(f"limit must be an integer of 0 or more, not {limit!r}")
        self.name = str.__str__(name)
        self.limit = int(limit)
        self._store: BudgetStore = BudgetStore(self._url, self.name, self.limit)
        self._leases = Leases(self._store)

    @property
    def leases(self) -> Leases:
        """What this process holds of it. A forked child holds nothing of its parent's."""
        if self._leases.pid != os.getpid():
            self._leases = Leases(self._store)
        return self._leases

    async def status(self) -> SharedStatus:
        """What is spent and leased now, of all processes.

        Raises:
            BudgetExceededError: The store cannot be asked.
        """
        record = await self._store.trip()
        return SharedStatus(self.limit, record.spent, record.leased)

    def __repr__(self) -> str:
        return f"<SharedBudget {self.name!r} of {self.limit:,} credits at {self._store.shown}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedBudget, (self._url.reveal(), self.name, self.limit)


class Leases:
    """What one process holds of a shared budget.

    Attributes:
        held: Credits that are leased and not spent, those reserved among them.
        reserved: Of those, credits of requests whose charge is not known yet.
    """

    def __init__(self, store: BudgetStore) -> None:
        self._store = store
        self.pid = os.getpid()
        self.held = 0
        self.reserved = 0
        self._spent = 0
        self._untold = 0  # credits that were spent, of which the store does not know yet
        self._wanted = 0  # by those who are asking now
        self._left: tuple[int, float] | None = None  # in the store, and when it said so
        self._lock = threading.RLock()
        self._turns: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}

    @property
    def free(self) -> int:
        """Credits that may be reserved without asking."""
        return self.held - self.reserved

    async def lease(self, price: int) -> None:
        """Ask for as many credits that `price` of them are free, or for as many as there are.

        Raises:
            BudgetExceededError: The store cannot be asked.
            ConfigurationError: It refuses the password, or holds something else.
        """
        if self.free >= price or self._is_used_up(price):
            return
        with self._lock:
            self._wanted += price
        try:
            async with self._turn():
                if self.free < price and not self._is_used_up(price):
                    # Also when cancelled: a lease that nobody hears of counts as spent.
                    await finish(self._ask())
        finally:
            with self._lock:
                self._wanted -= price

    async def _ask(self) -> None:
        with self._lock:
            want = max(self._wanted - self.free, 0)
            ahead = min(_AHEAD, self._spent)
            untold, self._untold = self._untold, 0
        found = await self._store.trip(want=want, ahead=ahead, spent=untold)
        with self._lock:
            self.held += found.granted
            self._left = (found.left, asyncio.get_running_loop().time())

    async def give_back(self) -> None:
        """Tell the store what was spent, and give back what is free."""
        if self.pid != os.getpid():
            return
        async with self._turn():
            with self._lock:
                back = max(self.free, 0)
                untold, self._untold = self._untold, 0
                self.held -= back
            if not back and not untold:
                return
            try:
                await finish(self._store.trip(back=back, spent=untold))
            except TokfluenceError as error:
                logger.warning(
                    "%s could not be given back, and %s as spent: %s",
                    plural(back, "credit"),
                    "counts" if back == 1 else "count",
                    error,
                )

    def reserve(self, price: int) -> None:
        """As `Budget.reserve`, of what was leased."""
        with self._lock:
            if price > max(self.free, 0):
                raise BudgetExceededError(price, self.free, self._store.limit)
            self.reserved += price

    def settle(self, reserved: int, spent: int) -> None:
        """As `Budget.settle`."""
        with self._lock:
            self.reserved -= reserved
            self.held -= spent
            self._spent += spent
            self._untold += spent

    def _is_used_up(self, price: int) -> bool:
        if self._left is None:
            return False
        left, said_at = self._left
        return self.free + left < price and asyncio.get_running_loop().time() - said_at < _BELIEVED

    def _turn(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        with self._lock:
            for gone in [known for known in self._turns if known.is_closed()]:
                del self._turns[gone]
            return self._turns.setdefault(loop, asyncio.Lock())


def _shown(name: object) -> str:
    try:
        return f"{name!r:.80}"
    except Exception:
        return f"<{type(name).__name__}>"
