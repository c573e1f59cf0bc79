"""The cheapest way to readable posts: what is there is read, what is missing is analyzed, and read
when it can be."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokfluence_async import (
    APIResponseValidationError,
    BudgetExceededError,
    InsufficientCreditsError,
    InvalidPostError,
    NotFoundError,
    Outcome,
    Post,
    PostNotReadyError,
    Progress,
    Sandbox,
    TokfluenceClient,
)
from tokfluence_async._bulk.visibility import Visibility
from tokfluence_async.testing import VirtualLoop

GET = "GET /v1/posts/:id"
ANALYZE = "POST /v1/posts/analyze"


async def collect(outcomes: AsyncIterator[Outcome[Post]]) -> dict[object, Outcome[Post]]:
    return {outcome.input: outcome async for outcome in outcomes}


def too_early(sandbox: Sandbox) -> int:
    """Reads of posts that had been analyzed and were not readable yet: each a credit spent to learn
    that."""
    analyzed_at: dict[str, float] = {}
    misses = 0
    for entry in sandbox.requests:
        if entry.route == ANALYZE:
            analyzed_at.update(dict.fromkeys(entry.post_ids, entry.time))
        elif entry.status == 404 and entry.post_ids[0] in analyzed_at:
            misses += 1
    return misses


async def test_what_is_there_is_read_and_nothing_analyzed(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A credit a post, and no analysis."""
    outcomes = await collect(client.posts.resolve(range(1, 31)))

    assert {outcome.unwrap().post_id for outcome in outcomes.values()} == {
        str(n) for n in range(1, 31)
    }
    assert sandbox.credits_spent == 30
    assert sandbox.times(to=ANALYZE) == []


@pytest.mark.sandbox(indexed=[str(n) for n in range(1, 21)])
async def test_only_what_is_missing_is_analyzed_then_read(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """1 for what is there; 1 + 25 + 1 for what is not, and a few polls to learn the delay."""
    outcomes = await collect(client.posts.resolve(range(1, 31)))

    assert all(outcome.ok for outcome in outcomes.values())
    assert sandbox.times_charged() == {str(n): 1 for n in range(21, 31)}
    polls = too_early(sandbox)
    assert sandbox.credits_spent == client.usage.credits_spent == 20 + 10 * (1 + 25 + 1) + polls
    assert polls <= 10


@pytest.mark.sandbox(indexed=0.0)
@pytest.mark.parametrize("delay", [0.0, 1.0, 3.0, 10.0, 25.0])
async def test_polls_are_few_whatever_the_delay(
    sandbox: Sandbox, client: TokfluenceClient, delay: float
) -> None:
    """One post of a batch goes ahead; the others wait for what it finds. Of 200 posts, at most
    those of the batches that came back before anything was known ask too early, a few times
    each."""
    sandbox.visibility_delay = delay

    outcomes = await collect(client.posts.resolve(range(1, 201)))

    assert all(outcome.ok for outcome in outcomes.values())
    assert too_early(sandbox) <= (0 if delay < 2 else 80)
    assert not sandbox.billed_twice()


@pytest.mark.sandbox(indexed=0.0)
async def test_polls_stay_few_when_the_delay_varies(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Less than one poll in vain for each post, at a delay of 1 to 12 seconds."""
    dice = random.Random(5)
    delays = {str(n): dice.uniform(1, 12) for n in range(1, 201)}
    sandbox.visibility_delay = delays.__getitem__

    outcomes = await collect(client.posts.resolve(range(1, 201)))

    assert all(outcome.ok for outcome in outcomes.values())
    assert too_early(sandbox) <= 200


@pytest.mark.sandbox(
    indexed=0.0, analyze_status=lambda post_id: "private" if post_id in {"2", "5"} else None
)
async def test_a_post_that_never_becomes_readable(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A failed outcome after its time, after a handful of reads and not dozens; the others do not
    wait for it."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    at = {
        outcome.input: (loop.time() - began, outcome)
        async for outcome in client.posts.resolve(range(1, 7))
    }

    for n in (2, 5):
        when, outcome = at[n]
        assert isinstance(outcome.error, PostNotReadyError)
        assert outcome.error.post_id == outcome.post_id == str(n)
        assert 2 <= outcome.error.polls <= 7
        assert 60 <= outcome.error.waited < 75
        assert when < 100
        reads = [
            entry for entry in sandbox.requests if entry.route == GET and entry.post_ids == [str(n)]
        ]
        assert len(reads) == 1 + outcome.error.polls
    assert all(at[n][1].ok and at[n][0] < 40 for n in (1, 3, 4, 6))
    assert sandbox.times_charged() == {str(n): 1 for n in range(1, 7)}


@pytest.mark.sandbox(indexed=0.0, visibility_delay=1e9)
@pytest.mark.parametrize(("patience", "most"), [(0.0, 1), (1.0, 1), (10.0, 4), (600.0, 11)])
async def test_patience_is_the_callers(
    sandbox: Sandbox, client: TokfluenceClient, patience: float, most: int
) -> None:
    """Reads grow with its logarithm; with none at all there is one."""
    outcomes = await collect(client.posts.resolve([1], patience=patience))

    error = outcomes[1].error
    assert isinstance(error, PostNotReadyError)
    assert 1 <= error.polls <= most
    assert patience <= error.waited < patience + 5


async def test_refresh_always_analyzes_everything(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """No read before; each post is analyzed, then read."""
    outcomes = await collect(client.posts.resolve(range(1, 6), refresh="always"))

    assert all(outcome.ok for outcome in outcomes.values())
    assert sandbox.times_charged() == {str(n): 1 for n in range(1, 6)}
    assert len(sandbox.times(to=GET)) == 5
    assert sandbox.credits_spent == 5 * 26


async def test_force_is_passed_on(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """Beyond the freshness window."""
    sandbox.index("1", age=10)

    await collect(client.posts.resolve([1], refresh="always", force=True))

    assert [entry.fresh for entry in sandbox.requests if entry.route == ANALYZE] == [[]]


@pytest.mark.sandbox(indexed=["1"])
async def test_duplicates_and_malformed_inputs(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """Folded by id, also between the two stages; a malformed one is an outcome."""
    inputs: list[Any] = [2, "bad", "1", "https://www.tiktok.com/@a/video/2", 1]

    outcomes = await collect(client.posts.resolve(inputs))

    assert set(outcomes) == {2, "bad", "1"}
    assert isinstance(outcomes["bad"].error, InvalidPostError)
    assert sandbox.times_charged() == {"2": 1}


@pytest.mark.sandbox(indexed=0.0)
@pytest.mark.parametrize("fault", ["drop_answer", "rate_limit", "upstream_error", "cut_body"])
async def test_faults_on_the_way_cost_no_second_analysis(
    sandbox: Sandbox, client: TokfluenceClient, fault: str
) -> None:
    """A lost answer to analyze is settled by 409, and then the posts are simply read."""
    getattr(sandbox, fault)(to=ANALYZE, times=1)
    getattr(sandbox, fault)(to=GET, nth=3, times=2)

    outcomes = await collect(client.posts.resolve(range(1, 9), batch_size=4))

    assert all(outcome.ok for outcome in outcomes.values())
    assert sandbox.times_charged() == {str(n): 1 for n in range(1, 9)}


@settings(max_examples=40)
@given(
    faults=st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "drop_answer",
                    "rate_limit",
                    "upstream_error",
                    "internal_error",
                    "proxy_error",
                    "cut_body",
                ]
            ),
            st.sampled_from([ANALYZE, GET]),
            st.integers(1, 6),
        ),
        max_size=6,
    ),
    posts=st.integers(1, 25),
    indexed=st.sampled_from([0.0, 0.3, 1.0]),
    delay=st.sampled_from([0.0, 2.5, 9.0]),
    batch_size=st.none() | st.integers(1, 10),
)
def test_under_any_faults_every_post_is_read_and_none_billed_twice(
    faults: list[tuple[str, str, int]],
    posts: int,
    indexed: float,
    delay: float,
    batch_size: int | None,
) -> None:
    """The invariant of the main job: whatever fails on the way, each post once, for 25 credits at
    most."""

    async def work() -> None:
        async with (
            Sandbox(indexed=indexed, visibility_delay=delay) as sandbox,
            TokfluenceClient(sandbox.token, base_url=sandbox.url, max_retries=12) as client,
        ):
            for fault, to, nth in faults:
                getattr(sandbox, fault)(to=to, nth=nth)
            outcomes = await collect(
                client.posts.resolve(range(1, posts + 1), batch_size=batch_size)
            )

            assert len(outcomes) == posts
            assert all(outcome.ok for outcome in outcomes.values()), [
                o.error for o in outcomes.values() if not o.ok
            ]
            assert not sandbox.billed_twice()
            assert client.usage.requests == sandbox.requests_received
            assert client.usage.credits_spent >= sandbox.credits_spent

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(work())


@pytest.mark.sandbox(indexed=0.0, seconds_per_url=40.0)
async def test_a_batch_that_is_still_at_work_is_waited_for(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The attempt timed out, the 409 came early, the work goes on at the service: the posts are
    waited for, not analyzed again."""
    hasty = client.with_options(timeout=2.0)

    outcomes = await collect(hasty.posts.resolve([1, 2], batch_size=2))

    assert all(outcome.ok for outcome in outcomes.values())
    assert sandbox.times_charged() == {"1": 1, "2": 1}


@pytest.mark.sandbox(indexed=0.0, credits=130)
@pytest.mark.client(analyze_concurrency=1)
async def test_an_empty_wallet_ends_it(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """What was paid for is told; the rest fail with 402 without being tried one by one."""
    outcomes = await collect(client.posts.resolve(range(1, 41), batch_size=2))

    assert len(outcomes) == 40
    assert {type(outcome.error) for outcome in outcomes.values() if not outcome.ok} == {
        InsufficientCreditsError
    }
    assert sandbox.credits >= 0


@pytest.mark.sandbox(indexed=0.0)
@pytest.mark.parametrize("limit", [0, 10, 60, 200])
async def test_a_budget_is_never_overrun(
    sandbox: Sandbox, client: TokfluenceClient, limit: int
) -> None:
    """Over reads, analysis and polls together."""
    outcomes = await collect(client.posts.resolve(range(1, 21), max_credits=limit))

    assert len(outcomes) == 20
    assert sandbox.credits_spent <= limit
    assert BudgetExceededError in {type(outcome.error) for outcome in outcomes.values()}


@pytest.mark.sandbox(indexed=0.5)
async def test_async_sources_progress_and_errors(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """As the other bulk calls: a source that raises has what was begun finished first."""
    told: list[Progress] = []

    def broken() -> Iterator[int]:
        yield from range(1, 13)
        raise OSError("the disk went away")

    stream = client.posts.resolve(broken(), on_progress=told.append)
    got = [await anext(stream) for _ in range(12)]
    with pytest.raises(OSError, match="the disk went away"):
        await anext(stream)

    assert all(outcome.ok for outcome in got)
    assert (told[-1].done, told[-1].failed, told[-1].credits_spent) == (
        12,
        0,
        sandbox.credits_spent,
    )


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"refresh": "sometimes"}, "refresh"),
        ({"patience": -1.0}, "patience"),
        ({"patience": float("nan")}, "patience"),
        ({"max_credits": -1}, "max_credits"),
        ({"batch_size": 51}, "batch_size"),
    ],
)
async def test_wrong_arguments_are_refused_at_the_call(
    sandbox: Sandbox, client: TokfluenceClient, options: dict[str, Any], name: str
) -> None:
    """Not at the first iteration; nothing is sent."""
    with pytest.raises(ValueError, match=name):
        client.posts.resolve([1], **options)

    assert sandbox.requests_received == 0


# --- when to read ---------------------------------------------------------------------------------


@given(st.floats(0.1, 1e5), st.floats(0.0, 1e5))
def test_reads_of_one_post_are_a_handful_and_the_last_at_the_end(
    patience: float, age: float
) -> None:
    """Ages at least double, so a minute is six reads; the last is at `patience` itself."""
    visibility = Visibility()
    at: float | None = min(age, patience)
    ages: list[float] = []
    while at is not None:
        ages.append(at)
        visibility.failed(at)
        at = visibility.after(at, patience)

    assert ages[-1] == patience
    assert ages == sorted(ages)
    assert len(ages) <= 20


@given(st.lists(st.tuples(st.floats(0, 1000, allow_subnormal=False), st.booleans()), max_size=30))
def test_what_is_known_is_never_below_a_read_that_failed_at_or_above_it(
    reads: list[tuple[float, bool]],
) -> None:
    """A read at an age that failed since is a credit thrown away."""
    visibility = Visibility()
    for age, found in reads:
        before = visibility.known
        if found:
            visibility.succeeded(age)
            assert visibility.known is not None
            assert before is None or visibility.known <= before
        else:
            visibility.failed(age)
            assert visibility.known is None or age == 0 or visibility.known > age
        assert visibility.first() >= 0


async def test_a_404_of_something_in_between_buys_no_analysis(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A proxy's, or a wrong base URL's, has no code: it says nothing of what is in the index."""
    sandbox.index("1")
    sandbox.answer("<html>no such page</html>", status=404, to="GET /v1/posts/:id", times=None)

    [outcome] = [outcome async for outcome in client.posts.resolve(["1"])]

    assert isinstance(outcome.error, NotFoundError)
    assert not sandbox.times_charged()


@pytest.mark.sandbox(indexed=0.0)
async def test_what_is_always_sent_twice_and_never_readable_is_analyzed_again_once(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A proxy sends each analysis twice, so that each is answered with 409; it would go on for as
    long as there are credits."""
    sandbox.answer(
        {"error": {"code": "duplicate_request", "message": "Already processed."}},
        status=409,
        to=ANALYZE,
        times=None,
    )

    async with asyncio.timeout(3600):
        outcomes = await collect(client.posts.resolve([1, 2], batch_size=2))

    assert {type(outcome.error) for outcome in outcomes.values()} == {PostNotReadyError}
    assert sum(entry.route == ANALYZE for entry in sandbox.requests) == 2


async def test_an_answer_about_another_post_is_no_answer(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A cache that mixes up its keys. The post is not analyzed for it, and another is not passed
    off as it."""
    sandbox.replace_body(b'{"data": {"post_id": "2"}}', to=GET)

    [outcome] = (await collect(client.posts.resolve([1]))).values()

    assert isinstance(outcome.error, APIResponseValidationError)
    assert not [entry for entry in sandbox.requests if entry.route == ANALYZE]
