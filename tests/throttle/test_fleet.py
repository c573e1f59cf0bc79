"""Real processes that share a throttle by a file and by a real Redis, in real time at a tenth of
the scale; figures and hours are in test_soak.py."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import needs_redis, running

from .fleet import jain, refusals, start
from .service import ALGORITHMS

pytestmark = pytest.mark.real_time

LIMIT, PERIOD = 600, 6.0


@pytest.fixture(params=["file", pytest.param("redis", marks=needs_redis)])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield str(tmp_path / "throttle")
        return
    with running() as server:
        yield server.url


def test_four_processes_are_never_refused_and_get_equal_shares(shared: str) -> None:
    """By no way of counting; one of them is killed in the middle, and is not counted any more."""
    processes, begin = start(({"shared": shared} for _ in range(4)), 11.0)
    time.sleep(max(0.0, begin + 1.0 - time.monotonic()))
    processes[3].kill()

    results = [process.result() for process in processes]

    arrived = sorted(moment for each in results for moment in each["arrived"])
    for name, rule in ALGORITHMS.items():
        assert refusals(rule(LIMIT, PERIOD), arrived) == 0, name
    alive = results[:3]
    assert [each["errors"] for each in alive] == [[]] * 3
    assert jain(len(each["arrived"]) for each in alive) >= 0.8
    assert {each["seen"][-1][1] for each in alive} == {3}
    assert all(each["seen"][-1][2] for each in alive)
    # What it uses of the rate, and how evenly, says much of the machine: test_soak.py has the
    # figures.
    assert len(arrived) >= 0.4 * 11.0 * LIMIT / PERIOD


def test_a_refusal_of_one_stops_all(shared: str) -> None:
    """At most 20 leased requests leave after it. That none leaves later than 0.8 s is asserted on
    the virtual clock, in test_shared.py: here a busy machine may hold a process back."""
    options = [{"shared": shared, "refuse_after": 2.0 if n == 0 else None} for n in range(4)]
    processes, _ = start(({**each, "pause": 2.0} for each in options), 5.0)

    results = [process.result() for process in processes]

    arrived = sorted(moment for each in results for moment in each["arrived"])
    gaps = [(b - a, a) for a, b in itertools.pairwise(arrived)]
    pause, last = max(gaps)
    refused = max(moment for moment in results[0]["arrived"] if moment <= last)
    assert pause >= 1.1
    assert len([moment for moment in arrived if refused < moment <= last]) <= 20
