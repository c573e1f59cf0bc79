"""Several processes that share a throttle: what each of them runs, and how they are started.

`python -m tests.throttle.fleet OPTIONS` is one of them: callers that ask for slots for some
seconds, each request on its way for a little. It prints when its requests arrived, on the clock
that all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokfluence_async._throttle.throttle import Throttle

ROOT = Path(__file__).parents[2]


async def work(options: dict[str, Any]) -> dict[str, Any]:
    """One process: `callers` coroutines, until `until` on the monotonic clock."""
    throttle = Throttle(
        options.get("per_ip", 600),
        options.get("per_key", 1200),
        options.get("period", 6.0),
        jitter=options.get("jitter", 0.06),
        shared=options["shared"],
        ip=options.get("ip", "default"),
    )
    lanes = throttle.lanes("http://fleet.test", options.get("key", "key"))
    chance = random.Random(options["seed"])
    arrived: list[float] = []
    calls = [0] * options.get("callers", 25)
    seen: list[tuple[float, int, bool]] = []
    refuse_after: float | None = options.get("refuse_after")
    refused = 0
    log = None
    if "log" in options:
        log = os.open(options["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def caller(number: int) -> None:
        nonlocal refuse_after, refused
        service = await Server.connect(options.get("port"))
        while True:
            await lanes.acquire()
            if time.monotonic() >= until:
                return
            await asyncio.sleep(chance.uniform(0, options.get("transit", 0.01)))
            calls[number] += 1
            arrived.append(time.monotonic())
            if log is not None:
                os.write(log, b"%.6f\n" % arrived[-1])  # survives a kill
            if await service.ask() == 429:
                refused += 1
                lanes.refused(options.get("period", 6.0) / 10)
            elif refuse_after is not None and time.monotonic() >= begin + refuse_after:
                refuse_after = None
                lanes.refused(options["pause"])
            else:
                lanes.answered()

    async def watch() -> None:
        while True:
            await asyncio.sleep(0.2)
            statistics = throttle.statistics()
            seen.append((time.monotonic(), statistics.processes, statistics.shared))

    assert lanes.gate_closed_for == 0.0  # what is loaded at the first use, is loaded now
    print("ready", flush=True)
    begin, until = map(float, sys.stdin.readline().split())
    await asyncio.sleep(max(0.0, begin - time.monotonic()))
    watcher = asyncio.create_task(watch())
    callers = [asyncio.create_task(caller(number)) for number in range(len(calls))]
    try:
        await asyncio.wait(callers, timeout=max(0.0, until - time.monotonic()))
        errors = [repr(task.exception()) for task in callers if task.done() and task.exception()]
    finally:
        for task in (watcher, *callers):
            task.cancel()
        await asyncio.gather(watcher, *callers, return_exceptions=True)
        await lanes.aclose()
    return {
        "arrived": arrived,
        "calls": calls,
        "seen": seen,
        "errors": errors,
        "refused": refused,
    }


class Server:
    """A connection to a real server, or none, and then every request is answered."""

    def __init__(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None) -> None:
        self._streams = streams

    @classmethod
    async def connect(cls, port: int | None) -> Server:
        return cls(None if port is None else await asyncio.open_connection("127.0.0.1", port))

    async def ask(self) -> int:
        """The status of one request."""
        if self._streams is None:
            return 200
        reader, writer = self._streams
        writer.write(b"GET / HTTP/1.1\r\nHost: fleet\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        return int(head[9:12])


class Process:
    """One of them, from outside."""

    def __init__(self, **options: Any) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `result`
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.throttle.fleet", json.dumps(options)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        )
        self.log = ""

    def go(self, begin: float, until: float) -> None:
        """When it is ready, tell it from when until when to work, on the monotonic clock."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{begin} {until}\n")
        self.process.stdin.flush()

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.result()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    def result(self) -> dict[str, Any]:
        """What it printed; nothing if it was killed."""
        text, _ = self.process.communicate(timeout=300)
        self._log.seek(0)
        self.log = self._log.read()
        self._log.close()
        if self.process.returncode == -signal.SIGKILL:
            return {"arrived": [], "calls": [0], "seen": [], "errors": [], "refused": 0}
        assert self.process.returncode == 0, self.log
        found: dict[str, Any] = json.loads(text)
        return found


def start(options: Iterable[dict[str, Any]], seconds: float) -> tuple[list[Process], float]:
    """Start these processes; all begin at one moment, which is returned, and end together."""
    processes = [Process(seed=seed, **each) for seed, each in enumerate(options)]
    for each in processes:
        each.wait_until_ready()
    begin = time.monotonic() + 0.2
    for each in processes:
        each.go(begin, begin + seconds)
    return processes, begin


def jain(counts: Iterable[float]) -> float:
    """Jain's index of fairness: 1.0 where all have the same."""
    of = list(counts)
    return sum(of) ** 2 / len(of) / sum(each**2 for each in of)


def refusals(rule: Any, arrived: Iterable[float]) -> int:
    """How many of these requests a service with that rule refuses."""
    return sum(float(rule.allow(moment)) > 0 for moment in sorted(arrived))


if __name__ == "__main__":
    print(json.dumps(asyncio.run(work(json.loads(sys.argv[1])))))
