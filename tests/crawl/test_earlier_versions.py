"""A folder that an earlier version began goes on under this one.

`fixtures/before` was made by version 0.1.0, journal format 2, on a sandbox with the options below:
`killed` by a SIGKILL in the middle of a write (lines behind what the journal knows, two walks over
comments under way, a batch in doubt, a WAL that was not put into the database), `ended` by a run
that was done.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tokfluence_async import Sandbox, TokfluenceClient, crawl

BEFORE = Path(__file__).parent / "fixtures" / "before"
POSTS = [str(7234567890123456789 + 7 * number) for number in range(8)]
ANALYZE = "POST /v1/posts/analyze"
GET = "GET /v1/posts/:id"


def how_many(post_id: str) -> int:
    return int(post_id) % 9 * 6


def is_indexed(post_id: str) -> bool:
    return int(post_id) % 2 == 0


as_before = pytest.mark.sandbox(
    indexed=is_indexed, comments_per_post=how_many, page_stride=10, extra_fields=True
)


@pytest.fixture
def out(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return Path(shutil.copytree(BEFORE / request.param, tmp_path / "out"))


def ids(path: Path, name: str) -> Counter[str]:
    return Counter(json.loads(line)[name] for line in path.read_bytes().splitlines())


@as_before
@pytest.mark.parametrize("out", ["killed"], indirect=True)
async def test_a_crawl_that_was_killed_goes_on(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """What it wrote stays and is not bought again; what it had under way is finished once."""
    posts = (out / "posts.jsonl").read_bytes()
    comments = (out / "comments.jsonl").read_bytes()
    written = ids(out / "posts.jsonl", "post_id")

    report = await crawl(client, POSTS, out, comments=True)

    assert (report.failed, report.posts) == (0, len(POSTS) - len(written))
    assert (out / "posts.jsonl").read_bytes().startswith(posts)
    assert (out / "comments.jsonl").read_bytes().startswith(comments[:9392])
    assert ids(out / "posts.jsonl", "post_id") == Counter(POSTS)
    assert ids(out / "comments.jsonl", "post_id") == {
        post_id: how_many(post_id) for post_id in POSTS if how_many(post_id)
    }
    assert set(ids(out / "comments.jsonl", "comment_id").values()) == {1}
    assert not set(written) & set(sandbox.times_charged(ANALYZE))
    assert not set(written) & set(sandbox.times_charged(GET))


@as_before
@pytest.mark.parametrize("out", ["ended"], indirect=True)
async def test_a_crawl_that_was_done_is_done(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Nothing is sent for its posts; a new one is read and written behind them."""
    before = (out / "posts.jsonl").read_bytes()

    report = await crawl(client, POSTS[:3], out)
    assert (report.skipped, sandbox.requests_received) == (3, 0)
    assert (out / "posts.jsonl").read_bytes() == before

    report = await crawl(client, POSTS[:4], out)
    assert (report.skipped, report.posts) == (3, 1)
    assert ids(out / "posts.jsonl", "post_id") == Counter(POSTS[:4])
