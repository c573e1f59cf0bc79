"""Inputs: folded by video id, in order, read no faster than used, and never the end of a job by
being malformed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfluence_async import InvalidPostError, TokfluenceClient
from tokfluence_async._bulk import sources as _sources
from tokfluence_async._bulk.sources import Inputs, Item, Source
from tokfluence_async._wire.ids import parse_post


async def drain(source: Source) -> list[Item]:
    items: list[Item] = []
    while (item := await source.next()) is not None:
        items.append(item)
    return items


async def each(values: list[Any]) -> AsyncIterator[Any]:
    for value in values:
        yield value


@given(
    st.lists(st.integers(1, 12) | st.sampled_from(["bad", "", "tiktok.com/x"]), max_size=40),
    st.booleans(),
)
def test_folding_loses_nothing_invents_nothing_and_keeps_first_seen_order(
    values: list[Any], is_async: bool
) -> None:
    """The plan everything else is built on: one item per distinct post and per malformed input."""
    inputs: Inputs = each(values) if is_async else values
    source: Source | None = None

    async def work() -> list[Item]:
        nonlocal source
        source = Source(inputs)
        return await drain(source)

    items = asyncio.run(work())

    expected: list[Any] = []
    for value in values:
        if not isinstance(value, int) or value not in expected:
            expected.append(value)
    assert source is not None
    assert [item.given for item in items] == expected
    assert [item.index for item in items] == list(range(1, len(expected) + 1))
    assert source.duplicates == len(values) - len(expected)
    assert source.total == source.taken == len(expected)
    assert source.left == 0
    assert source.ended


async def test_the_first_spelling_is_kept() -> None:
    """Outcomes are looked up by what the user gave first."""
    url = "https://m.tiktok.com/v/5.html"

    items = await drain(Source([url, 5, "5", "https://www.tiktok.com/@a/video/5"]))

    assert [item.given for item in items] == [url]


async def test_a_malformed_input_stands_where_it_stood() -> None:
    """With its error, once for each time it was given: there is no id to fold it by."""
    items = await drain(Source([1, "bad", 2, "bad", None]))

    assert [item.ref.post_id if item.ref else None for item in items] == [
        "1",
        None,
        "2",
        None,
        None,
    ]
    assert [type(item.error) for item in items] == [
        type(None),
        InvalidPostError,
        type(None),
        InvalidPostError,
        InvalidPostError,
    ]


@pytest.mark.parametrize("text", ["https://www.tiktok.com/@a/video/5", b"5"])
def test_one_text_is_not_a_list_of_inputs(text: Any) -> None:
    """It would be analyzed character by character, at 25 credits each digit."""
    with pytest.raises(TypeError, match="iterable of ids or URLs"):
        Source(text)


def test_what_cannot_be_iterated_is_refused_at_once() -> None:
    """At the call, not at the first iteration."""
    with pytest.raises(TypeError, match=r"not one int; for a single post: \[id\]"):
        Source(5)  # type: ignore[arg-type]


async def test_input_is_read_no_faster_than_it_is_used() -> None:
    """A million URLs pass through; they are not collected (trap 21)."""
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for n in range(1, 1_000_000):
            read.append(n)
            yield n

    source = Source(numbers())
    assert read == []
    await source.next()
    await source.next()

    assert read == [1, 2]
    assert source.total is None
    assert source.left is None


async def test_the_total_of_a_sized_input_is_known_from_the_start() -> None:
    """It falls as duplicates are found, and never below what was given out."""
    source = Source([1, 1, 2])

    assert (source.total, source.left) == (3, 3)
    await source.next()
    assert (source.total, source.left) == (3, 2)
    await source.next()
    assert (source.total, source.left) == (2, 0)
    assert await source.next() is None
    assert source.total == 2


async def test_an_input_that_raises_ends_there_and_keeps_the_error() -> None:
    """What was begun is finished first; whoever drives raises it after."""
    error = RuntimeError("the file went away")

    def broken() -> Iterator[int]:
        yield 1
        raise error

    async def broken_too() -> AsyncIterator[int]:
        yield 1
        raise error

    for inputs in (broken(), broken_too()):
        source = Source(inputs)
        items = await drain(source)
        assert [item.given for item in items] == [1]
        assert source.error is error
        assert await source.next() is None
        assert source.error is error


async def test_several_readers_share_an_async_input() -> None:
    """An async generator cannot be advanced by two at once; readers take turns and each item goes
    to one."""

    async def slow() -> AsyncIterator[int]:
        for n in range(1, 21):
            await asyncio.sleep(0.1)
            yield n

    source = Source(slow())
    got = await asyncio.gather(*(drain(source) for _ in range(5)))

    assert sorted(int(str(item.given)) for items in got for item in items) == list(range(1, 21))


async def test_closing_closes_an_async_generator() -> None:
    """Nobody else can: its `finally` would otherwise run when it is collected, on whatever loop."""
    closed = False

    async def numbers() -> AsyncIterator[int]:
        nonlocal closed
        try:
            while True:
                yield 1
        finally:
            closed = True

    source = Source(numbers())
    await source.next()
    await source.aclose()

    assert closed
    assert await source.next() is None


# --- the loop gets its turns ----------------------------------------------------------------------

KINDS: dict[str, Callable[[int], Iterator[Any]]] = {
    "distinct": lambda n: iter(range(1, n)),
    "one post again and again": lambda n: iter([7] * n),
    "malformed": lambda n: iter(["x;" * 2000] * n),
    "as a generator": lambda n: (str(k) for k in range(1, n)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", ["estimate", "analyze", "resolve", "get_many"])
async def test_the_loop_gets_a_turn_every_so_many_inputs(
    client: TokfluenceClient, call: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the inputs are: `estimate` of 300,000 ids held the loop for 3.1 s. What is looked at
    between two turns of another task is counted."""
    looked_at = most = 0

    def counted(value: object) -> Any:
        nonlocal looked_at
        looked_at += 1
        return parse_post(value)

    async def others() -> None:
        nonlocal looked_at, most
        while True:
            most, looked_at = max(most, looked_at), 0
            await asyncio.sleep(0)

    monkeypatch.setattr(_sources, "parse_post", counted)
    task = asyncio.create_task(others())
    inputs = KINDS[kind](3000)
    if call == "estimate":
        await client.posts.estimate(inputs)
    elif call == "analyze":
        await client.posts.analyze(inputs, max_credits=0)
    else:
        async for _ in getattr(client.posts, call)(inputs, max_credits=0):
            pass
    task.cancel()

    assert 0 < most <= (128 if kind != "malformed" else 3)
