"""Who gets which slot, and when: whoever comes, leaves, is refused or gives a slot back, in any
order."""

from __future__ import annotations

import asyncio
import itertools
import math

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tokfluence_async._throttle.throttle import Throttle
from tokfluence_async.testing import VirtualLoop

SLOT = 1.0
KEYS = ("one", "other")
# What the model takes for the same moment, and how far from any moment at which something happens
# the clock is stopped.
NEAR = 1e-6
CLEAR = 1e-3
_origins = itertools.count()


class Line(RuleBasedStateMachine):
    """The real throttle on a virtual clock, against lists.

    The model: a slot opens every second, and each has one owner. Within a key, analyze calls go in
    their order, and reads in theirs. Analyze calls before reads, but not twice in a row while a
    read could go. Of two keys that both wait, neither goes twice in a row. If nobody waits, the
    next one to ask gets it, and the one after that at the next second; or, if a slot has passed
    unused, a second later. A refusal closes the gate: of all keys, with slots beginning where it
    opens and further apart from then on; or of one key alone, and the others go on. A slot given
    back is open again, unless the gate is closed.
    """

    @initialize()
    def begin(self) -> None:
        self.loop = VirtualLoop()
        self.throttle = Throttle(
            per_ip=1_000_000, per_key=None, period=1_000_000 * SLOT, burst=1, jitter=0.0
        )
        origin = f"http://line-{next(_origins)}.test"
        self.lanes = {key: self.throttle.lanes(origin, key) for key in KEYS}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.granted: list[tuple[int, float]] = []
        self.owner: dict[int, tuple[str, bool]] = {}
        self.numbers = itertools.count()
        # The model.
        self.lines: dict[tuple[str, bool], list[int]] = {
            (key, urgent): [] for key in KEYS for urgent in (False, True)
        }
        self.urgent_last = False
        # The key that comes next among analyze calls, or reads: it stood there when the other one
        # went.
        self.promised: dict[bool, str | None] = {False: None, True: None}
        self.seen = 0  # of `granted`
        self.kept: list[int] = []  # grants that were not given back
        self.slot = SLOT
        self.gate = -math.inf
        self.gates = dict.fromkeys(KEYS, -math.inf)
        self.since = self.run(self.bind())
        self.due = self.since

    async def bind(self) -> float:
        for lanes in self.lanes.values():
            assert lanes.gate_closed_for == 0.0
        return self.loop.time()

    def run(self, what):
        return self.loop.run_until_complete(what)

    def statistics(self):
        async def ask():
            return self.throttle.statistics()

        return self.run(ask())

    @property
    def now(self) -> float:
        return self.loop.time()

    @property
    def waiting(self) -> list[int]:
        return [number for line in self.lines.values() for number in line]

    # ---------------------------------------------------------------- the model

    def heads(self, when: float) -> dict[tuple[str, bool], int]:
        """The first of each line whose gate is open."""
        return {
            (key, urgent): line[0]
            for (key, urgent), line in self.lines.items()
            if line and self.gates[key] <= when
        }

    def candidates(self, when: float) -> set[int]:
        """Who may get a slot at that moment. Of a gate that opens then, either may be true: that it
        did, and that it does yet."""
        return self.by_turns(self.heads(when + CLEAR)) | self.by_turns(self.heads(when - CLEAR))

    def by_turns(self, heads: dict[tuple[str, bool], int]) -> set[int]:
        kinds = {urgent for _, urgent in heads}
        urgent = True in kinds and not (self.urgent_last and False in kinds)
        of_kind = {key: number for (key, kind), number in heads.items() if kind is urgent}
        promised = self.promised[urgent]
        return {of_kind[promised]} if promised in of_kind else set(of_kind.values())

    def next_grant(self) -> float:
        """When the next slot goes to somebody who waits."""
        gates = [self.gates[key] for (key, _), line in self.lines.items() if line]
        return max(self.due, min(gates)) if gates else math.inf

    def slot_taken(self, when: float) -> None:
        if when >= self.due + self.slot * (1 - NEAR):  # one has passed: the slots begin anew
            self.due = when
        self.due += self.slot

    def slot_given_back(self) -> None:
        self.due = max(self.due - self.slot, self.gate)

    def goes(self, number: int, when: float) -> None:
        """One who waited has got a slot."""
        key, urgent = self.owner[number]
        self.lines[key, urgent].remove(number)
        self.slot_taken(when)
        self.urgent_last = urgent
        other = KEYS[key == KEYS[0]]
        self.promised[urgent] = (
            other if self.lines[other, urgent] and self.gates[other] < when - CLEAR else None
        )

    def gone(self, numbers: set[int]) -> None:
        """Some have left the line."""
        for (key, urgent), line in self.lines.items():
            line[:] = [number for number in line if number not in numbers]
            if not line and self.promised[urgent] == key:
                self.promised[urgent] = None

    def next_seen(self, when: float) -> int:
        """Who was granted next; it has to be at that moment."""
        assert len(self.granted) > self.seen, "a slot was lost"
        number, moment = self.granted[self.seen]
        assert abs(moment - when) < CLEAR / 2
        self.seen += 1
        self.kept.append(number)
        return number

    def compare(self) -> None:
        """What was granted since the last time, one by one. A slot that lay there went to whoever
        came since then."""
        while (when := max(self.next_grant(), self.since)) <= self.now:
            candidates = self.candidates(when)
            number = self.next_seen(when)
            assert number in candidates, "somebody was passed"
            self.goes(number, when)
        assert len(self.granted) == self.seen, "a slot was granted twice"
        self.since = self.now

    def clear_of(self, moment: float) -> bool:
        beats = (moment - self.due) / self.slot
        return abs(beats - round(beats)) * self.slot > CLEAR and all(
            abs(moment - gate) > CLEAR for gate in (self.gate, *self.gates.values())
        )

    def stop_clear(self) -> None:
        """Go on a little where something happens at this very moment: nanoseconds are not what is
        modelled."""
        while not self.clear_of(self.now):
            self.run(asyncio.sleep(3 * CLEAR))
            self.compare()

    # ---------------------------------------------------------------- what happens

    def join(self, key: str, urgent: bool) -> None:
        number = next(self.numbers)
        self.owner[number] = (key, urgent)

        async def wait() -> None:
            await self.lanes[key].acquire(priority=urgent)
            self.granted.append((number, self.loop.time()))

        async def start() -> None:
            self.tasks[number] = asyncio.create_task(wait())
            await asyncio.sleep(0)

        free = not self.waiting and max(self.due, self.gates[key]) <= self.now + NEAR
        self.run(start())
        if free:
            assert self.next_seen(self.now) == number
            self.slot_taken(self.now)
        else:
            self.lines[key, urgent].append(number)
        self.compare()

    @rule(calls=st.lists(st.tuples(st.sampled_from(KEYS), st.booleans()), min_size=1, max_size=8))
    def some_join(self, calls: list[tuple[str, bool]]) -> None:
        for key, urgent in calls:
            self.join(key, urgent)
        self.stop_clear()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), everybody=st.booleans())
    def some_leave(self, data: st.DataObject, everybody: bool) -> None:
        self.leave(
            set(self.waiting) if everybody else data.draw(st.sets(st.sampled_from(self.waiting)))
        )

    def leave(self, numbers: set[int]) -> None:
        async def cancel() -> None:
            for number in numbers:
                self.tasks[number].cancel()
            await asyncio.sleep(0)

        self.run(cancel())
        self.gone(numbers)
        self.compare()

    @rule(seconds=st.sampled_from([0.2, 0.5, 1.0, 3.0, 4.7, 9.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))
        self.compare()
        self.stop_clear()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def the_one_with_the_slot_is_cancelled_before_it_runs(self, data: st.DataObject) -> None:
        """And perhaps some behind it, in the same turn: the slot goes to the next who is still
        there, at the same moment."""
        when = self.next_grant()
        first = self.candidates(when)
        behind = [number for number in self.waiting if number not in first]
        left = first | (data.draw(st.sets(st.sampled_from(behind))) if behind else set())
        kinds = {self.owner[number][1] for number in first}
        if len(kinds) > 1:
            return
        self.run(asyncio.sleep(when - self.now - CLEAR / 4))

        def cancel() -> None:
            for number in left:
                self.tasks[number].cancel()

        # Right after the grant: the timers of one moment run in their order, and those whom they
        # wake after them.
        timer = self.lanes[KEYS[0]]._origin.line.loops[self.loop].when
        assert abs(timer - when) < CLEAR / 4
        self.loop.call_at(timer + 1e-12, cancel)
        self.run(asyncio.sleep(CLEAR / 2))

        self.gone(left)
        self.urgent_last, self.promised = True in kinds, {False: None, True: None}
        self.slot_taken(when)
        self.slot_given_back()
        heads = self.heads(when + CLEAR)
        if heads:
            heir = self.next_seen(when)
            assert heir in heads.values(), "somebody was passed"
            self.goes(heir, when)
        self.compare()
        self.stop_clear()

    @rule(
        key=st.sampled_from(KEYS),
        pause=st.sampled_from([0.31, 1.37, 2.63, 6.19]),
        lane=st.sampled_from([None, "ip", "key"]),
    )
    def refused(self, key: str, pause: float, lane) -> None:
        while any(
            abs(self.now + pause - gate) < 3 * CLEAR for gate in (self.gate, *self.gates.values())
        ):
            self.run(asyncio.sleep(3 * CLEAR))
            self.compare()

        async def refuse() -> None:
            self.lanes[key].refused(pause, lane)

        self.run(refuse())
        gate = self.now + pause
        if lane != "key":
            self.gate = max(self.gate, gate)
            self.due = max(self.due, self.gate)
            self.slot = 1.0 / self.statistics().pace
            assert SLOT < self.slot < 2 * SLOT
        if lane != "ip":
            self.gates[key] = max(self.gates[key], gate)
            self.promised = {
                urgent: None if name == key else name for urgent, name in self.promised.items()
            }
        self.compare()
        self.stop_clear()

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def a_slot_is_given_back(self, data: st.DataObject) -> None:
        """Its request never left; it need not be the newest."""
        number = data.draw(st.sampled_from(self.kept[-4:]))
        self.kept.remove(number)
        taken = next(when for granted, when in self.granted if granted == number)

        async def forfeit() -> None:
            self.lanes[self.owner[number][0]].forfeit(self.loop.time() - taken)
            for _ in range(3):
                await asyncio.sleep(0)

        self.run(forfeit())
        self.slot_given_back()
        self.compare()
        self.stop_clear()

    # ---------------------------------------------------------------- what always holds

    @invariant()
    def nobody_has_gone_before_a_gate_opened(self) -> None:
        assert len(self.granted) == self.seen
        statistics = self.statistics()
        assert statistics.waiting == len(self.waiting)
        closed = max(0.0, max(self.gate, *self.gates.values()) - self.now)
        assert abs(statistics.gate_closed_for - closed) < CLEAR

    def teardown(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        self.run(asyncio.sleep(0.001))
        assert not self.lanes[KEYS[0]]._origin.line.loops
        self.loop.close()


TestLine = Line.TestCase
TestLine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
