"""A worker that is stopped for longer than its heartbeat lasts, and then goes on.

To the others it is dead: they take its batch over under its old request id. What it does when it
wakes up must cost nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .support import HERE, LedgerServer, redis_server, run_group, serve_ledger

pytest.importorskip("redis")

IDS = [str(7_234_567_890_123_456_000 + 7 * number) for number in range(60)]
ANALYZE = "POST /v1/posts/analyze"

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(240)]


def wait_until(there: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def under_way(ledger: LedgerServer, requests: int) -> bool:
    """Whether so many analyze calls were received, and the last one is being worked on."""
    entries = [
        entry for entry in ledger.summary(entries=True)["entries"] if entry["route"] == ANALYZE
    ]
    return len(entries) >= requests and entries[-1]["ended"] is None


def stop_one_of_two(folder: Path, nth: int) -> dict[str, Any]:
    """Stop a worker while its n-th batch is being analyzed, let another one do everything, and
    wake it."""
    (folder / "ids.txt").write_text("\n".join(IDS), "utf-8")
    (folder / "redis").mkdir()
    with (
        redis_server(folder / "redis") as redis,
        serve_ledger(
            throttle=None, indexed=0.0, seconds_per_url=0.1, visibility_delay=0.1
        ) as ledger,
    ):
        variables = {**ledger.environment, "TOKFLUENCE_SHARED": str(folder / "shared")}

        def worker(name: str) -> list[str]:
            journal = f"{redis}?job=stops"
            return [sys.executable, str(HERE / "work.py"), "ids.txt", journal, name]

        with run_group(worker("sleeper"), folder, variables) as sleeper:
            wait_until(lambda: under_way(ledger, nth))
            os.kill(sleeper.pid, signal.SIGSTOP)
            other = subprocess.run(worker("other"), cwd=folder, env=variables)
            os.kill(sleeper.pid, signal.SIGCONT)
            ended = [other.returncode, sleeper.wait()]
        summary = ledger.summary()
    return {
        "ended": ended,
        "got": [
            sorted((folder / name).read_text("utf-8").split()) for name in ("other", "sleeper")
        ],
        "billed_twice": summary["billed_twice"],
        "analyzed": len(summary["analyze_charges"]),
    }


def test_who_wakes_up_pays_for_nothing_again(tmp_path: Path) -> None:
    """Both workers have every post, and every post was billed once."""
    found = stop_one_of_two(tmp_path, nth=1)

    assert found == {"ended": [0, 0], "got": [IDS, IDS], "billed_twice": [], "analyzed": len(IDS)}


@pytest.mark.soak
@pytest.mark.parametrize("nth", range(1, 7))
def test_wherever_it_is_stopped(tmp_path: Path, nth: int) -> None:
    """At each of its batches."""
    found = stop_one_of_two(tmp_path, nth=nth)

    assert found == {"ended": [0, 0], "got": [IDS, IDS], "billed_twice": [], "analyzed": len(IDS)}
    print(f"stopped at batch {nth}: billed twice 0, lost 0")
