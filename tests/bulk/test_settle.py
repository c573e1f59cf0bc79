"""A batch to its end: what a 409, a lost answer, a refusal and a proxy cost, and what is looked for
by reads."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokfluence_async import (
    Sandbox,
    TokfluenceClient,
)
from tokfluence_async.testing import VirtualLoop

from .sent import ANALYZE, GET, batches, statuses, url

pytestmark = pytest.mark.sandbox(indexed=0.0)


async def test_a_lost_answer_is_not_paid_for_twice(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The work was done; the 409 on the retry is the proof of it, not a failure."""
    sandbox.drop_answer(to=ANALYZE)

    report = await client.posts.analyze([url(1), url(2)], batch_size=2)

    assert statuses(report) == ["duplicate_request"] * 2
    assert [outcome.value.url for outcome in report if outcome.value] == [url(1), url(2)]
    assert report.credits_spent == sandbox.credits_spent == 50
    first, second = sandbox.requests
    assert first.request_id == second.request_id
    assert first.body == second.body


@pytest.mark.parametrize(
    "fault", ["internal_error", "proxy_error", "cut_body", "reset_body", "drop_answer"]
)
async def test_whatever_may_have_run_keeps_its_id(
    sandbox: Sandbox, client: TokfluenceClient, fault: str
) -> None:
    """500 after the work, a proxy's 502, a 200 cut short, a reset: the id goes out again, and 409
    settles it."""
    options = {"when": "after"} if fault in ("internal_error", "proxy_error") else {}
    getattr(sandbox, fault)(to=ANALYZE, **options)

    report = await client.posts.analyze([1, 2, 3], batch_size=3)

    assert statuses(report) == ["duplicate_request"] * 3
    assert len({entry.request_id for entry in sandbox.requests}) == 1
    assert not sandbox.billed_twice()
    assert report.credits_spent == sandbox.credits_spent == 75


@pytest.mark.parametrize("burn", [False, True])
@pytest.mark.parametrize("fault", ["rate_limit", "upstream_error"])
async def test_refusals_alone_are_tried_until_done(
    sandbox: Sandbox, client: TokfluenceClient, fault: str, burn: bool
) -> None:
    """Whether a refusal uses up its id is not documented: right both ways, and charged once."""
    sandbox.refusals_burn_ids = burn
    getattr(sandbox, fault)(to=ANALYZE, times=2)

    report = await client.posts.analyze([1, 2, 3], batch_size=3)

    assert statuses(report) == ["analyzed"] * 3
    assert sandbox.times_charged() == {"1": 1, "2": 1, "3": 1}
    assert report.credits_spent == sandbox.credits_spent == 75


@pytest.mark.parametrize("first", ["rate_limit", "upstream_error"])
async def test_after_refusals_and_a_lost_answer_only_the_index_knows(
    sandbox: Sandbox, client: TokfluenceClient, first: str
) -> None:
    """Refused, then done with the answer lost: each post is read (1 credit), found, and not
    analyzed again."""
    getattr(sandbox, first)(to=ANALYZE, times=1)
    sandbox.drop_answer(to=ANALYZE, times=1)

    report = await client.posts.analyze([1, 2, 3], batch_size=3)

    assert statuses(report) == ["duplicate_request"] * 3
    assert not sandbox.billed_twice()
    assert sandbox.times_charged() == {"1": 1, "2": 1, "3": 1}
    reads = [entry for entry in sandbox.requests if entry.route == GET]
    assert {tuple(entry.post_ids) for entry in reads} == {("1",), ("2",), ("3",)}
    assert (
        report.credits_spent == sandbox.credits_spent == 75 + sum(entry.charged for entry in reads)
    )


async def test_a_refused_id_and_a_fault_that_did_nothing_are_told_apart_by_reading(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Refused (which burnt the id), then a proxy's 502 before the work: 409, yet nothing was done.
    The reads show it, and the batch goes out under a new id."""
    sandbox.refusals_burn_ids = True
    sandbox.rate_limit(to=ANALYZE, times=1)
    sandbox.proxy_error(to=ANALYZE, when="before", times=1)

    report = await client.posts.analyze([1, 2], batch_size=2)

    assert statuses(report) == ["analyzed"] * 2
    assert sandbox.times_charged() == {"1": 1, "2": 1}
    assert len({entry.request_id for entry in sandbox.requests if entry.route == ANALYZE}) == 2
    assert report.credits_spent == sandbox.credits_spent


async def test_only_what_is_missing_goes_out_again(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Reading *every* post of the batch: those in the index are not analyzed a second time."""
    sandbox.refusals_burn_ids = True
    sandbox.index("1")
    sandbox.rate_limit(to=ANALYZE, times=1)
    sandbox.proxy_error(to=ANALYZE, when="before", times=1)

    report = await client.posts.analyze([1, 2, 3], batch_size=3)

    assert statuses(report) == ["duplicate_request", "analyzed", "analyzed"]
    assert sandbox.times_charged() == {"2": 1, "3": 1}
    assert batches(sandbox)[-1] == ["2", "3"]


@pytest.mark.parametrize("fault", [500, 403])
async def test_a_read_that_fails_leaves_its_post_open_and_no_other(
    sandbox: Sandbox, client: TokfluenceClient, fault: int
) -> None:
    """Refused, then lost, then the read that was to tell fails: that post's outcome is the error,
    and it is not sent again as long as nobody knows. The rest of its batch and the other batches
    stand."""
    sandbox.rate_limit(to=ANALYZE, times=1)
    sandbox.drop_answer(to=ANALYZE, times=1)
    sandbox.answer(
        '{"error": {}}',
        status=fault,
        to=GET,
        times=None,
        where=lambda entry: entry.path.endswith("/2"),
    )

    report = await client.with_options(max_retries=2, analyze_concurrency=1).posts.analyze(
        [1, 2, 3, 4, 5, 6], batch_size=3
    )

    assert statuses(report)[:3] == [
        "duplicate_request",
        {500: "InternalServerError", 403: "PermissionDeniedError"}[fault],
        "duplicate_request",
    ]
    assert len(report) == 6
    assert not sandbox.billed_twice()
    if fault == 500:
        assert statuses(report)[3:] == ["analyzed"] * 3


@pytest.mark.sandbox(credits=350, indexed=0.0)
@pytest.mark.parametrize("journaled", [False, True])
async def test_a_402_takes_nothing_back_of_an_attempt_that_may_have_run(
    sandbox: Sandbox, client: TokfluenceClient, tmp_path: Path, journaled: bool
) -> None:
    """A service may look at the wallet before it looks at ids: what was done and lost has emptied
    it. To send what still fits under another id would bill it twice."""
    journal = tmp_path / "journal" if journaled else None
    sandbox.drop_answer(to=ANALYZE)
    empty = {"error": {"code": "insufficient_credits", "message": "Out of API credits."}}
    sandbox.answer(empty, status=402, headers={"X-Credits-Remaining": "100"}, to=ANALYZE)

    report = await client.posts.analyze(range(1, 11), batch_size=10, journal=journal)

    assert statuses(report) == ["InsufficientCreditsError"] * 10
    assert len(batches(sandbox)) == 2
    if journaled:
        again = await client.posts.analyze(range(1, 11), batch_size=10, journal=journal)
        assert statuses(again) == ["duplicate_request"] * 10
    assert set(sandbox.times_charged().values()) == {1}


@pytest.mark.parametrize("status", [302, 400, 404, 405, 413, 421, 422, 499])
async def test_what_a_proxy_refuses_takes_nothing_back_of_an_attempt_that_may_have_run(
    sandbox: Sandbox, client: TokfluenceClient, tmp_path: Path, status: int
) -> None:
    """Done, the answer lost, and then something in between says no: the batch stays in doubt, and
    the next run settles it."""
    sandbox.drop_answer(to=ANALYZE)
    sandbox.answer("<html>maintenance</html>", status=status, to=ANALYZE)

    first = await client.posts.analyze([1, 2], batch_size=2, journal=tmp_path / "journal")
    second = await client.posts.analyze([1, 2], batch_size=2, journal=tmp_path / "journal")

    assert len(first.failed) == 2
    assert statuses(second) == ["duplicate_request"] * 2
    assert sandbox.times_charged() == {"1": 1, "2": 1}


def hide(sandbox: Sandbox, post_id: str, until: float) -> None:
    """The post is not readable before that loop time."""
    loop = asyncio.get_running_loop()
    missing = {"error": {"code": "post_not_found", "message": "Not in the index."}}
    at = f"/{post_id}"
    sandbox.answer(
        missing,
        status=404,
        to=GET,
        times=None,
        where=lambda e: e.path.endswith(at) and loop.time() < until,
    )


async def test_posts_become_readable_one_after_the_other(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Refused, done, lost: that one post is there says that the batch was worked, not that the
    others can be read already."""
    now = asyncio.get_running_loop().time()
    for n, seconds in ((1, 20.0), (2, 9.0)):
        hide(sandbox, str(n), now + seconds)
    sandbox.rate_limit(to=ANALYZE)
    sandbox.drop_answer(to=ANALYZE)

    report = await client.posts.analyze([1, 2, 3], batch_size=3)

    assert statuses(report) == ["duplicate_request"] * 3
    assert sandbox.times_charged() == {"1": 1, "2": 1, "3": 1}
    reads = Counter(entry.post_ids[0] for entry in sandbox.requests if entry.route == GET)
    assert max(reads.values()) <= 6


async def test_a_read_that_fails_does_not_say_that_the_batch_is_done(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The post that goes ahead cannot be read for a proxy's 503: another one goes ahead, and its
    being readable is waited for."""
    now = asyncio.get_running_loop().time()
    hide(sandbox, "1", now + 15.0)
    hide(sandbox, "2", now + 15.0)
    sandbox.rate_limit(to=ANALYZE)
    sandbox.drop_answer(to=ANALYZE)
    sandbox.proxy_error(503, to=GET, times=None, where=lambda entry: entry.path.endswith("/3"))

    report = await client.with_options(max_retries=2).posts.analyze([1, 2, 3], batch_size=3)

    assert statuses(report) == ["duplicate_request", "duplicate_request", "InternalServerError"]
    assert sandbox.times_charged() == {"1": 1, "2": 1, "3": 1}


@pytest.mark.parametrize("left", [None, 20, 75])
async def test_what_is_settled_stands_when_the_rest_of_its_batch_fails(
    sandbox: Sandbox, client: TokfluenceClient, left: int | None
) -> None:
    """Two of three were done; the third goes out again, and is refused: for its form, or as the
    wallet is (nearly) empty."""
    hide(sandbox, "1", math.inf)
    sandbox.rate_limit(to=ANALYZE)
    sandbox.drop_answer(to=ANALYZE)
    code = "missing_parameter" if left is None else "insufficient_credits"
    sandbox.answer(
        {"error": {"code": code, "message": ""}},
        status=422 if left is None else 402,
        headers={} if left is None else {"X-Credits-Remaining": str(left)},
        to=ANALYZE,
        nth=2,  # after the 409
    )

    report = await client.posts.analyze([1, 2, 3], batch_size=3)

    refusal = "UnprocessableEntityError" if left is None else "InsufficientCreditsError"
    assert statuses(report) == [refusal, "duplicate_request", "duplicate_request"]
    assert sandbox.times_charged() == {"1": 1, "2": 1, "3": 1}


@pytest.mark.sandbox(indexed=0.0, visibility_delay=9.0)
async def test_what_was_left_out_is_looked_for_until_it_can_be_there(
    sandbox: Sandbox, client: TokfluenceClient, tmp_path: Path
) -> None:
    """A 200 without one of its rows: that post was charged. The next run, at once, reads it, and
    again, before it pays for it anew."""
    sandbox.analyze_rows = lambda rows: [row for row in rows if row["postId"] != "2"]
    await client.posts.analyze([1, 2, 3], batch_size=3, journal=tmp_path / "journal")
    sandbox.analyze_rows = None

    report = await client.posts.analyze([1, 2, 3, 4], batch_size=3, journal=tmp_path / "journal")

    assert statuses(report) == ["analyzed", "duplicate_request", "analyzed", "analyzed"]
    assert sandbox.times_charged() == {"1": 1, "2": 1, "3": 1, "4": 1}


@pytest.mark.sandbox(indexed=0.0, visibility_delay=9.0, seconds_per_url=0.0)
async def test_a_resolve_that_was_cancelled_at_a_409_is_not_paid_for_again_by_analyze(
    sandbox: Sandbox, client: TokfluenceClient, tmp_path: Path
) -> None:
    """Nothing but a 409 speaks for its posts, and they cannot be read yet: that is waited for."""
    sandbox.rate_limit(to=ANALYZE)
    sandbox.drop_answer(to=ANALYZE)

    async def use() -> None:
        async for _ in client.posts.resolve(
            [1, 2], refresh="always", batch_size=2, journal=tmp_path / "journal"
        ):
            pass

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(use(), 4.0)
    assert sandbox.times_charged() == {"1": 1, "2": 1}
    report = await client.posts.analyze([1, 2], batch_size=2, journal=tmp_path / "journal")

    assert statuses(report) == ["duplicate_request"] * 2
    assert sandbox.times_charged() == {"1": 1, "2": 1}


async def test_a_timeout_does_not_buy_twice_while_the_first_is_at_work(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """409 comes early, while the first attempt is still in flight at the service: it settles the
    batch."""
    sandbox.seconds_per_url = 100.0
    hasty = client.with_options(timeout=5.0)

    report = await hasty.posts.analyze([1], batch_size=1)

    assert statuses(report) == ["duplicate_request"]
    assert sandbox.times_charged() == {"1": 1}


async def slow_after_two() -> AsyncIterator[int]:
    """Two posts, and ten more while those are at work: a batch leaves with what has arrived."""
    for n in range(1, 13):
        if n == 3:
            await asyncio.sleep(30.0)
        yield n


@pytest.mark.client(analyze_concurrency=1)
async def test_a_batch_gets_the_time_that_earlier_ones_show_it_to_need(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """At 30 s a URL ten take 300 s, and 60 s and 15 a URL are 210: to hang up then is to ask again
    for what is at work."""
    sandbox.seconds_per_url = 30.0

    seen = [outcome async for outcome in client.posts.analyze_iter(slow_after_two(), batch_size=10)]

    assert [len(batch) for batch in batches(sandbox)] == [2, 10]
    assert statuses(seen) == ["analyzed"] * 12
    assert client.usage.retries == 0


@pytest.mark.client(analyze_concurrency=1, timeout=50.0)
async def test_a_time_that_was_asked_for_is_kept_whatever_earlier_batches_show(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """`timeout=` is the caller's word: after 50 s and 15 a URL the batch is asked for again, and
    the 409 settles it."""
    sandbox.seconds_per_url = 30.0

    seen = [outcome async for outcome in client.posts.analyze_iter(slow_after_two(), batch_size=10)]

    assert statuses(seen) == ["analyzed"] * 2 + ["duplicate_request"] * 10
    first, again = sandbox.requests[1:]
    assert again.time - first.time == pytest.approx(200.0, abs=5.0)
    assert sandbox.credits_spent == 300


def answer_twice(sandbox: Sandbox, times: int | None = None) -> None:
    """Something in between sends each analysis twice: the answer that comes is the second one's."""
    sandbox.answer(
        {"error": {"code": "duplicate_request", "message": "Already processed."}},
        status=409,
        to=ANALYZE,
        times=times,
    )


async def test_what_is_always_sent_twice_and_never_readable_is_sent_again_once(
    sandbox: Sandbox, client: TokfluenceClient, tmp_path: Path
) -> None:
    """Each time the first of the two may have been charged. The next run reads before it sends."""
    answer_twice(sandbox)

    report = await client.posts.analyze([1, 2], batch_size=2, journal=tmp_path / "journal")

    assert statuses(report) == ["DuplicateRequestError"] * 2
    assert len(batches(sandbox)) == 2
    assert len({entry.request_id for entry in sandbox.requests if entry.route == ANALYZE}) == 2
    assert report.credits_spent >= 100

    sandbox.index("1")
    sandbox.index("2")
    again = await client.posts.analyze([1, 2], batch_size=2, journal=tmp_path / "journal")
    assert statuses(again) == ["duplicate_request"] * 2
    assert len(batches(sandbox)) == 2


@pytest.mark.parametrize("credits", [60, 100])
async def test_a_limit_holds_where_each_analysis_is_sent_twice(
    sandbox: Sandbox, client: TokfluenceClient, credits: int
) -> None:
    """What the lost first sending may have cost is not given back."""
    answer_twice(sandbox)

    await client.posts.analyze([1], max_credits=credits)

    reads = sum(entry.route == GET for entry in sandbox.requests)
    assert 25 * len(batches(sandbox)) + reads <= credits


async def test_what_was_sent_twice_once_is_analyzed_when_it_is_sent_again(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    answer_twice(sandbox, times=1)

    report = await client.posts.analyze([1, 2], batch_size=2)

    assert statuses(report) == ["analyzed"] * 2
    assert sandbox.times_charged() == {"1": 1, "2": 1}
    reads = sum(entry.route == GET for entry in sandbox.requests)
    assert report.credits_spent == 100 + reads


FAULTS = (
    "rate_limit",
    "upstream_error",
    "internal_error",
    "internal_error_before",
    "drop_answer",
    "proxy",
    "proxy_before",
    "cut_body",
    "reset",
)


def script(sandbox: Sandbox, fault: str) -> None:
    match fault:
        case "internal_error":
            sandbox.internal_error(to=ANALYZE, when="after")
        case "internal_error_before":
            sandbox.internal_error(to=ANALYZE, when="before")
        case "proxy":
            sandbox.proxy_error(to=ANALYZE, when="after")
        case "proxy_before":
            sandbox.proxy_error(to=ANALYZE, when="before")
        case "reset":
            sandbox.refuse_connection(to=ANALYZE)
        case _:
            getattr(sandbox, fault)(to=ANALYZE)


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(FAULTS), max_size=5),
    st.booleans(),
    st.integers(1, 7),
    st.integers(1, 4),
)
def test_under_any_history_everything_is_analyzed_once_and_nothing_twice(
    faults: list[str], burn: bool, posts: int, batch_size: int
) -> None:
    """Refusals, lost answers and proxies in any order, ids burnt by refusals or not: no post is
    billed twice, every outcome says it was done, and the posts are in the index."""

    if burn:
        # Then a fault before the work uses the id up as well, and nothing tells it from a lost
        # answer: such a batch is taken as done (`docs/design/request-ids-and-money.md`), and
        # `resolve` is the one to find out.
        faults = [fault for fault in faults if not fault.endswith("_before")]

    async def work() -> None:
        async with (
            Sandbox(indexed=0.0, refusals_burn_ids=burn) as sandbox,
            TokfluenceClient(sandbox.token, base_url=sandbox.url, max_retries=12) as client,
        ):
            for fault in faults:
                script(sandbox, fault)
            report = await client.posts.analyze(range(1, posts + 1), batch_size=batch_size)
            await asyncio.sleep(100)

            assert all(outcome.ok for outcome in report), statuses(report)
            assert not sandbox.billed_twice()
            assert all(sandbox.is_indexed(str(n)) for n in range(1, posts + 1))
            assert report.credits_spent >= sandbox.credits_spent

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(work())
