"""No refusal at 99 %, however the service counts; and what happens when it permits less than it
did."""

from __future__ import annotations

import asyncio

import pytest

from tokfluence_async._throttle import registry
from tokfluence_async._throttle.throttle import Throttle

from .service import ALGORITHMS, LIMIT, PERIOD, Service, crawl

every_algorithm = pytest.mark.parametrize("rule", ALGORITHMS.values(), ids=ALGORITHMS.keys())


def now() -> float:
    return asyncio.get_running_loop().time()


@every_algorithm
async def test_a_saturated_client_is_never_refused_and_uses_99_percent(rule, origin):
    """From a cold start on; 1 % of waste is a quarter of an hour a day."""
    lanes = Throttle().lanes(origin, "key")
    service = Service(rule(LIMIT, PERIOD))
    began = now()

    await crawl(lanes, service, began + 15 * PERIOD + 0.6)

    assert service.refused == []
    arrived = [moment for moment in service.accepted if moment >= began + 0.6]
    assert len(arrived) / (15 * LIMIT) >= 0.99


@every_algorithm
async def test_nothing_is_refused_after_idling(rule, origin):
    """What was saved meanwhile goes at once and is paid back: no window holds it twice."""
    lanes = Throttle().lanes(origin, "key")
    service = Service(rule(LIMIT, PERIOD))

    for idle in (3.0, 61.0, 200.0):
        began = now()
        await crawl(lanes, service, began + 3 * PERIOD + 0.6)
        await asyncio.sleep(idle)

        arrived = sum(began <= moment for moment in service.accepted)
        assert arrived / (3 * LIMIT) >= 0.99
    assert service.refused == []


@every_algorithm
@pytest.mark.parametrize(("on", "off"), [(20, 10), (1.5, 0.5), (45, 45)])
async def test_nothing_is_refused_under_on_off_demand(rule, origin, on, off):
    lanes = Throttle().lanes(origin, "key")
    service = Service(rule(LIMIT, PERIOD))
    began = now()
    asked_for = 0.0

    while now() < began + 10 * PERIOD:
        await crawl(lanes, service, now() + on)
        asked_for += on
        await asyncio.sleep(off)

    assert service.refused == []
    # What is in flight when the demand ends is cancelled and never arrives: a worker's worth for
    # each time.
    assert len(service.accepted) >= 0.99 * LIMIT * (asked_for - 0.6 * asked_for / on) / PERIOD


@every_algorithm
async def test_a_crash_loop_does_not_burst_twice_into_one_window(rule, origin, monkeypatch):
    """Each new process starts with one slot; a process takes longer to start than a slot to
    open."""
    service = Service(rule(LIMIT, PERIOD))
    began = now()

    while now() < began + 4 * PERIOD:
        monkeypatch.setattr(registry, "current", registry.Registry())
        await crawl(
            Throttle().lanes(origin, "key"),
            service,
            now() + service.random.uniform(0.5, 20),
        )
        await asyncio.sleep(0.15)

    assert service.refused == []


@every_algorithm
async def test_a_restart_at_full_speed_is_not_refused(rule, origin, monkeypatch):
    service = Service(rule(LIMIT, PERIOD))
    for _ in range(3):
        monkeypatch.setattr(registry, "current", registry.Registry())
        await crawl(Throttle(burst=10).lanes(origin, "key"), service, now() + 1.4 * PERIOD)
        await asyncio.sleep(0.15)

    assert service.refused == []


@every_algorithm
async def test_a_service_that_drops_to_a_quarter_refuses_less_than_one_percent(
    rule, origin, caplog
):
    """Beyond what was in flight at the first refusal; and the full rate is back within two windows
    of its return."""
    lanes = Throttle().lanes(origin, "key")
    service = Service(rule(LIMIT, PERIOD))
    await crawl(lanes, service, now() + 3 * PERIOD)
    assert service.refused == []

    service.rule = _with_history(rule(LIMIT // 4, PERIOD), service)
    dropped = now()
    await crawl(lanes, service, dropped + 15 * PERIOD)
    returned = now()
    service.rule = _with_history(rule(LIMIT, PERIOD), service)
    await crawl(lanes, service, returned + 3 * PERIOD)

    first = service.refused[0]
    in_flight = sum(first <= moment <= first + 1.2 for moment in service.refused)
    later = sum(moment > first + 1.2 for moment in service.refused)
    asked = sum(dropped <= moment < returned for moment in [*service.accepted, *service.refused])
    assert in_flight <= 8
    assert later / asked < 0.01
    assert asked >= 0.7 * 15 * LIMIT // 4
    last_window = sum(
        returned + 2 * PERIOD <= moment < returned + 3 * PERIOD for moment in service.accepted
    )
    assert last_window >= 0.98 * LIMIT
    assert [record.levelname for record in caplog.records] == [
        "WARNING",
        "WARNING",
    ]  # one for each ten minutes


def _with_history(rule, service: Service):
    """The service's counters know what came before its limit changed."""
    for moment in sorted([*service.accepted, *service.refused]):
        if moment > now() - 2 * PERIOD:
            rule.allow(moment)
    return rule
