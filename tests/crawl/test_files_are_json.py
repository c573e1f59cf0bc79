"""The files of a crawl are JSON for everything that reads JSON, whatever the service sent."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.json
import pytest

from tokfluence_async import Comment, Sandbox, TokfluenceClient, crawl
from tokfluence_async._crawl.table_files import TableFile
from tokfluence_async._crawl.tables import LineReader

IDS = [str(7234567890123456789 + n) for n in range(4)]


def strictly(lines: bytes) -> list[Any]:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return [json.loads(line, parse_constant=refuse) for line in lines.decode().splitlines()]


def by_jq(path: Path) -> list[Any]:
    jq = shutil.which("jq")
    if jq is None:
        pytest.skip("jq is not installed")
    done = subprocess.run([jq, "-c", ".", str(path)], capture_output=True, check=True)
    return strictly(done.stdout)


def check(path: Path, rows: int) -> None:
    """Every reader reads the same rows."""
    lines = path.read_bytes()
    found = strictly(lines)
    assert len(found) == rows
    assert msgspec.json.Decoder().decode_lines(lines) == found
    assert pyarrow.json.read_json(path).num_rows == rows
    read = by_jq(path)
    # jq keeps no more than 17 digits of a number; ids are texts.
    assert [row.get("post_id") for row in read] == [row.get("post_id") for row in found]
    json.dumps(found, ensure_ascii=False).encode()  # no half of an emoji


def halves(sandbox: Sandbox) -> None:
    for half in ("high", "low", "both"):
        sandbox.half_emoji(half, times=4)


@pytest.mark.sandbox(comments_per_post=30)
@pytest.mark.parametrize(
    "odd",
    [
        halves,
        *(
            lambda sandbox, how=how: sandbox.nearly_json(how, times=4)
            for how in ("nan", "infinity", "bom", "newline", "tab")
        ),
    ],
)
async def test_what_is_nearly_json_is_json_in_the_files(
    tmp_path: Path, sandbox: Sandbox, client: TokfluenceClient, odd: Callable[[Sandbox], Any]
) -> None:
    """Posts, comments and failures, and the tables made of them."""
    odd(sandbox)

    report = await crawl(client, [*IDS, "half an emoji \ud83d", b"\xff"], tmp_path, comments=True)

    assert (report.posts, report.comments, report.failed) == (4, 120, 2)
    check(tmp_path / "posts.jsonl", 4)
    check(tmp_path / "comments.jsonl", 120)
    check(tmp_path / "failures.jsonl", 2)
    for form in ("csv", "parquet"):
        for name in ("posts", "comments"):
            TableFile(tmp_path / f"{name}.jsonl", form).finish()
            assert (tmp_path / f"{name}.{form}").stat().st_size


def test_lines_of_an_earlier_version_that_hold_half_an_emoji_are_read() -> None:
    """It wrote a post's bytes as they came, and its tables ended at such a line."""
    lines = (
        b'{"comment_id":"1","text":"fine"}\n'
        b'{"comment_id":"2","text":"so funny \\ud83d"}\n'
        b'{"comment_id":"3","text":"\\ude02 so","likes":NaN}\n'
    )

    rows = LineReader(Comment).read(lines)

    assert [row.text for row in rows] == ["fine", "so funny \ufffd", "\ufffd so"]
    assert rows[2].likes is None
