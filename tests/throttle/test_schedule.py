"""The arithmetic of a shared store: the promise over all who share, and that its two readings, in
Python and in Lua, agree."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokfluence_async._throttle.schedule import (
    ALIVE,
    MICRO,
    ring_size,
)
from tokfluence_async._throttle.store import Answer, Ask, LaneAsk, Refusal
from tokfluence_async.testing import VirtualLoop

from .memory import Schedules

SPAN = 60.57
MINUTE = 60.0


class Service(Schedules):
    """Any number of addresses and keys, in memory."""

    def __init__(self, begin: float = 5000.0) -> None:
        super().__init__()
        self.now = begin

    def ask(self, ask: Ask) -> Answer:
        return self.exchange(self.now, ask)


def lane(name: str, limit: int, span: float = SPAN, **more: Any) -> LaneAsk:
    return LaneAsk(name.encode().ljust(16), limit, span, MINUTE, **more)


def ask(
    ip: LaneAsk | None = None, key: LaneAsk | None = None, process: str = "one", **more: Any
) -> Ask:
    return Ask(
        process.encode().ljust(16),
        ip or lane("here", 600),
        key or lane("key", 1200),
        **{"slots": 1, **more},
    )


def saturate(
    service: Service, until: float, asks: list[Callable[[], Ask]], held: int = 1
) -> dict[int, list[float]]:
    """Who asks has `held` leases at once, and asks again when one of them opens."""
    granted: dict[int, list[float]] = {n: [] for n in range(len(asks))}
    waiting = [(service.now, n) for n in range(len(asks)) for _ in range(held)]
    while waiting:
        waiting.sort()
        moment, n = waiting.pop(0)
        if moment > until:
            continue
        service.now = max(service.now, moment)
        ((lease, _),) = service.ask(asks[n]()).leases
        granted[n].append(lease / MICRO)
        waiting.append((lease / MICRO, n))
    return granted


def jain(counts: list[int]) -> float:
    return sum(counts) ** 2 / len(counts) / sum(count**2 for count in counts)


def most_in_a_window(moments: list[float], span: float = SPAN) -> int:
    ordered = sorted(moments)
    most = begin = 0
    for end, moment in enumerate(ordered):
        while ordered[begin] <= moment - span + 2e-6:
            begin += 1
        most = max(most, end - begin + 1)
    return most


# -------------------------------------------------------------------------------------------------
# the promise


@pytest.mark.parametrize("held", [1, 5])
@pytest.mark.parametrize("processes", [1, 4, 25])
def test_processes_of_one_address_use_it_in_full_and_in_equal_shares(processes, held):
    service = Service()
    asks = [lambda n=n: ask(process=f"p{n}") for n in range(processes)]

    granted = saturate(service, 5000 + 10 * SPAN, asks, held)

    moments = [moment for each in granted.values() for moment in each]
    assert most_in_a_window(moments) <= 600
    assert len([m for m in moments if m < 5000 + 10 * SPAN]) >= 10 * 600 - 5
    assert jain([len(each) for each in granted.values()]) >= 0.999
    gaps = [b - a for a, b in itertools.pairwise(sorted(moments))]
    assert max(gaps) - min(gaps) < 3e-6


@pytest.mark.parametrize("held", [1, 5])
@pytest.mark.parametrize("addresses", [2, 3])
def test_addresses_under_one_key_get_it_in_full_and_in_equal_shares(addresses, held):
    """With a due time for the key, leases taken ahead by one address pushed it past the free slots
    of the others: 5.6 a second in place of 10."""
    service = Service()
    asks = [lambda n=n: ask(ip=lane(f"ip {n}", 600), process=f"p{n}") for n in range(addresses)]

    granted = saturate(service, 5000 + 10 * SPAN, asks, held)

    moments = [moment for each in granted.values() for moment in each]
    assert most_in_a_window(moments) <= 1200
    for each in granted.values():
        assert most_in_a_window(each) <= 600
    assert len(moments) >= 0.99 * 10 * 1200
    assert jain([len(each) for each in granted.values()]) >= 0.999


OPTIONS = st.sampled_from([0, 1, 2, 5, 7, 12, 30])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["lease", "lease", "lease", "back", "refuse", "pass", "leave", "open"]),
        st.integers(0, 2),
        st.integers(0, 1),
        st.integers(1, 9),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(STEPS, OPTIONS, OPTIONS, st.sampled_from([0.0, 0.5, 3.0]))
def test_no_window_holds_more_than_the_limit_however_slots_are_leased(
    steps, per_ip, per_key, jitter
):
    """Over several addresses and keys, with slots given back and refusals."""
    service = Service()
    span = 10.0 + jitter
    leased: dict[int, tuple[int, int]] = {}  # a lease, and whose it is
    by_ip: dict[int, list[int]] = {0: [], 1: [], 2: []}
    by_key: dict[int, list[int]] = {0: [], 1: []}
    for step, ip, key, amount in steps:
        asked_ip, asked_key = lane(f"ip {ip}", per_ip, span), lane(f"key {key}", per_key, span)
        back: tuple[int, ...] = ()
        slots = 0
        if step == "pass":
            service.now += amount * 0.7
        elif step == "lease":
            slots = amount
        elif step == "back":
            ours = [lease for lease, owner in leased.items() if owner == (ip, key)]
            back = tuple(lease for lease in ours[-amount:] if lease > service.now * MICRO)
            for lease in back:
                del leased[lease]
                by_ip[ip].remove(lease)
                by_key[key].remove(lease)
        elif step == "refuse":
            asked_ip = lane(f"ip {ip}", per_ip, span, refusal=Refusal(amount * 0.3, None, 0))
        answer = service.ask(ask(asked_ip, asked_key, slots=slots, back=back))
        for lease, delay in answer.leases:
            assert delay >= 0
            leased[lease] = (ip, key)
            by_ip[ip].append(lease)
            by_key[key].append(lease)
    for limit, lanes in ((per_ip, by_ip), (per_key, by_key)):
        if limit:
            for moments in lanes.values():
                assert most_in_a_window([m / MICRO for m in moments], span) <= limit


# -------------------------------------------------------------------------------------------------
# single rules


def test_a_store_begins_like_a_process_that_is_restarted():
    """Emptied in the middle of a run, it must not hand out what was handed out already."""
    ((_, delay),) = Service().ask(ask()).leases

    assert delay == pytest.approx(4 * SPAN / 600, abs=1e-6)


def test_what_is_given_back_is_taken_first():
    service = Service()
    leases = [lease for lease, _ in service.ask(ask(slots=5)).leases]

    service.ask(ask(slots=0, back=(leases[2],), process="one"))

    assert service.ask(ask(process="other")).leases[0][0] == leases[2]
    assert service.ask(ask(process="other")).leases[0][0] > leases[4]


def test_what_is_given_back_too_late_is_lost():
    service = Service()
    ((lease, delay),) = service.ask(ask()).leases
    service.now += delay + 0.01

    ((second, _),) = service.ask(ask(back=(lease,))).leases

    assert second > lease


def test_what_was_not_leased_cannot_be_given_back():
    """Somebody else's number, or one of an earlier grid."""
    service = Service()
    ((lease, _),) = service.ask(ask()).leases

    answer = service.ask(ask(slots=2, back=(lease + 5, lease + MICRO, 12)))

    assert len({lease, *(each for each, _ in answer.leases)}) == 3
    assert min(each for each, _ in answer.leases) > lease


def test_a_refusal_closes_the_gate_for_all_and_lowers_the_pace_for_all():
    service = Service()
    service.ask(ask(slots=3))
    learnt = (0.5, 87.0, 0.0, 1.0, -1e15)

    told = service.ask(
        ask(
            lane("here", 600, refusal=Refusal(20.0, learnt, 0)),
            lane("key", 1200, refusal=Refusal(20.0, learnt, 0)),
        )
    )
    other = service.ask(ask(process="other"))
    service.now += 20.0
    after = service.ask(ask(slots=3, process="other"))

    assert (told.leases, other.leases) == ((), ())
    assert other.ip.opens == pytest.approx(20.0)
    assert other.ip.learnt[0] == 0.5
    assert other.ip.version == 1
    delays = [delay for _, delay in after.leases]
    assert delays == pytest.approx([0.0, 2 * SPAN / 600, 4 * SPAN / 600], abs=0.06)


def test_of_two_refusals_in_flight_together_one_lowers_the_pace():
    service = Service()
    first = ask(lane("here", 600, refusal=Refusal(1.0, (0.5, 87.0, 0.0, 1.0, -1e15), 0)))
    second = ask(lane("here", 600, refusal=Refusal(5.0, (0.4, 80.0, 0.0, 1.0, -1e15), 0)))
    service.ask(first)

    answer = service.ask(second)

    assert answer.ip.learnt[0] == 0.5
    assert answer.ip.opens == pytest.approx(5.0)


def test_a_gate_is_only_ever_moved_later():
    service = Service()
    service.ask(ask(lane("here", 600, refusal=Refusal(20.0, None, 0))))
    service.now += 1.0

    answer = service.ask(ask(lane("here", 600, refusal=Refusal(2.0, None, 0))))

    assert answer.ip.opens == pytest.approx(19.0)


def test_a_gate_closed_for_long_lets_one_request_of_all_processes_pass_a_day():
    service = Service()
    service.ask(ask(lane("here", 600, refusal=Refusal(1e308, None, 0))))
    service.now += 86_400.0

    first = service.ask(ask(slots=5))
    second = service.ask(ask(slots=5, process="other"))
    opened = service.ask(ask(lane("here", 600, opened=True), slots=2))

    assert len(first.leases) == 1
    assert second.leases == ()
    assert second.ip.opens == pytest.approx(86_400.0)
    assert len(opened.leases) == 2
    assert opened.ip.gate_version == 1


def test_who_has_not_asked_for_a_while_is_dead():
    service = Service()
    service.ask(ask(process="one"))
    assert service.ask(ask(process="other", ip=lane("there", 600))).key.processes == 2

    service.now += ALIVE + 0.1
    answer = service.ask(ask(process="third"))

    assert (answer.ip.processes, answer.key.processes) == (1, 1)


def test_who_leaves_is_not_counted():
    service = Service()
    service.ask(ask(process="one"))
    service.ask(ask(process="one", leaving=True, slots=0))

    assert service.ask(ask(process="other")).ip.processes == 1


def test_the_most_careful_numbers_of_those_alive_hold():
    """As two throttles at one origin in one process."""
    service = Service()
    wide = ask(lane("here", 600), lane("key", 1200))
    narrow = ask(lane("here", 60), lane("key", 120), process="narrow")
    service.ask(wide)
    service.ask(narrow)

    leases = [service.ask(wide).leases[0][0] for _ in range(5)]
    service.now = leases[-1] / MICRO + 20.0
    wider = [service.ask(wide).leases[0][0] for _ in range(9)]

    assert min(b - a for a, b in itertools.pairwise(leases)) >= 0.99 * SPAN / 60 * MICRO
    gaps = [b - a for a, b in itertools.pairwise(wider)][3:]
    assert max(gaps) <= 1.01 * SPAN / 600 * MICRO


@pytest.mark.parametrize(("per_ip", "per_key"), [(0, 600), (600, 0)])
def test_a_lane_can_be_switched_off(per_ip, per_key):
    service = Service()

    granted = saturate(
        service, 5000 + SPAN, [lambda: ask(lane("here", per_ip), lane("key", per_key))]
    )

    assert len(granted[0]) == pytest.approx(600, abs=3)


def test_without_lanes_every_slot_is_free():
    answer = Service().ask(ask(lane("here", 0), lane("key", 0), slots=100))

    assert [delay for _, delay in answer.leases] == [0.0] * 100


# -------------------------------------------------------------------------------------------------
# the two readings


class Redis:
    """The script, on fakeredis, whose clock is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fakeredis = pytest.importorskip("fakeredis")
        pytest.importorskip("lupa")
        from tokfluence_async._throttle.redis_store import RedisStore
        from tokfluence_async._wire.secret import Secret

        self.now = 5000.0
        monkeypatch.setattr("time.time", lambda: self.now)
        self.store = RedisStore(Secret("redis://127.0.0.1:1/0"))
        self.client = fakeredis.FakeAsyncRedis(decode_responses=True)
        monkeypatch.setattr(self.store, "_client", lambda: self.client)
        self.loop = VirtualLoop()

    def __enter__(self) -> Redis:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.run_until_complete(self.store.aclose())
        self.loop.close()

    def ask(self, ask: Ask) -> Answer:
        found: list[Any] = []

        async def trip() -> None:
            loop = asyncio.get_running_loop()
            self.store.request(ask, loop, loop.time, lambda answer, _: found.append(answer))
            while not found:  # noqa: ASYNC110
                await asyncio.sleep(0)

        self.loop.run_until_complete(trip())
        assert isinstance(found[0], Answer), found[0]
        return found[0]


def close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=2e-6)


LANES = st.tuples(st.integers(0, 1), st.sampled_from([0, 1, 3, 12, 60]))
ASKS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.01, 0.3, 2.0, 9.0, 61.0]),
        LANES,
        LANES,
        st.integers(0, 4),
        st.sampled_from(["", "", "", "back", "refuse", "long", "open", "leave"]),
        st.integers(0, 2),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(ASKS)
def test_the_script_says_what_the_arithmetic_says(asks):
    """Two readings of one specification."""
    with pytest.MonkeyPatch.context() as monkeypatch, Redis(monkeypatch) as theirs:
        ours = Service()
        leased: list[int] = []
        version = 0
        for passes, (ip, per_ip), (key, per_key), slots, what, process in asks:
            ours.now += passes
            theirs.now = ours.now
            back: tuple[int, ...] = ()
            more: dict[str, Any] = {}
            if what == "back":
                back = tuple(leased[-2:])
            elif what == "refuse":
                more = {"refusal": Refusal(1.5, (0.4, 9.0, 0.0, 0.6, 30.0), version)}
            elif what == "long":
                more = {"refusal": Refusal(1e308, None, 0)}
            elif what == "open":
                more = {"opened": True}
            this = ask(
                lane(f"ip {ip}", per_ip, 10.5, **more),
                lane(f"key {key}", per_key, 10.5, **more),
                process=f"p{process}",
                slots=slots,
                back=back,
                leaving=what == "leave",
            )

            one, other = ours.ask(this), theirs.ask(this)

            leased += [lease for lease, _ in one.leases]
            version = one.ip.version
            assert [lease for lease, _ in one.leases] == [lease for lease, _ in other.leases]
            for our_lane, their_lane in ((one.ip, other.ip), (one.key, other.key)):
                assert our_lane.processes == their_lane.processes
                assert our_lane.version == their_lane.version
                assert our_lane.gate_version == their_lane.gate_version
                for left, right in zip(
                    (our_lane.until, our_lane.opens, *our_lane.learnt),
                    (their_lane.until, their_lane.opens, *their_lane.learnt),
                    strict=True,
                ):
                    assert close(left, right), (this, our_lane, their_lane)


def test_a_ring_keeps_a_window_behind_and_one_ahead():
    assert ring_size(1200) >= 2400
