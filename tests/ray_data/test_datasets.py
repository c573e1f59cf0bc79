"""Datasets through `ResolvePosts`, on a real Ray; the ledger is in a process of its own."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fleet.support import LedgerServer, redis_server, serve_ledger

from tokfluence_async import Outcome, Post, frames
from tokfluence_async.ray import ResolvePosts

IDS = [str(7_234_567_890_123_456_000 + number) for number in range(600)]

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*"),
    pytest.mark.filterwarnings(r"ignore::FutureWarning:ray\..*"),
]


def test_a_file_of_urls_becomes_a_dataset_of_posts(cluster: Any, tmp_path: Path) -> None:
    """`read_text`, `map_batches` with two actors, `write_parquet`: each post once, in the columns
    of `frames`."""
    (tmp_path / "urls.txt").write_text(
        "".join(f"https://www.tiktok.com/@a/video/{post_id}\n" for post_id in IDS[:120]), "utf-8"
    )
    with serve_ledger(throttle=None, indexed=0.5, seconds_per_url=0, visibility_delay=0) as ledger:
        cluster.data.read_text(str(tmp_path / "urls.txt")).repartition(6).map_batches(
            ResolvePosts,
            fn_constructor_kwargs={"token": ledger.token, "base_url": ledger.url},
            batch_size=20,
            concurrency=2,
        ).write_parquet(str(tmp_path / "posts"))
        summary = ledger.summary()

    table = pq.read_table(tmp_path / "posts")
    assert sorted(table["post_id"].to_pylist()) == IDS[:120]
    assert table["error"].null_count == 120
    assert table.schema.remove_metadata() == frames.schema(Outcome[Post])
    assert summary["billed_twice"] == []


def crawl_under_kills(
    cluster: Any, folder: Path, posts: int, kills: int, seed: int
) -> dict[str, Any]:
    """Resolve posts by three actors that share a journal in Redis, and kill actors meanwhile."""
    pids = folder / "pids"
    pids.mkdir()

    class Recorded(ResolvePosts):
        """Says which process it is in, so that the test knows whom it has started."""

        def __init__(self, **options: Any) -> None:
            (pids / str(os.getpid())).touch()
            super().__init__(**options)

    def killer(done: threading.Event, ledger: LedgerServer) -> int:
        chance = random.Random(seed)
        killed = 0
        wanted = 0
        while killed < kills and not done.wait(0.1):
            if ledger.requests < wanted:
                continue
            alive = [int(path.name) for path in pids.iterdir() if is_actor(int(path.name))]
            if alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(alive), signal.SIGKILL)
                    killed += 1
                wanted = ledger.requests + chance.randint(5, 30)
        return killed

    with (
        redis_server(folder) as redis,
        serve_ledger(
            throttle=None, indexed=0.3, seconds_per_url=0.03, visibility_delay=0.1
        ) as ledger,
        ThreadPoolExecutor(1) as thread,
    ):
        done = threading.Event()
        killing = thread.submit(killer, done, ledger)
        try:
            cluster.data.from_items([{"url": post_id} for post_id in IDS[:posts]]).repartition(
                posts // 10
            ).map_batches(
                Recorded,
                fn_constructor_kwargs={
                    "token": ledger.token,
                    "base_url": ledger.url,
                    "throttle": redis,
                    "journal": f"{redis[:-1]}1?job=kills",
                },
                batch_size=10,
                concurrency=3,
                num_cpus=0.5,
            ).write_parquet(str(folder / "posts"))
        finally:
            done.set()
        summary = ledger.summary()
        killed = killing.result()
    table = pq.read_table(folder / "posts")
    return {
        "killed": killed,
        "posts": sorted(table["post_id"].to_pylist()),
        "errors": [error for error in table["error"].to_pylist() if error is not None],
        "billed_twice": summary["billed_twice"],
        "analyzed": len(summary["analyze_charges"]),
        "spent": summary["credits_spent"],
    }


def is_actor(pid: int) -> bool:
    """Whether it is a process of Ray's that works on rows; a number may have been given again."""
    with contextlib.suppress(OSError):
        return b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def test_actors_that_die_pay_for_nothing_twice(cluster: Any, tmp_path: Path) -> None:
    """Their rows are run again by another actor, which finds in the journal what was paid for."""
    found = crawl_under_kills(cluster, tmp_path, posts=120, kills=3, seed=1)

    assert found["killed"] == 3
    assert [found["posts"], found["errors"], found["billed_twice"]] == [IDS[:120], [], []]


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_many_actors_that_die(cluster: Any, tmp_path: Path) -> None:
    """At least fifty, over several jobs."""
    killed = 0
    seed = 0
    while killed < 50:
        seed += 1
        folder = tmp_path / str(seed)
        folder.mkdir()
        found = crawl_under_kills(cluster, folder, posts=600, kills=25, seed=seed)
        assert [found["posts"], found["errors"], found["billed_twice"]] == [IDS, [], []]
        killed += found["killed"]
        print(
            f"job {seed}: {found['killed']} kills, {found['spent']} credits for "
            f"{found['analyzed']} analyzed posts of 600; lost 0, written twice 0, billed twice 0"
        )
