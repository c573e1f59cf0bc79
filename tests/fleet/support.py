"""What tests of many processes share: an independent ledger, and a Redis of one's own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

from redis_server import DURABLE, free_port, running

__all__ = [
    "HERE",
    "ROOT",
    "LedgerServer",
    "environment",
    "free_port",
    "redis_server",
    "run_group",
    "serve_ledger",
    "wait_for",
]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def environment(**more: str) -> dict[str, str]:
    """The environment of a child that finds the package under test."""
    return {**os.environ, **more}


class LedgerServer:
    """A sandbox in another process, asked over HTTP."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token

    @property
    def environment(self) -> dict[str, str]:
        """Where a client finds it."""
        return environment(TOKFLUENCE_BASE_URL=self.url, TOKFLUENCE_TOKEN=self.token)

    def summary(self, *, entries: bool = False) -> dict[str, Any]:
        query = "?entries" if entries else ""
        with urllib.request.urlopen(f"{self.url}/_sandbox/ledger{query}", timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    @property
    def requests(self) -> int:
        """How many it has received."""
        found: int = self.summary()["requests"]
        return found


@contextlib.contextmanager
def serve_ledger(**options: Any) -> Generator[LedgerServer]:
    """Serve a sandbox with these options while inside `with`."""
    with subprocess.Popen(
        [sys.executable, str(HERE / "serve.py"), json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield LedgerServer(**json.loads(process.stdout.readline()))
        finally:
            process.stdin.close()
            process.wait(timeout=60)


@contextlib.contextmanager
def run_group(
    line: str | list[str], folder: Path, variables: dict[str, str]
) -> Generator[subprocess.Popen[bytes]]:
    """Run a command, or a line of the shell, in a group of its own; what is left of the group when
    `with` ends is killed."""
    with subprocess.Popen(
        ["sh", "-c", line] if isinstance(line, str) else line,
        cwd=folder,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def redis_server(folder: Path) -> Generator[str]:
    """A Redis that writes every command to disk before it answers; gives its URL.

    Skips aloud where there is none.
    """
    with running(*DURABLE, folder=folder) as server:
        wait_for(server.port, b"PING\r\n", b"+PONG")
        yield server.url


def wait_for(port: int, greeting: bytes, answer: bytes) -> None:
    """Return when a server answers what it is greeted with."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as line:
            line.sendall(greeting)
            if line.recv(64).startswith(answer):
                return
        time.sleep(0.02)
    raise AssertionError(f"nobody answers on port {port}")
