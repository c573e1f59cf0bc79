"""Workers of streaq and taskiq, killed while they work, against a ledger in a process of its own.

Run by `nox -s ray`, which installs the engines.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

from .support import (
    ROOT,
    LedgerServer,
    environment,
    free_port,
    redis_server,
    run_group,
    serve_ledger,
    wait_for,
)

EXAMPLES = ROOT / "examples" / "fleet"
IDS = [str(7_234_567_890_123_456_000 + 7 * number) for number in range(24)]
MANY = [str(int(IDS[0]) + 7 * number) for number in range(160)]

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(240)]


@contextlib.contextmanager
def nats_server(folder: Path) -> Generator[str]:
    """A NATS with JetStream; gives its URL. Skips aloud where there is none."""
    program = shutil.which("nats-server", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if program is None:
        pytest.skip("nats-server is not installed")
    port = free_port()
    with subprocess.Popen(
        [program, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)],
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_for(port, b"PING\r\n", b"INFO")
            yield f"nats://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=60)


def kill_one_after_another(
    command: list[str],
    variables: dict[str, str],
    ledger: LedgerServer,
    data: Path,
    posts: int,
    kills: int,
) -> None:
    """Run one worker at a time and kill it while it works, so often; the last one ends the job."""
    for _ in range(kills):
        with run_group(command, EXAMPLES, environment(**variables)) as process:
            seen = ledger.requests
            wait_until(lambda seen=seen: ledger.requests >= seen + 5)  # type: ignore[misc]
            # All of it: an engine that starts processes of its own is a group.
            os.killpg(process.pid, signal.SIGKILL)
    with run_group(command, EXAMPLES, environment(**variables)):
        wait_until(lambda: len(written(data)) == posts, 600)


def wait_until(there: object, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not there():  # type: ignore[operator]
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def written(data: Path) -> Counter[str]:
    """The posts in all folders of shards."""
    found: Counter[str] = Counter()
    for path in (data / "out").glob("*/posts.jsonl"):
        lines = path.read_bytes().split(b"\n")[:-1]
        found.update(json.loads(line)["post_id"] for line in lines)
    return found


@pytest.mark.parametrize("engine", ["streaq", "taskiq"])
def test_a_killed_workers_shard_is_finished_by_the_next(engine: str, tmp_path: Path) -> None:
    """Lost 0, written twice 0, billed twice 0."""
    finish_under_kills(engine, tmp_path, IDS, kills=2)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("engine", ["streaq", "taskiq"])
def test_many_kills(engine: str, tmp_path: Path) -> None:
    """The same, with more of both."""
    finish_under_kills(engine, tmp_path, MANY, kills=20)
    print(f"{engine}: 20 kills, {len(MANY)} posts; lost 0, written twice 0, billed twice 0")


def finish_under_kills(engine: str, tmp_path: Path, ids: list[str], kills: int) -> None:
    pytest.importorskip(engine)
    (tmp_path / "urls.txt").write_text("\n".join(ids), "utf-8")
    (tmp_path / "store").mkdir()
    command = {
        "streaq": ["-m", "streaq", "run", "streaq_app:worker"],
        "taskiq": ["-m", "taskiq", "worker", "taskiq_app:broker", "--workers", "1"],
    }[engine]
    with (
        serve_ledger(
            throttle=None, indexed=0.3, seconds_per_url=0.05, visibility_delay=0.1
        ) as ledger,
        contextlib.ExitStack() as stack,
    ):
        url = stack.enter_context(redis_server(tmp_path / "store"))
        variables = {
            **ledger.environment,
            "REDIS_URL": url,
            "TOKFLUENCE_SHARED": url,
            "ACK_WAIT": "8",
        }
        if engine == "taskiq":
            (tmp_path / "nats").mkdir()
            variables["NATS_URL"] = stack.enter_context(nats_server(tmp_path / "nats"))
        variables["PYTHONPATH"] = os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])
        producer = [f"{engine}_app.py", str(tmp_path / "urls.txt"), str(tmp_path / "out"), "2"]
        with run_group([sys.executable, *producer], EXAMPLES, environment(**variables)):
            kill_one_after_another(
                [sys.executable, *command], variables, ledger, tmp_path, len(ids), kills
            )
        billed_twice = ledger.summary()["billed_twice"]

    assert sorted(written(tmp_path).items()) == [(post_id, 1) for post_id in ids]
    assert billed_twice == []
