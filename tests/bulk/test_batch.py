"""A batch's life: the table by itself, and against a model of the service in a rule-based state
machine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tokfluence_async import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    AuthenticationError,
    DuplicateRequestError,
    InsufficientCreditsError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    TokfluenceError,
    UnprocessableEntityError,
    UpstreamError,
)
from tokfluence_async._bulk.batch import TABLE, BatchEvent, BatchState, event_of, past_of, step
from tokfluence_async._http.retry import Again, GiveUp, Past, RetryPolicy, Settled, decide
from tokfluence_async._wire.calls import Kind

SENT = (BatchState.READY, BatchState.REFUSED, BatchState.DOUBT, BatchState.MIXED)


def lost(sent: bool = True) -> APIConnectionError:
    return APIConnectionError("gone", sent=sent)


def test_every_state_that_is_sent_knows_every_end_of_an_attempt() -> None:
    """An answer nobody foresaw must not end a batch in a KeyError."""
    ends = set(BatchEvent) - {
        BatchEvent.WRITTEN,
        BatchEvent.READABLE,
        BatchEvent.MISSING,
        BatchEvent.GIVEN_UP,
        BatchEvent.RELOADED,
    }
    assert {(state, event) for state in SENT for event in ends} <= set(TABLE)


def test_what_may_have_run_is_never_released() -> None:
    """Released posts go out under a new id, and would be paid for again; whoever refuses now says
    nothing of the attempt before."""
    for (state, _), after in TABLE.items():
        if state in (BatchState.DOUBT, BatchState.MIXED, BatchState.CLAIMED):
            assert after is not BatchState.RELEASED


def test_only_missing_posts_and_used_up_ids_lead_back_to_a_new_id() -> None:
    """A new id is a new bill."""
    back = {pair for pair, after in TABLE.items() if after is BatchState.PLANNED}
    assert back == {
        (BatchState.REFUSED, BatchEvent.CONFLICT),
        (BatchState.CLAIMED, BatchEvent.MISSING),
    }


def test_after_a_refusal_and_a_lost_answer_the_id_proves_nothing() -> None:
    """Either may have used it up, in either order; so may what an earlier process saw."""
    assert step(step(BatchState.READY, BatchEvent.REFUSED), BatchEvent.LOST) is BatchState.MIXED
    assert step(step(BatchState.READY, BatchEvent.LOST), BatchEvent.REFUSED) is BatchState.MIXED
    assert {step(state, BatchEvent.RELOADED) for state in SENT} == {BatchState.MIXED}


def test_every_state_can_be_reached_and_left() -> None:
    """A state nobody enters is a mistake in the table; so is one that holds a batch for ever."""
    reached = {BatchState.PLANNED}
    while len(
        more := reached | {after for (state, _), after in TABLE.items() if state in reached}
    ) > len(reached):
        reached = more
    assert reached == set(BatchState)
    left = {state for (state, _), after in TABLE.items() if after is not state}
    assert set(BatchState) - left == {BatchState.SETTLED, BatchState.RELEASED}


def test_the_drawing_names_every_state_and_event_of_the_table() -> None:
    """The page is the table as people read it."""
    page = Path(__file__).parents[2] / "docs" / "design" / "request-ids-and-money.md"
    drawing = page.read_text("utf-8")
    for word in (*BatchState, *BatchEvent):
        assert word.name in drawing


def test_an_event_that_cannot_happen_is_an_error_of_the_driver() -> None:
    """Guessing on would be paid in credits."""
    with pytest.raises(ValueError, match="planned cannot be answered"):
        step(BatchState.PLANNED, BatchEvent.ANSWERED)


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (lost(), BatchEvent.LOST),
        (lost(sent=False), BatchEvent.UNSENT),
        (APIResponseValidationError("cut", status=200, malformed=True), BatchEvent.LOST),
        (RateLimitError(429, "rate_limited"), BatchEvent.REFUSED),
        (InsufficientCreditsError(402, "insufficient_credits"), BatchEvent.REFUSED),
        (UpstreamError(502, "upstream_error"), BatchEvent.REFUSED),
        (UpstreamError(502), BatchEvent.LOST),
        # A proxy's, whatever its body says: the attempt behind it may have run and been billed.
        (InternalServerError(503, "upstream_error"), BatchEvent.LOST),
        (InternalServerError(504, "upstream_error"), BatchEvent.LOST),
        (InternalServerError(500, "upstream_error"), BatchEvent.LOST),
        (APIStatusError(408, "request_timeout"), BatchEvent.LOST),
        (PermissionDeniedError(403, "forbidden"), BatchEvent.TURNED_AWAY),
        (NotFoundError(404), BatchEvent.REJECTED),
        (APIStatusError(413), BatchEvent.REJECTED),
        (APIStatusError(301), BatchEvent.REJECTED),
        (TokfluenceError("not sent"), BatchEvent.UNSENT),
        (InternalServerError(500, "internal_error"), BatchEvent.LOST),
        (DuplicateRequestError(409, "duplicate_request"), BatchEvent.CONFLICT),
        (AuthenticationError(401, "unauthorized"), BatchEvent.TURNED_AWAY),
        (UnprocessableEntityError(422, "missing_parameter"), BatchEvent.REJECTED),
    ],
)
def test_the_end_of_an_attempt_is_one_event(error: TokfluenceError, event: BatchEvent) -> None:
    """What the error says of the service is what counts: whether the work may have run."""
    assert event_of(error) is event


@pytest.mark.parametrize(
    ("state", "past"),
    [
        (BatchState.PLANNED, Past.FRESH),
        (BatchState.READY, Past.FRESH),
        (BatchState.REFUSED, Past.REFUSED),
        (BatchState.DOUBT, Past.MAYBE),
        (BatchState.MIXED, Past.REFUSED | Past.MAYBE),
        (BatchState.SETTLED, Past.FRESH),
    ],
)
def test_the_past_of_an_id_is_what_its_batch_went_through(state: BatchState, past: Past) -> None:
    """By this the retry rules read a 409."""
    assert past_of(state) == past


@pytest.mark.parametrize("state", SENT)
def test_the_table_and_the_retry_rules_read_a_409_alike(state: BatchState) -> None:
    """Two rooms hold a piece of the same rule; they must not drift apart."""
    decision = decide(
        DuplicateRequestError(409, "duplicate_request"), 1, Kind.WRITE, past_of(state), batch=True
    )
    expected = {
        BatchState.PLANNED: Again(0.0, True),
        BatchState.SETTLED: Settled(verify=False),
        BatchState.CLAIMED: Settled(verify=True),
    }
    assert decision == expected[step(state, BatchEvent.CONFLICT)]


POLICY = RetryPolicy(max_retries=4, deadline=1e9)
POSTS = ("a", "b", "c")
PRICE = 25
# How long the service may work at a batch, and how long until a post can be read. What the driver
# waits before it takes a post for not done is longer than both together, as in
# `Analyzer.allowance`. Posts become readable one after the other.
WORK, VISIBLE, ALLOWANCE, HOUR = 40.0, 5.0, 60.0, 3600.0


class Service:
    """The service, as far as the page tells, and as unkind as it leaves open."""

    def __init__(self, burns: bool, wallet: int, wallet_first: bool) -> None:
        self.now = 0.0
        self.burns = burns
        self.wallet_first = wallet_first  # looked at before ids are
        self.wallet = wallet
        self.ids: dict[str, str] = {}
        self.works: Counter[str] = Counter()
        self.visible: dict[str, float] = {}

    def attempt(self, request_id: str, posts: tuple[str, ...], fate: str) -> TokfluenceError | None:
        if fate == "unsent":
            return lost(sent=False)
        if fate == "lost before":
            return lost()
        if fate == "401":
            return AuthenticationError(401, "unauthorized")
        if fate == "429":
            self._burn(request_id)
            return RateLimitError(429, "rate_limited", retry_after=1.0)
        if fate == "proxy 404":
            return NotFoundError(404)
        price = PRICE * len(posts)
        poor = InsufficientCreditsError(402, "insufficient_credits", credits_remaining=self.wallet)
        if self.wallet_first and self.wallet < price:
            self._burn(request_id)
            return poor
        if request_id in self.ids:
            return DuplicateRequestError(409, "duplicate_request")
        if self.wallet < price:
            self._burn(request_id)
            return poor
        if fate == "502":
            self._burn(request_id)
            return UpstreamError(502, "upstream_error")
        if fate == "500 before":
            self._burn(request_id)
            return InternalServerError(500, "internal_error")
        self.wallet -= price
        self.ids[request_id] = "done"
        # The work of an attempt whose client has given up goes on.
        ends = self.now + (WORK if fate == "lost at work" else 1.0)
        for n, post in enumerate(posts):
            self.works[post] += 1
            self.visible.setdefault(post, ends + VISIBLE * (len(posts) - n))
        if fate in ("lost after", "lost at work"):
            return lost()
        if fate == "proxy 502":
            return UpstreamError(502)
        if fate == "500 after":
            return InternalServerError(500, "internal_error")
        return None

    def _burn(self, request_id: str) -> None:
        if self.burns:
            self.ids.setdefault(request_id, "burnt")

    def can_read(self, post: str) -> bool:
        return self.visible.get(post, float("inf")) <= self.now


FATES = (
    *("ok", "unsent", "lost before", "lost after", "lost at work", "401", "429", "502"),
    *("500 before", "500 after", "proxy 502", "proxy 404"),
)


class BatchLife(RuleBasedStateMachine):
    """A driver that follows the table, the retry rules and the journal's promises, one step a rule:
    so that a crash may fall between any two. What is on disk survives; what is not does not."""

    @initialize(
        burns=st.booleans(),
        wallet=st.sampled_from([0, 74, 75, 150, 10_000]),
        wallet_first=st.booleans(),
    )
    def begin(self, burns: bool, wallet: int, wallet_first: bool) -> None:
        self.service = Service(burns, wallet, wallet_first)
        # On disk:
        self.row: tuple[str, tuple[str, ...]] | None = None
        self.row_at = 0.0
        self.last_sent = 0.0
        self.done: dict[str, float] = {}  # when
        # In memory:
        self.state = BatchState.PLANNED
        self.current: str | None = None
        self.attempt = 0
        self.ids = 0

    @property
    def left(self) -> tuple[str, ...]:
        return tuple(post for post in POSTS if post not in self.done)

    @property
    def sending(self) -> tuple[str, ...]:
        assert self.row is not None
        return self.row[1]

    @precondition(
        lambda self: self.state in (BatchState.PLANNED, BatchState.RELEASED) and self.left
    )
    @rule()
    def write_down(self) -> None:
        """A new id, on disk before it is sent; the used-up one goes in the same commit."""
        self.ids += 1
        self.row = (f"id-{self.ids}", self.left)
        self.row_at = self.service.now
        self.current = self.row[0]
        self.state = step(BatchState.PLANNED, BatchEvent.WRITTEN)
        self.attempt = 0

    @precondition(lambda self: self.state in SENT and self.row is not None)
    @rule(fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=4))
    def send_some(self, fates: list[str]) -> None:
        """As many attempts as the retry rules allow; the crashes between them are those after
        fewer."""
        for fate in fates:
            if self.state in SENT and self.row is not None:
                self.send(fate)

    def send(self, fate: str) -> None:
        assert self.current is not None
        if self.service.now - self.row_at > HOUR:
            return  # `settle_old` is due
        self.attempt += 1
        self.last_sent = self.service.now
        error = self.service.attempt(self.current, self.sending, fate)
        if error is None:
            self.state = step(self.state, BatchEvent.ANSWERED)
            return
        past = past_of(self.state)
        decision = decide(error, self.attempt, Kind.WRITE, past, batch=True, policy=POLICY)
        self.state = step(self.state, event_of(error))
        if isinstance(decision, Settled):
            assert self.state is (BatchState.CLAIMED if decision.verify else BatchState.SETTLED)
        elif isinstance(decision, GiveUp):
            self.give_up()
        else:
            assert decision.new_id is (self.state is BatchState.PLANNED)
            self.service.now += decision.after

    def give_up(self) -> None:
        self.state = step(self.state, BatchEvent.GIVEN_UP)
        if self.state is BatchState.RELEASED:
            self.row = None

    @precondition(lambda self: self.state is BatchState.SETTLED)
    @rule()
    def record(self) -> None:
        """Outcomes and the end of the row are one commit."""
        self.done.update((post, self.service.now) for post in self.sending)
        self.row, self.current, self.state = None, None, BatchState.PLANNED

    @precondition(lambda self: self.state is BatchState.CLAIMED)
    @rule()
    def verify(self) -> None:
        """Read until the posts are there, or until no attempt can be at work any more."""
        self.service.now = max(self.service.now, self.last_sent + ALLOWANCE)
        found = [post for post in self.sending if self.service.can_read(post)]
        self.state = step(self.state, BatchEvent.READABLE if found else BatchEvent.MISSING)
        self.done.update((post, self.service.now) for post in found)
        self.row, self.state = None, BatchState.PLANNED

    @precondition(
        lambda self: (
            self.row is not None and self.service.now - self.row_at > HOUR and self.state in SENT
        )
    )
    @rule()
    def settle_old(self) -> None:
        """The service may have forgotten the id: only reading is safe, once no attempt can be at
        work any more."""
        self.service.now = max(self.service.now, self.last_sent + ALLOWANCE)
        self.done.update(
            (post, self.service.now) for post in self.sending if self.service.can_read(post)
        )
        self.row, self.state = None, BatchState.PLANNED

    @precondition(lambda self: self.done)
    @rule()
    def look_again(self) -> None:
        """A later run: what a 409 was taken to have done, and cannot be read after an hour, was not
        done."""
        for post, at in list(self.done.items()):
            if self.service.now - at > HOUR and not self.service.can_read(post):
                del self.done[post]

    @rule()
    def crash(self) -> None:
        self.current = self.row[0] if self.row else None
        self.state = BatchState.PLANNED if self.row is None else BatchState.MIXED
        self.attempt = 0

    @precondition(lambda self: self.row is not None and self.state in (*SENT, BatchState.CLAIMED))
    @rule()
    def call_fails_and_the_next_run_reloads(self) -> None:
        """Cancelled, or out of retries: the batch stays where it is, and comes back as one of an
        earlier process."""
        self.give_up()
        if self.row is not None:
            self.state = step(self.state, BatchEvent.RELOADED)
            self.attempt = 0
        else:
            self.state = BatchState.PLANNED

    @rule(seconds=st.sampled_from([1.0, 10.0, 100.0, 4000.0]))
    def wait(self, seconds: float) -> None:
        self.service.now += seconds

    @rule(amount=st.sampled_from([25, 75, 1000]))
    def refill(self, amount: int) -> None:
        self.service.wallet += amount

    @invariant()
    def nothing_is_paid_twice(self) -> None:
        if hasattr(self, "service"):
            assert all(times <= 1 for times in self.service.works.values()), self.service.works

    @invariant()
    def nothing_is_forgotten(self) -> None:
        """What was worked at is known as done, or its batch is on disk."""
        if hasattr(self, "service"):
            known = set(self.done) | set(self.row[1] if self.row else ())
            assert set(self.service.works) <= known

    def teardown(self) -> None:
        """In the end, with a kind service and money, everything is done, once."""
        if not hasattr(self, "service"):
            return
        self.service.wallet = 10_000
        for _ in range(30):
            if self.state in (BatchState.PLANNED, BatchState.RELEASED) and self.left:
                self.write_down()
            elif self.state is BatchState.SETTLED:
                self.record()
            elif self.state is BatchState.CLAIMED:
                self.verify()
            elif self.state in SENT and self.row is not None:
                if self.service.now - self.row_at > HOUR:
                    self.settle_old()
                else:
                    self.send("ok")
            else:
                self.service.now += 2 * HOUR
                self.look_again()
                if not self.left:
                    break
            self.nothing_is_paid_twice()
            self.nothing_is_forgotten()
        assert self.service.works == Counter(POSTS)


TestBatchLife = BatchLife.TestCase
TestBatchLife.settings = settings(max_examples=400, stateful_step_count=25)
