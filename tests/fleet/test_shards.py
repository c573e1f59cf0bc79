"""Shards of a crawl under `xargs -P`, killed and started again by the same line, against a ledger
in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .killing import kill_while_it_runs
from .support import environment, run_group, serve_ledger

IDS = [str(7_234_567_890_123_456_000 + 7 * number) for number in range(280)]
COMMENTS = 3

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(shutil.which("xargs") is None, reason="xargs is not installed"),
]

COMMAND = f"{sys.executable} -m tokfluence_async"


def crawl_in_shards(folder: Path, posts: int, shards: int, kills: int, seed: int) -> dict[str, Any]:
    """Crawl in shards under kills, merge, and say what the ledger and the merged folder hold."""
    ids = IDS[:posts]
    (folder / "urls.txt").write_text("\n".join(ids), "utf-8")
    crawl = f"{COMMAND} crawl urls.txt -o out/@-of-{shards} --shard @/{shards} --comments --quiet"
    # Again after a signal, and not after an error of its own.
    again = f"until {crawl}; do test $? -gt 128 || exit 1; done"
    line = f"seq 0 {shards - 1} | xargs -P {shards} -I@ sh -c '{again}'"
    with serve_ledger(
        throttle=None,
        indexed=0.3,
        seconds_per_url=0.03,
        visibility_delay=0.1,
        comments_per_post=COMMENTS,
    ) as ledger:
        variables = {**ledger.environment, "TOKFLUENCE_SHARED": str(folder / "shared")}
        with run_group(line, folder, variables) as running:
            killed = kill_while_it_runs(
                running, ledger, kills=kills, command=f"{COMMAND} crawl", seed=seed
            )
            assert running.wait() == 0
        summary = ledger.summary()
    merged = subprocess.run(
        ["sh", "-c", f"{COMMAND} merge out/* -o merged"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert merged.returncode == 0, merged.stderr
    return {
        "killed": killed,
        "posts": _counted(folder / "merged" / "posts.jsonl", "post_id"),
        "comments": _counted(folder / "merged" / "comments.jsonl", "comment_id"),
        "analyzed": Counter(summary["analyze_charges"]),
        "spent": summary["credits_spent"],
        "requests": summary["requests"],
    }


def _counted(path: Path, field: str) -> Counter[str]:
    return Counter(json.loads(line)[field] for line in path.read_bytes().splitlines())


def check(found: dict[str, Any], posts: int) -> None:
    """Lost 0, written twice 0, billed twice 0."""
    assert sorted(found["posts"]) == IDS[:posts]
    assert set(found["posts"].values()) == {1}
    assert len(found["comments"]) == posts * COMMENTS
    assert set(found["comments"].values()) == {1}
    assert set(found["analyzed"].values()) <= {1}
    assert set(found["analyzed"]) <= set(IDS[:posts])


@pytest.mark.timeout(240)
def test_shards_that_are_killed_lose_nothing_and_pay_once(tmp_path: Path) -> None:
    """Three workers, ten kills: the lines of `merge` and the bill are those of a quiet day."""
    found = crawl_in_shards(tmp_path, posts=45, shards=3, kills=10, seed=1)

    check(found, 45)
    assert found["killed"] == 10


@pytest.mark.soak
def test_hundreds_of_kills(tmp_path: Path) -> None:
    """At least 200, over several jobs of four workers."""
    killed = 0
    seed = 0
    while killed < 200:
        seed += 1
        folder = tmp_path / str(seed)
        folder.mkdir()
        found = crawl_in_shards(folder, posts=280, shards=4, kills=60, seed=seed)
        check(found, 280)
        killed += found["killed"]
        analyzed = sum(found["analyzed"].values())
        ideal = analyzed * 25 + 280 * 3 + analyzed
        print(
            f"job {seed}: {found['killed']} kills, {found['requests']} requests, "
            f"{found['spent']} credits, {found['spent'] / ideal - 1:.2%} more than without; "
            "lost 0, written twice 0, billed twice 0"
        )
