"""Waiting while being cancelled."""

from __future__ import annotations

import asyncio
import gc

import anyio
import pytest

from tokfluence_async._tasks import end, finish


async def test_work_is_finished_however_often_its_caller_is_cancelled() -> None:
    """And the cancellation is raised after it."""
    done: list[str] = []

    async def work() -> None:
        await asyncio.sleep(1.0)
        done.append("work")

    task = asyncio.create_task(finish(work()))
    for _ in range(5):
        await asyncio.sleep(0.1)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert done == ["work"]


async def test_work_is_finished_in_a_scope_that_is_cancelled() -> None:
    """Without a turn of the loop for each of its cancellations: they are kept away."""
    done: list[str] = []

    async def work() -> None:
        await asyncio.sleep(1.0)
        done.append("work")

    with anyio.move_on_after(0.1) as scope:
        await finish(work())
        done.append("in the scope")
        await asyncio.sleep(1.0)

    assert scope.cancelled_caught
    assert done == ["work", "in the scope"]


async def test_what_the_work_returns_and_raises_is_passed_on() -> None:
    async def add(a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a + b

    async def fail() -> None:
        raise ValueError("as given")

    assert await finish(add(1, 2)) == 3
    with pytest.raises(ValueError, match="as given"):
        await finish(fail())


async def test_tasks_have_ended_before_the_cancellation_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Those that take their time, that fail, and that had ended before."""
    ended: list[int] = []

    async def slow(n: int) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(n)
            ended.append(n)
            raise ValueError

    async def done() -> None:
        raise ValueError

    tasks = [asyncio.create_task(slow(n)) for n in (1, 2)] + [asyncio.create_task(done())]
    await asyncio.sleep(0.1)
    ending = asyncio.create_task(end(tasks))
    for _ in range(3):
        await asyncio.sleep(0.1)
        ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending

    assert ended == [1, 2]
    del tasks, ending
    assert not caplog.records


async def test_nothing_to_end_takes_no_turn() -> None:
    await end([])


async def test_work_that_fails_while_its_caller_is_cancelled_is_no_news_for_the_loop() -> None:
    """The cancellation is what the caller sees; the loop said that nobody looked at the error."""
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    async def fail() -> None:
        await asyncio.sleep(1.0)
        raise ValueError("too late")

    task = asyncio.create_task(finish(fail()))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    await asyncio.sleep(0)
    gc.collect()

    assert told == []
