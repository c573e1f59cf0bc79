"""Bulk calls as generators: what ends with them, however they are ended."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import Any

import anyio
import pytest

from tokfluence_async import Sandbox, Throttle, TokfluenceClient

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
