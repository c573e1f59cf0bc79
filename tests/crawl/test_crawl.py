"""The main job: posts and comments to files, each once, and again only what is missing."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from tokfluence_async import (
    AuthenticationError,
    ConfigurationError,
    CrawlReport,
    Journal,
    JournalError,
    Progress,
    Sandbox,
    TokfluenceClient,
    crawl,
)
from tokfluence_async._crawl.folder import known_as
from tokfluence_async._wire import lines as _lines
from tokfluence_async._wire.ids import PostRef

ANALYZE = "POST /v1/posts/analyze"
GET = "GET /v1/posts/:id"
COMMENTS = "GET /v1/posts/:id/comments"
IDS = [str(7234567890123456789 + n) for n in range(20)]


def lines(out: Path, name: str) -> list[dict[str, Any]]:
    data = (out / f"{name}.jsonl").read_bytes()
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


shell = os.system


def how_many(post_id: str) -> int:
    return (0, 3, 200, 450)[int(post_id) % 4]


COMMENTED = sum(how_many(post_id) for post_id in IDS)
some_comments = pytest.mark.sandbox(indexed=0.5, comments_per_post=how_many, extra_fields=True)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@some_comments
async def test_posts_and_comments_are_written_once_with_every_field(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The lines are the service's own objects, byte for byte, fields we do not know included."""
    report = await crawl(client, IDS, out, comments=True)

    assert (report.posts, report.comments, report.failed, report.skipped) == (
        len(IDS),
        COMMENTED,
        0,
        0,
    )
    assert report.stopped_by is None
    assert report.credits_spent == sandbox.credits_spent
    posts = {post["post_id"]: post for post in lines(out, "posts")}
    assert posts == {post_id: sandbox.world.post(post_id) for post_id in IDS}
    comments = lines(out, "comments")
    assert len(comments) == COMMENTED
    for post_id in IDS:
        mine = [comment for comment in comments if comment["post_id"] == post_id]
        assert [next(iter(comment)) for comment in mine] == ["post_id"] * len(mine)
        assert [comment | {"post_id": None} for comment in mine] == [
            {"post_id": None} | sandbox.world.comment(post_id, offset)
            for offset in range(how_many(post_id))
        ]
    assert lines(out, "failures") == []


@some_comments
async def test_a_run_with_nothing_new_sends_nothing(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """What is done is known from the journal, not asked for."""
    await crawl(client, IDS, out, comments=True)
    before, sent = (out / "comments.jsonl").read_bytes(), sandbox.requests_received

    report = await crawl(client, [*IDS, IDS[0]], out, comments=True)

    assert sandbox.requests_received == sent
    assert report == CrawlReport(skipped=len(IDS), duplicates=1, seconds=report.seconds)
    assert (out / "comments.jsonl").read_bytes() == before


@pytest.mark.sandbox(indexed=1.0, comments_per_post=3)
@pytest.mark.client(max_retries=0)
@pytest.mark.parametrize("where", ["posts", "comments"])
async def test_what_is_not_utf_8_is_a_failure_and_no_line(
    where: str, out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The lines are bytes as they came, and one that cannot be decoded makes the whole file
    unreadable."""
    data: Any = sandbox.world.post(IDS[0]) | {"new": "tail"}
    if where == "comments":
        data = [sandbox.world.comment(IDS[0], 0) | {"new": "tail"}]
    body = (
        json.dumps({"data": data, "meta": {"total": 1, "next_cursor": None}})
        .encode()
        .replace(b"tail", b"\xff\xfe")
    )
    sandbox.answer(body, to=GET if where == "posts" else COMMENTS, times=1)

    report = await crawl(client, IDS[:1], out, comments=True)

    assert report.failed == 1
    assert lines(out, where) == []
    assert [line["error"]["type"] for line in lines(out, "failures")] == [
        "APIResponseValidationError"
    ]
    assert (await crawl(client, IDS[:1], out, comments=True)).failed == 0
    assert len(lines(out, where)) == {"posts": 1, "comments": 3}[where]


@some_comments
async def test_comments_may_be_asked_for_later(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The posts are there; only the pages are bought."""
    first = await crawl(client, IDS, out)
    reads = sandbox.times(GET)
    second = await crawl(client, IDS, out, comments=True)

    assert (first.posts, first.comments, second.posts, second.comments) == (
        len(IDS),
        0,
        0,
        COMMENTED,
    )
    assert sandbox.times(GET) == reads
    assert len(lines(out, "posts")) == len(IDS)


async def test_malformed_inputs_are_listed_and_the_rest_is_done(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """One bad line in a file of a million is that line's failure."""
    report = await crawl(client, [IDS[0], "bad", IDS[1], "https://vm.tiktok.com/x"], out)
    sent = sandbox.requests_received
    again = await crawl(client, [IDS[0], "bad", IDS[1], "https://vm.tiktok.com/x"], out)

    assert (report.posts, report.failed, again.failed, again.skipped) == (2, 2, 2, 2)
    assert sandbox.requests_received == sent
    [bad, short] = lines(out, "failures")
    assert bad["input"] == "bad"
    assert bad["post_id"] is None
    assert bad["error"]["type"] == short["error"]["type"] == "InvalidPostError"
    assert set(bad["error"]) == {"type", "status", "code", "message"}


@pytest.mark.client(max_retries=0)
async def test_failed_inputs_are_tried_again_and_the_failures_are_those_of_the_last_run(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A failure of the network is not a property of the post."""
    sandbox.proxy_error(to=GET, times=3)
    first = await crawl(client, IDS, out)
    failures = lines(out, "failures")
    second = await crawl(client, IDS, out)

    assert (first.posts, first.failed, second.posts, second.failed) == (len(IDS) - 3, 3, 3, 0)
    assert {(f["error"]["type"], f["error"]["status"]) for f in failures} == {
        ("UpstreamError", 502)
    }
    assert lines(out, "failures") == []
    assert Counter(post["post_id"] for post in lines(out, "posts")) == Counter(IDS)


@pytest.mark.sandbox(comments_per_post=1000)
@pytest.mark.client(max_retries=0)
async def test_comments_go_on_at_their_cursor_also_when_new_ones_have_shifted_it(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Pages that are written are not bought again, and comments that were written do not come
    twice."""
    sandbox.proxy_error(to=COMMENTS, nth=3, times=None)
    first = await crawl(client, IDS[:1], out, comments=True)
    sandbox.clear_faults()
    written = [comment["comment_id"] for comment in lines(out, "comments")]
    bought = len(sandbox.times(COMMENTS, status=200))
    sandbox.add_comments(IDS[0], 30)
    second = await crawl(client, IDS[:1], out, comments=True)

    assert (first.posts, first.failed, second.posts, second.failed) == (1, 1, 0, 0)
    comments = [comment["comment_id"] for comment in lines(out, "comments")]
    assert comments[: len(written)] == written
    assert len(set(comments)) == len(comments) == 1000
    assert first.comments + second.comments == 1000
    assert len(written) == 200 * bought
    assert len(sandbox.times(COMMENTS, status=200)) == 6


@pytest.mark.sandbox(comments_per_post=5000)
@pytest.mark.client(max_retries=0)
async def test_thousands_of_comments_that_arrive_between_two_runs_write_none_twice(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The next run begins far behind where the first one ended."""
    sandbox.proxy_error(to=COMMENTS, nth=21, times=None)
    await crawl(client, IDS[:1], out, comments=True)
    sandbox.clear_faults()
    assert len(lines(out, "comments")) >= 3000
    sandbox.add_comments(IDS[0], 2500)

    await crawl(client, IDS[:1], out, comments=True)

    comments = [comment["comment_id"] for comment in lines(out, "comments")]
    assert len(set(comments)) == len(comments) == 5000


@pytest.mark.sandbox(indexed=0.0)
async def test_analyses_of_a_run_that_died_are_only_read(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """25 credits a post are spent once, whenever the process ends."""
    task = asyncio.create_task(crawl(client, IDS, out))
    await asyncio.sleep(10)
    assert sandbox.times_charged(ANALYZE)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    report = await crawl(client, IDS, out)

    assert report.failed == 0
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}
    assert Counter(post["post_id"] for post in lines(out, "posts")) == Counter(IDS)


@pytest.mark.sandbox(indexed=0.0, refusals_burn_ids=True)
async def test_a_409_that_proves_nothing_is_settled_by_the_reading_that_is_due_anyway(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The id was used up by a 500 that did no work: the posts never come, so they are analyzed
    after all, once."""
    sandbox.internal_error(to=ANALYZE, when="before", charged=False)
    once = client.with_options(max_retries=0)
    await crawl(once, IDS[:4], out, batch_size=50)

    report = await crawl(client, IDS[:4], out, batch_size=50)

    assert report.failed == 0
    assert Counter(post["post_id"] for post in lines(out, "posts")) == Counter(IDS[:4])
    assert {sandbox.charged(post_id, ANALYZE) for post_id in IDS[:4]} == {25}


@pytest.mark.sandbox(indexed=0.0)
async def test_the_budget_stops_the_run_and_the_next_one_goes_on(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """What fits is done; what does not is listed as not sent."""
    report = await crawl(client, IDS, out, max_credits=200)

    assert report.stopped_by == "budget"
    assert sandbox.credits_spent <= 200
    assert report.posts + report.failed == len(IDS)
    assert {f["error"]["type"] for f in lines(out, "failures")} == {"BudgetExceededError"}
    report = await crawl(client, IDS, out)
    assert (report.stopped_by, report.failed) == (None, 0)
    assert len(lines(out, "posts")) == len(IDS)
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}


@pytest.mark.sandbox(indexed=0.0, credits=200)
async def test_an_empty_wallet_stops_the_run_in_the_same_way(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """402 is what the budget is, from the other side."""
    report = await crawl(client, IDS, out)
    assert report.stopped_by == "credits"
    assert "InsufficientCreditsError" in {f["error"]["type"] for f in lines(out, "failures")}
    sandbox.credits = 100_000

    report = await crawl(client, IDS, out)

    assert (report.stopped_by, report.failed) == (None, 0)
    assert len(lines(out, "posts")) == len(IDS)
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}


async def test_a_refused_token_raises_and_sends_no_more(out: Path, sandbox: Sandbox) -> None:
    """Nothing else would fare better; a million failures would say less."""
    async with TokfluenceClient(
        "tkf_live_" + "x" * 32, base_url=sandbox.url, max_concurrency=4
    ) as client:
        with pytest.raises(AuthenticationError):
            await crawl(client, [str(n + 1) for n in range(1000)], out)

    assert sandbox.requests_received <= 4


@pytest.mark.sandbox(indexed=0.0, seconds_per_url=1.0, comments_per_post=300)
async def test_a_stop_finishes_what_is_in_flight_and_the_next_run_the_rest(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Nothing that was bought is unwritten, nothing is in doubt."""
    stop = asyncio.Event()
    many = [str(n + 1) for n in range(80)]
    task = asyncio.create_task(crawl(client, many, out, comments=True, stop=stop, grace=100.0))
    await asyncio.sleep(8)
    stop.set()
    report = await task

    assert report.stopped_by == "signal"
    assert 0 < report.posts < 80
    async with Journal(out / "journal.sqlite") as journal:
        assert await journal.unsettled() == []
    report = await crawl(client, many, out, comments=True)
    assert (report.stopped_by, report.failed) == (None, 0)
    assert len(lines(out, "posts")) == 80
    assert len({comment["comment_id"] for comment in lines(out, "comments")}) == 80 * 300
    assert len(lines(out, "comments")) == 80 * 300
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}
    assert sum(entry.charged for entry in sandbox.requests if entry.route == COMMENTS) == 80 * 2 * 2


@pytest.mark.sandbox(indexed=0.0, seconds_per_url=12.0)
async def test_grace_ends(out: Path, sandbox: Sandbox, client: TokfluenceClient) -> None:
    """A batch can take minutes; who asks to stop waits for `grace`, and the journal remembers the
    rest."""
    stop = asyncio.Event()
    task = asyncio.create_task(crawl(client, IDS, out, stop=stop, grace=5.0))
    await asyncio.sleep(10)
    stop.set()
    began = asyncio.get_running_loop().time()
    report = await task

    assert asyncio.get_running_loop().time() - began < 6
    assert report.stopped_by == "signal"
    async with Journal(out / "journal.sqlite") as journal:
        assert await journal.unsettled() != []
    report = await crawl(client, IDS, out)
    assert (report.posts, report.failed) == (len(IDS), 0)
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}


async def test_a_stop_does_not_wait_for_inputs_that_do_not_come(
    out: Path, client: TokfluenceClient
) -> None:
    """Standard input may stay open for ever."""
    stop = asyncio.Event()
    closed = False

    async def slow() -> AsyncIterator[str]:
        nonlocal closed
        try:
            yield IDS[0]
            await asyncio.sleep(1e6)
        finally:
            closed = True

    task = asyncio.create_task(crawl(client, slow(), out, stop=stop, grace=100.0))
    await asyncio.sleep(5)
    stop.set()
    began = asyncio.get_running_loop().time()
    report = await task

    assert asyncio.get_running_loop().time() - began < 1
    assert (report.posts, report.stopped_by, closed) == (1, "signal", True)


async def test_inputs_that_fail_end_the_run_after_what_was_begun(
    out: Path, client: TokfluenceClient
) -> None:
    """The caller's own iterator is the caller's; what it gave before is done."""

    async def broken() -> AsyncIterator[str]:
        yield IDS[0]
        raise OSError("the pipe broke")

    with pytest.raises(OSError, match="the pipe broke"):
        await crawl(client, broken(), out)

    assert [post["post_id"] for post in lines(out, "posts")] == IDS[:1]


@pytest.mark.sandbox(comments_per_post=30)
async def test_inputs_that_end_in_an_error_end_what_was_begun_first(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The comments that were under way and the list of failures are as if the inputs had ended."""

    async def broken() -> AsyncIterator[str]:
        for url in (*IDS[:2], "nonsense"):
            yield url
        raise LookupError("the database is away")

    with pytest.raises(LookupError, match="away"):
        await crawl(client, broken(), out, comments=True)

    assert len(lines(out, "posts")) == 2
    assert {comment["post_id"] for comment in lines(out, "comments")} == set(IDS[:2])
    assert [failure["input"] for failure in lines(out, "failures")] == ["nonsense"]


async def test_progress_is_told_and_ends_with_the_whole(
    out: Path, client: TokfluenceClient
) -> None:
    """Skipped inputs are done; a bar that never fills looks like a hang."""
    await crawl(client, IDS[:5], out)
    told: list[Progress] = []
    await crawl(client, [*IDS, "bad"], out, on_progress=told.append)

    assert (told[-1].done, told[-1].failed, told[-1].total) == (21, 1, 21)


# --- folders and files it cannot use --------------------------------------------------------------


async def test_a_folder_that_is_a_file_is_one_clear_error(
    tmp_path: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Before anything is sent, and the file is left alone."""
    (tmp_path / "out").write_text("mine")
    for place in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(ConfigurationError, match="Nothing was sent"):
            await crawl(client, IDS, place)

    assert sandbox.requests_received == 0
    assert (tmp_path / "out").read_text() == "mine"


async def test_a_folder_that_cannot_be_written_is_one_clear_error(
    out: Path, sandbox: Sandbox, client: TokfluenceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And stays as it was. The superuser may write everywhere, so the system's answer is made
    up."""
    out.mkdir()

    def read_only(**_: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        await crawl(client, IDS, out)

    assert list(out.iterdir()) == []
    assert sandbox.requests_received == 0


@pytest.mark.parametrize("name", ["posts.jsonl", "comments.jsonl", "failures.jsonl.new"])
async def test_an_output_that_is_a_folder_is_one_clear_error(
    out: Path, sandbox: Sandbox, client: TokfluenceClient, name: str
) -> None:
    """Each output is opened before anything is sent."""
    (out / name).mkdir(parents=True)
    with pytest.raises(JournalError, match="cannot be written"):
        await crawl(client, IDS, out, comments=True)

    assert sandbox.requests_received == 0


async def test_output_of_another_crawl_is_not_mixed_with_this_one(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A lost journal would have everything bought and written once more."""
    await crawl(client, IDS[:2], out)
    (out / "journal.sqlite").unlink()
    sent = sandbox.requests_received

    with pytest.raises(JournalError, match="knows nothing of them"):
        await crawl(client, IDS, out)

    assert sandbox.requests_received == sent


SERVICE = "http://service.invalid"  # never reached


async def test_posts_of_another_origin_are_not_mixed_with_these(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """What a sandbox has made up would count as the service's, and be left out of the next run as
    done."""
    await crawl(client, IDS[:2], out)

    async with TokfluenceClient("x", base_url=SERVICE) as other:
        with pytest.raises(ConfigurationError, match="another folder") as caught:
            await crawl(other, IDS, out)
    assert "localhost" in str(caught.value)
    assert SERVICE in str(caught.value)
    assert f"delete {out / '.origin'}" in str(caught.value)

    (out / ".origin").write_text(SERVICE + "\n")
    with pytest.raises(ConfigurationError, match="another folder"):
        await crawl(client, IDS, out)
    assert sandbox.requests_received == 2

    (out / ".origin").unlink()  # as the message says
    assert (await crawl(client, IDS[:2], out)).skipped == 2


async def test_a_sandbox_of_the_next_run_is_the_same_origin(
    out: Path, client: TokfluenceClient
) -> None:
    """It listens on another port."""
    await crawl(client, IDS[:2], out)

    async with Sandbox() as later, TokfluenceClient(later.token, base_url=later.url) as other:
        report = await crawl(other, IDS[:3], out)

    assert (report.skipped, report.posts) == (2, 1)


@pytest.mark.parametrize(
    ("origin", "name"),
    [
        ("http://127.0.0.1:4711", "localhost"),
        ("http://[::1]:4711", "localhost"),
        ("http://localhost:4711", "localhost"),
        ("http://api.localhost", "localhost"),
        ("http://10.0.0.1:8080", "http://10.0.0.1:8080"),
        ("https://127.0.0.1.example", "https://127.0.0.1.example"),
    ],
)
def test_only_this_machine_has_many_origins_that_are_one(origin: str, name: str) -> None:
    """Where a port says nothing of what answers there."""
    assert known_as(origin) == name


async def test_a_folder_without_a_mark_goes_on_and_gets_one(
    out: Path, client: TokfluenceClient
) -> None:
    """Earlier versions made none; their command left another in the folders of its sandbox."""
    await crawl(client, IDS[:2], out)
    (out / ".origin").unlink()

    assert (await crawl(client, IDS[:3], out)).skipped == 2
    assert (out / ".origin").read_text().splitlines()[0] == "localhost"

    (out / ".origin").unlink()
    (out / ".sandbox").write_text("made up")
    async with TokfluenceClient("x", base_url=SERVICE) as other:
        with pytest.raises(ConfigurationError, match="another folder"):
            await crawl(other, IDS, out)


async def test_an_origin_that_gave_nothing_is_forgotten(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A mistyped address must not keep the right one from the folder."""
    async with TokfluenceClient("x", base_url=sandbox.url) as refused:
        with pytest.raises(AuthenticationError):
            await crawl(refused, IDS, out)
    (out / ".origin").write_text(SERVICE + "\n")

    assert (await crawl(client, IDS[:2], out)).posts == 2
    assert (out / ".origin").read_text().splitlines()[0] == "localhost"


async def test_a_batch_in_doubt_keeps_its_origin(out: Path, client: TokfluenceClient) -> None:
    """Its request id means nothing to anyone else."""
    out.mkdir()
    (out / ".origin").write_text(SERVICE + "\n")
    async with Journal(out / "journal.sqlite") as journal:
        await journal.sending("r", [PostRef(IDS[0])], replaces=None)

    with pytest.raises(ConfigurationError, match="another folder"):
        await crawl(client, IDS, out)


@pytest.mark.parametrize(
    "wrong",
    [
        {"refresh": "never"},
        {"patience": -1},
        {"grace": float("nan")},
        {"batch_size": 51},
        {"max_credits": -1},
    ],
)
async def test_a_number_out_of_its_range_is_an_error_at_the_call(
    out: Path, client: TokfluenceClient, wrong: Any
) -> None:
    """Before a folder is made."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        await crawl(client, IDS, out, **wrong)

    assert not out.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
@pytest.mark.sandbox(comments_per_post=400)
async def test_a_full_disk_ends_the_run_and_more_room_finishes_it(
    tmp_path: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A real file system of 1 MB: whole lines or none, and nothing bought twice that was
    recorded."""
    out = tmp_path / "small"
    out.mkdir()
    if shell(f"mount -t tmpfs -o size=1m tmpfs {out}") != 0:
        pytest.skip("no mounting here")
    try:
        with pytest.raises(JournalError, match=r"No space left on device|disk is full"):
            await crawl(client, IDS, out, comments=True)
        written = len(lines(out, "comments"))
        assert 0 < written < 400 * len(IDS)
        assert shell(f"mount -o remount,size=100m {out}") == 0
        report = await crawl(client, IDS, out, comments=True)

        assert report.failed == 0
        assert written + report.comments == 400 * len(IDS)
        assert len({comment["comment_id"] for comment in lines(out, "comments")}) == 400 * len(IDS)
        assert len(lines(out, "comments")) == 400 * len(IDS)
    finally:
        shell(f"umount {out}")


async def test_failures_that_cannot_be_written_are_an_error(
    out: Path, client: TokfluenceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of failures that is silently short would pass for success."""

    replace = Path.replace

    def full(path: Path, target: Path) -> Path:
        if target.name == "failures.jsonl":
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(JournalError, match=r"failures.jsonl cannot be written: No space left"):
        await crawl(client, ["bad"], out)

    assert not (out / "failures.jsonl.new").exists()


class _Full(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, _: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_full_disk_met_by_many_inputs_at_once_is_one_error(
    out: Path, client: TokfluenceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each input that fails meets it anew, in a task of its own; a user catches JournalError and no
    group of them."""
    opened = Path.open

    def open_(self: Path, *args: Any, **more: Any) -> Any:
        return (
            io.BufferedWriter(_Full(), 1)
            if self.name == "failures.jsonl.new"
            else opened(self, *args, **more)
        )

    monkeypatch.setattr(Path, "open", open_)

    with pytest.raises(
        JournalError, match=r"failures.jsonl.new cannot be written: No space left"
    ) as caught:
        await crawl(client, [f"bad {n}" for n in range(20)], out, comments=True)

    assert isinstance(caught.value.__cause__, OSError)


# --- lines ----------------------------------------------------------------------------------------


def test_objects_that_span_lines_are_put_on_one() -> None:
    """JSON lines: a line, an object."""
    post = Raw(b'{\r\n  "post_id": "1",\n  "caption": "a\\nb"\n}')
    assert _lines.post_line(post) == b'{"post_id":"1","caption":"a\\nb"}\n'
    comment = Raw(b'{\n "comment_id": "c"\n}')
    assert _lines.comment_lines("1", [comment]) == b'{"post_id":"1","comment_id":"c"}\n'


def test_a_comment_that_brings_a_post_id_has_one_still() -> None:
    """A key that stands twice means one thing to one reader and another to the next."""
    brings = Raw(b'{"comment_id":"c","post_id":"1","text":"x"}')
    speaks = Raw(b'{"comment_id":"d","text":"say \\"post_id\\""}')
    assert _lines.comment_lines("1", [brings]) == b'{"post_id":"1","comment_id":"c","text":"x"}\n'
    assert _lines.comment_lines("1", [speaks]) == b'{"post_id":"1",' + bytes(speaks)[1:] + b"\n"


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "comment_id": st.text(min_size=1, max_size=5),
                "text": st.text('ab"\\{}[],:\n\r\x85\u2028é😂', max_size=8),
            },
            optional={
                "more": st.dictionaries(
                    st.sampled_from("ab{"), st.lists(st.integers(), max_size=2), max_size=2
                )
            },
        ),
        max_size=6,
    ),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_lines_hold_what_came_and_the_post_in_front(
    comments: list[dict[str, Any]], indent: int | None, escaped: bool
) -> None:
    """A line for each, whatever its texts hold and however it was laid out: braces in texts,
    objects in objects."""
    page = [
        Raw(json.dumps(comment, indent=indent, ensure_ascii=escaped).encode())
        for comment in comments
    ]

    lines = _lines.comment_lines("77", page)

    found = [list(json.loads(line).items()) for line in lines.split(b"\n")[:-1]]
    assert found == [[("post_id", "77"), *comment.items()] for comment in comments]
    assert lines == b"" or lines.endswith(b"}\n")
    ids = [comment["comment_id"] for comment in comments]
    assert _lines.comment_ids(page) == _lines.line_ids(lines) == ids


@pytest.mark.parametrize("given", [10**50, "x" * 5000, object(), 7, "x"])
def test_a_failure_names_its_input_whatever_it_was(given: object) -> None:
    """What cannot be shown as it is, is shown as something."""
    from tokfluence_async import InvalidPostError

    line = json.loads(_lines.failure_line(given, None, InvalidPostError(given, "no")))
    assert line["input"]
    assert len(str(line["input"])) <= 4096
