"""What may be spent: reserved, settled, released; never one credit more, under any concurrency."""

from __future__ import annotations

import asyncio
import threading
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfluence_async import (
    BudgetExceededError,
    InsufficientCreditsError,
    Sandbox,
    SharedBudget,
    TokfluenceClient,
    TokfluenceError,
)
from tokfluence_async._credits.budget import Budget

ANALYZE = "POST /v1/posts/analyze"
GET = "GET /v1/posts/:id"
IDS = [str(7234567890123456789 + n) for n in range(60)]


def test_a_reservation_holds_in_every_budget_or_in_none() -> None:
    """Half a reservation would be lost for ever."""
    above = Budget(30)
    below = Budget(100, above)
    below.reserve(20)
    with pytest.raises(BudgetExceededError) as caught:
        below.reserve(11)

    assert (caught.value.needed, caught.value.available, caught.value.limit) == (11, 10, 30)
    assert (above.reserved, below.reserved) == (20, 20)
    assert (below.available, below.tightest) == (10, 30)
    below.settle(20, 5)
    assert (above.spent, below.spent, above.reserved, below.available) == (5, 5, 0, 25)


def test_a_budget_without_an_end_counts_all_the_same() -> None:
    """`usage.credits_spent` is read from it."""
    budget = Budget()
    budget.reserve(7)
    budget.settle(7, 3)
    assert (budget.available, budget.tightest, budget.spent, budget.unseen) == (
        None,
        None,
        3,
        False,
    )


@pytest.mark.parametrize("wrong", [{"limit": -1}, {"keep": -1}])
def test_less_than_nothing_is_no_budget(wrong: dict[str, int]) -> None:
    """A sign slipped in; better told than guessed."""
    with pytest.raises(ValueError, match="0 or more"):
        Budget(**wrong)


@given(
    st.integers(0, 200), st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60)), max_size=40)
)
def test_spent_and_reserved_never_pass_the_limit(limit: int, calls: list[tuple[int, int]]) -> None:
    """At every moment, in whatever order calls end."""
    budget = Budget(limit)
    flying: list[tuple[int, int]] = []
    for price, charge in calls:
        fits = price <= (budget.available or 0)
        with nullcontext() if fits else pytest.raises(BudgetExceededError):
            budget.reserve(price)
            flying.append((price, min(charge, price)))
        if len(flying) > 3:
            budget.settle(*flying.pop(0))
        assert budget.spent + budget.reserved <= limit
        assert budget.available == limit - budget.spent - budget.reserved


def test_threads_share_a_budget_to_the_credit() -> None:
    """A client may be used in two threads."""
    budget = Budget(1000)

    def spend() -> None:
        for _ in range(1000):
            try:
                budget.reserve(1)
            except BudgetExceededError:
                return
            budget.settle(1, 1)

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (budget.spent, budget.reserved) == (1000, 0)


def test_a_floor_trusts_the_lowest_value_until_a_call_was_alone() -> None:
    """Debits are made in any order: the newest answer may be older than a debit."""
    budget = Budget(keep=10)
    assert budget.unseen
    budget.reserve(1)
    budget.saw(100)
    budget.settle(1, 1)
    budget.reserve(25)
    budget.reserve(25)
    budget.saw(50)
    budget.settle(25, 25)
    budget.saw(75)  # debited before the other, answered after it
    budget.settle(25, 25)
    assert budget.available == 40
    with pytest.raises(BudgetExceededError, match="10 are to stay in the wallet") as caught:
        budget.reserve(41)
    assert caught.value.floor
    budget.reserve(1)
    budget.saw(500)  # alone: it was filled up
    budget.settle(1, 1)
    assert budget.available == 490


@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.integers(1, 25), st.integers(0, 5), st.integers(0, 5)), max_size=40),
)
def test_a_floor_is_never_passed_in_whatever_order_debits_and_answers_come(
    keep: int, calls: list[tuple[int, int, int]]
) -> None:
    """A model of the wallet: each call is debited some turns after it is sent, and answered some
    turns after that."""
    wallet = 300
    budget = Budget(keep=keep)
    budget.saw(wallet)
    flying: list[
        list[int]
    ] = []  # price, turns to the debit, turns to the answer, what the answer says
    for price, debit, answer in [*calls, *[(10**9, 0, 0)] * 12]:
        try:
            budget.reserve(price)
        except BudgetExceededError:
            pass
        else:
            flying.append([price, debit, answer, 0])
        for call in list(flying):
            if call[1] >= 0:
                call[1] -= 1
                if call[1] < 0:
                    wallet -= call[0]
                    call[3] = wallet
            else:
                call[2] -= 1
                if call[2] < 0:
                    flying.remove(call)
                    budget.saw(call[3])
                    budget.settle(call[0], call[0])
        assert wallet >= keep


def test_a_floor_counts_what_is_reserved() -> None:
    """100 are to stay of 200; with 60 under way 40 more may leave, to the credit."""
    budget = Budget(keep=100)
    budget.saw(200)
    budget.reserve(60)
    assert budget.available == 40
    with pytest.raises(BudgetExceededError) as caught:
        budget.reserve(41)
    error = caught.value
    assert (error.needed, error.available, error.limit, error.floor) == (41, 40, 100, True)
    assert budget.reserved == 60
    budget.reserve(40)
    assert budget.available == 0


def test_a_wallet_that_has_fallen_below_its_floor_has_nothing_available() -> None:
    budget = Budget(1_000, keep=100)
    budget.saw(40)
    assert budget.available == 0
    with pytest.raises(BudgetExceededError):
        budget.reserve(1)
    budget.reserve(0)


def test_the_smaller_of_limit_and_floor_is_available() -> None:
    for limit, left, expected in ((30, 200, 30), (500, 200, 100), (100, 200, 100)):
        budget = Budget(limit, keep=100)
        assert budget.available == limit  # as long as the wallet was not seen
        budget.saw(left)
        assert budget.available == expected


def test_what_the_wallet_holds_is_forgotten_only_when_nothing_is_in_flight() -> None:
    """It may have been filled up; with a call in flight that cannot be told."""
    above = Budget(keep=10)
    assert above.keeps
    assert above.unseen
    below = Budget(None, above)
    assert below.keeps
    assert below.unseen
    below.saw(50)
    assert not below.unseen
    below.reserve(1)
    Budget(None, above)  # a new job
    assert not above.unseen
    below.settle(1, 1)
    Budget(None, above)
    assert above.unseen
    plain = Budget(None, Budget())
    assert not plain.keeps
    assert not plain.leases
    assert not plain.unseen


def test_only_a_call_that_was_alone_raises_what_is_left() -> None:
    """Else a debit in flight may be missing from the answer."""
    budget = Budget(keep=0)
    budget.saw(90)
    budget.saw(95)  # to calls that another copy of the client has sent
    assert budget.available == 90
    budget.reserve(1)
    budget.saw(100)
    budget.saw(120)  # alone
    budget.settle(1, 1)
    assert budget.available == 120
    budget.reserve(1)
    budget.reserve(1)
    budget.saw(130)
    budget.settle(1, 1)
    assert budget.available == 119
    budget.saw(90)
    assert budget.available == 89


def test_the_limit_that_binds_is_named() -> None:
    """The nearest one, where two leave as much."""
    above = Budget(50)
    assert Budget(20, above).tightest == 20
    assert Budget(80, above).tightest == 50
    assert Budget(50, Budget(50)).tightest == 50
    used = Budget(80, above)
    used.reserve(45)
    assert used.available == 5
    assert used.tightest == 50
    used.settle(45, 50)
    assert used.available == 0
    assert used.tightest == 50
    assert Budget(None, Budget(keep=3)).tightest is None


@pytest.mark.parametrize("wrong", [True, 1.0, "5"])
def test_only_whole_numbers_are_budgets(wrong: Any) -> None:
    with pytest.raises(ValueError, match="max_credits must be an integer of 0 or more"):
        Budget(wrong)
    with pytest.raises(ValueError, match="keep_credits must be an integer of 0 or more"):
        Budget(keep=wrong)
    assert Budget(0).available == 0


def test_the_error_says_what_is_left_after_what_was_spent() -> None:
    budget = Budget(100)
    budget.reserve(30)
    budget.settle(30, 20)
    budget.reserve(15)
    with pytest.raises(BudgetExceededError) as caught:
        budget.reserve(66)
    assert (caught.value.needed, caught.value.available, caught.value.limit) == (66, 65, 100)


def test_a_shared_budget_is_reserved_from_as_any_other() -> None:
    """From what this process has leased of it; a reservation holds in all or in none."""
    shared = SharedBudget("redis://127.0.0.1/0", "job", 1_000)
    shared.leases.held = 50
    above = Budget(45)
    budget = Budget(shared, above)
    assert (budget.leases, above.leases, Budget(None, budget).leases) == (True, False, True)
    assert (budget.limit, budget.available) == (None, 45)
    budget.reserve(20)
    assert (shared.leases.reserved, above.reserved, budget.reserved) == (20, 20, 20)
    with pytest.raises(BudgetExceededError) as caught:
        budget.reserve(26)  # the client's own limit is in the way
    assert caught.value.limit == 45
    assert (shared.leases.reserved, shared.leases.held) == (20, 50)
    assert (above.reserved, budget.reserved) == (20, 20)
    budget.settle(20, 18)
    assert (shared.leases.reserved, shared.leases.held) == (0, 32)
    assert (above.spent, budget.spent) == (18, 18)
    assert (budget.available, budget.tightest) == (27, 45)
    alone = Budget(shared)
    assert (alone.available, alone.tightest) == (32, 1_000)
    with pytest.raises(BudgetExceededError) as caught:
        alone.reserve(33)
    assert (caught.value.needed, caught.value.available, caught.value.limit) == (33, 32, 1_000)
    alone.reserve(32)
    assert alone.available == 0


async def test_the_store_is_asked_for_every_shared_budget_of_the_chain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before a request, and when a job has ended; those that are this process's own have none."""
    asked: list[tuple[str, int | None]] = []
    call, client = (SharedBudget("redis://127.0.0.1/0", name, 1_000) for name in ("call", "client"))
    for shared in (call, client):

        async def lease(price: int, name: str = shared.name) -> None:
            asked.append((name, price))

        async def give_back(name: str = shared.name) -> None:
            asked.append((name, None))

        monkeypatch.setattr(shared.leases, "lease", lease)
        monkeypatch.setattr(shared.leases, "give_back", give_back)
    budget = Budget(call, Budget(50, Budget(client)))

    await budget.lease(25)
    await budget.give_back()

    assert asked == [("call", 25), ("client", 25), ("call", None), ("client", None)]


def test_a_halted_job_sends_nothing_and_settles_what_was_sent() -> None:
    """Its own job alone: the client's other calls go on."""
    error = TokfluenceError("the account was refused")
    other = BudgetExceededError(1, 0, 0)
    above = Budget()
    budget = Budget(None, above)
    budget.halt.begin_nothing(error)
    budget.check()
    assert not budget.closed_by(error)
    budget.halt.send_nothing(other)
    with pytest.raises(TokfluenceError, match="the account") as caught:
        budget.check()
    assert budget.closed_by(caught.value)
    assert not budget.closed_by(other)
    above.check()


# --- on the wire ----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 24, 25, 99, 777])
@pytest.mark.sandbox(indexed=0.3)
async def test_max_credits_is_not_passed_by_one_credit(
    sandbox: Sandbox, client: TokfluenceClient, limit: int
) -> None:
    """The service's own ledger is asked, with everything in flight at once."""
    tight = client.with_options(max_credits=limit)

    async def everything() -> None:
        async for _ in tight.posts.resolve(IDS):
            pass

    await asyncio.gather(
        everything(), tight.posts.analyze(IDS), everything(), return_exceptions=True
    )

    assert sandbox.credits_spent <= limit
    assert tight.usage.credits_spent == sandbox.credits_spent


@pytest.mark.sandbox(indexed=0.0, seconds_per_url=4.0)
async def test_usage_tells_what_is_set_aside_for_calls_under_way(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Charged at the service, and not yet spent here: without it a display's numbers do not add up.
    A copy tells its own."""
    copy = client.with_options(max_credits=100)
    under_way = asyncio.create_task(copy.posts.analyze(IDS[:3]))
    await asyncio.sleep(1.0)

    assert (client.usage.credits_spent, client.usage.credits_reserved) == (0, 75)
    assert (copy.usage.credits_reserved, sandbox.credits_spent) == (75, 75)
    await under_way
    assert (client.usage.credits_spent, client.usage.credits_reserved) == (75, 0)


@pytest.mark.sandbox(indexed=0.0)
async def test_what_is_finished_stands_and_the_rest_is_reported_as_not_sent(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A budget ends a job; it does not undo it."""
    report = await client.posts.analyze(IDS, max_credits=520)

    assert len(report.succeeded) == 20
    assert {type(outcome.error) for outcome in report.failed} == {BudgetExceededError}
    assert sandbox.credits_spent == report.credits_spent == 500


@pytest.mark.sandbox(indexed=0.0)
async def test_a_refund_is_room_again(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """The pipeline's own 502 costs nothing, and takes nothing from the budget."""
    sandbox.upstream_error(to=ANALYZE, times=2)

    report = await client.posts.analyze(IDS[:4], max_credits=100)

    assert len(report.succeeded) == 4
    assert sandbox.credits_spent == 100


@pytest.mark.client(max_retries=0)
async def test_a_charge_that_is_not_known_counts_as_spent(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The promise is about the wallet, and the wallet may have been charged."""
    sandbox.refuse_connection(to=ANALYZE)
    report = await client.posts.analyze(IDS[:4], max_credits=100, batch_size=4)
    assert report.credits_spent == 100


@pytest.mark.parametrize("keep", [0, 70, 1000, 1500])
async def test_a_floor_stays_in_the_wallet(keep: int) -> None:
    """Others may have spent before: what counts is what the service says is left."""
    async with (
        Sandbox(indexed=0.3, credits=1000) as sandbox,
        TokfluenceClient(sandbox.token, base_url=sandbox.url, keep_credits=keep) as client,
    ):
        outcomes = [outcome async for outcome in client.posts.resolve(IDS)]
        await client.posts.analyze(IDS)

        assert sandbox.credits >= min(keep, 1000)
        assert any(
            isinstance(outcome.error, (BudgetExceededError, InsufficientCreditsError))
            for outcome in outcomes
        )
        if keep >= 1000:
            assert sandbox.credits_spent == 0


async def test_a_floor_looks_again_in_the_next_job() -> None:
    """A wallet that was filled up in between is one that may be spent from."""
    async with (
        Sandbox(credits=10) as sandbox,
        TokfluenceClient(sandbox.token, base_url=sandbox.url, keep_credits=10) as client,
    ):
        [outcome] = [outcome async for outcome in client.posts.get_many(IDS[:1])]
        assert isinstance(outcome.error, BudgetExceededError)
        sandbox.credits = 1000
        [outcome] = [outcome async for outcome in client.posts.get_many(IDS[:1])]
        assert outcome.ok
