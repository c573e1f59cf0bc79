"""What people give as inputs: generators that keep things across a `yield`, progress bars, and
objects of every kind."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from tokfluence_async import (
    InvalidPostError,
    Outcome,
    Sandbox,
    Throttle,
    TokfluenceClient,
    TokfluenceError,
    crawl,
)

IDS = [str(7200000000000000000 + n) for n in range(40)]
MANY = [str(7300000000000000000 + n) for n in range(4000)]
CALLS = ["analyze", "analyze_iter", "resolve", "get_many", "crawl"]
ANALYZE = "POST /v1/posts/analyze"

pytestmark = [
    pytest.mark.sandbox(indexed=0.5, throttle=None),
    pytest.mark.client(throttle=Throttle(per_ip=None, per_key=None)),
]


async def run(client: TokfluenceClient, name: str, inputs: Any, out: Path) -> int:
    """Use up a bulk call; how many inputs it has told of."""
    if name == "crawl":
        report = await crawl(client, inputs, out)
        return report.posts + report.failed
    if name == "analyze":
        return len((await client.posts.analyze(inputs)).outcomes)
    async with aclosing(getattr(client.posts, name)(inputs)) as outcomes:
        return len([outcome async for outcome in outcomes])


# --- one task reads the source --------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
async def test_one_task_reads_an_async_source_and_ends_it(
    client: TokfluenceClient, name: str, tmp_path: Path
) -> None:
    """Whatever the generator keeps across a `yield` belongs to the task that began it."""
    tasks: list[Any] = []

    async def inputs() -> AsyncIterator[str]:
        try:
            for post_id in IDS:
                tasks.append(asyncio.current_task())
                await asyncio.sleep(0.01)
                yield post_id
        finally:
            tasks.append(asyncio.current_task())

    assert await run(client, name, inputs(), tmp_path) == len(IDS)
    assert len(tasks) == len(IDS) + 1
    assert len(set(tasks)) == 1


@pytest.mark.parametrize("name", ["analyze_iter", "resolve", "get_many"])
async def test_the_task_that_read_the_source_ends_it_when_the_reader_leaves(
    client: TokfluenceClient, name: str
) -> None:
    """Before `aclose` returns, with the source suspended at a `yield` or inside an `await`."""
    for pause in (0.0, 1000.0):
        tasks: list[Any] = []

        async def inputs(pause: float = pause, tasks: list[Any] = tasks) -> AsyncIterator[str]:
            try:
                tasks.append(asyncio.current_task())
                for post_id in IDS:
                    yield post_id
                    await asyncio.sleep(pause if post_id == IDS[20] else 0)
            finally:
                await asyncio.sleep(0.5)  # it is given the time to tidy up
                tasks.append(asyncio.current_task())

        async with aclosing(getattr(client.posts, name)(inputs())) as outcomes:
            async for _ in outcomes:
                break

        assert len(tasks) == 2
        assert len(set(tasks)) == 1


@pytest.mark.parametrize("name", CALLS)
async def test_a_source_that_asks_for_what_was_cancelled_is_told_of(
    client: TokfluenceClient, name: str, tmp_path: Path
) -> None:
    """`(task.result() for task in tasks)` raises `CancelledError` for a task that was cancelled.
    The call took it for its own end, and came back with nothing as if that were all."""
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()

    def inputs() -> Iterator[str]:
        yield from IDS[:3]
        yield cancelled.result()

    with pytest.raises(RuntimeError, match="inputs were cancelled, and not by this call"):
        await run(client, name, inputs(), tmp_path)


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("name", CALLS)
async def test_context_variables_are_kept(
    client: TokfluenceClient, name: str, is_async: bool, tmp_path: Path
) -> None:
    """The caller's are seen in the source, and its own are there again at its next item."""
    outer: ContextVar[str] = ContextVar("outer")
    inner: ContextVar[int] = ContextVar("inner")
    outer.set("the caller's")

    def numbers() -> Iterator[str]:
        for n, post_id in enumerate(IDS):
            assert outer.get() == "the caller's"
            assert inner.get(-1) == n - 1
            token = inner.set(n)
            yield post_id
            inner.reset(token)
            inner.set(n)

    async def later() -> AsyncIterator[str]:
        for post_id in numbers():
            yield post_id
            await asyncio.sleep(0)

    assert await run(client, name, later() if is_async else numbers(), tmp_path) == len(IDS)


@pytest.mark.parametrize("name", CALLS)
async def test_scopes_and_task_groups_in_a_source_work(
    client: TokfluenceClient, name: str, tmp_path: Path
) -> None:
    """They may only be left by the task that entered them."""

    async def inputs() -> AsyncIterator[str]:
        with anyio.fail_after(3600):
            async with anyio.create_task_group() as group, asyncio.TaskGroup() as other:
                group.start_soon(anyio.sleep, 1)
                other.create_task(asyncio.sleep(1))
                async with asyncio.timeout(3600):
                    for post_id in IDS:
                        yield post_id
                        await asyncio.sleep(0.01)

    assert await run(client, name, inputs(), tmp_path) == len(IDS)


@pytest.mark.sandbox(latency=0.1)
@pytest.mark.parametrize("scope", [anyio.fail_after, asyncio.timeout])
@pytest.mark.parametrize("waits_at", ["yield", "await"])
@pytest.mark.parametrize("name", CALLS)
async def test_a_scope_of_the_source_that_runs_out_ends_the_source(
    client: TokfluenceClient,
    name: str,
    waits_at: str,
    scope: Any,
    tmp_path: Path,
) -> None:
    """Its `TimeoutError` is what the source raises, whether it waits for something or for us; what
    was begun is finished first."""

    async def inputs() -> AsyncIterator[str]:
        cm = scope(1.0)
        if hasattr(cm, "__aenter__"):
            async with cm:
                for post_id in MANY:
                    yield post_id
                    await asyncio.sleep(100 if waits_at == "await" and post_id == MANY[5] else 0)
        else:
            with cm:
                for post_id in MANY:
                    yield post_id
                    await asyncio.sleep(100 if waits_at == "await" and post_id == MANY[5] else 0)
        yield IDS[0]

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(run(client, name, inputs(), tmp_path), 10_000)


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("name", CALLS)
async def test_a_span_in_a_source_is_ended_where_it_began(
    client: TokfluenceClient,
    name: str,
    is_async: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """OpenTelemetry logs an error for a context that is detached in another one."""
    trace = pytest.importorskip("opentelemetry.trace")
    tracer = trace.get_tracer("test")

    def numbers() -> Iterator[str]:
        for post_id in IDS:
            with tracer.start_as_current_span("input"):
                yield post_id

    async def later() -> AsyncIterator[str]:
        for post_id in IDS:
            with tracer.start_as_current_span("input"):
                yield post_id
                await asyncio.sleep(0)

    with caplog.at_level(logging.ERROR):
        assert await run(client, name, later() if is_async else numbers(), tmp_path) == len(IDS)

    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


async def test_a_source_is_read_on_demand_only(client: TokfluenceClient) -> None:
    """Its task waits until somebody wants an item; it does not read ahead."""
    from tokfluence_async._bulk.sources import Source

    read: list[str] = []

    async def inputs() -> AsyncIterator[str]:
        for post_id in IDS:
            read.append(post_id)
            yield post_id

    source = Source(inputs())
    await source.next()
    await asyncio.sleep(1)
    assert read == IDS[:1]
    await source.next()
    await asyncio.sleep(1)
    assert read == IDS[:2]
    await source.aclose()


# --- lengths --------------------------------------------------------------------------------------


class Bar:
    """A progress bar around a generator, as tqdm makes it."""

    def __init__(self, inputs: Iterator[str], length: Any) -> None:
        self._inputs = inputs
        self._length = length

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs)

    def __len__(self) -> int:
        if isinstance(self._length, Exception):
            raise self._length
        return int(self._length)


@pytest.mark.parametrize(
    "length", [TypeError("object of type 'NoneType' has no len()"), OverflowError(), 3, 0, 10_000]
)
@pytest.mark.parametrize("name", [*CALLS, "estimate"])
async def test_a_length_that_raises_or_lies_is_only_a_length(
    client: TokfluenceClient, name: str, length: Any, tmp_path: Path
) -> None:
    """`len(tqdm(generator))` raises, `tqdm(generator, total=3)` says what its user believes."""
    inputs = Bar(iter(IDS), length)
    if name == "estimate":
        assert (await client.posts.estimate(inputs)).posts == len(IDS)
    else:
        assert await run(client, name, inputs, tmp_path) == len(IDS)


# --- objects of every kind ------------------------------------------------------------------------


class Markup(str):
    """A text whose methods give texts of its own kind, as jinja's, lxml's and bs4's do."""

    def strip(self, *args: Any) -> Markup:
        return Markup(str.strip(self, *args))

    def __str__(self) -> str:
        raise RuntimeError("not to be asked")

    def __add__(self, other: Any) -> Any:
        raise RuntimeError("not to be asked")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not to be asked")

    def __hash__(self) -> int:
        raise RuntimeError("not to be asked")


class Number(int):
    def __str__(self) -> str:
        return "seven"

    def __repr__(self) -> str:
        raise RuntimeError("not to be asked")


class Hostile:
    """Everything it is asked raises."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __str__(self) -> str:
        raise RuntimeError("no str")

    def __index__(self) -> int:
        raise MemoryError("no index")

    def __hash__(self) -> int:
        raise RuntimeError("no hash")


class Pretender:
    """What a mock says of its class."""

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        return str


class Endless:
    def __repr__(self) -> str:
        return repr(self)


GOOD: list[Any] = [
    Markup(f" {IDS[0]} "),
    Markup(f"https://www.tiktok.com/@wwe/video/{IDS[1]}"),
    Number(int(IDS[2])),
    np.str_(IDS[3]),
    np.int64(IDS[4]),
    np.uint64(IDS[5]),
    np.str_(f"https://www.tiktok.com/@wwe/video/{IDS[6]}"),
]
BAD: list[Any] = [
    np.str_("no post"),
    np.float64(7.2e18),
    np.array([1, 2]),
    np.array("no post"),
    np.datetime64("2024-01-01"),
    np.void(b"x"),
    Markup("no post"),
    Number(-1),
    Hostile(),
    Pretender(),
    Endless(),
    "half an emoji \ud83d",
    "https://www.tiktok.com/@\ud83d/video/x",
    float("nan"),
    1 << 5000,
    "7" * 5000,
    b"\xff",
    bytearray(b"1"),
    None,
    ...,
    [],
    {},
    object(),
    InvalidPostError,
    InvalidPostError("x", "y"),
    KeyboardInterrupt(),
    Outcome(input=1),
    lambda: None,
]


@pytest.mark.parametrize("with_journal", [False, True])
@pytest.mark.parametrize("name", ["analyze", "analyze_iter", "resolve", "get_many"])
async def test_any_object_is_an_input_of_its_own(
    sandbox: Sandbox, client: TokfluenceClient, name: str, with_journal: bool, tmp_path: Path
) -> None:
    """What names a post is a plain str or int from there on; anything else is a failed outcome, and
    none is the end of the job."""
    inputs: list[Any] = []
    for n in range(max(len(GOOD), len(BAD))):
        inputs += GOOD[n : n + 1] + BAD[n : n + 1]
    options: Any = {"journal": tmp_path / "j.sqlite"} if with_journal else {}
    if with_journal and name == "get_many":
        return

    if name == "analyze":
        outcomes = list(await client.posts.analyze(inputs, **options))
    else:
        stream = getattr(client.posts, name)(inputs, **options)
        outcomes = [outcome async for outcome in stream]

    named = [outcome for outcome in outcomes if outcome.post_id is not None]
    unnamed = [outcome for outcome in outcomes if outcome.post_id is None]
    assert sorted(outcome.post_id for outcome in named) == IDS[: len(GOOD)]
    assert {type(outcome.input) for outcome in named} <= {str, int}
    assert {type(outcome.post_id) for outcome in named} == {str}
    assert len(unnamed) == len(BAD)
    assert {type(outcome.error) for outcome in unnamed} == {InvalidPostError}
    assert not {type(outcome.input) for outcome in unnamed} & {Markup, Number, np.str_}
    sent = Counter(post_id for entry in sandbox.requests for post_id in entry.post_ids)
    assert set(sent) <= set(IDS[: len(GOOD)])


async def test_any_object_can_be_a_failure_line(client: TokfluenceClient, tmp_path: Path) -> None:
    """A crawl goes on, and does so at every run."""
    for _ in range(2):
        report = await crawl(client, [*BAD, *GOOD], tmp_path)

        assert report.failed >= len(BAD)
        assert report.posts + report.skipped + report.failed == len(GOOD) + len(BAD)


async def test_an_input_keeps_its_plain_self(client: TokfluenceClient) -> None:
    """An outcome is looked up by what was given, so a plain text or number stays as it is."""
    outcomes = [outcome async for outcome in client.posts.get_many([IDS[0], int(IDS[1])])]

    assert {outcome.input for outcome in outcomes} == {IDS[0], int(IDS[1])}
    assert all(outcome.ok or isinstance(outcome.error, TokfluenceError) for outcome in outcomes)
