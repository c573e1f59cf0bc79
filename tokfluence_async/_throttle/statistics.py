"""What can be asked about the budgets: values, as they stand at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from .budget import Lane, LaneName
from .origin import Origin

__all__ = ["LaneStatistics", "ThrottleStatistics", "describe"]


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """One budget as it stands.

    Attributes:
        lane: "ip" or "key".
        origin: The service, as `https://host`.
        key: A name for the key that says nothing about it; None for an IP lane.
        limit: Requests per `period`; None where the lane is switched off.
        period: Seconds.
        waiting: Calls that wait for a slot of this lane.
        pace: Slots per second that open at present.
        slowed: Refusals have lowered the pace; it is on its way back.
        gate_closed_for: Seconds until the gate opens; 0.0 when it is open.
        refused: 429 answers counted against this lane so far.
    """

    lane: LaneName
    origin: str
    key: str | None
    limit: float | None
    period: float
    waiting: int
    pace: float
    slowed: bool
    gate_closed_for: float
    refused: int


@dataclass(frozen=True, slots=True)
class ThrottleStatistics:
    """What `Throttle.statistics` returns: all lanes in use, and the three figures that matter most.

    Attributes:
        waiting: Calls that wait for a slot.
        pace: Slots per second that open at present in the slowest lane; infinite without lanes.
        gate_closed_for: Seconds until the last gate opens; 0.0 when all are open.
        slowed: Whether refusals have lowered the pace of some lane.
        lanes: Every lane by itself.
        processes: How many processes share these budgets, alive as last seen; 1 without `shared`.
        shared: Whether slots come from the shared store; False while this process goes on alone.
    """

    waiting: int
    pace: float
    gate_closed_for: float
    slowed: bool
    lanes: tuple[LaneStatistics, ...]
    processes: int = 1
    shared: bool = False


def describe(
    origin: Origin, lane: Lane, label: str | None, waiting: int, now: float
) -> LaneStatistics:
    """One lane of `origin` at `now`. Wants the origin's lock held."""
    pacer = lane.pacer
    return LaneStatistics(
        lane=lane.name,
        origin=origin.name,
        key=label,
        limit=pacer.numbers.limit,
        period=pacer.numbers.period,
        waiting=waiting,
        pace=pacer.pace(now),
        slowed=pacer.learnt.at(now) < 1.0,
        gate_closed_for=pacer.gate.closed_for(now),
        refused=pacer.refused_total,
    )
