"""What follows a failed attempt: a table and its arithmetic, with nothing to wait for."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfluence_async import (
    APIConnectionError,
    APIResponseValidationError,
    APITimeoutError,
    TokfluenceError,
)
from tokfluence_async._errors import InvalidPostError, status_error
from tokfluence_async._http.retry import (
    Again,
    Decision,
    GiveUp,
    Past,
    RetryPolicy,
    Settled,
    backoff,
    decide,
    effect_of,
)
from tokfluence_async._wire.calls import Kind

FRESH, REFUSED, MAYBE, BOTH = Past.FRESH, Past.REFUSED, Past.MAYBE, Past.REFUSED | Past.MAYBE
READ, WRITE = Kind.READ, Kind.WRITE
ROOMY = RetryPolicy(max_retries=1000, deadline=1e9)


def status(code: int, word: str | None = None, retry_after: float | None = None) -> TokfluenceError:
    return status_error(code)(code, word, "x", retry_after=retry_after)


DUPLICATE = status(409, "duplicate_request")

errors = st.one_of(
    st.builds(
        status,
        st.sampled_from(
            [302, 400, 401, 402, 403, 404, 408, 409, 418, 422, 429, 500, 501, 502, 503, 504]
        ),
        st.sampled_from([None, "upstream_error", "rate_limited", "internal_error"]),
        st.none() | st.floats(0, 10_000),
    ),
    st.builds(lambda sent: APIConnectionError("x", sent=sent), st.booleans()),
    st.builds(lambda sent: APITimeoutError("x", sent=sent), st.booleans()),
    st.builds(
        lambda malformed, code: APIResponseValidationError("x", status=code, malformed=malformed),
        st.booleans(),
        st.sampled_from([200, None]),
    ),
)
kinds = st.sampled_from(Kind)
pasts = st.sampled_from([FRESH, REFUSED, MAYBE, BOTH])
policies = st.builds(
    RetryPolicy,
    max_retries=st.integers(0, 10),
    base=st.floats(0.01, 10),
    cap=st.floats(0.01, 100),
    deadline=st.floats(0, 2000),
)


# --- 409 by the history of its id -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("past", "kind", "batch", "expected"),
    [
        (FRESH, READ, False, Again(0.0, True)),
        (REFUSED, READ, False, Again(0.0, True)),
        (MAYBE, READ, False, Again(0.0, True)),
        (BOTH, READ, False, Again(0.0, True)),
        (FRESH, WRITE, True, Settled(verify=True)),
        (REFUSED, WRITE, True, Again(0.0, True)),
        (MAYBE, WRITE, True, Settled(verify=False)),
        (BOTH, WRITE, True, Settled(verify=True)),
        (FRESH, WRITE, False, GiveUp()),
        (REFUSED, WRITE, False, Again(0.0, True)),
        (MAYBE, WRITE, False, GiveUp()),
        (BOTH, WRITE, False, GiveUp()),
    ],
)
def test_a_409_is_read_by_what_its_id_has_been_through(
    past: Past, kind: Kind, batch: bool, expected: Decision
) -> None:
    """The table of `docs/design/request-ids-and-money.md`: done after a lost answer, used up after
    refusals, and after both only the index knows."""
    assert decide(DUPLICATE, 1, kind, past, batch=batch, policy=ROOMY) == expected


@pytest.mark.parametrize(
    ("error", "effect"),
    [
        (status(429), REFUSED),
        (status(402, "insufficient_credits"), REFUSED),
        (status(502, "upstream_error"), REFUSED),
        (status(500, "internal_error"), MAYBE),
        (status(500), MAYBE),
        (status(502), MAYBE),
        (status(503), MAYBE),
        (status(504), MAYBE),
        (status(408), MAYBE),
        (APIConnectionError("x", sent=True), MAYBE),
        (APITimeoutError("x", sent=True), MAYBE),
        (APIResponseValidationError("cut", status=200, malformed=True), MAYBE),
        (APIConnectionError("x", sent=False), FRESH),
        (APITimeoutError("x", sent=False), FRESH),
        (status(401), FRESH),
        (status(403), FRESH),
        (status(404), FRESH),
        (status(422), FRESH),
        (InvalidPostError("x", "y"), FRESH),
    ],
)
def test_what_an_attempt_does_to_its_id(error: TokfluenceError, effect: Past) -> None:
    """Only a definite refusal is one; whatever may have run counts as having run."""
    assert effect_of(error) == effect


# --- which errors are worth another attempt -------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "read", "write"),
    [
        (status(429), True, True),
        (status(408), True, True),
        (status(500), True, True),
        (status(502), True, True),
        (status(503), True, True),
        (status(504), True, True),
        (status(501), False, False),
        (status(302), False, False),
        (status(400), False, False),
        (status(401), False, False),
        (status(402), False, False),
        (status(403), False, False),
        (status(404), False, False),
        (status(422), False, False),
        (APIConnectionError("x"), True, True),
        (APITimeoutError("x", sent=False), True, True),
        # Well-formed JSON of another shape comes back the same, and is charged again.
        (APIResponseValidationError("x", status=200, malformed=False), False, True),
        (APIResponseValidationError("x", status=200, malformed=True), True, True),
        (APIResponseValidationError("paging does not advance"), False, False),
        (InvalidPostError("x", "y"), False, False),
        (TokfluenceError("x"), False, False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: TokfluenceError, read: bool, write: bool) -> None:
    """A repeat costs a request, and for a read a credit."""
    assert isinstance(decide(error, 1, READ, policy=ROOMY), Again) is read
    assert isinstance(decide(error, 1, WRITE, batch=True, policy=ROOMY), Again) is write


@given(errors, st.integers(1, 20), pasts, policies, st.floats(0, 3000), st.floats(0, 1))
def test_a_read_never_keeps_its_id_and_is_never_settled(
    error: TokfluenceError,
    attempt: int,
    past: Past,
    policy: RetryPolicy,
    elapsed: float,
    rand: float,
) -> None:
    """A read under a used id gets 409 and no data."""
    decision = decide(error, attempt, READ, past, policy=policy, elapsed=elapsed, rand=rand)

    assert decision == GiveUp() or (isinstance(decision, Again) and decision.new_id)


@given(
    errors, st.integers(1, 20), pasts, policies, st.floats(0, 3000), st.floats(0, 1), st.booleans()
)
def test_a_write_changes_its_id_only_after_a_definite_refusal(
    error: TokfluenceError,
    attempt: int,
    past: Past,
    policy: RetryPolicy,
    elapsed: float,
    rand: float,
    batch: bool,
) -> None:
    """A new id for work that may have been done is a second bill. Over all errors and histories."""
    decision = decide(
        error, attempt, WRITE, past, batch=batch, policy=policy, elapsed=elapsed, rand=rand
    )

    if isinstance(decision, Again) and decision.new_id:
        assert getattr(error, "status", None) == 409
        assert past == REFUSED


@given(
    errors,
    kinds,
    st.integers(1, 20),
    pasts,
    policies,
    st.floats(0, 3000),
    st.floats(0, 1),
    st.booleans(),
)
def test_the_bounds_hold_for_every_error_and_history(
    error: TokfluenceError,
    kind: Kind,
    attempt: int,
    past: Past,
    policy: RetryPolicy,
    elapsed: float,
    rand: float,
    batch: bool,
) -> None:
    """No more attempts than allowed, none beyond the deadline, never earlier than asked for, never
    longer than the cap."""
    decision = decide(
        error, attempt, kind, past, batch=batch, policy=policy, elapsed=elapsed, rand=rand
    )

    if isinstance(decision, Again):
        asked = getattr(error, "retry_after", None)
        assert attempt <= policy.max_retries
        assert decision.after >= 0
        assert elapsed + decision.after <= policy.deadline
        if getattr(error, "status", None) != 409:
            if asked is not None:
                assert decision.after >= asked
            else:
                assert decision.after <= min(policy.cap, policy.base * 2 ** (attempt - 1))


@given(errors, kinds, pasts, st.booleans())
def test_no_retries_means_one_attempt(
    error: TokfluenceError, kind: Kind, past: Past, batch: bool
) -> None:
    """`max_retries=0`; a 409 that settles needs no further attempt, so it may still settle."""
    decision = decide(error, 1, kind, past, batch=batch, policy=RetryPolicy(max_retries=0))

    assert not isinstance(decision, Again)


@given(st.floats(0.0, 1e6, allow_nan=False), st.integers(1, 5))
def test_a_retry_after_is_never_cut(asked: float, attempt: int) -> None:
    """Not to the cap, and not by jitter: earlier than asked is another 429 (trap 14). Beyond the
    deadline the call ends at once rather than after the wait."""
    policy = RetryPolicy(max_retries=5, cap=1.0, deadline=500.0)

    decision = decide(status(429, retry_after=asked), attempt, READ, policy=policy, rand=0.0)

    assert decision == (Again(asked, True) if asked <= 500.0 else GiveUp())


def test_a_negative_retry_after_is_now() -> None:
    """A date in the past, for one."""
    assert decide(status(429, retry_after=-5.0), 1, READ, policy=ROOMY) == Again(0.0, True)


@given(policies, st.integers(1, 5000), st.floats(0, 1))
def test_backoff_is_full_jitter_under_a_doubling_bound(
    policy: RetryPolicy, attempt: int, rand: float
) -> None:
    """Even over the whole range, so that clients that failed together do not come back together."""
    wait = backoff(policy, attempt, rand)

    assert 0 <= wait <= policy.cap
    assert wait <= policy.base * 2.0 ** min(attempt - 1, 1000)
    assert backoff(policy, attempt, 0.0) == 0.0
    assert wait == pytest.approx(rand * backoff(policy, attempt, 1.0))


def test_the_bounds_of_backoff_are_these() -> None:
    """Half a second, doubled each time, up to thirty."""
    assert [backoff(RetryPolicy(), n, 1.0) for n in range(1, 9)] == [
        0.5,
        1.0,
        2.0,
        4.0,
        8.0,
        16.0,
        30.0,
        30.0,
    ]


UNUSABLE = APIResponseValidationError("NaN", status=200, malformed=True)
OTHER_SHAPE = APIResponseValidationError("a list", status=200, malformed=False)


@pytest.mark.parametrize("kind", Kind)
def test_a_body_that_arrived_whole_is_asked_for_once_more(kind: Kind) -> None:
    """The same bytes again, at full price: a second repeat buys nothing."""
    assert isinstance(decide(UNUSABLE, 1, kind, policy=ROOMY, unusable=0), Again)
    assert decide(UNUSABLE, 2, kind, policy=ROOMY, unusable=1) == GiveUp()
    assert decide(OTHER_SHAPE, 2, kind, policy=ROOMY, unusable=1) == GiveUp()


def test_other_faults_are_repeated_after_one_of_those() -> None:
    """A proxy that answers nonsense once, and is away then."""
    assert isinstance(decide(status(503), 2, READ, policy=ROOMY, unusable=1), Again)
    assert isinstance(decide(APIConnectionError("x"), 2, WRITE, policy=ROOMY, unusable=1), Again)


def test_a_proxys_503_with_the_apis_word_is_no_refund() -> None:
    """Taken for a refusal, the batch behind it would be billed again under a new id."""
    error = status(503, "upstream_error")

    assert effect_of(error) == MAYBE
    assert decide(error, 1, WRITE, batch=True, policy=ROOMY, rand=1.0) == Again(0.5, False)
    assert decide(DUPLICATE, 2, WRITE, effect_of(error), batch=True, policy=ROOMY) == Settled()


@pytest.mark.parametrize(
    ("attempt", "elapsed", "again"),
    [(5, 0.0, True), (6, 0.0, False), (1, 899.5, True), (1, 899.6, False)],
)
def test_the_last_retry_and_the_last_moment_are_these(
    attempt: int, elapsed: float, again: bool
) -> None:
    """Five retries, and none that begins more than a quarter of an hour after the first failure."""
    policy = RetryPolicy(base=0.5, cap=0.5)
    decision = decide(status(503), attempt, READ, policy=policy, elapsed=elapsed)

    assert decision == (Again(0.5, True) if again else GiveUp())


def test_the_defaults_are_these() -> None:
    """Of the policy, and of a decision that is asked for without more."""
    assert RetryPolicy() == RetryPolicy(max_retries=5, base=0.5, cap=30.0, deadline=900.0)
    assert decide(status(503), 1, READ) == Again(0.5, True)
    assert decide(status(503), 5, WRITE) == Again(8.0, False)
    assert decide(status(503), 6, READ) == GiveUp()
    assert decide(status(429, retry_after=900.0), 1, READ) == Again(900.0, True)
    assert decide(DUPLICATE, 1, WRITE) == GiveUp()
    assert decide(DUPLICATE, 1, WRITE, batch=True) == Settled(verify=True)
    assert backoff(RetryPolicy(cap=1e300), 62, 1.0) == backoff(RetryPolicy(cap=1e300), 61, 1.0)


def test_cancellation_is_none_of_these_errors() -> None:
    """`decide` is only ever asked about our own tree, of which CancelledError, SystemExit and their
    like are no part."""
    for foreign in (
        asyncio.CancelledError,
        KeyboardInterrupt,
        SystemExit,
        GeneratorExit,
        TimeoutError,
    ):
        assert not issubclass(foreign, TokfluenceError)
