"""What processes that share a throttle ask of their store, and what it answers: values, no I/O.

A store keeps one schedule for each lane. It hands out *leases*: slots that open at a time on the
store's own clock. Answers are delays, so clocks of hosts are never compared. `schedule` says what a
store does with an ask; `file_store` and `redis_store` are the stores.

All times in here are seconds from the moment at which the store answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "Answer",
    "Ask",
    "LaneAnswer",
    "LaneAsk",
    "Learnt",
    "Refusal",
    "Store",
    "StoreError",
]

#: What `LearntShare` holds: the low share, until when it is held, when it was lowered, the proven
#: share, and until when it counts as proven.
Learnt: TypeAlias = tuple[float, float, float, float, float]


class StoreError(Exception):
    """The store did not do what was asked.

    Attributes:
        lasting: To ask again will not help: a wrong password, a full or read-only server, something
            else under our keys. Otherwise it could not be reached, or did not answer in time.
    """

    def __init__(self, message: str, *, lasting: bool) -> None:
        super().__init__(message)
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request got 429.

    Attributes:
        pause: Seconds for which nothing more may leave.
        learnt: The lowered share, where this refusal lowered it.
        version: Of the share that `learnt` comes from. If somebody else has lowered it meanwhile,
            theirs stands: both refusals were in flight together.
    """

    pause: float
    learnt: Learnt | None
    version: int


@dataclass(frozen=True, slots=True)
class LaneAsk:
    """One lane in an ask.

    Attributes:
        name: Of the lane, as bytes that say nothing about it.
        limit: Slots in `span` seconds; 0: not paced.
        span: The service's window and the jitter.
        window: The service's window, in which a lowered share is raised again.
        refusal: What is new about it.
        opened: A request that tried a gate which was closed for long was answered.
    """

    name: bytes
    limit: int
    span: float
    window: float
    refusal: Refusal | None = None
    opened: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """One trip to the store.

    Attributes:
        process: Who asks. To ask is to be alive.
        ip: The lane of the address.
        key: The lane of the key.
        slots: How many slots to lease.
        back: Leases that will not be used.
        leaving: The process needs no more slots; it does not count any longer.
    """

    process: bytes
    ip: LaneAsk
    key: LaneAsk
    slots: int = 0
    back: tuple[int, ...] = ()
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class LaneAnswer:
    """One lane as it stands in the store.

    Attributes:
        until: Seconds until the end of the pause that was asked for; negative when it is over.
        opens: Seconds until the next request may pass; negative when one may.
        gate_version: Goes up when a gate was opened before its time.
        learnt: The share in use.
        version: Goes up when the share is lowered.
        processes: How many share this lane.
    """

    until: float
    opens: float
    gate_version: int
    learnt: Learnt
    version: int
    processes: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What the store said.

    Attributes:
        leases: A lease's number and the seconds until it opens, soonest first. Fewer than asked for
            where a gate is closed.
        ip: The lane of the address.
        key: The lane of the key.
    """

    leases: tuple[tuple[int, float], ...]
    ip: LaneAnswer
    key: LaneAnswer


#: Gets the answer, None where the trip was cancelled, and the time that its delays count from.
Done: TypeAlias = "Callable[[Answer | StoreError | None, float], None]"


class Store(Protocol):
    """Where the schedules are.

    Attributes:
        patience: Seconds for which it may fail before the process goes on alone.
    """

    @property
    def patience(self) -> float: ...

    def request(
        self, ask: Ask, loop: asyncio.AbstractEventLoop, now: Callable[[], float], done: Done
    ) -> None:
        """Ask, in the running loop. `done` gets the answer, and the time on the clock `now` that
        its delays count from: at once, or later in the same loop."""
        ...

    async def aclose(self) -> None:
        """Close what belongs to the running loop. The next request opens it again."""
        ...
