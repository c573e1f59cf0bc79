"""Kills of processes that a test has started, at moments given by what the ledger has seen."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .support import LedgerServer

__all__ = ["descendants", "kill_while_it_runs"]


def _parents() -> dict[int, int]:
    """The parent of every process there is."""
    found: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in parentheses, may hold anything.
            found[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return found


def _command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def descendants(root: int, command: str) -> list[int]:
    """The processes that `root` has started, directly or not, whose command line begins so."""
    parents = _parents()

    def is_below(pid: int) -> bool:
        while pid in parents and pid != root:
            pid = parents[pid]
        return pid == root

    return [
        pid
        for pid in parents
        if pid != root and is_below(pid) and _command_of(pid).startswith(command)
    ]


def kill_while_it_runs(
    root: subprocess.Popen[bytes],
    ledger: LedgerServer,
    *,
    kills: int,
    command: str,
    seed: int,
    strike: Callable[[int], None] = lambda pid: os.kill(pid, signal.SIGKILL),
) -> int:
    """Strike processes below `root`, one at a time, until so many were; returns how many were.

    A strike comes when the ledger has seen a few requests more than at the one before, so every
    process gets on and none is struck at the same place each time; or, now and then, when nothing
    was seen for a second, which strikes processes that are starting or ending.
    """
    chance = random.Random(seed)
    struck = 0
    seen = 0
    while struck < kills and root.poll() is None:
        wanted = seen + chance.randint(1, 6)
        patience = time.monotonic() + 1.0
        while root.poll() is None and time.monotonic() < patience:
            if (seen := ledger.requests) >= wanted:
                break
            time.sleep(chance.random() * 0.03)
        alive = descendants(root.pid, command)
        if alive:
            with contextlib.suppress(ProcessLookupError):
                strike(chance.choice(alive))
                struck += 1
    return struck
