"""One call under way: what `Engine.perform` keeps between its steps.

Promises: between attempts nothing is held, no connection, no slot of the throttle and no
concurrency slot. Whatever ends the call, its charge is settled (`Charge`) and its request ids are
told how they ended (`Ids`).

Hard: the order of the waits. First a closed gate, then the concurrency limits, then the throttle's
slot, right before the bytes leave. A slot that was taken earlier would get old in the other waits.
A limit on one kind of call stands before the concurrency slot: later it would hold a slot that
other calls need, and a read that finds a slot of the throttle free does not wait at all.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from msgspec import Struct, structs

from .._credits.budget import Budget
from .._errors import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    DuplicateRequestError,
    TokfluenceError,
)
from .._models import Timeout
from .._throttle.lanes import GateClosedError
from .._wire.answers import Answer, charge_of, parse_answer
from .._wire.calls import Call
from .._wire.request_ids import next_request_id
from .._wire.secret import Secret
from .._wire.shapes import Shape
from .._wire.statuses import meaning_of
from .attempt import Attempt, UnconfirmedError
from .charge import Charge
from .retry import (
    Again,
    Decision,
    GiveUp,
    Past,
    RetryPolicy,
    Settled,
    decide,
    effect_of,
    has_lost_connection,
)

if TYPE_CHECKING:
    from .keys import KeyState
    from .loops import LoopState

__all__ = ["PER_URL", "CallUnderWay", "Ids", "Options"]

T = TypeVar("T")

logger = logging.getLogger("tokfluence_async")

_DEFAULT = Timeout()
# Seconds a URL that an analyze attempt may take on top: "several seconds per URL are normal on a
# cold cache" [seed]. A limit that is too short costs a request and a wait, one that is too long
# delays the notice of a dead connection.
PER_URL = 15.0


class Options(Struct, frozen=True, kw_only=True):
    """What `with_options` may change.

    Attributes:
        waits_out_outages: While no connection can be made, wait for it instead of failing.
    """

    token: Secret
    timeout: Timeout
    policy: RetryPolicy
    max_concurrency: int
    analyze_concurrency: int
    budget: Budget
    waits_out_outages: bool = False

    def of_a_job(self, budget: Budget) -> Options:
        """The options of a bulk call: an outage must not fail its inputs."""
        return structs.replace(self, budget=budget, waits_out_outages=True)


class Ids(Protocol):
    """Where the request ids of an analyze batch come from. A journal writes each down before it is
    used.

    Attributes:
        past: What the first id has been through already, in an earlier process.
    """

    @property
    def past(self) -> Past: ...

    async def next(self) -> str: ...

    def holds(self) -> bool:
        """Whether the current id may leave now. Asked with a connection in hand."""
        ...

    async def confirm(self) -> None:
        """Return only if the current id may be sent again."""
        ...

    def note(self, error: TokfluenceError | None) -> None:
        """An attempt under the current id ended in `error`; None if it was cancelled after its
        bytes may have left."""
        ...


class CallUnderWay(Generic[T]):
    """One call, from its first reservation to its outcome.

    Args:
        ids: Where the request ids of an analyze batch come from; None for every other call.
        at_least: Seconds that an attempt needs, as far as it is known.
    """

    def __init__(
        self,
        state: LoopState,
        key: KeyState,
        call: Call,
        shape: Shape[T],
        options: Options,
        ids: Ids | None,
        at_least: float,
    ) -> None:
        self._state = state
        self._key = key
        self._call = call
        self._shape = shape
        self._options = options
        self._budget = options.budget
        self._ids = ids
        if ids is None:
            self._past = Past.FRESH
            self._batches = None
            self._slots = key.slots(False, options.max_concurrency)
        else:
            self._past = ids.past
            self._batches = key.batches
            self._slots = key.slots(True, options.analyze_concurrency)
        self._timeout = _longer(call, options, at_least) if call.units else options.timeout
        self._charge = Charge(call, options.budget, key.ledger)
        self._charged = 0  # credits, under the request ids before the current one
        self._attempts = 0
        self._since: float | None = None  # the end of the first attempt, less waits for a turn
        self._refusals = 0
        self._unusable = 0  # bodies that arrived whole and could not be used
        self._new_connection = False  # a pooled one was lost, so the others may be as well
        key.ledger.began()

    # --- reserve ----------------------------------------------------------------------------------

    async def reserve(self) -> Attempt:
        """Begin the next attempt; where a new request id is needed, set its price aside first.

        Raises:
            TokfluenceError: What the budget was closed with, or that too little is left in it.
        """
        self._attempts += 1
        self._budget.check()
        charge = self._charge
        if charge.request_id is None:
            await charge.reserve()
            charge.request_id = next_request_id() if self._ids is None else await self._ids.next()
        elif self._ids is not None:
            await self._ids.confirm()
        return Attempt(
            charge.request_id,
            self._options.token,
            self._key.lanes,
            self._state.loop,
            self._timeout,
            self._budget.halt,
            is_ours=None if self._ids is None else self._ids.holds,
            patience=self._options.policy.deadline,
            priority=self._ids is not None,
            new_connection=self._new_connection,
        )

    # --- wait, and send ---------------------------------------------------------------------------

    async def exchange(self, attempt: Attempt) -> Answer:
        """Wait for a turn, send, and return the answer, whatever its status."""
        counts = self._state.counts
        try:
            while True:
                try:
                    return await self._take_turn(attempt)
                except GateClosedError as error:
                    attempt.waited += error.waited
                except UnconfirmedError:
                    # The process was stopped while this waited, or the shared journal is away.
                    assert self._ids is not None
                    await self._ids.confirm()
                # With nothing in hand, not even a concurrency slot.
                counts.throttled_seconds += await self._pass_gate()
        finally:
            counts.throttled_seconds += attempt.waited
            if attempt.sent:
                counts.requests += 1
                counts.retries += self._attempts > 1

    async def _take_turn(self, attempt: Attempt) -> Answer:
        """Raises `GateClosedError` where its turn would be a wait at a closed gate, and
        `UnconfirmedError`; nothing was sent then."""
        state = self._state
        asked = state.loop.time()
        if state.outage.since is not None and self._options.waits_out_outages:
            await state.outage.passed()
        await self._slots.acquire()
        try:
            if self._batches is not None:
                await self._batches.enter(attempt, self._options.analyze_concurrency)
            if self._since is not None:
                self._since += state.loop.time() - asked  # the deadline is for the service's part
            if self._batches is not None or not attempt.try_slot():
                await self._wait_for_slot(attempt)
            return await self._send(attempt)
        finally:
            self._slots.release()
            if self._batches is not None:
                self._batches.leave(attempt)

    def _send(
        self, attempt: Attempt, headers: Mapping[str, str] | None = None
    ) -> Awaitable[Answer]:
        return self._state.transport.send(self._call, attempt, headers)

    def _pass_gate(self) -> Awaitable[float]:
        return self._key.gate.passed(self._options.policy.deadline)

    async def _wait_for_slot(self, attempt: Attempt) -> None:
        if self._key.lanes.gate_closed_for > 0:
            raise GateClosedError(0.0)
        if self._batches is not None and self._key.bucket is not None:
            asked = self._state.loop.time()
            with self._key.lanes.waiting_outside():
                await self._key.bucket.acquire()
            attempt.waited += self._state.loop.time() - asked
            if attempt.try_slot():
                return
        await attempt.wait_for_slot()

    # --- read -------------------------------------------------------------------------------------

    def read(self, attempt: Attempt, answer: Answer) -> T:
        """Tell throttle, ledger and budget of the answer, and decode it.

        Raises:
            APIError: It is not what was asked for.
        """
        self._state.counts.bytes_received += len(answer.body)
        self._state.outage.reached()
        if answer.credits_remaining is not None:
            self._key.ledger.note(attempt.order, answer.credits_remaining)
            if self._budget.keeps:
                self._budget.saw(answer.credits_remaining)
        if logger.isEnabledFor(logging.DEBUG):
            _log(self._call, answer, attempt)
        code = None
        try:
            value = parse_answer(answer, self._shape, secret=self._options.token)
        except APIStatusError as error:
            code = error.code
            raise
        finally:
            self._tell_throttle(answer, code)
        self._charge.owed = charge_of(answer, self._call)
        self._charge.uncertain = self._charge.failed = False
        self._state.foreign_server.spoke(None)
        return value

    def _tell_throttle(self, answer: Answer, code: str | None) -> None:
        too_many = False  # at once: then it says nothing about the pace
        if self._batches is not None:
            if meaning_of(answer.status, code).crowded:
                too_many = self._batches.refused(again=self._refusals > 0)
                self._refusals += 1
            else:
                self._batches.answered()
        if answer.status == 429:
            self._state.counts.rate_limited += 1
            self._key.lanes.refused(answer.retry_after, lower=not too_many)
        else:
            self._key.lanes.answered()

    # --- decide -----------------------------------------------------------------------------------

    def decide(self, attempt: Attempt, error: TokfluenceError) -> Decision:
        """What follows an attempt that ended in `error`."""
        if self._budget.closed_by(error) or error is self._state.outage.error:
            return GiveUp()  # this attempt has not been sent, and did not end so
        if attempt.reused and has_lost_connection(error):
            self._new_connection = True
        if isinstance(error, APIError):
            error.attempts = self._attempts
            self._state.foreign_server.spoke(error)
        if isinstance(error, APIStatusError) and not attempt.sent:
            return GiveUp()  # from the closed gate: the service was not asked
        if isinstance(error, APIConnectionError) and self._waits_out(error, attempt):
            return Again(0.0, new_id=False)
        now = self._state.loop.time()
        if self._since is None:
            self._since = now
        decision = decide(
            error,
            self._attempts,
            self._call.kind,
            self._past,
            batch=self._batches is not None,
            policy=self._options.policy,
            elapsed=now - self._since,
            rand=random.random(),
            unusable=self._unusable,
        )
        self._unusable += isinstance(error, APIResponseValidationError)
        self._note_charge(error, attempt)
        if self._ids is not None:
            self._ids.note(error)
        if isinstance(decision, Settled):
            # Charged here only if an attempt of this call may have run. A batch that an earlier
            # process left in doubt was charged then, if ever.
            may_have_run = self._charge.uncertain or self._past is Past.FRESH
            self._charge.owed = self._call.price if may_have_run else 0
        elif isinstance(decision, Again):
            logger.info("%s: %s; again in %.1f s", self._call.route, error, decision.after)
            self._past |= effect_of(error)
            if decision.new_id:
                self._charged += self._charge.close()
                self._charge = Charge(self._call, self._budget, self._key.ledger)
                self._past = Past.FRESH
        elif isinstance(error, DuplicateRequestError) and self._past & Past.MAYBE:
            error.advice = "An earlier attempt of this call was done; its answer is not replayed."
        return decision

    def _waits_out(self, error: APIConnectionError, attempt: Attempt) -> bool:
        """Note a connection that was lost or not made. Whether the call waits for the network:
        nothing was sent then, and it is no attempt."""
        outage = self._state.outage
        if not attempt.unreachable:
            if attempt.sent and not attempt.reused:
                outage.reached()
            return False
        outage.failed(error)
        if not self._options.waits_out_outages or outage.error is not None:
            return False
        self._attempts -= 1
        return True

    def _note_charge(self, error: TokfluenceError, attempt: Attempt) -> None:
        charge = self._charge
        if effect_of(error) & Past.MAYBE:
            charge.uncertain = True
        if isinstance(error, APIStatusError):
            # 409 for an id that was never sent before: something in between has sent it twice, and
            # the answer that is lost was charged.
            sent_twice = error.status == 409 and self._past is Past.FRESH
            if sent_twice or meaning_of(error.status, error.code).charged:
                charge.owed = self._call.price
        elif attempt.sent:
            charge.owed = self._call.price

    # --- end --------------------------------------------------------------------------------------

    def interrupted(self, attempt: Attempt) -> None:
        """The attempt was cancelled: what may have left may have been charged."""
        if attempt.sent:
            self._charge.may_be_charged()
            if self._ids is not None:
                self._ids.note(None)

    def end(self) -> None:
        """Settle what is reserved, whatever ended the call."""
        self._charged += self._charge.close()
        self._key.ledger.ended()


def _longer(call: Call, options: Options, at_least: float) -> Timeout:
    """The time limits of an analyze attempt."""
    timeout = options.timeout
    total = None if timeout.total is None else timeout.total + PER_URL * call.units
    # Only ever longer: an attempt that is cut short may have been charged, so no limit is shortened
    # by a guess.
    if total is not None and timeout == _DEFAULT:
        total = max(total, at_least)
    # The service is silent while it works, so only the total bounds the wait.
    return Timeout(connect=timeout.connect, read=None, total=total)


def _log(call: Call, answer: Answer, attempt: Attempt) -> None:
    logger.debug(
        "%s %s -> %d, price %d, request %s, %d bytes, waited %.3f s for a slot, %s credits left",
        call.method,
        call.target,
        answer.status,
        call.price,
        answer.request_id,
        len(answer.body),
        attempt.waited,
        "?" if answer.credits_remaining is None else answer.credits_remaining,
    )
