"""A batch's request ids: what each has been through, by itself, and against a model of the service
in a rule-based state machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

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
    Journal,
    JournalError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    TokfluenceError,
    UnprocessableEntityError,
    UpstreamError,
)
from tokfluence_async._bulk.batch import BatchIds
from tokfluence_async._http.retry import GiveUp, Past, RetryPolicy, Settled, decide
from tokfluence_async._wire.calls import Kind
from tokfluence_async._wire.ids import PostRef, parse_post

T = TypeVar("T")

REFUSED = RateLimitError(429, "rate_limited")
CONFLICT = DuplicateRequestError(409, "duplicate_request")
BOTH = Past.REFUSED | Past.MAYBE


def lost(sent: bool = True) -> APIConnectionError:
    return APIConnectionError("gone", sent=sent)


def now(work: Coroutine[Any, Any, T]) -> T:
    """The result of what never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise AssertionError("it waits")


class Disk(Journal):
    """A journal of one batch: what is on disk survives, the ids in memory do not."""

    def __init__(self) -> None:
        self.row: tuple[str, list[PostRef]] | None = None
        self.full = False
        self.told: list[str] = []
        self.sure = True

    async def sending(
        self, request_id: str, posts: Sequence[PostRef], *, replaces: str | None
    ) -> None:
        assert (self.row and self.row[0]) == replaces
        self.row = (request_id, list(posts))

    async def sending_again(self, request_id: str) -> None:
        self.told.append("sending again")
        assert self.row is not None
        assert self.row[0] == request_id

    @property
    def holds(self) -> bool:
        return self.sure

    async def confirm(self, request_id: str) -> None:
        self.told.append(f"confirm {request_id}")

    async def released(self, request_id: str) -> None:
        self.told.append("released")
        if self.full:
            raise JournalError("the disk is full")
        assert self.row is not None
        assert self.row[0] == request_id
        self.row = None

    def forgotten(self, request_id: str) -> None:
        self.told.append("forgotten")


def sent_once() -> BatchIds:
    """A batch whose first id is about to leave."""
    ids = BatchIds([], None)
    now(ids.next())
    return ids


@pytest.mark.parametrize(
    ("error", "past"),
    [
        (None, Past.MAYBE),  # cancelled after its bytes may have left
        (lost(), Past.MAYBE),
        (lost(sent=False), Past.FRESH),
        (APIResponseValidationError("cut", status=200, malformed=True), Past.MAYBE),
        (REFUSED, Past.REFUSED),
        (InsufficientCreditsError(402, "insufficient_credits"), Past.REFUSED),
        (UpstreamError(502, "upstream_error"), Past.REFUSED),
        (UpstreamError(502), Past.MAYBE),
        # A proxy's, whatever its body says: the attempt behind it may have run and been billed.
        (InternalServerError(503, "upstream_error"), Past.MAYBE),
        (InternalServerError(504, "upstream_error"), Past.MAYBE),
        (InternalServerError(500, "upstream_error"), Past.MAYBE),
        (APIStatusError(408, "request_timeout"), Past.MAYBE),
        (PermissionDeniedError(403, "forbidden"), Past.FRESH),
        (NotFoundError(404), Past.FRESH),
        (APIStatusError(413), Past.FRESH),
        (APIStatusError(301), Past.FRESH),
        (TokfluenceError("not sent"), Past.FRESH),
        (InternalServerError(500, "internal_error"), Past.MAYBE),
        (AuthenticationError(401, "unauthorized"), Past.FRESH),
        (UnprocessableEntityError(422, "missing_parameter"), Past.FRESH),
    ],
)
def test_the_past_of_an_id_is_what_its_attempts_ended_in(
    error: TokfluenceError | None, past: Past
) -> None:
    """What the error says of the service is what counts: whether the work may have run."""
    ids = sent_once()
    ids.note(error)

    assert ids.past is past
    assert ids.free is (past is not Past.MAYBE)
    assert ids.lost_here is (past is Past.MAYBE)


@pytest.mark.parametrize("errors", [(REFUSED, lost()), (lost(), REFUSED)])
def test_after_a_refusal_and_a_lost_answer_the_id_proves_nothing(
    errors: tuple[TokfluenceError, TokfluenceError],
) -> None:
    """Either may have used it up, in either order; so may what an earlier process saw."""
    ids = sent_once()
    for error in errors:
        ids.note(error)

    assert ids.past is BOTH is BatchIds([], None, "an earlier process's").past
    assert not ids.free


@pytest.mark.parametrize("later", [REFUSED, UnprocessableEntityError(422), lost(sent=False)])
def test_what_may_have_run_is_never_free(later: TokfluenceError) -> None:
    """Free posts go out under a new id, and would be paid for again; whoever refuses now says
    nothing of the attempt before."""
    ids = sent_once()
    ids.note(lost())
    ids.note(later)

    assert not ids.free
    assert ids.lost_here


def test_a_conflict_of_a_fresh_id_is_somebody_elses_doing() -> None:
    """One of the two attempts may have run, though this process saw no answer lost."""
    ids = sent_once()
    ids.note(CONFLICT)

    assert ids.answered_twice is CONFLICT
    assert not ids.free
    assert not ids.lost_here


@pytest.mark.parametrize("before", [REFUSED, lost()])
def test_a_conflict_after_something_else_is_its_echo(before: TokfluenceError) -> None:
    """The id was known to the service already: nobody has sent it twice."""
    ids = sent_once()
    ids.note(before)
    ids.note(CONFLICT)

    assert ids.answered_twice is None
    assert ids.free is (before is REFUSED)


def test_a_new_id_has_been_through_nothing() -> None:
    """It takes the place of the one that a refusal has used up, in one commit."""
    disk = Disk()
    ids = BatchIds([parse_post("7")], disk)
    first = now(ids.next())
    ids.note(REFUSED)
    second = now(ids.next())

    assert ids.current == second != first
    assert ids.past is Past.FRESH
    assert disk.row == (second, [parse_post("7")])


@pytest.mark.parametrize(("errors", "told"), [([], "released"), ([lost()], "forgotten")])
def test_a_batch_that_is_given_up_stays_written_down_if_it_may_have_run(
    errors: list[TokfluenceError], told: str
) -> None:
    """What never ran is free; that this cannot be written is not why the call failed."""
    disk = Disk()
    disk.full = True
    ids = BatchIds([], disk)
    now(ids.give_up())  # before its first id: nothing is written down
    now(ids.next())
    for error in errors:
        ids.note(error)
    now(ids.give_up())

    assert disk.told == [told]


def test_an_earlier_process_batch_is_asked_about_under_its_id_before_any_new_one() -> None:
    """And that is written down first, as with any other."""
    disk = Disk()
    disk.row = ("earlier", [parse_post("7")])
    ids = BatchIds([parse_post("7")], disk, "earlier")
    assert now(ids.next()) == ids.current == "earlier"
    assert disk.told == ["sending again"]

    assert now(ids.next()) != "earlier"
    assert now(BatchIds([], None, "earlier").next()) == "earlier"


def test_a_shared_journal_says_whether_an_id_may_be_sent_once_more() -> None:
    """Another process may have taken the batch over; without a journal nobody can."""
    disk = Disk()
    ids = BatchIds([parse_post("7")], disk)
    now(ids.confirm())  # before its first id: there is nothing to ask about
    assert disk.told == []
    first = now(ids.next())
    now(ids.confirm())
    assert disk.told == [f"confirm {first}"]
    assert ids.holds() is True
    disk.sure = False
    assert ids.holds() is False

    alone = sent_once()
    now(alone.confirm())
    now(alone.give_up())
    assert alone.holds() is True


POLICY = RetryPolicy(max_retries=4, deadline=1e9)
POSTS = ("1", "2", "3")
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
    """A driver that follows the retry rules and the journal's promises, one step a rule: so that a
    crash may fall between any two. What is on disk survives; what is not does not."""

    @initialize(
        burns=st.booleans(),
        wallet=st.sampled_from([0, 74, 75, 150, 10_000]),
        wallet_first=st.booleans(),
    )
    def begin(self, burns: bool, wallet: int, wallet_first: bool) -> None:
        self.service = Service(burns, wallet, wallet_first)
        self.disk = Disk()
        self.row_at = 0.0
        self.last_sent = 0.0
        self.done: dict[str, float] = {}  # when
        self.forget()

    def forget(self) -> None:
        """What is in memory."""
        self.batch: BatchIds | None = None
        self.end: Settled | None = None  # what its sending has shown
        self.attempt = 0

    @property
    def left(self) -> tuple[str, ...]:
        return tuple(post for post in POSTS if post not in self.done)

    @property
    def sending(self) -> tuple[str, ...]:
        assert self.disk.row is not None
        return tuple(ref.post_id for ref in self.disk.row[1])

    @property
    def is_old(self) -> bool:
        return self.disk.row is not None and self.service.now - self.row_at > HOUR

    @property
    def can_send(self) -> bool:
        return self.batch is not None and self.end is None and not self.is_old

    def next_id(self) -> None:
        """A new id is on disk before it is sent; the used-up one goes in the same commit."""
        assert self.batch is not None
        new = self.batch.past is not BOTH or self.batch.current is not None
        now(self.batch.next())
        if new:
            self.row_at = self.service.now
        self.attempt = 0

    @precondition(lambda self: self.batch is None and (self.disk.row or self.left))
    @rule()
    def take_up(self) -> None:
        """What an earlier process left on disk, or else what is left to do."""
        if self.is_old:
            return  # `settle_old` is due
        if self.disk.row is None:
            self.batch = BatchIds([parse_post(post) for post in self.left], self.disk)
        else:
            self.batch = BatchIds(self.disk.row[1], self.disk, self.disk.row[0])
        self.next_id()

    @precondition(lambda self: self.can_send)
    @rule(fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=4))
    def send_some(self, fates: list[str]) -> None:
        """As many attempts as the retry rules allow; the crashes between them are those after
        fewer."""
        for fate in fates:
            if self.can_send:
                self.send(fate)

    def send(self, fate: str) -> None:
        assert self.batch is not None
        assert self.batch.current is not None
        self.attempt += 1
        self.last_sent = self.service.now
        past = self.batch.past
        error = self.service.attempt(self.batch.current, self.sending, fate)
        if error is None:
            self.end = Settled()
            return
        decision = decide(error, self.attempt, Kind.WRITE, past, batch=True, policy=POLICY)
        self.batch.note(error)
        if isinstance(decision, Settled):
            self.end = decision
        elif isinstance(decision, GiveUp):
            self.call_fails()
        else:
            self.service.now += decision.after
            if decision.new_id:
                assert self.batch.free
                self.next_id()

    @precondition(lambda self: self.batch is not None)
    @rule()
    def call_fails(self) -> None:
        """Cancelled, or out of retries: what may have run stays on disk, and comes back as a batch
        of an earlier process."""
        assert self.batch is not None
        if self.end is None or self.end.verify:
            now(self.batch.give_up())
            self.forget()

    @precondition(lambda self: self.end is not None and not self.end.verify)
    @rule()
    def record(self) -> None:
        """Outcomes and the end of the row are one commit."""
        self.done.update((post, self.service.now) for post in self.sending)
        self.disk.row = None
        self.forget()

    @precondition(lambda self: self.is_old or (self.end is not None and self.end.verify))
    @rule()
    def verify(self) -> None:
        """Read until the posts are there, or until no attempt can be at work any more. Of a row
        that is old the service may have forgotten the id: only reading is safe."""
        self.service.now = max(self.service.now, self.last_sent + ALLOWANCE)
        found = [post for post in self.sending if self.service.can_read(post)]
        self.done.update((post, self.service.now) for post in found)
        self.disk.row = None
        self.forget()

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
        self.forget()

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
            known = set(self.done) | set(self.sending if self.disk.row else ())
            assert set(self.service.works) <= known

    def teardown(self) -> None:
        """In the end, with a kind service and money, everything is done, once."""
        if not hasattr(self, "service"):
            return
        self.service.wallet = 10_000
        for _ in range(30):
            if self.is_old or (self.end is not None and self.end.verify):
                self.verify()
            elif self.end is not None:
                self.record()
            elif self.batch is not None:
                self.send("ok")
            elif self.disk.row or self.left:
                self.take_up()
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
