"""How far a bulk call may run ahead of its reader, in posts."""

from __future__ import annotations

import asyncio

import pytest

from tokfluence_async._bulk.window import Window


def test_eight_posts_may_be_under_way_before_any_was_read() -> None:
    """A batch for each worker; or a whole batch, where its size was asked for."""
    assert (Window().size, Window().room) == (8, 8)
    assert (Window(at_least=3).size, Window(at_least=50).size) == (8, 50)


async def test_what_was_sent_and_not_read_takes_up_room() -> None:
    """From before it is sent. What was reserved and not sent is free again."""
    window = Window()
    await window.reserve(3)
    await window.reserve(2)
    assert window.room == 3
    window.hold(5, [0, 1, 2])
    assert window.room == 5
    window.was_read(1)
    assert (window.size, window.room) == (8, 6)


async def test_as_much_may_be_under_way_as_was_read() -> None:
    window = Window()
    for index in range(20):
        await window.reserve(1)
        window.hold(1, [index])
        window.was_read(index)
        assert window.size == window.room == max(8, index + 1)


async def test_an_outcome_that_was_never_held_counts_as_read() -> None:
    """What cost nothing, such as an input that names no post."""
    window = Window()
    for _ in range(9):
        window.was_read(100)
    assert window.room == 9


@pytest.mark.parametrize("by", ["read", "hold"])
async def test_who_wants_more_than_there_is_waits_for_it(by: str) -> None:
    """Until something was read, or less was sent than reserved."""
    window = Window()
    await window.reserve(8)
    if by == "read":
        window.hold(8, range(8))
    waiting = asyncio.create_task(window.reserve(2))
    await asyncio.sleep(1)
    assert not waiting.done()

    if by == "read":
        window.was_read(0)
        await asyncio.sleep(1)
        assert not waiting.done()
        window.was_read(1)
    else:
        window.hold(8, range(6))

    await asyncio.wait_for(waiting, 1)
    assert window.room == 0


async def test_a_change_is_waited_for_anew() -> None:
    """One that was there before says nothing."""
    window = Window()
    window.was_read(0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(window.change(), 1)
