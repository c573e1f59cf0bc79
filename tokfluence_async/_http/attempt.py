"""One attempt: one request on the wire, its slot, its time limit, and whether its bytes left.

Promises: a request leaves on a slot that is not older than `Lanes.slot_lifetime`, and `sent` is
False only where nothing of it can have reached the service.

Relies on the transport, which calls `take_slot` first, `refresh_slot` and `leaves` with a
connection in hand, and `forfeit_slot` when all is over.

Hard: connecting takes time. A slot is permission to send at one moment. Slots that were gathered
while connections were opened would be used all at once, as a burst that no window permits.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from .._throttle.lanes import Lanes
from .._wire.secret import Secret

__all__ = ["Attempt"]

# After so many stale slots in a row a request leaves on the next one as it comes: on a loop that is
# late at every turn it would never leave.
_MOST_REFRESHED = 3

_next_order = itertools.count(1).__next__


class Attempt:
    """One request on the wire.

    Args:
        limit: Seconds from the moment the request may leave to the last byte of the answer; None
            for no limit.
        silence: Seconds to the head of the answer, and then without a byte of its body arriving;
            None for no limit.
        priority: Take the next slot before those who wait without it.
        patience: Seconds; no slot is waited for while a gate is closed for longer.
        may_leave: Called right before the bytes leave. It raises if nothing is to be sent any more.
        new_connection: Do not send on a connection that has carried a request before.

    Attributes:
        sent: Whether its bytes may have left.
        reused: Whether it left on a connection that had carried a request before.
        waited: Seconds spent waiting for a slot of the throttle.
        order: The place of this send among all sends of the process. Answers are ordered by it, not
            by arrival.
        clock: What ends the attempt when `limit` or `silence` is over, the nearer of both. One
            timer serves for both: the nearer one is known.
        ends_at: When `limit` is over.
    """

    __slots__ = (
        "_lanes",
        "_loop",
        "_may_leave",
        "_patience",
        "_priority",
        "_slot_at",
        "clock",
        "ends_at",
        "limit",
        "new_connection",
        "order",
        "request_id",
        "reused",
        "sent",
        "silence",
        "token",
        "waited",
    )

    def __init__(
        self,
        request_id: str,
        token: Secret,
        lanes: Lanes,
        *,
        limit: float | None = None,
        silence: float | None = None,
        priority: bool = False,
        patience: float = 900.0,
        may_leave: Callable[[], None] = lambda: None,
        new_connection: bool = False,
    ) -> None:
        self.request_id = request_id
        self.token = token
        self.limit = limit
        self.silence = silence
        self.new_connection = new_connection
        self.sent = False
        self.reused = False
        self.waited = 0.0
        self.order = 0
        self.clock: asyncio.Timeout | None = None
        self.ends_at: float | None = None
        self._lanes = lanes
        self._priority = priority
        self._patience = patience
        self._may_leave = may_leave
        self._loop = asyncio.get_running_loop()
        self._slot_at: float | None = None  # when the slot in hand was granted

    # --- the slot ---------------------------------------------------------------------------------

    def try_slot(self) -> bool:
        """Take a slot of the throttle if that needs no waiting."""
        if self._lanes.try_acquire():
            self._slot_at = self._loop.time()
            return True
        return False

    async def wait_for_slot(self) -> None:
        """Take the next slot.

        Raises:
            GateClosedError: A gate is closed for longer than `patience`; nothing was taken.
        """
        began = self._loop.time()
        self._slot_at = await self._lanes.grant(priority=self._priority, patience=self._patience)
        self.waited += self._slot_at - began

    @property
    def slot_is_fresh(self) -> bool:
        slot_at = self._slot_at
        return slot_at is not None and self._loop.time() - slot_at <= self._lanes.slot_lifetime

    async def refresh_slot(self) -> None:
        """With a connection in hand: take another slot where this one is too old.

        The old one is not given back. Those that connected slowly together would take the slots
        that were given back, and leave at one instant.
        """
        for _ in range(_MOST_REFRESHED):
            if self.slot_is_fresh:
                break
            self._slot_at = None
            self.stop_clock()
            if not self.try_slot():
                await self.wait_for_slot()

    def forfeit_slot(self) -> None:
        """Give the slot to somebody else, if nothing left on it."""
        if self._slot_at is not None and not self.sent:
            self._lanes.forfeit(self._loop.time() - self._slot_at)
        self._slot_at = None

    # --- time limits ------------------------------------------------------------------------------

    def start_clock(self) -> float | None:
        """Both limits count from now; when the nearer one falls due, None if there is none."""
        now = self._loop.time()
        self.ends_at = None if self.limit is None else now + self.limit
        due = self._due(now)
        if self.clock is not None:
            self.clock.reschedule(due)
        return due

    def stop_clock(self) -> None:
        """Waiting for a slot is not timed."""
        if self.clock is not None:
            self.clock.reschedule(None)

    def heard(self) -> None:
        """Something of the answer has arrived: the silence counts from now."""
        if self.silence is not None and self.clock is not None:
            self.clock.reschedule(self._due(self._loop.time()))

    @property
    def was_silent(self) -> bool:
        """Of the limit that ended it: whether it was the silence."""
        return self.ends_at is None or self._loop.time() < self.ends_at

    def _due(self, now: float) -> float | None:
        if self.silence is None:
            return self.ends_at
        quiet = now + self.silence
        return quiet if self.ends_at is None else min(quiet, self.ends_at)

    # --- the moment it leaves ---------------------------------------------------------------------

    def leaves(self) -> None:
        """The bytes leave now."""
        if not self.sent:
            self._may_leave()
            self.sent = True
            self.order = _next_order()
