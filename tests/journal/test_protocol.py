"""What holds for every journal, in a file or shared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pieces import ANALYZE, IDS, analyzed, posts

from tokfluence_async import (
    Analysis,
    APIConnectionError,
    Journal,
    Outcome,
    Sandbox,
    TokfluenceClient,
)
from tokfluence_async._wire.ids import PostRef

Reopen = Callable[[], Any]


async def test_it_is_a_journal(reopen: Reopen) -> None:
    """What users annotate, and `isinstance` asks."""
    async with reopen() as journal:
        assert isinstance(journal, Journal)
        assert ", open" in repr(journal)
        assert await journal.open() is journal
    assert ", closed" in repr(journal)
    await journal.aclose()
    with pytest.raises(RuntimeError, match="not open"):
        await journal.look_up(IDS[0])


async def test_what_was_about_to_be_sent_is_in_doubt_after_a_restart(reopen: Reopen) -> None:
    """Between the record and the answer anything may have happened."""
    async with reopen() as journal:
        await journal.sending("id-1", [PostRef(IDS[0], "@wwe"), PostRef(IDS[1])], replaces=None)
        assert await journal.unsettled() == []

    async with reopen() as journal:
        [doubt] = await journal.take_up()
        assert await journal.take_up() == []

    assert (doubt.request_id, doubt.posts) == ("id-1", [PostRef(IDS[0], "@wwe"), PostRef(IDS[1])])


async def test_settled_batches_are_posts_that_are_known(reopen: Reopen) -> None:
    """The next run must not pay for them."""
    async with reopen() as journal:
        await journal.sending("id-1", posts(*IDS[:2]), replaces=None)
        await journal.settled("id-1", [analyzed(IDS[0]), analyzed(IDS[1], "fresh")])

    async with reopen() as journal:
        assert await journal.unsettled() == []
        entries = [await journal.look_up(post_id) for post_id in IDS[:3]]
        assert sorted(await journal.known()) == IDS[:2]

    assert [entry and entry.status for entry in entries] == ["analyzed", "fresh", None]
    assert [entry and entry.unsure for entry in entries] == [False, False, None]


async def test_a_replaced_id_is_gone_when_the_new_one_is_there(reopen: Reopen) -> None:
    """Both in doubt would ask about posts twice; neither would forget them."""
    async with reopen() as journal:
        await journal.sending("id-1", posts(IDS[0]), replaces=None)
        await journal.sending("id-2", posts(IDS[0]), replaces="id-1")

    async with reopen() as journal:
        assert [doubt.request_id for doubt in await journal.unsettled()] == ["id-2"]


async def test_a_batch_that_never_ran_leaves_nothing(reopen: Reopen) -> None:
    """Its posts are free."""
    async with reopen() as journal:
        await journal.sending("id-1", posts(IDS[0]), replaces=None)
        await journal.released("id-1")
        await journal.sending("id-2", posts(IDS[0]), replaces=None)

    async with reopen() as journal:
        assert [doubt.request_id for doubt in await journal.unsettled()] == ["id-2"]


async def test_a_post_that_was_left_out_is_unsure(reopen: Reopen) -> None:
    """A 200 charged for it and said nothing of it."""
    async with reopen() as journal:
        await journal.sending("id-1", posts(IDS[0]), replaces=None)
        lost: Outcome[Analysis] = Outcome(
            input=IDS[0], post_id=IDS[0], error=APIConnectionError("lost")
        )
        await journal.settled("id-1", [lost], age=5.0)
        entry = await journal.look_up(IDS[0])

        assert entry is not None
        assert (entry.status, entry.unsure) == ("", True)
        assert 5.0 <= journal.age(entry.analyzed_at) < 60.0


async def test_ids_of_64_bits_are_kept_apart(reopen: Reopen) -> None:
    """They fit no signed integer."""
    big = str(2**64 - 1)
    async with reopen() as journal:
        await journal.sending("id-1", posts(big), replaces=None)
        await journal.settled("id-1", [analyzed(big)])
        assert await journal.known() == [big]
        assert await journal.look_up("1") is None


async def test_what_was_learnt_is_there_in_the_next_run(reopen: Reopen) -> None:
    """Seconds per URL and the visibility delay cost time and credits to find out."""
    async with reopen() as journal:
        journal.learn(urls=10, seconds=25.5)

    async with reopen() as journal:
        assert await journal.learnt() == {"urls": 10.0, "seconds": 25.5}


async def test_a_batch_that_is_given_up_may_be_taken_up(reopen: Reopen) -> None:
    """By the next call with the same open journal."""
    async with reopen() as journal:
        await journal.sending("id-1", posts(IDS[0]), replaces=None)
        assert await journal.take_up() == []
        journal.forgotten("id-1")
        await asyncio.sleep(0.1)
        assert [doubt.request_id for doubt in await journal.take_up()] == ["id-1"]
        assert await journal.take_up() == []


# --- with analyze and resolve ---------------------------------------------------------------------


@pytest.mark.sandbox(indexed=0.0)
async def test_what_the_journal_knows_is_not_analyzed_again(
    reopen: Reopen, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The same inputs with the same journal cost nothing the second time, and tell the same."""
    async with reopen() as journal:
        first = await client.posts.analyze(IDS, journal=journal)
    sent = sandbox.requests_received
    async with reopen() as journal:
        second = await client.posts.analyze(IDS, journal=journal)

    assert [outcome.value for outcome in second] == [outcome.value for outcome in first]
    assert (sandbox.requests_received, second.credits_spent) == (sent, 0)
    assert sandbox.credits_spent == 25 * len(IDS)


@pytest.mark.sandbox(indexed=0.0, visibility_delay=0.0)
@pytest.mark.client(max_retries=0)
@pytest.mark.parametrize("done", [True, False])
async def test_a_batch_in_doubt_is_asked_about_under_its_old_id(
    reopen: Reopen, sandbox: Sandbox, client: TokfluenceClient, done: bool
) -> None:
    """A 409 means it was done, and its posts are read, 1 credit each; a 200 means it never ran.
    Neither is paid twice."""
    if done:
        sandbox.drop_answer(to=ANALYZE)
    else:
        sandbox.refuse_connection(to=ANALYZE)
    async with reopen() as journal:
        first = await client.posts.analyze(IDS, batch_size=50, journal=journal)
    assert [type(outcome.error) for outcome in first] == [APIConnectionError] * len(IDS)

    async with reopen() as journal:
        second = await client.posts.analyze(IDS, batch_size=50, journal=journal)

    assert len(second.succeeded) == len(IDS)
    batches = [entry.request_id for entry in sandbox.requests if entry.route == ANALYZE]
    assert len(batches) == 2
    assert len(set(batches)) == 1
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}
    assert sandbox.credits_spent == 25 * len(IDS) + (len(IDS) if done else 0)
    assert {o.value.status for o in second if o.value} == {
        "duplicate_request" if done else "analyzed"
    }
    assert second.credits_spent == (len(IDS) if done else 25 * len(IDS))


@pytest.mark.sandbox(indexed=0.0)
async def test_calls_that_are_cancelled_leave_their_batches_in_doubt(
    reopen: Reopen, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """And the next run settles them under their old ids."""
    async with reopen() as journal:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await client.posts.analyze(IDS, batch_size=6, journal=journal)

    async with reopen() as journal:
        report = await client.posts.analyze(IDS, batch_size=6, journal=journal)

    assert len(report.succeeded) == len(IDS)
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}
