"""Bulk calls as generators: what ends with them, however they are ended."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from tokfluence_async import ClosedError, Sandbox, Throttle, TokfluenceClient
from tokfluence_async._bulk.stream import Emit, stream

IDS = [str(7200000000000000000 + n) for n in range(30)]


def tasks_of_the_client() -> set[str]:
    """Those that run in this loop and are neither the test's own nor the sandbox's."""
    coroutines = (task.get_coro() for task in asyncio.all_tasks())
    names = (getattr(coroutine, "__qualname__", "") for coroutine in coroutines)
    return {name for name in names if not name.startswith(_NOT_OURS)}


_NOT_OURS = ("RequestHandler", "test_", "BaseSelectorEventLoop")


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def bulk(client: TokfluenceClient, name: str) -> Any:
    if name == "comments":
        return client.posts.comment_pages(IDS[0], limit=2, prefetch=4)
    return getattr(client.posts, name)(IDS)


@pytest.mark.parametrize("name", ["get_many", "analyze_iter", "resolve", "comments"])
@pytest.mark.parametrize("between", [0, 1, 2, 5])
@pytest.mark.sandbox(comments_per_post=60, throttle=None, seconds_per_url=0.0)
@pytest.mark.client(throttle=Throttle(per_ip=None, per_key=None))
async def test_two_cancellations_leave_no_task_and_no_reserved_credits(
    sandbox: Sandbox, client: TokfluenceClient, name: str, between: int
) -> None:
    """The second may come while the first is still being seen to, at any turn of the loop."""
    await client.posts.get(IDS[0])  # what is lazy is there

    async def read() -> None:
        async with aclosing(bulk(client, name)) as outcomes:
            async for _ in outcomes:
                await asyncio.sleep(0)

    for k in range(0, 120, 3):
        task = asyncio.create_task(read())
        await turns(k)
        task.cancel()
        await turns(between)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

        assert tasks_of_the_client() == set(), f"cancelled at turn {k}"
        assert client.usage.credits_reserved == 0


@pytest.mark.parametrize("name", ["get_many", "analyze_iter", "resolve", "comments"])
@pytest.mark.sandbox(comments_per_post=60, throttle=None, seconds_per_url=0.0)
@pytest.mark.client(throttle=Throttle(per_ip=None, per_key=None))
async def test_a_cancelled_scope_leaves_no_task_and_no_reserved_credits(
    sandbox: Sandbox, client: TokfluenceClient, name: str
) -> None:
    """A scope of anyio's cancels again at every turn, as long as something waits inside it."""
    await client.posts.get(IDS[0])

    for k in range(0, 120, 3):
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_later(k * 1e-9, scope.cancel)
            async with aclosing(bulk(client, name)) as outcomes:
                async for _ in outcomes:
                    await asyncio.sleep(0)

        assert tasks_of_the_client() == set(), f"cancelled at turn {k}"
        assert client.usage.credits_reserved == 0


# --- readers who stop early -----------------------------------------------------------------------

MANY = [str(7300000000000000000 + n) for n in range(2000)]
FIRST = 8  # what may be under way before anything was read: a post for each batch at once


@pytest.mark.parametrize("read", [1, 5, 30, 200])
@pytest.mark.parametrize(
    ("name", "indexed"),
    [
        ("analyze_iter", 0.0),
        ("resolve", 0.0),
        ("resolve", 1.0),
        ("resolve", 0.5),
        ("get_many", 1.0),
    ],
)
async def test_who_stops_reading_has_not_paid_for_more_in_vain_than_was_read(
    name: str, indexed: float, read: int
) -> None:
    """A generator that is kept after a `break` goes on; what was not read counts against what may
    be under way, as with comments."""
    async with (
        Sandbox(indexed=indexed) as sandbox,
        TokfluenceClient(sandbox.token, base_url=sandbox.url) as client,
    ):
        outcomes = getattr(client.posts, name)(MANY)
        count = 0
        async for _ in outcomes:
            count += 1
            if count == read:
                break
        await asyncio.sleep(3600)

        paid = {post_id for entry in sandbox.requests for post_id in entry.post_ids}
        assert len(paid) - read <= max(read, FIRST)
        await outcomes.aclose()


@pytest.mark.parametrize("name", ["analyze_iter", "resolve", "get_many"])
async def test_a_slow_reader_gets_everything(name: str) -> None:
    """And pays for no more requests than a batch for each post."""
    ids = MANY[:60]
    async with (
        Sandbox(indexed=0.5) as sandbox,
        TokfluenceClient(sandbox.token, base_url=sandbox.url) as client,
    ):
        got = []
        async for outcome in getattr(client.posts, name)(ids):
            got.append(outcome.post_id)
            await asyncio.sleep(10)

    assert sorted(got) == ids


@pytest.mark.parametrize("batch_size", [1, 20, 50])
async def test_a_batch_size_that_was_asked_for_is_kept(batch_size: int) -> None:
    """Also at the start, and by a reader who takes a while for each outcome."""
    async with (
        Sandbox(indexed=0.0) as sandbox,
        TokfluenceClient(sandbox.token, base_url=sandbox.url) as client,
    ):
        async for _ in client.posts.analyze_iter(MANY[:200], batch_size=batch_size):
            await asyncio.sleep(1)

        assert {len(entry.post_ids) for entry in sandbox.requests} == {batch_size}


async def test_free_outcomes_are_not_held_back_by_what_was_not_read(tmp_path: Path) -> None:
    """What a journal knows, and inputs that name no post, cost nothing."""
    journal = tmp_path / "journal.sqlite"
    async with (
        Sandbox(indexed=0.0) as sandbox,
        TokfluenceClient(sandbox.token, base_url=sandbox.url) as client,
    ):
        await client.posts.analyze(MANY[:90], journal=journal)
        before = len(sandbox.requests)
        outcomes = client.posts.analyze_iter(
            [*MANY[:90], *["nonsense"] * 50, *MANY[90:92]], journal=journal
        )
        got = [await anext(outcomes)]
        await asyncio.sleep(3600)
        assert len(sandbox.requests) == before
        got += [outcome async for outcome in outcomes]

    assert len(got) == 142


@pytest.mark.parametrize("name", ["get_many", "analyze_iter", "resolve", "comments"])
@pytest.mark.parametrize("turns_before", range(1, 6))
async def test_a_client_closed_in_the_turn_in_which_a_job_begins_ends_its_reader(
    sandbox: Sandbox, client: TokfluenceClient, name: str, turns_before: int
) -> None:
    """The task behind the generator is cancelled before its first step."""

    async def read() -> None:
        async for _ in bulk(client, name):
            pass

    reader = asyncio.create_task(read())
    await turns(turns_before)
    await client.aclose()

    with pytest.raises(ClosedError):
        await asyncio.wait_for(reader, 3600)
    assert tasks_of_the_client() == set()


class CancelsAtOnce:
    """An engine that is closed before the work takes its first step."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        task.cancel()
        return task


async def test_work_that_never_takes_a_step_ends_its_reader() -> None:
    async def work(emit: Emit[int]) -> None:
        await emit(1)

    engine: Any = CancelsAtOnce()
    with pytest.raises(ClosedError):
        await asyncio.wait_for(anext(stream(engine, work, 1, str)), 3600)
