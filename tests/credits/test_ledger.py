"""What was spent by our count, held against what the service says is left."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tokfluence_async import NotFoundError, Sandbox, TokfluenceClient
from tokfluence_async._credits.ledger import Difference, Ledger, LedgerLine

GET = "GET /v1/posts/:id"
IDS = [str(7234567890123456789 + n) for n in range(60)]


def call(
    ledger: Ledger,
    credits: int,
    answers: list[tuple[int, int]],
    *,
    request_id: str = "r",
    certain: bool = True,
    failed: bool = False,
) -> None:
    """One call, alone: its charge, and what its answers say is left, each with its place in the
    order of sending."""
    ledger.began()
    for order, remaining in answers:
        ledger.note(order, remaining)
    ledger.book(GET, request_id, credits, certain=certain, failed=failed)
    ledger.ended()


def test_a_stale_balance_overwrites_no_newer_one() -> None:
    """Answers come in any order; the newest send counts."""
    ledger = Ledger()
    ledger.note(0, 99)
    assert ledger.remaining == 99
    ledger.note(2, 90)
    ledger.note(1, 95)
    assert ledger.remaining == 90
    ledger.note(3, 91)
    assert ledger.remaining == 91


def test_counts_are_compared_only_when_no_call_is_in_flight() -> None:
    """With one in flight no balance is the whole truth."""
    ledger = Ledger()
    call(ledger, 0, [(1, 100)])
    ledger.began()
    ledger.began()
    ledger.note(2, 40)
    ledger.book(GET, "a", 1, certain=True, failed=False)
    ledger.ended()
    assert ledger.differences == []
    ledger.book(GET, "b", 1, certain=True, failed=False)
    ledger.ended()
    assert [(d.credits, d.kind) for d in ledger.differences] == [(58, "spent elsewhere")]


def test_a_call_without_an_answer_compares_nothing() -> None:
    """And the next one compares both."""
    ledger = Ledger()
    call(ledger, 0, [(1, 100)])
    call(ledger, 5, [])
    assert ledger.differences == []
    call(ledger, 1, [(2, 94)])
    assert ledger.differences == []


def test_the_lowest_balance_is_not_the_right_one_after_a_refund() -> None:
    """25 are debited, seen, and given back: the last answer has it right."""
    ledger = Ledger()
    call(ledger, 0, [(1, 100)])
    call(ledger, 1, [(2, 74), (3, 99)])
    assert ledger.differences == []
    call(ledger, 1, [(4, 98)])
    assert ledger.differences == []


def test_the_last_balance_to_come_is_not_the_right_one_out_of_order() -> None:
    """The lowest is, where answers overtake each other."""
    ledger = Ledger()
    call(ledger, 0, [(1, 100)])
    call(ledger, 2, [(3, 98), (2, 99)])
    assert ledger.differences == []


def test_the_newest_sends_balance_may_be_the_right_one() -> None:
    """A refund in between, and an old answer last: neither the lowest nor the last is."""
    ledger = Ledger()
    call(ledger, 0, [(1, 100)])
    call(ledger, 2, [(2, 70), (4, 98), (3, 99)])
    assert ledger.differences == []


def test_the_balance_nearest_to_what_is_expected_is_the_difference() -> None:
    """And the count goes on from it."""
    ledger = Ledger()
    call(ledger, 0, [(1, 100)])
    call(ledger, 2, [(2, 70), (3, 95)])
    assert [(d.credits, d.kind) for d in ledger.differences] == [(3, "spent elsewhere")]
    call(ledger, 1, [(4, 94)])
    assert len(ledger.differences) == 1


def test_a_wallet_of_nothing_is_a_balance() -> None:
    ledger = Ledger()
    call(ledger, 0, [(1, 1)])
    call(ledger, 1, [(2, 0)])
    assert ledger.differences == []
    assert ledger.remaining == 0


@pytest.mark.parametrize(
    ("left", "certain", "failed", "expected"),
    [
        (89, True, True, Difference(10, "failed call charged", ("r",))),
        (89, True, False, Difference(10, "spent elsewhere")),
        (89, False, False, Difference(10, "spent elsewhere")),
        (100, False, False, Difference(-1, "not charged", ("r",))),
        (100, True, False, Difference(-1, "refilled")),
        (101, False, False, Difference(-2, "refilled")),
        (100, True, True, Difference(-1, "refilled")),
    ],
)
def test_a_difference_has_a_kind_and_the_calls_that_may_explain_it(
    left: int, certain: bool, failed: bool, expected: Difference
) -> None:
    """A charge that was not known explains as much as it is, and no more."""
    ledger = Ledger()
    call(ledger, 0, [(1, 100)])
    call(ledger, 1, [(2, left)], certain=certain, failed=failed)
    assert ledger.differences == [expected]
    # What explained it does not explain the next one.
    call(ledger, 0, [(3, left + 7)], request_id="next")
    assert ledger.differences[1:] == [Difference(-7, "refilled")]
    call(ledger, 0, [(4, left)], request_id="last")
    assert ledger.differences[2:] == [Difference(7, "spent elsewhere")]


def test_twenty_calls_are_named_at_most() -> None:
    ledger = Ledger()
    call(ledger, 0, [(1, 1000)])
    ledger.began()
    ledger.note(2, 1000)
    for n in range(25):
        ledger.book(GET, f"r{n}", 1, certain=False, failed=True)
    ledger.ended()
    [difference] = ledger.differences
    assert difference == Difference(-25, "not charged", tuple(f"r{n}" for n in range(20)))


def test_lines_are_kept_by_endpoint() -> None:
    """Requests, credits, and how many of these are not known."""
    ledger = Ledger()
    for endpoint, credits, certain in (
        ("a", 1, True),
        ("a", 2, False),
        ("a", 4, False),
        ("b", 50, False),
    ):
        ledger.began()
        ledger.book(endpoint, f"{endpoint}{credits}", credits, certain=certain, failed=False)
        ledger.ended()
    assert ledger.by_endpoint == {"a": LedgerLine(3, 7, 6), "b": LedgerLine(1, 50, 50)}
    assert ledger.spent == 57
    assert (ledger.charged("a2"), ledger.charged("b50"), ledger.charged("c")) == (2, 50, None)


@pytest.mark.parametrize(
    ("left", "says"),
    [
        (98, "holds -1 credit against what this client knows it spent (spent elsewhere)"),
        (97, "holds -2 credits against what this client knows it spent (spent elsewhere)"),
        (100, "holds +1 credit against what this client knows it spent (refilled)"),
    ],
)
def test_a_difference_is_told_once(left: int, says: str, caplog: Any) -> None:
    caplog.set_level("INFO", "tokfluence_async")
    ledger = Ledger()
    call(ledger, 0, [(1, 100)])
    call(ledger, 1, [(2, left)])
    assert [record.getMessage() for record in caplog.records] == [f"the wallet {says}"]


def test_the_calls_that_may_explain_a_difference_are_told(caplog: Any) -> None:
    caplog.set_level("INFO", "tokfluence_async")
    ledger = Ledger()
    call(ledger, 0, [(1, 100)])
    ledger.began()
    ledger.note(2, 90)
    for request_id in ("a", "b"):
        ledger.book(GET, request_id, 0, certain=True, failed=True)
    ledger.ended()
    assert caplog.records[-1].getMessage().endswith("(failed call charged): a, b")


def test_doubtful_calls_explain_one_difference_each() -> None:
    """They are looked at anew after each quiet moment."""
    ledger = Ledger()
    call(ledger, 0, [(1, 100)])
    for n in range(3):
        call(ledger, 1, [(n + 2, 100)], request_id=f"r{n}", certain=False)
    assert ledger.differences == [Difference(-1, "not charged", (f"r{n}",)) for n in range(3)]


def test_a_ledger_is_a_card_in_a_notebook() -> None:
    """Its lines by endpoint, and its differences, newest first."""
    ledger = Ledger()
    call(ledger, 0, [(1, 1000)])
    call(ledger, 1, [(2, 990)])
    call(ledger, 2, [(3, 1990)], certain=False)
    text = re.sub(r"<[^>]*>+", " ", ledger._repr_html_()).split()
    assert " ".join(text) == (
        "Ledger credits spent 3 left 1,990 "
        "endpoint requests credits of these not known GET /v1/posts/:id 3 3 2 "
        "difference, newest first credits refilled -1,002 spent elsewhere +9"
    )


def test_a_hundred_differences_are_kept() -> None:
    ledger = Ledger()
    call(ledger, 0, [(1, 10_000)])
    for n in range(105):
        call(ledger, 0, [(n + 2, 9_999 - n)])
    assert len(ledger.differences) == 100


def test_the_last_ten_thousand_request_ids_are_remembered() -> None:
    """A crawl of a million posts must not keep a million ids."""
    ledger = Ledger()
    for n in range(10_001):
        ledger.book(GET, f"r{n}", n, certain=True, failed=False)

    assert [ledger.charged(f"r{n}") for n in (0, 1, 10_000)] == [None, 1, 10_000]


# --- on the wire ----------------------------------------------------------------------------------


async def test_a_ledger_shows_its_account() -> None:
    """In a plain console, where there is no table to show."""
    ledger = Ledger()
    assert repr(ledger) == "<Ledger: 0 spent, unknown remaining, 0 differences>"

    ledger.began()
    ledger.note(1, 1000)
    ledger.ended()
    ledger.began()
    ledger.book("GET /v1/posts/:id", "r", 1, certain=True, failed=False)
    ledger.note(2, 990)
    ledger.ended()

    assert repr(ledger) == "<Ledger: 1 spent, 990 remaining, 1 difference>"


@pytest.mark.sandbox(indexed=0.4)
async def test_the_ledger_is_the_services_own(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """By endpoint and by request id, with everything in flight at once, and no difference found
    where there is none."""
    outcomes = [outcome async for outcome in client.posts.resolve(IDS)]
    async for _ in client.posts.comment_pages(IDS[0], prefetch=3):
        pass
    with pytest.raises(NotFoundError):
        await client.posts.get(1)

    ledger = client.ledger
    assert len(outcomes) == len(IDS)
    assert ledger.spent == sandbox.credits_spent
    for route, line in ledger.by_endpoint.items():
        mine = [entry for entry in sandbox.requests if entry.route == route]
        assert line.requests == len(mine)
        assert (line.credits, line.uncertain) == (
            sum(entry.charged - entry.refunded for entry in mine),
            0,
        )
    assert {entry.request_id: ledger.charged(entry.request_id) for entry in sandbox.requests} == {
        entry.request_id: entry.charged for entry in sandbox.requests
    }
    assert ledger.differences == []
    assert ledger.charged("never") is None


async def test_another_spender_is_noticed(
    sandbox: Sandbox, client: TokfluenceClient, caplog: Any
) -> None:
    """Two programs on one wallet surprise each other; the first to know says so."""
    caplog.set_level("INFO", "tokfluence_async")
    await client.posts.get(IDS[0])
    sandbox.credits -= 40
    await client.posts.get(IDS[1])

    [difference] = client.ledger.differences
    assert (difference.credits, difference.kind) == (40, "spent elsewhere")
    assert "spent elsewhere" in caplog.text


async def test_a_failed_call_that_was_charged_is_noticed(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The page says that upstream errors are refunded; the wallet says whether they were."""
    await client.posts.get(IDS[0])
    sandbox.upstream_error(to=GET)
    sandbox.credits -= 1  # the refund that did not come
    await client.posts.get(IDS[1])

    [difference] = client.ledger.differences
    assert (difference.credits, difference.kind, len(difference.request_ids)) == (
        1,
        "failed call charged",
        1,
    )


async def test_a_charge_that_was_assumed_and_not_made_is_noticed(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """It stays counted as spent, and the difference says what became of it."""
    await client.posts.get(IDS[0])
    sandbox.internal_error(to=GET, when="before", charged=0)
    await client.posts.get(IDS[1])

    [difference] = client.ledger.differences
    assert (difference.credits, difference.kind, len(difference.request_ids)) == (
        -1,
        "not charged",
        1,
    )
    assert client.ledger.by_endpoint[GET].uncertain == 1


async def test_a_refill_is_a_difference_too(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """The count goes on from there."""
    await client.posts.get(IDS[0])
    sandbox.credits += 500
    await client.posts.get(IDS[1])
    await client.posts.get(IDS[2])

    assert [(d.credits, d.kind) for d in client.ledger.differences] == [(-500, "refilled")]
