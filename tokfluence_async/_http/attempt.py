"""One attempt: one request on the wire, its slot, its time limit, and whether its bytes left.

Promises: a request leaves on a slot that is not older than `Lanes.slot_lifetime`, and `sent` is
False only where nothing of it can have reached the service.

Relies on the call, which takes the slot (`try_slot`, `wait_for_slot`), and on the transport: it
calls `refresh_slot` and `leaves` with a connection in hand, and `forfeit_slot` where nothing left.

Hard: connecting takes time. A slot is permission to send at one moment. Slots that were gathered
while connections were opened would be used all at once, as a burst that no window permits.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager

from msgspec import Struct

from .._credits.halt import Halt
from .._errors import TokfluenceError
from .._models import Timeout
from .._throttle.lanes import Lanes
from .._wire.secret import Secret

__all__ = ["Attempt", "UnconfirmedError"]

# After so many stale slots in a row a request leaves on the next one as it comes: on a loop that is
# late at every turn it would never leave.
_MOST_REFRESHED = 3

_next_order = itertools.count(1).__next__


class UnconfirmedError(TokfluenceError):
    """Another process may have taken this request id over. Nothing left."""

    def __init__(self) -> None:
        super().__init__("Whether this batch is still ours is not known. Nothing was sent.")


class Attempt(Struct, eq=False):
    """One request on the wire.

    Attributes:
        timeout: Its limits: `total` from the moment the request may leave to the last byte of the
            answer, `read` to the head of the answer and then without a byte of its body arriving.
        halt: Looked at right before the bytes leave: whether anything is to be sent any more.
        is_ours: Asked then: whether the request id is certainly still this process's to send.
        patience: Seconds; no slot is waited for while a gate is closed for longer.
        priority: Take the next slot before those who wait without it.
        new_connection: Whether it may only leave on a connection that has carried no request.
        sent: Whether its bytes may have left.
        reused: Whether it left on a connection that had carried a request before.
        unreachable: Whether no connection could be made: refused, no such name, no answer in time,
            a proxy that cannot reach the service.
        waited: Seconds spent waiting for a slot of the throttle.
        order: The place of this send among all sends of the process. Answers are ordered by it, not
            by arrival.
        clock: What ends the attempt at the nearer of its limits. One timer serves for both.
        ends_at: When `timeout.total` is over.
    """

    request_id: str
    token: Secret
    lanes: Lanes
    loop: asyncio.AbstractEventLoop
    timeout: Timeout
    halt: Halt
    is_ours: Callable[[], bool] | None = None
    patience: float = math.inf
    priority: bool = False
    new_connection: bool = False
    sent: bool = False
    reused: bool = False
    unreachable: bool = False
    waited: float = 0.0
    order: int = 0
    clock: asyncio.Timeout | None = None
    ends_at: float | None = None
    _heard_at: float = 0.0
    _slot_at: float | None = None  # when the slot in hand was granted

    # --- the slot ---------------------------------------------------------------------------------

    def try_slot(self) -> bool:
        """Take a slot of the throttle if that needs no waiting."""
        if self.lanes.try_acquire():
            self._slot_at = self.loop.time()
            return True
        return False

    async def wait_for_slot(self) -> None:
        """Take the next slot.

        Raises:
            GateClosedError: A gate is closed for longer than `patience`; nothing was taken.
        """
        began = self.loop.time()
        self._slot_at = await self.lanes.grant(priority=self.priority, patience=self.patience)
        self.waited += self._slot_at - began

    @property
    def slot_is_fresh(self) -> bool:
        slot_at = self._slot_at
        return slot_at is not None and self.loop.time() - slot_at <= self.lanes.slot_lifetime

    async def refresh_slot(self) -> None:
        """With a connection in hand: take another slot where this one is too old.

        The old one is not given back. Those that connected slowly together would take the slots
        that were given back, and leave at one instant.
        """
        with self.untimed():
            for _ in range(_MOST_REFRESHED):
                self._slot_at = None
                if not self.try_slot():
                    await self.wait_for_slot()
                if self.slot_is_fresh:
                    break

    def forfeit_slot(self) -> None:
        """Nothing leaves on the slot: it is somebody else's."""
        if self._slot_at is not None:
            self.lanes.forfeit(self.loop.time() - self._slot_at)
            self._slot_at = None

    # --- time limits ------------------------------------------------------------------------------

    def start_clock(self) -> float | None:
        """The limits count from now. Returns when the nearer one is over, None if there is none."""
        now = self.loop.time()
        total, read = self.timeout.total, self.timeout.read
        self._heard_at = now
        due = self.ends_at = None if total is None else now + total
        if read is not None and (total is None or read < total):
            due = now + read
        if self.clock is not None:
            self.clock.reschedule(due)
        return due

    @contextmanager
    def untimed(self) -> Generator[None]:
        """A wait that is nobody's fault, such as for a slot: the limits count anew from its end.
        Nothing else stops the clock, so no request is left without its limits."""
        if self.clock is not None:
            self.clock.reschedule(None)
        try:
            yield
        finally:
            self.start_clock()

    def heard(self) -> None:
        """Something of the answer has arrived: the silence counts from now."""
        read, now = self.timeout.read, self.loop.time()
        # To re-arm a timer takes 2 µs. The pieces of one answer come close together, so it is done
        # once in a hundredth of the limit.
        if read is None or self.clock is None or now - self._heard_at < read / 100:
            return
        self._heard_at = now
        self.clock.reschedule(now + read if self.ends_at is None else min(now + read, self.ends_at))

    @property
    def was_silent(self) -> bool:
        """Of the limit that ended it: whether it was the silence."""
        return self.ends_at is None or self.loop.time() < self.ends_at

    # --- the moment it leaves ---------------------------------------------------------------------

    def leaves(self) -> None:
        """The bytes leave now."""
        if not self.sent:
            self.halt.check()
            if self.is_ours is not None and not self.is_ours():
                raise UnconfirmedError
            self.sent = True
            self.order = _next_order()
