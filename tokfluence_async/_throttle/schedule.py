"""The schedules that processes share: the arithmetic of a store. No clock and no I/O.

Promises: over all processes, no window of `span` seconds holds more than a lane's limit of leases,
and the leases of an address are even in time.

Relies on: whoever calls holds the store's lock, and `now` never goes back. All times are whole
microseconds on the store's clock, so they survive any number format.

An address' lane is a due time: the next lease opens at `due`, and `due` moves on by one interval.
A key's lane is a grid of cells, each used once by whoever comes first. A due time would not do
there: with leases ahead, one address would push it past the free slots of all others.

`redis_script` says the same in Lua; a test holds both to the same answers. The proofs are in
docs/design/shared-throttle.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

from .pause import DAY
from .share import share_at
from .store import Answer, Ask, LaneAnswer, LaneAsk

__all__ = [
    "ALIVE",
    "COLD",
    "MICRO",
    "NEVER",
    "STRICT",
    "Cells",
    "LaneState",
    "exchange",
    "ring_size",
]

MICRO = 1_000_000
#: Before everything; finite, as some number formats know no infinity.
NEVER = -1e15
#: After everything that can be asked for.
_FOREVER = 1e300
#: Slots that pass before the first lease of a new lane.
COLD = 4
#: Seconds after its last ask for which a process counts as alive.
ALIVE = 8.0
#: Seconds for which the most careful numbers that anybody has asked with hold for all.
STRICT = 12.0
#: How many cells are looked at for one lease. More are never taken ahead.
_MOST_CELLS = 4096


class Cells(Protocol):
    """The used cells of a key's grid: a ring of `ring_size(limit)` whole numbers, 0 where none."""

    def get(self, index: int) -> int: ...

    def set(self, index: int, value: int) -> None: ...

    def clear(self, limit: int) -> None:
        """Forget all cells; the ring is for this limit from now on."""
        ...


def ring_size(limit: int) -> int:
    """How many cells are kept: a window behind, and as many ahead."""
    return 2 * limit + 64


@dataclass(slots=True)
class LaneState:
    """One lane in the store; times in microseconds.

    Attributes:
        due: An address' next lease opens then. No lease of a key opens before.
        until: The end of the pause that was asked for.
        opens: When the next request may pass.
        gate_version: Goes up when a gate was opened before its time.
        low, hold, stepped, proven, proven_until: The learnt share.
        version: Goes up when the share is lowered.
        limit, span: The most careful numbers in use; limit 0: not paced.
        strict_until: Until when they hold.
        debt: Cells that a lowered share still owes.
        processes: Who shares the lane, and when each was seen last.
        free: Leases that were given back.
    """

    due: float = NEVER
    until: float = NEVER
    opens: float = NEVER
    gate_version: int = 0
    low: float = 1.0
    hold: float = NEVER
    stepped: float = NEVER
    proven: float = 1.0
    proven_until: float = NEVER
    version: int = 0
    limit: int = 0
    span: float = 0.0
    strict_until: float = NEVER
    debt: float = 0.0
    processes: dict[bytes, float] = field(default_factory=dict[bytes, float])
    free: list[int] = field(default_factory=list[int])

    @property
    def interval(self) -> float:
        """Microseconds between two slots at the full pace, and the width of a key's cell. 0: not
        paced."""
        return self.span / self.limit if self.limit else 0.0


def exchange(now: int, ask: Ask, ip: LaneState, key: LaneState, cells: Cells) -> Answer:
    """Do what is asked at `now`, and answer."""
    for lane, asked in ((ip, ask.ip), (key, ask.key)):
        _meet(lane, ask, now)
        _take_numbers(lane, asked, now, cells if lane is key else None)
    for lease in ask.back:
        _give_back(lease, now, ip, key, cells)
    for lane, asked in ((ip, ask.ip), (key, ask.key)):
        if asked.opened:
            lane.until = lane.opens = now
            lane.gate_version += 1
        if asked.refusal is not None:
            _refuse(lane, asked, now)
            ip.free.clear()
    ip.free[:] = sorted(lease for lease in ip.free if lease >= now)
    leases: list[int] = []
    for _ in range(ask.slots):
        if max(ip.opens, key.opens) > now:
            break
        leases.append(_lease(now, ask, ip, key, cells))
        for lane in (ip, key):
            if now < lane.until:  # a gate that is closed for long: one try
                lane.opens = min(lane.until, now + DAY * MICRO)
    return Answer(
        leases=tuple((lease, (lease - now) / MICRO) for lease in sorted(leases)),
        ip=_describe(ip, now),
        key=_describe(key, now),
    )


def _meet(lane: LaneState, ask: Ask, now: int) -> None:
    """Note who is alive."""
    if ask.leaving:
        lane.processes.pop(ask.process, None)
    else:
        lane.processes[ask.process] = now
    for process in [p for p, seen in lane.processes.items() if seen < now - ALIVE * MICRO]:
        del lane.processes[process]


def _take_numbers(lane: LaneState, asked: LaneAsk, now: int, cells: Cells | None) -> None:
    """The most careful numbers of those who asked lately hold: the longest interval."""
    span = asked.span * MICRO
    interval = span / asked.limit if asked.limit else 0.0
    if interval < lane.interval and now < lane.strict_until:
        return
    lane.strict_until = now + STRICT * MICRO
    if interval == lane.interval:
        return
    if cells is None:
        if lane.due == NEVER:
            # As a process that is restarted: nothing saved. And a store that was emptied may have
            # leased some slots already.
            lane.due = now + COLD * interval
    else:
        # Another grid. What was leased from the old one lies before `due`.
        cells.clear(asked.limit)
        lane.due = max(lane.due, now)
        lane.debt = 0.0
    lane.limit, lane.span = asked.limit, span


def _share(lane: LaneState, asked: LaneAsk, now: int) -> float:
    return share_at(lane.low, (now - lane.hold) / MICRO, asked.window)


def _give_back(lease: int, now: int, ip: LaneState, key: LaneState, cells: Cells) -> None:
    if lease <= now:
        return  # too late for anybody
    if key.limit:
        cell = math.floor(lease / key.interval)
        if cells.get(cell % ring_size(key.limit)) != lease:
            return  # of another grid
        cells.set(cell % ring_size(key.limit), 0)
    if ip.limit and lease < ip.due:
        ip.free.append(lease)


def _refuse(lane: LaneState, asked: LaneAsk, now: int) -> None:
    refusal = asked.refusal
    assert refusal is not None
    lane.until = max(lane.until, now + min(refusal.pause * MICRO, _FOREVER))
    lane.opens = max(lane.opens, min(lane.until, now + DAY * MICRO))
    # An older version than the refusal's: this store was emptied.
    if refusal.learnt is not None and refusal.version >= lane.version:
        lane.version = refusal.version + 1
        lane.low, hold, stepped, lane.proven, proven_until = refusal.learnt
        lane.hold, lane.stepped, lane.proven_until = (
            max(now + delay * MICRO, NEVER) for delay in (hold, stepped, proven_until)
        )
    # After the gate one slot at a time: the schedule begins where it opens.
    lane.due = max(lane.due, lane.opens)


def _lease(now: int, ask: Ask, ip: LaneState, key: LaneState, cells: Cells) -> int:
    """The next slot that is free in both lanes."""
    share = _share(key, ask.key, now)
    for lease in ip.free:
        if _place(lease, key, cells) == lease:
            ip.free.remove(lease)
            _use(lease, share, key, cells)
            return lease
    slot = _place(math.ceil(max(now, ip.due if ip.limit else now)), key, cells)
    _use(slot, share, key, cells)
    if ip.limit:
        # Kept to fractions, or rounding would move a whole schedule.
        begin = ip.due if slot - 1 < ip.due else slot
        ip.due = begin + ip.interval / _share(ip, ask.ip, now)
    return slot


def _place(slot: int, key: LaneState, cells: Cells) -> int:
    """The first moment from `slot` on at which a cell of the key is free.

    A cell's slot has to be a window later than that of the cell a window before, and a window
    earlier than that of the cell a window behind, where those are used. So no window holds more
    than the limit, wherever in its cell each slot lies.
    """
    if not key.limit:
        return slot
    width = key.interval
    slot = max(slot, math.ceil(key.due))
    cell = math.floor(slot / width)
    for _ in range(_MOST_CELLS):
        if not _used(cell, key, cells):
            before = _used(cell - key.limit, key, cells)
            behind = _used(cell + key.limit, key, cells)
            if before:
                slot = max(slot, math.ceil(before + key.span))
            if math.floor(slot / width) == cell and (not behind or slot + key.span <= behind):
                return slot
        cell += 1
        slot = math.ceil(cell * width)
        cell = math.floor(slot / width)
    return slot


def _used(cell: int, key: LaneState, cells: Cells) -> int:
    """The slot that a cell is used by, or 0."""
    value = cells.get(cell % ring_size(key.limit))
    return value if value and math.floor(value / key.interval) == cell else 0


def _use(slot: int, share: float, key: LaneState, cells: Cells) -> None:
    """Take the cell of `slot`; at a lowered share others with it, as nobody may use them then."""
    if not key.limit:
        return
    width, size = key.interval, ring_size(key.limit)
    cell = math.floor(slot / width)
    cells.set(cell % size, slot)
    key.debt += 1.0 / share - 1.0
    while key.debt >= 1.0:
        cell += 1
        if not _used(cell, key, cells):
            cells.set(cell % size, math.ceil(cell * width))
            key.debt -= 1.0


def _describe(lane: LaneState, now: int) -> LaneAnswer:
    return LaneAnswer(
        until=(lane.until - now) / MICRO,
        opens=(lane.opens - now) / MICRO,
        gate_version=lane.gate_version,
        learnt=(
            lane.low,
            (lane.hold - now) / MICRO,
            (lane.stepped - now) / MICRO,
            lane.proven,
            (lane.proven_until - now) / MICRO,
        ),
        version=lane.version,
        processes=len(lane.processes),
    )
