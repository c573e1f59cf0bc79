"""The lines of `examples/fleet/` that start workers, run as their engines would run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .support import ROOT, LedgerServer, environment, redis_server, serve_ledger

yaml = pytest.importorskip("yaml")

EXAMPLES = ROOT / "examples" / "fleet"
IDS = [str(7_234_567_890_123_456_000 + 7 * number) for number in range(16)]

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(240)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder that stands for `/data`, with a `tokfluence` on the path."""
    (tmp_path / "urls.txt").write_text("\n".join(IDS), "utf-8")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "tokfluence"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m tokfluence_async "$@"\n', "utf-8")
    script.chmod(0o755)
    return tmp_path


@pytest.fixture
def ledger() -> Iterator[LedgerServer]:
    with serve_ledger(throttle=None, indexed=0.5, seconds_per_url=0, visibility_delay=0) as served:
        yield served


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as url:
        yield url


def run_all(
    commands: list[tuple[list[str], dict[str, str]]], data: Path, ledger: LedgerServer
) -> None:
    """Run workers at once, in the folder, until all have ended well."""
    path = f"{data / 'bin'}{os.pathsep}{os.environ['PATH']}"
    workers = [
        subprocess.Popen(
            command,
            cwd=data,
            env=environment(**variables, PATH=path, TOKFLUENCE_BASE_URL=ledger.url),
            stderr=subprocess.PIPE,
            text=True,
        )
        for command, variables in commands
    ]
    for worker in workers:
        _, errors = worker.communicate()
        assert worker.returncode == 0, errors


def check(data: Path, ledger: LedgerServer) -> None:
    """Each post is there once, and was paid for once."""
    lines = (data / "merged" / "posts.jsonl").read_bytes().splitlines()
    assert sorted(json.loads(line)["post_id"] for line in lines) == IDS
    assert ledger.summary()["billed_twice"] == []


def merge(data: Path, ledger: LedgerServer) -> None:
    run_all([(["sh", "-c", "tokfluence merge out/* -o merged"], {})], data, ledger)


def test_compose(data: Path, ledger: LedgerServer, redis: str) -> None:
    """Every worker's command and environment as they stand; `merge` last."""
    services = yaml.safe_load((EXAMPLES / "compose.yaml").read_text("utf-8"))["services"]
    told = {"${TOKFLUENCE_TOKEN:?}": ledger.token, "redis://redis:6379/0": redis}

    def line(service: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
        text = service["command"].replace("$$", "$").replace("/data", ".")
        variables = {name: told.get(value, value) for name, value in service["environment"].items()}
        return ["sh", "-c", text], variables

    workers = [service for name, service in services.items() if name.startswith("worker-")]
    run_all([line(worker) for worker in workers], data, ledger)
    run_all([line(services["merge"])], data, ledger)

    assert len(workers) == int(workers[0]["environment"]["TOKFLUENCE_SHARDS"])
    check(data, ledger)


def test_kubernetes(data: Path, ledger: LedgerServer, redis: str) -> None:
    """An indexed Job gives each pod its index; the pod is killed with more patience than it
    needs."""
    spec = yaml.safe_load((EXAMPLES / "job.yaml").read_text("utf-8"))["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    variables = {each["name"]: each.get("value", ledger.token) for each in container["env"]}
    variables["TOKFLUENCE_SHARED"] = redis
    command = [part.replace("/data", ".") for part in container["command"]]

    run_all(
        [
            (command, {**variables, "JOB_COMPLETION_INDEX": str(index)})
            for index in range(spec["completions"])
        ],
        data,
        ledger,
    )
    merge(data, ledger)

    assert spec["completionMode"] == "Indexed"
    assert int(variables["TOKFLUENCE_SHARDS"]) == spec["completions"]
    assert pod["terminationGracePeriodSeconds"] > 25
    check(data, ledger)


def test_slurm(data: Path, ledger: LedgerServer, redis: str) -> None:
    """A job array's script is a script of bash."""
    script = str(EXAMPLES / "array.sbatch")
    variables = {"TOKFLUENCE_TOKEN": ledger.token, "TOKFLUENCE_SHARED": redis}

    run_all(
        [
            (
                ["bash", script],
                {**variables, "SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_TASK_COUNT": "3"},
            )
            for index in range(3)
        ],
        data,
        ledger,
    )
    merge(data, ledger)

    check(data, ledger)
