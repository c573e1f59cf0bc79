"""Analysis fanned out: folded, batched, capped, matched by id, and every credit spent once."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tokfluence_async import (
    Analysis,
    APIConnectionError,
    APIResponseValidationError,
    BudgetExceededError,
    InsufficientCreditsError,
    InvalidPostError,
    Journal,
    Outcome,
    Progress,
    Sandbox,
    Throttle,
    TokfluenceClient,
)
from tokfluence_async._journal.records import TakenError

from .sent import ANALYZE, batches, statuses, url

pytestmark = pytest.mark.sandbox(indexed=0.0)


# --- the report -----------------------------------------------------------------------------------


async def test_one_outcome_for_each_distinct_post_in_first_seen_order(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Whatever order the batches finish in; duplicates in any spelling are neither sent nor
    billed."""
    sandbox.seconds_per_url = lambda post_id: 60.0 - int(post_id)
    inputs = [
        url(3),
        1,
        "https://m.tiktok.com/v/3.html",
        "2",
        url(1) + "?lang=en",
        "www.TIKTOK.com/@x/photo/2",
        4,
    ]

    report = await client.posts.analyze(inputs, batch_size=1)

    assert [outcome.input for outcome in report] == [url(3), 1, "2", 4]
    assert [outcome.post_id for outcome in report.outcomes] == ["3", "1", "2", "4"]
    assert statuses(report) == ["analyzed"] * 4
    assert (report.duplicates, report.failed, len(report.succeeded)) == (3, [], 4)
    assert report.credits_spent == sandbox.credits_spent == 100
    assert sandbox.times_charged() == {"1": 1, "2": 1, "3": 1, "4": 1}


async def test_malformed_inputs_are_outcomes_where_they_stood(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Inside a bulk call: a failed outcome for that input alone, nothing sent or charged for it."""
    report = await client.posts.analyze(["bad", 1, "https://vm.tiktok.com/ZM1/", 2, None, 10**5000])

    assert [outcome.ok for outcome in report] == [False, True, False, True, False, False]
    assert {type(outcome.error) for outcome in report.failed} == {InvalidPostError}
    assert [outcome.post_id for outcome in report.failed] == [None] * 4
    assert sandbox.credits_spent == report.credits_spent == 50


async def test_nothing_is_sent_for_nothing(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """An empty list, and a list of nothing but malformed inputs."""
    empty = await client.posts.analyze([])
    bad = await client.posts.analyze(["a", "b"])

    assert (len(empty), len(bad)) == (0, 2)
    assert sandbox.requests_received == 0


async def test_what_is_submitted_is_a_url_with_the_user_as_given(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The service takes URLs; a bare id gets a placeholder user, as TikTok redirects any name."""
    await client.posts.analyze([url(1) + "?utm=1", "2", "m.tiktok.com/v/3.html"], batch_size=50)

    (entry,) = sandbox.requests
    assert json.loads(entry.body) == {
        "urls": [
            "https://www.tiktok.com/@wwe/video/1",
            "https://www.tiktok.com/@_/video/2",
            "https://www.tiktok.com/@_/video/3",
        ]
    }


async def test_fresh_posts_are_billed_too_and_force_skips_the_window(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """25 credits whatever comes of it [seed]; the report says what the service said."""
    sandbox.index("1", age=10)

    first = await client.posts.analyze([1])
    forced = await client.posts.analyze([1], force=True)

    assert statuses(first) == ["fresh"]
    assert statuses(forced) == ["analyzed"]
    assert sandbox.credits_spent == 50
    assert [json.loads(entry.body).get("force") for entry in sandbox.requests] == [None, True]


@pytest.mark.parametrize("batch_size", [1, 2, 7, 49, 50])
async def test_a_batch_size_is_kept_to(
    sandbox: Sandbox, client: TokfluenceClient, batch_size: int
) -> None:
    """1 to 50; only the last batch is smaller."""
    await client.posts.analyze(range(1, 100), batch_size=batch_size)

    sizes = sorted((len(batch) for batch in batches(sandbox)), reverse=True)
    assert len(sizes) == math.ceil(99 / batch_size)
    assert sum(sizes) == 99
    assert all(size == batch_size for size in sizes[:-1])


@pytest.mark.parametrize("batch_size", [0, -1, 51, 1000, True, 2.5, "10"])
async def test_other_batch_sizes_are_refused_at_the_call(
    sandbox: Sandbox, client: TokfluenceClient, batch_size: Any
) -> None:
    """Also by the generators, at the call and not at the first iteration; nothing is sent."""
    with pytest.raises(ValueError, match="batch_size"):
        await client.posts.analyze([1], batch_size=batch_size)
    with pytest.raises(ValueError, match="batch_size"):
        client.posts.analyze_iter([1], batch_size=batch_size)
    with pytest.raises(ValueError, match="batch_size"):
        client.posts.resolve([1], batch_size=batch_size)

    assert sandbox.requests_received == 0


async def test_other_wrong_arguments_are_refused_at_the_call(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A text is a list of characters to Python, and each digit would be 25 credits."""
    with pytest.raises(ValueError, match="max_credits"):
        client.posts.analyze_iter([1], max_credits=-1)
    with pytest.raises(TypeError, match="iterable of ids or URLs"):
        client.posts.analyze_iter(url(1))
    with pytest.raises(TypeError, match="iterable of ids or URLs"):
        await client.posts.analyze(url(1))

    assert sandbox.requests_received == 0


@pytest.mark.client(analyze_concurrency=3)
async def test_analyze_calls_in_flight_are_capped(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """ "Cap concurrent analyze calls" [seed]: on the wire, as the service sees it; and the cap is
    reached."""
    await client.posts.analyze(range(1, 61), batch_size=5)

    assert sandbox.peak_in_flight(ANALYZE) == 3


async def test_the_cap_holds_over_calls_at_once(sandbox: Sandbox) -> None:
    """It is the client's, not the call's."""
    async with TokfluenceClient(
        sandbox.token, base_url=sandbox.url, analyze_concurrency=2
    ) as client:
        await asyncio.gather(
            *(client.posts.analyze(range(n, n + 20), batch_size=4) for n in (1, 101, 201))
        )

    assert sandbox.peak_in_flight(ANALYZE) == 2


async def test_left_to_choose_batches_use_all_workers_and_shrink(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A job of 400 cold URLs: every worker busy to the end, no request of minutes."""
    await client.posts.analyze(range(1, 401))

    sizes = [len(batch) for batch in batches(sandbox)]
    assert sum(sizes) == 400
    assert max(sizes) <= 22  # 45 s, at two seconds a URL
    assert sizes[-1] <= 2
    assert sandbox.peak_in_flight(ANALYZE) == 8


# --- rows -----------------------------------------------------------------------------------------


async def test_rows_are_matched_by_id_whatever_order_and_spelling(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The page promises neither; by position, posts would get each other's status."""

    def respell(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows:
            row["status"] = f"seen-{row['postId']}"
            row["url"] = (
                row["url"].replace("https://www.", "HTTP://M.").replace("/video/", "/photo/")
                + "?x=1"
            )
            if int(row["postId"]) % 3 == 0:
                row["postId"] = int(row["postId"])
            elif int(row["postId"]) % 3 == 1:
                del row["postId"]
        return rows[::-1]

    sandbox.analyze_rows = respell

    report = await client.posts.analyze(range(1, 11), batch_size=10)

    assert statuses(report) == [f"seen-{n}" for n in range(1, 11)]
    assert [outcome.value.post_id for outcome in report if outcome.value] == [
        str(n) for n in range(1, 11)
    ]


async def test_a_row_left_out_is_a_failed_outcome(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """It was charged, so the error says to read before analyzing again; the others stand."""
    sandbox.analyze_rows = lambda rows: (
        [row for row in rows if row["postId"] != "2"] + [{"status": "odd"}]
    )

    report = await client.posts.analyze([1, 2, 3], batch_size=3)

    assert statuses(report) == ["analyzed", "APIResponseValidationError", "analyzed"]
    assert isinstance(report.failed[0].error, APIResponseValidationError)
    assert "left post 2 out" in str(report.failed[0].error)
    assert "was charged" in str(report.failed[0].error)
    with pytest.raises(ExceptionGroup, match="1 of 3"):
        report.raise_for_errors()
    assert sandbox.requests_received == 1


async def test_unknown_statuses_pass_through(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """`ok` says that the service answered; what it said is its own word."""
    sandbox.analyze_status = lambda post_id: {"1": "queued", "2": "private"}.get(post_id)

    report = await client.posts.analyze([1, 2, 3])

    assert statuses(report) == ["queued", "private", "analyzed"]
    assert all(outcome.ok for outcome in report)


# --- as batches finish ----------------------------------------------------------------------------


async def test_outcomes_come_as_batches_finish(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """The quick batch does not wait for the slow one that was first."""
    sandbox.seconds_per_url = lambda post_id: 100.0 if post_id == "1" else 1.0

    seen = [outcome.post_id async for outcome in client.posts.analyze_iter([1, 2, 3], batch_size=1)]

    assert sorted(seen[:2]) == ["2", "3"]  # type: ignore[type-var]
    assert seen[2] == "1"


@pytest.mark.parametrize("gap", [0.05, 1.0, 30.0])
async def test_a_batch_leaves_with_what_has_arrived(
    sandbox: Sandbox, client: TokfluenceClient, gap: float
) -> None:
    """A slow source: nobody waits for fifty to come together, and nobody pays a request per URL of
    a quick one."""
    loop = asyncio.get_running_loop()

    async def source() -> AsyncIterator[int]:
        for n in range(1, 21):
            yield n
            await asyncio.sleep(gap)

    began = loop.time()
    told = {
        outcome.post_id: loop.time() - began
        async for outcome in client.posts.analyze_iter(source())
    }

    assert len(told) == 20
    for n in range(1, 21):
        arrived = (n - 1) * gap
        assert told[str(n)] - arrived < 30.0
    assert len(batches(sandbox)) < 20 or gap >= 1.0


async def test_a_source_that_raises_has_what_was_begun_finished_first(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """It is paid for, so it is told; then the source's own error."""

    def broken() -> Iterator[int]:
        yield from range(1, 6)
        raise OSError("the disk went away")

    told: list[Progress] = []
    stream = client.posts.analyze_iter(broken())
    outcomes = [await anext(stream) for _ in range(5)]
    with pytest.raises(OSError, match="the disk went away"):
        await anext(stream)
    with pytest.raises(OSError, match="the disk went away"):
        await client.posts.analyze(broken(), on_progress=told.append)

    assert sorted(outcome.unwrap().post_id for outcome in outcomes) == ["1", "2", "3", "4", "5"]
    assert told[-1].done == 5
    assert sandbox.credits_spent == 250


async def test_an_async_source_that_raises_likewise(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The same for async iterables, whose generator is closed as well."""
    closed = False

    async def broken() -> AsyncIterator[int]:
        nonlocal closed
        try:
            yield 1
            raise OSError("the queue went away")
        finally:
            closed = True

    stream = client.posts.analyze_iter(broken())
    assert (await anext(stream)).ok
    with pytest.raises(OSError, match="the queue went away"):
        await anext(stream)

    assert closed


async def test_input_is_read_no_faster_than_it_is_sent(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A consumer that stops holds back reading and spending: at most a few hundred inputs are taken
    in (trap 21)."""
    read = 0

    def numbers() -> Iterator[int]:
        nonlocal read
        for n in range(1, 1_000_000):
            read += 1
            yield n

    stream = client.posts.analyze_iter(numbers(), batch_size=10)
    await anext(stream)
    await asyncio.sleep(3600)
    await stream.aclose()

    assert read < 600
    assert sandbox.credits_spent <= read * 25


# --- money ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 402, 403])
@pytest.mark.client(analyze_concurrency=2)
async def test_a_refused_account_stops_sending(
    sandbox: Sandbox, client: TokfluenceClient, status: int
) -> None:
    """Every further batch would fail the same way; what was analyzed before stands."""
    body = '{"error": {"code": "x", "message": "y"}}'
    sandbox.answer(
        body, status=status, headers={"X-Credits-Remaining": "0"}, to=ANALYZE, nth=3, times=None
    )

    report = await client.posts.analyze(range(1, 101), batch_size=5)

    assert len(report.succeeded) == 10
    assert {getattr(outcome.error, "status", None) for outcome in report.failed} == {status}
    assert len(report) == 100
    assert sandbox.requests_received <= 4
    assert sandbox.credits_spent == 250
    # Of a 403 the page says "other 4xx are not refunded", so it is counted as spent; 401 and 402
    # are not.
    assert report.credits_spent == 250 + (
        125 * (sandbox.requests_received - 2) if status == 403 else 0
    )


@pytest.mark.sandbox(credits=260)
@pytest.mark.client(analyze_concurrency=1)
async def test_what_the_wallet_still_holds_is_used(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """402 for a batch too large: as much of it as fits goes, then nothing more."""
    report = await client.posts.analyze(range(1, 31), batch_size=8)

    assert len(report.succeeded) == 10
    assert {type(outcome.error) for outcome in report.failed} == {InsufficientCreditsError}
    assert sandbox.credits == 10
    assert report.credits_spent == 250


@pytest.mark.parametrize(("limit", "fits"), [(0, 0), (24, 0), (25, 1), (249, 9), (1000, 30)])
async def test_what_fits_the_budget_is_sent(
    sandbox: Sandbox, client: TokfluenceClient, limit: int, fits: int
) -> None:
    """The rest are failed outcomes; under any concurrency never a credit more than allowed."""
    report = await client.posts.analyze(range(1, 31), batch_size=4, max_credits=limit)

    assert len(report.succeeded) == fits
    assert {type(outcome.error) for outcome in report.failed} == (
        {BudgetExceededError} if fits < 30 else set()
    )
    assert report.credits_spent == sandbox.credits_spent == 25 * fits


async def test_the_budget_that_binds_is_named(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """A call's own, or the client's above it: the number to raise."""
    small = client.with_options(max_credits=60)

    above = await small.posts.analyze(range(1, 5), max_credits=1000)
    own = await small.posts.analyze([9], max_credits=5)

    assert {
        outcome.error.limit
        for outcome in above.failed
        if isinstance(outcome.error, BudgetExceededError)
    } == {60}
    assert {
        outcome.error.limit
        for outcome in own.failed
        if isinstance(outcome.error, BudgetExceededError)
    } == {5}


@pytest.mark.client(analyze_concurrency=1, max_retries=0)
async def test_one_failed_batch_never_loses_the_others(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """422 for one batch, a 500 for another: theirs alone."""
    sandbox.answer(
        '{"error": {"code": "missing_parameter", "message": "no"}}', status=422, to=ANALYZE, nth=2
    )
    sandbox.internal_error(
        to=ANALYZE, when="before", nth=2
    )  # a request is hit by one fault: this is the third

    report = await client.posts.analyze(range(1, 9), batch_size=2)

    assert statuses(report) == [
        *["analyzed"] * 2,
        *["UnprocessableEntityError"] * 2,
        *["InternalServerError"] * 2,
        *["analyzed"] * 2,
    ]


async def test_no_connection_at_all_is_an_outcome_too(
    client: TokfluenceClient, sandbox: Sandbox
) -> None:
    """The report is whole even if nothing could be sent; nothing is counted as spent."""
    await sandbox.aclose()

    report = await client.with_options(max_retries=1).posts.analyze([1, 2])

    assert {type(outcome.error) for outcome in report} == {APIConnectionError}
    assert report.credits_spent == 0


# --- progress -------------------------------------------------------------------------------------


async def test_progress_counts_up_to_the_end(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """At most a few times a second, once at the end; the total is known for a list."""
    told: list[Progress] = []

    await client.posts.analyze([*range(1, 31), 1, "bad"], batch_size=3, on_progress=told.append)

    last = told[-1]
    assert (last.done, last.failed, last.total, last.credits_spent) == (31, 1, 31, 750)
    assert last.credits_remaining == sandbox.credits
    assert [p.done for p in told] == sorted(p.done for p in told)
    assert 2 <= len(told) <= last.elapsed * 4 + 2


async def test_the_total_of_an_async_source_is_not_known(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """None until it has ended."""
    told: list[Progress] = []

    async def source() -> AsyncIterator[int]:
        for n in range(1, 6):
            yield n
            await asyncio.sleep(60)

    async for _ in client.posts.analyze_iter(source(), on_progress=told.append):
        pass

    assert [p.total for p in told[:-1]] == [None] * (len(told) - 1)
    assert told[-1].total == 5


async def test_progress_that_raises_ends_the_call_before_anything_is_paid_for(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The caller's own mistake is not hidden; most of them show at once, as with a factory that was
    not called."""

    def made() -> Any:
        return print

    factory: Any = made  # what a notebook has in its cells has no types
    with pytest.raises(TypeError, match="positional argument"):
        await client.posts.analyze([1, 2], on_progress=factory)
    with pytest.raises(TypeError, match="positional argument"):
        async for _ in client.posts.resolve([1, 2], on_progress=lambda: None):  # type: ignore[arg-type,misc]  # pyright: ignore[reportArgumentType]
            pass

    assert sandbox.requests_received == 0


async def test_progress_that_raises_later_loses_no_outcome(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """They were paid for, and are in the exception."""

    def tell(progress: Progress) -> None:
        if progress.done >= 5:
            raise LookupError("my own")

    with pytest.raises(LookupError, match="my own") as caught:
        await client.posts.analyze(range(1, 41), batch_size=5, on_progress=tell)

    report = vars(caught.value)["report"]
    assert len(report.succeeded) >= 5
    assert "in this exception's `report`" in caught.value.__notes__[0]


async def test_outcomes_hold_no_tracebacks(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """A traceback keeps every frame it passed alive as long as the outcome is."""
    sandbox.answer('{"error": {}}', status=422, to=ANALYZE, times=None)

    report = await client.posts.analyze(range(1, 5))

    assert [outcome.error.__traceback__ for outcome in report if outcome.error] == [None] * 4


def test_types_of_outcomes() -> None:
    """What an `Outcome[Analysis]` holds when it is made by hand, as in a user's tests."""
    outcome: Outcome[Analysis] = Outcome(
        input="1", post_id="1", value=Analysis(post_id="1", status="fresh")
    )

    assert Counter([outcome.unwrap().status]) == {"fresh": 1}


@pytest.mark.sandbox(throttle=None, seconds_per_url=0.0)
async def test_batches_pass_the_keys_token_bucket_whatever_the_concurrency(
    sandbox: Sandbox,
) -> None:
    """A hundred workers and answers in no time: beyond the burst, batches join the throttle's line
    at the key's pace."""
    throttle = Throttle(per_ip=None, per_key=60, period=60.0, burst=5, jitter=0.0)
    ids = [str(7234567890123456789 + n) for n in range(40)]
    loop = asyncio.get_running_loop()
    began = loop.time()

    async with TokfluenceClient(
        sandbox.token, base_url=sandbox.url, throttle=throttle, analyze_concurrency=100
    ) as client:
        analyzing = asyncio.create_task(client.posts.analyze(ids, batch_size=1))
        await asyncio.sleep(10)
        assert throttle.statistics().waiting == 40 - sandbox.requests_received
        assert sandbox.requests_received <= throttle.burst + 10
        report = await analyzing

    assert len(report.succeeded) == 40
    assert loop.time() - began == pytest.approx(40, abs=6)
    assert sandbox.billed_twice() == []


async def test_what_a_402_released_and_another_call_took_is_waited_for(
    sandbox: Sandbox, client: TokfluenceClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wallet has enough for one of three; before it leaves, another call has claimed it, and
    gives it up."""
    empty = {"error": {"code": "insufficient_credits", "message": "Out of API credits."}}
    sandbox.answer(empty, status=402, headers={"X-Credits-Remaining": "30"}, to=ANALYZE)

    async with Journal(tmp_path / "journal") as journal:
        sending, calls = journal.sending, 0

        async def claimed_once(*args: Any, **options: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise TakenError(["1"])
            await sending(*args, **options)

        monkeypatch.setattr(journal, "sending", claimed_once)
        report = await client.posts.analyze([1, 2, 3], batch_size=3, journal=journal)

    assert statuses(report) == ["analyzed"] + ["InsufficientCreditsError"] * 2
    assert sandbox.times_charged() == {"1": 1}
