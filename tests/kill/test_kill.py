"""`kill -9` anywhere: a crawl that dies and is started again, until it is done.

The sandbox lives in this process and remembers what the dead have sent; its ledger is the judge.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mortal
import pytest

from tokfluence_async import Sandbox
from tokfluence_async._sandbox.ledger import ANALYZE

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(300)]

POSTS = [str(7234567890123456789 + 7 * number) for number in range(30)]
# Kills of one seed; 5 * 36 + 3 * 8 is more than the 200 that CI wants.
AT_RANDOM, AT_BOUNDARIES = 36, 8


def how_many(post_id: str) -> int:
    """Comments of a post: none, a page, or several."""
    return (0, 3, 200, 450, 900)[int(post_id) % 5]


@pytest.fixture(scope="module")
def processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    # What takes time to load; `mortal` itself is on no path that the fork server knows.
    context.set_forkserver_preload(
        [
            "tokfluence_async._crawl.crawl",
            "tokfluence_async._client",
            "tokfluence_async._http.transport",
        ]
    )
    return context


def world(**changes: Any) -> Sandbox:
    """A quick service without throttles, as the clock is real."""
    options: dict[str, Any] = {
        "per_ip": None,
        "per_key": None,
        "indexed": 0.4,
        "seconds_per_url": 0.004,
    }
    options |= {
        "visibility_delay": 0.02,
        "comments_per_post": how_many,
        "latency": 0.002,
        "extra_fields": True,
    }
    return Sandbox(**(options | changes))


class Crawl:
    """One crawl over all its lives."""

    def __init__(self, processes: Any, sandbox: Sandbox, out: Path, inputs: list[str]) -> None:
        self._processes = processes
        self._sandbox = sandbox
        self.out = out
        self.inputs = inputs
        self.kills = 0

    async def live(
        self,
        *,
        boundary: int = 0,
        kill_after: float | None = None,
        sign: int = signal.SIGKILL,
        **options: Any,
    ) -> int | None:
        """One life; its exit status, negative when it was killed."""
        arguments = (
            self._sandbox.url,
            self._sandbox.token,
            str(self.out),
            self.inputs,
            boundary,
            options,
        )
        process = self._processes.Process(target=mortal.live, args=arguments)
        process.start()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(process.sentinel, ended.set)
        try:
            if kill_after is not None:
                try:
                    await asyncio.wait_for(ended.wait(), kill_after)
                except TimeoutError:
                    with suppress(ProcessLookupError):  # ended just now
                        os.kill(process.pid, sign)
            await ended.wait()
        finally:
            asyncio.get_running_loop().remove_reader(process.sentinel)
        process.join()
        if process.exitcode == -signal.SIGKILL:
            self.kills += 1
        status: int | None = process.exitcode
        process.close()
        return status

    def check(self) -> None:
        """Every post and comment exactly once, whole; nothing analyzed twice, and nothing that was
        in the index."""
        posts = [json.loads(line) for line in lines(self.out / "posts.jsonl")]
        assert Counter(post["post_id"] for post in posts) == Counter(POSTS)
        comments = Counter(
            json.loads(line)["comment_id"] for line in lines(self.out / "comments.jsonl")
        )
        expected = {
            self._sandbox.world.comment(post_id, offset)["comment_id"]
            for post_id in POSTS
            for offset in range(how_many(post_id))
        }
        assert set(comments) == expected
        assert set(comments.values()) == {1}
        assert not self._sandbox.billed_twice()
        assert set(self._sandbox.times_charged(ANALYZE).values()) <= {1}


def lines(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    assert data == b"" or data.endswith(b"\n")
    yield from data.splitlines()


@pytest.mark.parametrize("seed", range(5))
async def test_a_crawl_killed_at_random_moments_pays_nothing_twice_and_writes_everything_once(
    seed: int, processes: Any, tmp_path: Path
) -> None:
    """SIGKILL asks nobody; what is on disk has to be enough."""
    chance = random.Random(seed)
    kills = 0
    while kills < AT_RANDOM:
        async with world(seed=seed) as sandbox:
            crawl = Crawl(processes, sandbox, tmp_path / f"after {kills}", POSTS)
            # Each life lasts a little longer than the last, so that the crawl ends on a slow
            # machine too.
            while (
                status := await crawl.live(
                    kill_after=chance.uniform(0.02, 0.12) * (1 + crawl.kills / 25)
                )
            ) != 0:
                assert status == -signal.SIGKILL
                assert crawl.kills < 200
            crawl.check()
            kills += crawl.kills


@pytest.mark.parametrize("first", [1, 2, 3])
async def test_a_crawl_killed_at_every_journal_boundary_pays_once_and_writes_once(
    first: int, processes: Any, tmp_path: Path
) -> None:
    """Before the lines, with half of them, between lines and commit, after the commit: each is a
    state to wake up in."""
    async with world(seed=first) as sandbox:
        crawl = Crawl(processes, sandbox, tmp_path / "out", POSTS)
        boundary = first
        while (status := await crawl.live(boundary=boundary)) != 0:
            assert status == -signal.SIGKILL
            boundary += 1
            assert crawl.kills < 200

        crawl.check()
        assert crawl.kills >= AT_BOUNDARIES


async def test_sigterm_finishes_what_is_in_flight_and_the_next_run_the_rest(
    processes: Any, tmp_path: Path
) -> None:
    """Leaving politely leaves nothing in doubt, and nothing that was bought unwritten."""
    async with world(seconds_per_url=0.05) as sandbox:
        crawl = Crawl(processes, sandbox, tmp_path / "out", POSTS)
        statuses = [await crawl.live(kill_after=0.5, sign=signal.SIGTERM) for _ in range(1)]
        while statuses[-1] != 0:
            statuses.append(await crawl.live(kill_after=0.5 + len(statuses), sign=signal.SIGTERM))

        crawl.check()
        assert set(statuses[:-1]) <= {3}
        paid = sum(
            entry.charged
            for entry in sandbox.requests
            if entry.route == "GET /v1/posts/:id/comments"
        )
        assert paid == sum(2 * max(1, -(-how_many(post_id) // 200)) for post_id in POSTS)
