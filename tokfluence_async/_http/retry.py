"""What to do after a failed attempt: a pure function, nothing in it sleeps.

    decide(error, attempt, kind, past, ...) -> Again(after, new_id) | Settled(verify) | GiveUp()

Promises: a batch keeps its request id until a definite refusal, a read never keeps one, and nothing
that may have been done is paid for a second time.

Hard: the service remembers ids it has processed and answers a repeated one with 409, without the
answer that was lost [public]. Whether a *failed* attempt uses up its id is not documented. So a 409
is read in the light of what its id has been through before (`Past`):

    past of the id          read             batch (analyze)      other write
    ----------------------  ---------------  -------------------  -----------
    nothing (FRESH)         again, new id    verify: sent twice   give up
    refusals only           again, new id    again, new id        again, new id
    may have run            again, new id    settled: was done    give up
    both                    again, new id    verify               give up

A refusal is a 429, a 402 or the API's own 502. *May have run* is a lost answer, a 500, a proxy's
502, 503 or 504, a 200 cut short. *Verify* means: read every post of the batch (1 credit each); what
is readable after the visibility delay was done, the rest goes out again under a new id.

What each status says is in `_wire/statuses.py`. Source: the Tokfluence API page, *Idempotency*.
"""

from __future__ import annotations

from msgspec import Struct

from .._errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    TokfluenceError,
)
from .._wire.calls import Kind
from .._wire.statuses import Past, meaning_of

__all__ = [
    "Again",
    "Decision",
    "GiveUp",
    "Past",
    "RetryPolicy",
    "Settled",
    "backoff",
    "decide",
    "effect_of",
    "has_lost_connection",
]


class Again(Struct, frozen=True):
    """Send again after `after` seconds, under a new request id or (`new_id=False`) under the same
    one."""

    after: float
    new_id: bool


class Settled(Struct, frozen=True):
    """The 409 is the proof that an earlier attempt was done. With `verify`, only reading the posts
    will tell."""

    verify: bool = False


class GiveUp(Struct, frozen=True):
    """The error is the call's outcome."""


Decision = Again | Settled | GiveUp


class RetryPolicy(Struct, frozen=True):
    """How often and how long.

    Attributes:
        max_retries: Retries after the first attempt, 429 included; 0 means one attempt.
        base: Seconds; the n-th backoff is drawn evenly from 0 to `min(cap, base * 2**(n-1))` (full
            jitter).
        cap: Seconds; the longest backoff. A `Retry-After` is never cut to it.
        deadline: Seconds from the end of a call's first attempt, without what it waits for its turn
            among others. No attempt begins later; a `Retry-After` that points beyond it ends the
            call at once instead of at its end.
    """

    max_retries: int = 5
    base: float = 0.5
    cap: float = 30.0
    deadline: float = 900.0


def backoff(policy: RetryPolicy, attempt: int, rand: float) -> float:
    """Seconds to wait after the `attempt`-th attempt (1 is the first): `rand * min(cap, base *
    2**(attempt-1))`."""
    return rand * min(policy.cap, policy.base * 2.0 ** min(attempt - 1, 60))


def effect_of(error: TokfluenceError) -> Past:
    """What an attempt that ended in `error` has done to its request id."""
    if isinstance(error, APIStatusError):
        return meaning_of(error.status, error.code).adds
    if isinstance(error, APIConnectionError):
        return Past.MAYBE if error.sent else Past.FRESH
    # A 2xx whose body cannot be used is a lost answer.
    return Past.MAYBE if isinstance(error, APIResponseValidationError) else Past.FRESH


def has_lost_connection(error: TokfluenceError) -> bool:
    """Whether the other side has given the attempt's connection up; 408 is what it says where one
    has idled for too long. The others of the pool may be lost as well."""
    if isinstance(error, APIStatusError):
        return error.status == 408
    return isinstance(error, APIConnectionError)


def decide(
    error: TokfluenceError,
    attempt: int,
    kind: Kind,
    past: Past = Past.FRESH,
    *,
    batch: bool = False,
    policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
    elapsed: float = 0.0,
    rand: float = 1.0,
    unusable: int = 0,
) -> Decision:
    """Choose what follows an attempt.

    Args:
        error: How the attempt ended.
        attempt: Attempts made for this call, this one included; 1 is the first.
        kind: Whether a repeat is a new read or the same work.
        past: What the request id had been through *before* this attempt.
        batch: An analyze batch, whose posts can be read to find out what a 409 means.
        elapsed: Seconds since the end of the call's first attempt.
        rand: A number from 0 to 1, the jitter.
        unusable: Earlier attempts of this call whose body arrived whole and could not be used.
    """
    read = kind is Kind.READ
    if isinstance(error, APIStatusError) and error.status == 409:
        if read or past is Past.REFUSED:
            return _again(0.0, True, attempt, policy, elapsed)
        if not batch:
            return GiveUp()
        return Settled(verify=past is not Past.MAYBE)
    if not _may_pass(error, read, unusable):
        return GiveUp()
    after = backoff(policy, attempt, rand)
    asked = getattr(error, "retry_after", None)
    if asked is not None:
        after = max(asked, 0.0)
    return _again(after, read, attempt, policy, elapsed)


def _again(
    after: float, new_id: bool, attempt: int, policy: RetryPolicy, elapsed: float
) -> Decision:
    if attempt > policy.max_retries or elapsed + after > policy.deadline:
        return GiveUp()
    return Again(after, new_id)


def _may_pass(error: TokfluenceError, read: bool, unusable: int) -> bool:
    if isinstance(error, APIStatusError):
        return meaning_of(error.status, error.code).passes
    if isinstance(error, APIResponseValidationError):
        # The same request brings the same bytes, at full price: one repeat, as it may have been a
        # proxy's bad moment. Of well-formed JSON of another shape, none. For a write the repeat
        # under the same id costs nothing and shows whether it was done.
        return error.status is not None and (error.malformed or not read) and not unusable
    return isinstance(error, APIConnectionError)
