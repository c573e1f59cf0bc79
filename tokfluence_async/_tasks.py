"""Waiting while being cancelled: the one way to do it in this package.

A cancellation may come more than once. A second `task.cancel()` interrupts the wait of whoever sees
to the first, and a cancelled scope of anyio's cancels again at every turn of the loop. A plain
`await` in a `finally` is therefore cut short, and what it waited for goes on by itself. Whatever
has to be waited for at such a place goes through `finish`, `end` or `wait`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import anyio

__all__ = ["end", "finish", "wait"]

T = TypeVar("T")


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end, however often the caller is cancelled meanwhile.

    `work` runs in a task of its own. A cancellation that arrived meanwhile is raised after it.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        await wait([task])
    finally:
        if not task.cancelled():
            task.exception()  # looked at, also where a cancellation is raised in its place
    return task.result()


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel `tasks` and wait until all have ended, however often the caller is cancelled
    meanwhile. What they raise is not looked at."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    try:
        await wait(ending)
    finally:
        for task in ending:
            if not task.cancelled():
                task.exception()  # looked at, so that the loop does not report it


async def wait(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Wait until all `tasks` have ended, however often the caller is cancelled meanwhile. A
    cancellation that arrived meanwhile is raised after it."""
    cancelled: asyncio.CancelledError | None = None
    # The scope keeps anyio's cancellations away, the loop outlasts asyncio's own.
    with anyio.CancelScope(shield=True):
        while any(not task.done() for task in tasks):
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled
