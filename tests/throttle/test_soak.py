"""What a shared throttle reaches, in real time at a tenth of the scale, and for hours on the
virtual clock: `nox -s soak -- tests/throttle/test_soak.py`. Prints its figures.

On a quiet machine: what is asserted of the rate is what the machine lets through, too.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis_server import free_port, needs_redis, running

from tokfluence_async._throttle.redis_store import RedisStore
from tokfluence_async._throttle.throttle import Throttle

from .fleet import Process, jain, refusals, start
from .service import ALGORITHMS, Service, crawl

# The servers of the benchmarks stand in the checkout: `python -m pytest` finds them, `pytest` not.
real = pytest.importorskip("benchmarks._throttle_real", reason="run by python -m pytest")

pytestmark = [pytest.mark.soak, pytest.mark.real_time]

LIMIT, PERIOD = 600, 6.0
RATE = LIMIT / PERIOD
SECONDS = 24.0


class Run:
    """What several processes have done."""

    def __init__(
        self, options: list[dict[str, Any]], seconds: float = SECONDS, log: Path | None = None
    ) -> None:
        self.log = log
        self.processes, self.begin = start(options, seconds)
        self.seconds = seconds
        self.results: list[dict[str, Any]] = []

    def sleep_until(self, after: float) -> None:
        time.sleep(max(0.0, self.begin + after - time.monotonic()))

    def finish(self, name: str, rate: float = RATE) -> Run:
        self.results = [process.result() for process in self.processes]
        arrived = self.arrived
        # Half a second at the begin and a fifth at the end, when requests are under way.
        lowest, highest = self.begin + 0.5, self.begin + self.seconds - 0.2
        inside = sum(lowest <= moment < highest for moment in arrived)
        self.use = inside / (highest - lowest) / rate
        self.refused = {key: refusals(rule(LIMIT, PERIOD), arrived) for key, rule in RULES.items()}
        alive = [len(each["arrived"]) for each in self.results if each["arrived"]]
        self.jain = jain(alive)
        calls = [each for one in self.results if one["arrived"] for each in one["calls"]]
        at_server = sum(each["refused"] for each in self.results)
        print(
            f"\n{name}: {100 * self.use:.2f} % of the rate, Jain {self.jain:.4f}, calls a "
            f"coroutine {min(calls)} to {max(calls)}, refused by a real server {at_server}, "
            f"by models {self.refused if rate == RATE else '-'}"
        )
        assert [each["errors"] for each in self.results] == [[]] * len(self.results)
        assert at_server == 0
        return self

    @property
    def arrived(self) -> list[float]:
        if self.log is not None:  # those of the killed as well
            return sorted(map(float, self.log.read_text().split()))
        return sorted(moment for each in self.results for moment in each["arrived"])


RULES = ALGORITHMS


@pytest.fixture(params=["file", pytest.param("redis", marks=needs_redis)])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield str(tmp_path / "throttle")
        return
    with running() as server:
        yield server.url


def four(shared: str, **more: Any) -> list[dict[str, Any]]:
    return [{"shared": shared, **more} for _ in range(4)]


def test_four_processes_against_every_model(shared: str) -> None:
    run = Run(four(shared)).finish(f"4 processes, {shared[:5]}")

    assert run.use >= 0.985
    assert set(run.refused.values()) == {0}
    assert run.jain >= 0.99


@pytest.mark.parametrize("server", real.SERVERS)
def test_four_processes_against_a_real_server(shared: str, server: str) -> None:
    if real.find(server) is None:
        pytest.skip(f"{server} is not installed")
    with real.SERVERS[server]() as port:
        run = Run(four(shared, port=port)).finish(f"4 processes, {shared[:5]}, {server}")

    assert run.use >= 0.985
    assert run.jain >= 0.99


@pytest.mark.parametrize("addresses", [2, 3])
def test_addresses_under_one_key(shared: str, addresses: int) -> None:
    options = [{"shared": shared, "ip": f"ip {n}"} for n in range(addresses)]

    run = Run(options).finish(f"{addresses} addresses, {shared[:5]}", rate=2 * RATE)

    assert run.use >= 0.98
    assert run.jain >= 0.99


def test_a_cold_start_of_many(shared: str) -> None:
    options = [{"shared": shared, "callers": 10} for _ in range(10)]

    run = Run(options, 15.0).finish(f"cold start of 10, {shared[:5]}")

    assert run.use >= 0.97
    assert set(run.refused.values()) == {0}


def test_some_are_killed_and_others_join(shared: str, tmp_path: Path) -> None:
    options = {"shared": shared, "callers": 10, "log": str(tmp_path / "log")}
    run = Run([options] * 7, log=tmp_path / "log")
    joined: list[Process] = []
    for number in range(5):
        run.sleep_until(2.0 + 3.0 * number)
        run.processes[number].kill()
        late = Process(**options, seed=50 + number)
        late.wait_until_ready()
        late.go(time.monotonic(), run.begin + run.seconds)
        joined.append(late)
    run.processes += joined
    run.finish(f"5 of 7 killed, 5 joined, {shared[:5]}")

    assert run.use >= 0.97
    assert set(run.refused.values()) == {0}
    assert {each["seen"][-1][1] for each in run.results if each["seen"]} == {7}


@needs_redis
@pytest.mark.parametrize("what", ["stopped for 5 s", "killed, and back empty, three times"])
def test_the_server_is_away(what: str) -> None:
    port = free_port()
    if what.startswith("stopped"):
        with running(port=port) as server:
            run = Run(four(server.url))
            run.sleep_until(8.0)
            server.signal(signal.SIGSTOP)
            run.sleep_until(13.0)
            server.signal(signal.SIGCONT)
            run.finish(f"Redis {what}")
    else:
        with running(port=port) as server:
            run = Run(four(server.url))
            run.sleep_until(5.0)
        for number in range(2):
            time.sleep(0.3)
            with running(port=port):
                run.sleep_until(11.0 + 6.0 * number)
        time.sleep(0.3)
        with running(port=port):
            run.finish(f"Redis {what}")

    assert run.use >= 0.9
    assert set(run.refused.values()) == {0}
    assert {each["seen"][-1][2] for each in run.results} == {True}


@contextmanager
def far_away(port: int, seconds: float) -> Iterator[int]:
    """A way to a port that takes half of that in each direction."""
    loop = asyncio.new_event_loop()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            loop.call_later(seconds / 2, writer.write, data)
        writer.close()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    server = loop.run_until_complete(asyncio.start_server(carry, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@needs_redis
def test_a_server_200_ms_away() -> None:
    """At the real scale: ten slots a second, and trips of two slots."""
    with running() as server, far_away(server.port, 0.2) as far:
        options = four(server.url.replace(str(server.port), str(far)), period=60.0, jitter=0.57)
        run = Run(options, 60.0)
        run.results = [process.result() for process in run.processes]

    arrived = [moment for moment in run.arrived if moment >= run.begin + 5.0]
    use = len(arrived) / 55.0 / 10.0
    print(f"\nRedis 200 ms away: {100 * use:.2f} % of the rate")
    assert use >= 0.97
    for name, rule in ALGORITHMS.items():
        assert refusals(rule(600, 60.0), run.arrived) == 0, name


def virtual(hours: float, prepare: Callable[[pytest.MonkeyPatch], str]) -> tuple[float, int]:
    """Part of the rate that was used, and refusals of a sliding log."""
    from tests.conftest import run_virtual

    found: list[tuple[float, int]] = []

    async def main() -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            shared = prepare(monkeypatch)
            lanes = Throttle(shared=shared).lanes("http://hours.test", "key")
            service = Service(ALGORITHMS["sliding log"](600, 60.0))
            loop = asyncio.get_running_loop()
            began = loop.time()
            await crawl(lanes, service, began + hours * 3600)
            await lanes.aclose()
            found.append((len(service.accepted) / hours / 36_000, len(service.refused)))

    run_virtual(main)
    return found[0]


def test_hours_in_a_file(tmp_path: Path) -> None:
    use, refused = virtual(2.0, lambda _: str(tmp_path / "throttle"))

    print(f"\n2 virtual hours, file: {100 * use:.2f} %, {refused} refused")
    assert use >= 0.985
    assert refused == 0


def test_hours_in_fakeredis() -> None:
    fakeredis = pytest.importorskip("fakeredis")
    pytest.importorskip("lupa")

    def prepare(monkeypatch: pytest.MonkeyPatch) -> str:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr("time.time", loop.time)
        client = fakeredis.FakeAsyncRedis(decode_responses=True)
        monkeypatch.setattr(RedisStore, "_client", lambda _: client)
        return "redis://127.0.0.1:1/0"

    use, refused = virtual(1.0, prepare)

    print(f"\n1 virtual hour, fakeredis: {100 * use:.2f} %, {refused} refused")
    assert use >= 0.985
    assert refused == 0
