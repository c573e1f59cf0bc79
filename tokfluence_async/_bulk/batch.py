"""The life of a batch: a pure table of (state, event).

A batch is up to 50 URLs under one request id. A lost answer may have cost 25 credits a URL, the
service answers a repeated id with a 409 instead of that answer, and the process may die at any
line. So what an id has been through decides what its 409 proves, and this table keeps count of it.
`docs/design/request-ids-and-money.md` has it as a picture, and what each state means.

Source: the Tokfluence API page, *Idempotency*.
"""

from __future__ import annotations

from enum import Enum

from .._errors import (
    APIStatusError,
    AuthenticationError,
    DuplicateRequestError,
    PermissionDeniedError,
    TokfluenceError,
)
from .._http.retry import Past, effect_of

__all__ = ["TABLE", "BatchEvent", "BatchState", "event_of", "past_of", "step"]


class BatchState(Enum):
    """Where a batch is; see the table above."""

    PLANNED = "planned"
    READY = "ready"
    REFUSED = "refused"
    DOUBT = "doubt"
    MIXED = "mixed"
    CLAIMED = "claimed"
    SETTLED = "settled"
    RELEASED = "released"


class BatchEvent(Enum):
    """What can happen to a batch; see the table above."""

    WRITTEN = "written"
    UNSENT = "unsent"
    TURNED_AWAY = "turned away"
    REFUSED = "refused"
    REJECTED = "rejected"
    LOST = "lost"
    ANSWERED = "answered"
    CONFLICT = "conflict"
    READABLE = "readable"
    MISSING = "missing"
    GIVEN_UP = "given up"
    RELOADED = "reloaded"


_S, _E = BatchState, BatchEvent

TABLE: dict[tuple[BatchState, BatchEvent], BatchState] = {
    (_S.PLANNED, _E.WRITTEN): _S.READY,
    (_S.PLANNED, _E.GIVEN_UP): _S.RELEASED,
    **{(state, _E.ANSWERED): _S.SETTLED for state in (_S.READY, _S.REFUSED, _S.DOUBT, _S.MIXED)},
    **{(state, _E.REJECTED): _S.RELEASED for state in (_S.READY, _S.REFUSED)},
    **{(state, _E.REJECTED): state for state in (_S.DOUBT, _S.MIXED)},
    **{(state, _E.UNSENT): state for state in (_S.READY, _S.REFUSED, _S.DOUBT, _S.MIXED)},
    **{(state, _E.TURNED_AWAY): state for state in (_S.READY, _S.REFUSED, _S.DOUBT, _S.MIXED)},
    **{
        (state, _E.RELOADED): _S.MIXED
        for state in (_S.READY, _S.REFUSED, _S.DOUBT, _S.MIXED, _S.CLAIMED)
    },
    (_S.READY, _E.REFUSED): _S.REFUSED,
    (_S.REFUSED, _E.REFUSED): _S.REFUSED,
    (_S.DOUBT, _E.REFUSED): _S.MIXED,
    (_S.MIXED, _E.REFUSED): _S.MIXED,
    (_S.READY, _E.LOST): _S.DOUBT,
    (_S.REFUSED, _E.LOST): _S.MIXED,
    (_S.DOUBT, _E.LOST): _S.DOUBT,
    (_S.MIXED, _E.LOST): _S.MIXED,
    (_S.READY, _E.CONFLICT): _S.CLAIMED,
    (_S.REFUSED, _E.CONFLICT): _S.PLANNED,
    (_S.DOUBT, _E.CONFLICT): _S.SETTLED,
    (_S.MIXED, _E.CONFLICT): _S.CLAIMED,
    (_S.CLAIMED, _E.READABLE): _S.SETTLED,
    (_S.CLAIMED, _E.MISSING): _S.PLANNED,
    (_S.READY, _E.GIVEN_UP): _S.RELEASED,
    (_S.REFUSED, _E.GIVEN_UP): _S.RELEASED,
    (_S.DOUBT, _E.GIVEN_UP): _S.DOUBT,
    (_S.MIXED, _E.GIVEN_UP): _S.MIXED,
    (_S.CLAIMED, _E.GIVEN_UP): _S.MIXED,
    (_S.RELEASED, _E.GIVEN_UP): _S.RELEASED,
}


def step(state: BatchState, event: BatchEvent) -> BatchState:
    """The state that follows.

    Raises:
        ValueError: `event` cannot happen in `state`: whoever drives the batch is wrong about it.
    """
    try:
        return TABLE[state, event]
    except KeyError:
        raise ValueError(f"a batch that is {state.value} cannot be {event.value}") from None


def past_of(state: BatchState) -> Past:
    """What the batch's id has been through, as `_retry.decide` wants to know it."""
    return {
        _S.REFUSED: Past.REFUSED,
        _S.DOUBT: Past.MAYBE,
        _S.MIXED: Past.REFUSED | Past.MAYBE,
    }.get(state, Past.FRESH)


def event_of(error: TokfluenceError) -> BatchEvent:
    """What an attempt that ended in `error` has done to its batch."""
    if isinstance(error, DuplicateRequestError):
        return _E.CONFLICT
    if isinstance(error, (AuthenticationError, PermissionDeniedError)):
        return _E.TURNED_AWAY
    effect = effect_of(error)
    if effect is Past.FRESH:
        return _E.REJECTED if isinstance(error, APIStatusError) else _E.UNSENT
    return _E.REFUSED if effect is Past.REFUSED else _E.LOST
