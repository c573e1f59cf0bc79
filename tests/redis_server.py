"""A Redis or Valkey of a test's own, on a loopback port, in a folder that goes with it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

__all__ = ["DURABLE", "RedisServer", "free_port", "needs_redis", "require_redis", "running"]

#: Every command is on disk before it is answered.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")

_PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")
_MISSING = "neither redis-server nor valkey-server is installed: NOTHING IS TESTED ON A REAL ONE"

needs_redis = pytest.mark.skipif(_PROGRAM is None, reason=_MISSING)


def require_redis() -> str:
    """The program that is to be started. Skips aloud where there is none."""
    if _PROGRAM is None:
        pytest.skip(_MISSING)
    return _PROGRAM


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """Started and killed as often as a test wants, at the same port."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.port = free_port() if port is None else port
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *(require_redis(), "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", str(self._folder), "--save", "", *self._options),
            ],
            stdout=subprocess.DEVNULL,
        )
        for _ in range(1000):
            with suppress(OSError), closing(socket.create_connection(("127.0.0.1", self.port))):
                return
            time.sleep(0.01)
        raise RuntimeError("the server does not listen")

    def signal(self, sign: int) -> None:
        assert self._process is not None
        self._process.send_signal(sign)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def running(
    *options: str, folder: Path | None = None, port: int | None = None
) -> Iterator[RedisServer]:
    """A server that runs while inside `with`; in a folder of its own unless there is one."""
    with tempfile.TemporaryDirectory() as own:
        server = RedisServer(folder or Path(own), *options, port=port)
        try:
            server.start()
            yield server
        finally:
            server.kill()
