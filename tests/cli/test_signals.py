"""What Ctrl-C and SIGTERM do to a run."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokfluence_async._cli.snapshot import Snapshot
from tokfluence_async._sandbox.ledger import ANALYZE

from .support import (
    ENV,
    ID,
    URLS,
    Run,
    command_line,
    json_file,
    json_lines,
)


def _signalling(times: int, which: signal.Signals = signal.SIGINT) -> Callable[[str], float]:
    """Seconds a URL takes; the first one that is analyzed has the signal sent so many times."""
    sent = []

    def seconds(_: str) -> float:
        while len(sent) < times:
            sent.append(os.kill(os.getpid(), which))
        return 1.0

    return seconds


def test_an_interrupt_while_the_command_starts_is_no_traceback(tmp_path: Path) -> None:
    """To import everything takes a second where a machine is busy, and people change their mind."""
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    path = os.pathsep.join([str(tmp_path), *sys.path])

    done = subprocess.run(
        command_line("post", ID), env={**ENV, "PYTHONPATH": path}, capture_output=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_what_is_under_way_is_finished_after_a_signal(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, which: signal.Signals
) -> None:
    """It has been paid for. Nothing new is begun, and every row that was charged is written."""
    sandboxes["options"] = {"seconds_per_url": _signalling(1, which), "indexed": 0.0}
    path = tmp_path / "urls.txt"
    path.write_text("".join(f"{n}\n" for n in range(1, 2001)))

    result = run("analyze", path, "--sandbox", "--batch-size", "1")

    sandbox = sandboxes["made"]
    assert result.exit_code == 128 + which
    assert {row["postId"] for row in json_lines(result.stdout)} == set(
        sandbox.times_charged(to=ANALYZE)
    )
    assert 0 < sandbox.credits_spent < 2000 * 25
    assert result.stderr.count("Stopping") == 1


def test_a_crawl_that_is_stopped_goes_on_later(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path
) -> None:
    """Between the two runs nothing is lost and nothing is paid twice."""
    sandboxes["options"] = {"seconds_per_url": _signalling(1), "indexed": 0.5}
    stopped = run("crawl", URLS, "-o", tmp_path, "--sandbox", "--format", "csv")
    first = sandboxes["made"]

    sandboxes["options"] = {"indexed": lambda post_id: first.is_indexed(post_id)}
    done = run("crawl", URLS, "-o", tmp_path, "--sandbox", "--format", "csv")

    assert (stopped.exit_code, done.exit_code) == (130, 1)
    assert "Stopped by a signal" in stopped.stderr
    assert len({post["post_id"] for post in json_file(tmp_path / "posts.jsonl")}) == 59
    charged = Counter(first.times_charged(to=ANALYZE)) + Counter(
        sandboxes["made"].times_charged(to=ANALYZE)
    )
    assert max(charged.values()) == 1
    assert len((tmp_path / "posts.csv").read_text("utf-8").splitlines()) > 59


def test_after_a_signal_the_total_is_still_that_of_the_file(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the input was cut off is not where the job ends."""
    shown: list[Snapshot] = []
    monkeypatch.setattr(
        "tokfluence_async._cli.screen.PlainScreen.update",
        lambda _, snapshot: shown.append(snapshot),
    )
    sandboxes["options"] = {"seconds_per_url": _signalling(1), "indexed": 0.0}
    path = tmp_path / "urls.txt"
    path.write_text("".join(f"{n}\n" for n in range(1, 3001)))

    result = run("crawl", path, "-o", tmp_path / "out", "--sandbox")

    assert result.exit_code == 130
    written = len(json_file(tmp_path / "out" / "posts.jsonl"))
    assert 0 < written < 3000
    assert f"At most {3000 - written:,} posts to go." in result.stderr
    assert {snapshot.total for snapshot in shown} == {None, 3000}


def test_a_second_signal_does_not_wait(run: Run, sandboxes: dict[str, Any], tmp_path: Path) -> None:
    """Who presses twice means it."""
    path = tmp_path / "urls.txt"
    path.write_text("1\n2\n")
    began: list[float] = []

    def seconds(_: str) -> float:
        began.append(0.0)
        os.kill(os.getpid(), signal.SIGINT)
        asyncio.get_running_loop().call_later(1.0, os.kill, os.getpid(), signal.SIGINT)
        return 1000.0

    sandboxes["options"] = {"seconds_per_url": seconds, "indexed": 0.0}

    result = run("analyze", path, "--sandbox", "--batch-size", "2")

    assert result.exit_code == 130
    assert result.stdout == ""


def test_a_third_signal_leaves_at_once(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where a cancelled task would not end."""
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)

    def seconds(_: str) -> float:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            loop.call_soon(os.kill, os.getpid(), signal.SIGTERM)
        return 1000.0

    sandboxes["options"] = {"seconds_per_url": seconds, "indexed": 0.0}

    run("analyze", "-", "--sandbox", input="1\n")

    assert left == [143]


def test_a_read_is_given_up_at_the_first_signal(run: Run, sandboxes: dict[str, Any]) -> None:
    """There is nothing that would be lost: what was written stands."""

    def latency() -> float:
        os.kill(os.getpid(), signal.SIGINT)
        return 20.0

    sandboxes["options"] = {"latency": latency}

    result = run("post", ID, "--sandbox")

    assert result.exit_code == 130
    assert result.stdout == ""
    assert "Stopped; what was written stands" in result.stderr


@pytest.mark.real_time
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_input_and_what_is_paid_for_is_written(which: signal.Signals) -> None:
    """What is under way when Ctrl-C comes has been paid for."""
    with subprocess.Popen(
        command_line("analyze", "-", "--sandbox"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENV,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"1\n")
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(which)
        errors = process.stderr.read().decode()

    assert process.returncode == 128 + which
    assert "Stopping" in errors
    assert "1 post analyzed" in errors
