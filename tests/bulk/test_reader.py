"""The one task that reads the inputs of a call: it ends whoever waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tokfluence_async._bulk.reader import Reader


class Inputs:
    """Two of them, and whether they were closed."""

    def __init__(self) -> None:
        self.read = 0
        self.closed = False

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        if self.read == 2:
            raise StopAsyncIteration
        self.read += 1
        return self.read

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize("turns", range(6))
async def test_stopped_at_any_turn_it_ends_who_waits_and_closes_the_inputs(turns: int) -> None:
    """Also in the turn in which its task was made, which then never takes a step."""
    inputs = Inputs()
    reader = Reader(inputs)

    async def read() -> None:
        with suppress(StopAsyncIteration):
            while True:
                await reader.next()

    waiting = asyncio.create_task(read())
    for _ in range(turns):
        await asyncio.sleep(0)
    reader.stop()

    async with asyncio.timeout(3600):
        await waiting
    await reader.aclose()
    assert inputs.closed
