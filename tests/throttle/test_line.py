"""Cancelling any subset of those who wait leaves the rest in order, loses no slot and grants none twice."""

from __future__ import annotations

import asyncio
import itertools

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tokfluence_async._throttle import Throttle
from tokfluence_async.testing import VirtualLoop

SLOT = 1.0
_origins = itertools.count()


class Line(RuleBasedStateMachine):
    """The real throttle on a virtual clock, against a list.

    The model: a slot opens every second. It goes to the first in line; analyze calls before reads, but not twice in a row while a
    read waits. If nobody waits, the next one to ask gets it, and the one after that a second later.
    """

    @initialize()
    def begin(self) -> None:
        self.loop = VirtualLoop()
        throttle = Throttle(per_ip=1_000_000, per_key=None, period=1_000_000 * SLOT, burst=1, jitter=0.0)
        self.lanes = throttle.lanes(f"http://line-{next(_origins)}.test", "key")
        self.throttle = throttle
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.granted: list[tuple[int, float]] = []
        self.numbers = itertools.count()
        # The model.
        self.reads: list[int] = []
        self.urgent: list[int] = []
        self.urgent_last = False
        self.expected: list[tuple[int, float]] = []
        self.start = self.run(self.time())
        # One slot is taken at the start and one waiter stays at the end of the line, so that it is never empty.
        self.join(False)
        self.due = self.start + SLOT
        self.expected.append((0, self.start))
        self.reads.remove(0)
        self.join(False)

    async def time(self) -> float:
        return self.loop.time()

    def run(self, what):
        return self.loop.run_until_complete(what)

    def join(self, urgent: bool) -> None:
        number = next(self.numbers)

        async def wait() -> None:
            await self.lanes.acquire(priority=urgent)
            self.granted.append((number, self.loop.time()))

        async def start() -> None:
            self.tasks[number] = asyncio.create_task(wait())
            await asyncio.sleep(0)

        (self.urgent if urgent else self.reads).append(number)
        self.run(start())

    def model_next(self) -> int:
        if self.urgent and (not self.urgent_last or not self.reads):
            self.urgent_last = True
            return self.urgent.pop(0)
        self.urgent_last = False
        return self.reads.pop(0)

    @property
    def line(self) -> list[int]:
        return [*self.urgent, *self.reads]

    @rule(reads=st.integers(0, 5), urgent=st.integers(0, 3))
    def some_join(self, reads: int, urgent: int) -> None:
        for _ in range(reads):
            self.join(False)
        for _ in range(urgent):
            self.join(True)

    @precondition(lambda self: len(self.line) > 1)
    @rule(data=st.data())
    def some_leave(self, data: st.DataObject) -> None:
        gone = data.draw(st.sets(st.sampled_from(self.line), max_size=len(self.line) - 1))

        async def cancel() -> None:
            for number in gone:
                self.tasks[number].cancel()
            await asyncio.sleep(0)

        self.run(cancel())
        self.reads = [number for number in self.reads if number not in gone]
        self.urgent = [number for number in self.urgent if number not in gone]

    @precondition(lambda self: len(self.line) > 1)
    @rule(slots=st.integers(1, 4))
    def time_passes(self, slots: int) -> None:
        slots = min(slots, len(self.line) - 1)
        for _ in range(slots):
            self.expected.append((self.model_next(), self.due))
            self.due += SLOT
        self.run(self.until(self.due - SLOT / 2))

    @precondition(lambda self: len(self.line) > 2)
    @rule(data=st.data())
    def the_one_with_the_slot_is_cancelled_before_it_runs(self, data: st.DataObject) -> None:
        """And perhaps some behind it, in the same turn: the slot goes to the next who is still there, at the same moment."""
        first = self.model_next()
        others = data.draw(st.sets(st.sampled_from(self.line), max_size=len(self.line) - 2))

        def cancel() -> None:
            for number in (first, *others):
                self.tasks[number].cancel()

        self.loop.call_at(self.due + 1e-12, cancel)
        # Those behind leave after the slot was passed on; in the model as in the line, they may have been its next owner.
        self.run(self.until(self.due - 1e-6))
        before = len(self.granted)
        self.run(self.until(self.due + SLOT / 2))
        self.reads = [number for number in self.reads if number not in others]
        self.urgent = [number for number in self.urgent if number not in others]
        assert len(self.granted) == before + 1, "the slot was lost, or granted twice"
        heir, when = self.granted[-1]
        assert abs(when - self.due) < 1e-3
        candidates = {line[0] for line in (self.reads, self.urgent) if line}
        assert heir in candidates, "somebody was passed"
        self.urgent_last = heir in self.urgent
        (self.urgent if heir in self.urgent else self.reads).remove(heir)
        self.expected.append((heir, self.due))
        self.due += SLOT
        if not self.line:
            self.join(False)

    async def until(self, moment: float) -> None:
        await asyncio.sleep(moment - self.loop.time())

    @invariant()
    def as_in_the_model(self) -> None:
        assert [number for number, _ in self.granted] == [number for number, _ in self.expected]
        assert all(abs(ours[1] - model[1]) < 1e-3 for ours, model in zip(self.granted, self.expected, strict=True))
        assert self.run(self.waiting()) == len(self.line)

    async def waiting(self) -> int:
        return self.throttle.statistics().waiting

    def teardown(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        self.run(asyncio.sleep(0.001))
        assert not self.lanes._origin.loops
        self.loop.close()


TestLine = Line.TestCase
TestLine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
