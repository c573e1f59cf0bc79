"""Shards: each post falls to one of them, the same one on every machine and in every version."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfluence_async import (
    ConfigurationError,
    JournalError,
    Progress,
    Sandbox,
    TokfluenceClient,
    crawl,
)
from tokfluence_async._bulk.shards import Shard, check_shard
from tokfluence_async._crawl.folder import CrawlFolder

IDS = [str(7234567890123456789 + 7 * n) for n in range(30)]
# Posts and their shards of 2, 3, 7, 100 and 1000. They never change: folders remember their shard.
FIXED = {
    "1": (0, 2, 2, 10, 910),
    "42": (0, 0, 1, 38, 738),
    "7234567890123456789": (0, 0, 2, 30, 430),
    "7106594312292453675": (1, 0, 1, 77, 377),
    "18446744073709551615": (1, 2, 6, 21, 521),
}


def lines(out: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / f"{name}.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize("post_id", FIXED)
def test_a_post_falls_to_the_same_shard_for_ever(post_id: str) -> None:
    """Another hash would have posts of a job that is under way bought by two shards, or by none."""
    shards = tuple(
        next(i for i in range(n) if Shard(i, n).holds(post_id)) for n in (2, 3, 7, 100, 1000)
    )
    assert shards == FIXED[post_id]


@given(st.integers(1, 2**64 - 1), st.integers(1, 50))
def test_a_post_falls_to_one_shard(post_id: int, count: int) -> None:
    """To none, it would be lost; to two, paid for twice."""
    assert sum(Shard(i, count).holds(str(post_id)) for i in range(count)) == 1


def test_shards_are_of_one_size() -> None:
    """Ids are not random: they grow with time, and their last bits are often equal."""
    for step in (1, 2, 1024, 2**40):
        ids = [str(7_000_000_000_000_000_000 + n * step) for n in range(8000)]
        counts = [sum(map(Shard(i, 8).holds, ids)) for i in range(8)]
        assert min(counts) > 850
        assert max(counts) < 1150


@pytest.mark.sandbox(indexed=0.5, comments_per_post=3)
async def test_thirty_posts_over_seven_shards_each_once(
    tmp_path: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """However they are spelt; inputs that name none belong to the first."""
    inputs = [
        *IDS,
        "nonsense",
        *[f"https://www.tiktok.com/@a/video/{post_id}?x=1" for post_id in IDS[::3]],
    ]
    reports = [
        await crawl(client, inputs, tmp_path / str(i), comments=True, shard=(i, 7))
        for i in range(7)
    ]

    posts = [post["post_id"] for i in range(7) for post in lines(tmp_path / str(i), "posts")]
    assert Counter(posts) == Counter(IDS)
    comments = [c["comment_id"] for i in range(7) for c in lines(tmp_path / str(i), "comments")]
    assert len(set(comments)) == len(comments) == 90
    assert [report.failed for report in reports] == [1, 0, 0, 0, 0, 0, 0]
    assert [line["input"] for line in lines(tmp_path / "0", "failures")] == ["nonsense"]
    assert sum(report.duplicates for report in reports) == 10
    assert set(sandbox.times_charged("POST /v1/posts/analyze").values()) <= {1}


async def test_what_falls_to_others_leaves_no_trace(
    tmp_path: Path, client: TokfluenceClient
) -> None:
    """It is no duplicate, no failure, and nothing that is to be done."""
    told: list[Progress] = []

    report = await crawl(
        client, [*IDS, *IDS], tmp_path / "out", shard=(2, 7), on_progress=told.append
    )

    mine = [post_id for post_id in IDS if Shard(2, 7).holds(post_id)]
    assert (report.posts, report.duplicates, report.failed) == (len(mine), len(mine), 0)
    assert {progress.total for progress in told[:-1]} <= {None, len(mine)}
    assert (told[-1].done, told[-1].total) == (len(mine), len(mine))


async def test_a_shard_with_nothing_to_do_is_done(tmp_path: Path, client: TokfluenceClient) -> None:
    """Merging waits for it as for the others."""
    shard = next(i for i in range(50) if not any(map(Shard(i, 50).holds, IDS)))

    report = await crawl(client, IDS, tmp_path / "out", shard=(shard, 50))

    assert (report.posts, report.failed) == (0, 0)
    assert (tmp_path / "out" / ".shard").read_text().startswith(f"{shard}/50\ndone: 30 inputs, ")


@pytest.mark.parametrize("other", [(0, 3), (1, 4), (1, 2), None])
async def test_a_folder_refuses_another_shard(
    tmp_path: Path, sandbox: Sandbox, client: TokfluenceClient, other: Any
) -> None:
    """Its posts would count as done in a shard that they do not fall to."""
    await crawl(client, IDS, tmp_path, shard=(1, 3))
    sent = sandbox.requests_received

    with pytest.raises(ConfigurationError, match=r"shard 1/3.*Nothing was sent"):
        await crawl(client, IDS, tmp_path, shard=other)

    assert sandbox.requests_received == sent
    assert (await crawl(client, IDS, tmp_path, shard=(1, 3))).posts == 0


@pytest.mark.parametrize(
    ("old", "new"), [(b"\n", b"\r\n"), (b"\n", b" \n"), (b"1/3", b"\xef\xbb\xbf1/3")]
)
async def test_a_mark_that_went_through_an_editor_is_the_same_mark(
    tmp_path: Path, client: TokfluenceClient, old: bytes, new: bytes
) -> None:
    """git writes other line ends, editors a byte order mark. The folder was no shard any more, and
    took in a crawl of everything."""
    await crawl(client, IDS, tmp_path, shard=(1, 3))
    for name in (".shard", ".origin"):
        mark = tmp_path / name
        mark.write_bytes(mark.read_bytes().replace(old, new))

    mark = CrawlFolder(tmp_path).shard()
    assert mark is not None
    assert (mark.shard, mark.inputs) == (Shard(1, 3), 30)
    with pytest.raises(ConfigurationError, match="holds shard 1/3"):
        await crawl(client, IDS, tmp_path)
    assert (await crawl(client, IDS, tmp_path, shard=(1, 3))).posts == 0


async def test_a_full_disk_leaves_the_mark(
    tmp_path: Path, client: TokfluenceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run writes it anew. Emptied, it made the folder one without shards, which refuses its
    own shard for ever."""
    await crawl(client, IDS, tmp_path, shard=(1, 3))
    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_text", lambda path, *_args, **_more: _fill_up(path))
        with pytest.raises(JournalError, match="No space left on device"):
            await crawl(client, IDS, tmp_path, shard=(1, 3))

    assert (await crawl(client, IDS, tmp_path, shard=(1, 3))).posts == 0
    assert list(tmp_path.glob("*.part")) == []


def _fill_up(path: Path) -> int:
    path.write_bytes(b"")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_folder_without_shards_refuses_one(
    tmp_path: Path, client: TokfluenceClient
) -> None:
    """As the other way round."""
    await crawl(client, IDS[:3], tmp_path)

    with pytest.raises(ConfigurationError, match="without shards"):
        await crawl(client, IDS, tmp_path, shard=(0, 2))


async def test_a_shard_that_got_nothing_may_become_another(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    """A mistyped number must not cost the folder."""
    async with TokfluenceClient(sandbox.token, base_url=sandbox.url) as client:
        await crawl(client, IDS, tmp_path, shard=(1, 3), max_credits=0)
        await crawl(client, IDS, tmp_path, shard=(1, 4))

    assert (tmp_path / ".shard").read_text().startswith("1/4\n")


@pytest.mark.parametrize(
    "wrong",
    [
        (3, 3), (-1, 3), (0, 0), (0, -1), (1, 0), (0.0, 2), (True, 2), ("0", "2"), (0,), (0, 1, 2),
        (), 1, "1", "a/b", "0/0", "3/3", "-1/3", "0/3\n", "²/3", 0.5, {0: 1}, (None, 2), b"0/2",
    ],
)  # fmt: skip
async def test_a_shard_that_is_none_is_an_error_before_anything_is_sent(
    tmp_path: Path, sandbox: Sandbox, client: TokfluenceClient, wrong: Any
) -> None:
    """Nor is a folder made."""
    with pytest.raises(ConfigurationError, match=r"0 <= i < n.*Nothing was sent"):
        await crawl(client, IDS, tmp_path / "out", shard=wrong)

    assert sandbox.requests_received == 0
    assert not (tmp_path / "out").exists()


def test_a_shard_may_be_written_as_text() -> None:
    """As the command takes it."""
    assert check_shard("0/4") == Shard(0, 4)
    assert str(Shard(3, 4)) == "3/4"


@pytest.mark.parametrize("how", ["stop", "budget"])
async def test_a_shard_is_done_when_all_of_it_was_tried(
    tmp_path: Path, client: TokfluenceClient, how: str
) -> None:
    """A run that was stopped leaves something to do, which merging has to know."""
    if how == "budget":
        await crawl(client, IDS, tmp_path, shard=(0, 2), max_credits=3)
    else:
        with pytest.raises(RuntimeError):
            await crawl(client, failing(), tmp_path, shard=(0, 2))
    mark = CrawlFolder(tmp_path).shard()
    assert mark is not None
    assert (mark.shard, mark.inputs) == (Shard(0, 2), None)

    await crawl(client, IDS, tmp_path, shard=(0, 2))
    mark = CrawlFolder(tmp_path).shard()
    assert mark is not None
    assert mark.inputs == len(IDS)


def failing() -> Any:
    yield from IDS[:10]
    raise RuntimeError("the list cannot be read")
