"""What a client has for one key in one event loop: its limits on concurrency, its gate, its lanes.

Promises: keys do not hold each other up. Those who wait for the throttle hold a concurrency slot,
so each key has concurrency slots of its own.
"""

from __future__ import annotations

import asyncio

from aiolimiter import AsyncLimiter

from .._credits.ledger import Ledger
from .._throttle.lanes import Lanes
from .._throttle.throttle import Throttle
from .concurrency import BatchConcurrency, ClosedGate

__all__ = ["KeyState"]


class KeyState:
    """What a client has for one key in one event loop.

    Attributes:
        bucket: The token bucket that analyze batches pass before they wait for a slot; None without
            a limit. Batches take every other slot before waiting reads. Hundreds at once, if a
            caller says so, or batches that come back `fresh` in no time, would leave the reads half
            of the slots. So they are let into the throttle's queue by a burst and then at the pace
            of the tighter budget. It is no limit of the service's, which the whole process would
            have to share: see `CONTRIBUTING.md` for how to add one.
    """

    def __init__(self, lanes: Lanes, ledger: Ledger, throttle: Throttle) -> None:
        self.lanes = lanes
        self.ledger = ledger
        self.gate = ClosedGate(lanes)
        self.batches = BatchConcurrency()
        self.bucket: AsyncLimiter | None = None
        limit = min((n for n in (throttle.per_ip, throttle.per_key) if n is not None), default=None)
        if limit is not None:
            self.bucket = AsyncLimiter(
                throttle.burst, throttle.burst * (throttle.period + throttle.jitter) / limit
            )
        self._slots: dict[tuple[bool, int], asyncio.Semaphore] = {}

    def slots(self, batch: bool, limit: int) -> asyncio.Semaphore:
        """The concurrency slots of reads, or of analyze batches."""
        slots = self._slots.get((batch, limit))
        if slots is None:
            # anyio's looks for a cancellation at every turn, 1.5 µs. Waiting here is first come,
            # first served as well.
            slots = self._slots[batch, limit] = asyncio.Semaphore(limit)
        return slots
