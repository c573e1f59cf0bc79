"""Shards put together: all of one job, each once, and what is missing is said."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tokfluence_async import (
    ConfigurationError,
    JournalError,
    Sandbox,
    TokfluenceClient,
    crawl,
)
from tokfluence_async._bulk.shards import Shard
from tokfluence_async._crawl.folder import CrawlFolder
from tokfluence_async._crawl.merge import merge
from tokfluence_async._crawl.table_files import Follower

IDS = [str(7234567890123456789 + 7 * n) for n in range(30)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


async def shards(
    client: TokfluenceClient, under: Path, total: int = 3, **options: Any
) -> list[Path]:
    """A job in `total` shards, all of them done."""
    folders = [under / f"{n}-of-{total}" for n in range(total)]
    for n, folder in enumerate(folders):
        await crawl(client, [*IDS, "nonsense"], folder, shard=(n, total), **options)
    return folders


@pytest.mark.sandbox(comments_per_post=3)
async def test_shards_become_one_folder(tmp_path: Path, client: TokfluenceClient) -> None:
    """Byte for byte what `cat` makes of them, in whatever order they are given."""
    folders = await shards(client, tmp_path, comments=True)

    report = merge(folders[::-1], tmp_path / "all")

    assert (report.posts, report.comments, report.failed) == (30, 90, 1)
    assert (report.missing, report.tables) == ([], [])
    assert Counter(post["post_id"] for post in lines(tmp_path / "all" / "posts.jsonl")) == Counter(
        IDS
    )
    for name in ("posts", "comments", "failures"):
        together = b"".join((folder / f"{name}.jsonl").read_bytes() for folder in folders)
        assert (tmp_path / "all" / f"{name}.jsonl").read_bytes() == together


async def test_what_is_missing_is_said_and_the_rest_is_merged(
    tmp_path: Path, client: TokfluenceClient
) -> None:
    """Shards that were not given, and shards that were stopped."""
    folders = await shards(client, tmp_path, 4)
    mark = folders[1] / ".shard"
    mark.write_text(mark.read_text().splitlines()[0] + "\n")  # as while it runs
    with (folders[1] / "posts.jsonl").open("ab") as file:
        file.write(b'{"post_id":"72')

    report = merge([folders[0], folders[1], folders[3]], tmp_path / "all")

    assert len(report.missing) == 2
    assert "2/4" in report.missing[0]
    assert "1/4" in report.missing[1]
    assert str(folders[1]) in report.missing[1]
    assert report.posts == sum(not Shard(2, 4).holds(post_id) for post_id in IDS)
    assert len(lines(tmp_path / "all" / "posts.jsonl")) == report.posts


@pytest.mark.sandbox(comments_per_post=3)
async def test_a_shard_without_the_comments_of_the_others_is_missing_something(
    tmp_path: Path, client: TokfluenceClient
) -> None:
    """It was made by another command."""
    folders = await shards(client, tmp_path, 2, comments=True)
    (folders[1] / "comments.jsonl").unlink()

    assert merge(folders, tmp_path / "all").missing == [
        f"Shard 1/2 in {folders[1]} has no comments."
    ]


@pytest.mark.sandbox(comments_per_post=3)
async def test_tables_that_shards_have_are_merged(tmp_path: Path, client: TokfluenceClient) -> None:
    """Without being asked; also for a shard that lacks one."""
    folders = await shards(client, tmp_path, comments=True)
    for folder in folders[:2]:
        for form in ("csv", "parquet"):
            async with Follower(CrawlFolder(folder), form, comments=form == "csv"):
                pass

    report = merge(folders, tmp_path / "all")

    assert report.tables == ["posts.csv", "comments.csv", "posts.parquet"]
    assert pq.read_table(tmp_path / "all" / "posts.parquet").num_rows == 30
    assert len((tmp_path / "all" / "comments.csv").read_text().splitlines()) >= 91
    assert not (tmp_path / "all" / "comments.parquet").exists()


async def test_a_merge_may_be_made_again(tmp_path: Path, client: TokfluenceClient) -> None:
    """When what was missing has come; what the earlier one had and this one has not goes."""
    folders = await shards(client, tmp_path)
    (folders[0] / "posts.csv").write_text("")
    merge(folders[:2], tmp_path / "all")
    (folders[0] / "posts.csv").unlink()

    report = merge(folders, tmp_path / "all")

    assert (report.posts, report.missing) == (30, [])
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [
        ".merged",
        "failures.jsonl",
        "posts.jsonl",
    ]


async def test_shards_of_two_jobs_are_refused(
    tmp_path: Path, client: TokfluenceClient, sandbox: Sandbox
) -> None:
    """Of two numbers of shards, of two lists, of two origins; one given twice; what is none."""
    folders = await shards(client, tmp_path / "a", 2)
    others = await shards(client, tmp_path / "b", 3)
    await crawl(client, IDS[:20], tmp_path / "short", shard=(1, 2))
    elsewhere = tmp_path / "elsewhere"
    await crawl(client, [*IDS, "nonsense"], elsewhere, shard=(1, 2))
    (elsewhere / ".origin").write_text("https://service.invalid\n")
    await crawl(client, IDS, tmp_path / "whole")
    for wrong, why in (
        ([folders[0], others[1]], "one number of shards"),
        ([folders[0], tmp_path / "short"], "different lists, of 31 inputs and of 20"),
        ([folders[0], elsewhere], "posts of localhost and of https://service.invalid"),
        ([folders[0], folders[1], folders[0]], "the same shard"),
        ([folders[0], tmp_path / "whole"], "no shard of a crawl"),
        ([folders[0], tmp_path / "nothing"], "no folder"),
        ([], "Give the folders"),
    ):
        with pytest.raises(ConfigurationError, match=why) as caught:
            merge(wrong, tmp_path / "all")
        assert "Nothing was written" in str(caught.value)

    assert not (tmp_path / "all").exists()


async def test_a_folder_that_holds_something_else_is_not_overwritten(
    tmp_path: Path, client: TokfluenceClient
) -> None:
    """A crawl, one of the shards, or files that somebody else has put there."""
    folders = await shards(client, tmp_path, 2)
    await crawl(client, IDS[:2], tmp_path / "crawl")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "posts.jsonl").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "crawl", folders[0], tmp_path / "mine", tmp_path / "file"):
        with pytest.raises(ConfigurationError, match="Nothing was written"):
            merge(folders, out)

    assert (tmp_path / "mine" / "posts.jsonl").read_text() == "mine"
    assert len(lines(tmp_path / "crawl" / "posts.jsonl")) == 2


def _append(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes() + data)


@pytest.mark.parametrize(
    "edit",
    [
        Path.unlink,
        _append(b'{"post_id":"'),
        _append(b"hello\n"),
        _append(b'{"a":1}\n'),
        _append(b'{"post_id":"%s"}\n' % next(i for i in IDS if Shard(1, 2).holds(i)).encode()),
        _append(b"\xff\n"),
    ],
)
async def test_a_shard_that_was_edited_is_an_error(
    tmp_path: Path, client: TokfluenceClient, edit: Callable[[Path], object]
) -> None:
    """It would become a part of the whole that nobody can tell from the rest."""
    folders = await shards(client, tmp_path, 2)
    edit(folders[0] / "posts.jsonl")

    with pytest.raises(JournalError, match=r"not as the crawl has written it.*Put it back"):
        merge(folders, tmp_path / "all")

    assert list((tmp_path / "all").iterdir()) == []
