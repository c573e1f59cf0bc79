"""Several processes over one shared journal, in any order of lines, deaths, stops and returns.

A model of the service executes a request id once and bills for it. What the machine looks for is
two batches with one post, two senders of one batch, and a post that is billed twice or forgotten.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from tokfluence_async import Analysis, Journal, Outcome, RedisJournal
from tokfluence_async._journal.records import TakenError
from tokfluence_async._tasks import end
from tokfluence_async._wire.ids import PostRef
from tokfluence_async.testing import VirtualLoop

pytest.importorskip("fakeredis", reason="fakeredis is not installed")
pytest.importorskip("lupa", reason="lupa, which runs the store's scripts, is not installed")

POSTS = [str(7234567890123456789 + n) for n in range(5)]


class Service:
    """Executes each request id once, whoever sends it."""

    def __init__(self) -> None:
        self.done: set[str] = set()
        self.billed = dict.fromkeys(POSTS, 0)

    def receive(self, request_id: str, posts: list[str]) -> bool:
        """Whether the id was new: a 200, else a 409."""
        if request_id in self.done:
            return False
        self.done.add(request_id)
        for post_id in posts:
            self.billed[post_id] += 1
        return True


class Process:
    """A process with calls that share one journal."""

    def __init__(self, journal: RedisJournal) -> None:
        self.journal = journal
        self.calls = [journal.for_call(), journal.for_call()]
        self.stopped = False
        self.alive = True


class Batch:
    """A batch in the hands of a call, as far as that call knows."""

    def __init__(self, process: Process, call: Journal, request_id: str, posts: list[str]) -> None:
        self.process = process
        self.call = call
        self.request_id = request_id
        self.posts = posts
        self.answer: str | None = None
        self.over = False

    @property
    def runs(self) -> bool:
        return self.process.alive and not self.process.stopped and not self.over


class SharedJournal(RuleBasedStateMachine):
    processes = Bundle("processes")
    batches = Bundle("batches")

    def __init__(self) -> None:
        super().__init__()
        from shared_store import install

        self.patch = pytest.MonkeyPatch()
        self.store = install(self.patch)
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.service = Service()
        self.known: list[Process] = []
        self.number = 0

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.run(self.settle_everything())
        self.runner.close()
        self.patch.undo()

    @initialize(target=processes)
    def first(self) -> Process:
        return self.start()

    @rule(target=processes)
    def begin(self) -> Process:
        """Another process begins."""
        return self.start()

    def start(self) -> Process:
        process = Process(self.run(self.store.journal().open()))
        self.known.append(process)
        return process

    # --- one line of a call, at a time ------------------------------------------------------------

    @rule(
        target=batches,
        process=processes,
        call=st.sampled_from([0, 1]),
        posts=st.lists(st.sampled_from(POSTS), min_size=1, max_size=3, unique=True),
    )
    def write(self, process: Process, call: int, posts: list[str]) -> Batch:
        """Write a batch down, as a call does that has looked its posts up long before."""
        self.number += 1
        batch = Batch(process, process.calls[call], f"id-{self.number}", posts)
        if not batch.runs:
            batch.over = True
            return batch
        refs = [PostRef(post_id) for post_id in posts]
        try:
            self.run(batch.call.sending(batch.request_id, refs, replaces=None))
        except TakenError:
            batch.over = True
        return batch

    @rule(batch=batches, answered=st.booleans())
    def send(self, batch: Batch, answered: bool) -> None:
        """Send it, if it may leave; the answer may be lost."""
        if not batch.runs or batch.answer is not None:
            return
        if not self.run(self.may_leave(batch)):
            batch.over = True
            return
        new = self.service.receive(batch.request_id, batch.posts)
        if answered:
            batch.answer = "analyzed" if new else "duplicate_request"

    @rule(batch=batches)
    def settle(self, batch: Batch) -> None:
        """Write down what came back."""
        if batch.runs and batch.answer is not None:
            self.run(batch.call.settled(batch.request_id, self.outcomes(batch)))
            batch.over = True

    @rule(batch=batches)
    def give_up(self, batch: Batch) -> None:
        """The call failed; its batch stays in doubt, and is nobody's."""
        if batch.runs:
            self.run(self.forget(batch.call, batch.request_id))
            batch.over = True

    @rule(target=batches, process=processes, call=st.sampled_from([0, 1]))
    def take_up(self, process: Process, call: int) -> Batch:
        """Take over one batch of the dead; the rest is given up again."""
        nothing = Batch(process, process.calls[call], "none", [])
        nothing.over = True
        if not nothing.runs and (process.stopped or not process.alive):
            return nothing
        taken = process.calls[call]
        doubts = self.run(taken.take_up())
        for doubt in doubts[1:]:
            self.run(self.forget(taken, doubt.request_id))
        if not doubts:
            return nothing
        posts = [ref.post_id for ref in doubts[0].posts]
        return Batch(process, taken, doubts[0].request_id, posts)

    # --- bad days ---------------------------------------------------------------------------------

    @rule(process=processes)
    def die(self, process: Process) -> None:
        if process.alive:
            self.run(self.stop_heart(process))
            process.alive = False

    @rule(process=processes)
    def stop(self, process: Process) -> None:
        if process.alive and not process.stopped:
            self.run(self.stop_heart(process))
            process.stopped = True

    @rule(process=processes)
    def wake(self, process: Process) -> None:
        """It goes on where it was, whatever has happened meanwhile."""
        if process.stopped and process.alive:
            session = process.journal._session
            session._heart = self.run(self.spawn(session._beat()))
            process.stopped = False

    @rule(seconds=st.sampled_from([1.0, 10.0, 23.0, 25.0, 60.0, 3600.0]))
    def pass_time(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    # --- what must hold ---------------------------------------------------------------------------

    @invariant()
    def nothing_is_billed_twice(self) -> None:
        assert max(self.service.billed.values()) <= 1

    @invariant()
    def a_post_is_in_one_batch(self) -> None:
        async def look() -> list[str]:
            raw = self.store.connect(None)
            batches = await raw.hgetall("{tokfluence:journal:job}:batches")
            return [
                part.split("@")[0]
                for text in batches.values()
                for part in text.split(" ")[3].split(",")
            ]

        found = self.run(look())
        assert len(found) == len(set(found))

    # --- helpers ----------------------------------------------------------------------------------

    def outcomes(self, batch: Batch) -> list[Outcome[Analysis]]:
        status = batch.answer or "duplicate_request"
        return [
            Outcome(input=i, post_id=i, value=Analysis(post_id=i, url=None, status=status))
            for i in batch.posts
        ]

    async def may_leave(self, batch: Batch) -> bool:
        if not batch.call.holds:
            try:
                await batch.call.confirm(batch.request_id)
            except TakenError:
                return False
        return True

    async def forget(self, call: Journal, request_id: str) -> None:
        call.forgotten(request_id)
        await asyncio.sleep(0.1)

    async def stop_heart(self, process: Process) -> None:
        heart = process.journal._session._heart
        if heart is not None:
            await end([heart])

    async def spawn(self, work: Any) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    async def settle_everything(self) -> None:
        """All die; one comes, and settles every doubt under its old id."""
        for process in self.known:
            await self.stop_heart(process)
        await asyncio.sleep(40)
        async with self.store.journal() as journal:
            for doubt in await journal.take_up():
                posts = [ref.post_id for ref in doubt.posts]
                new = self.service.receive(doubt.request_id, posts)
                status = "analyzed" if new else "duplicate_request"
                outcomes = [
                    Outcome(input=i, post_id=i, value=Analysis(post_id=i, url=None, status=status))
                    for i in posts
                ]
                await journal.settled(doubt.request_id, outcomes)
            assert await journal.unsettled() == []
            for post_id, times in self.service.billed.items():
                assert times <= 1
                assert (await journal.look_up(post_id) is not None) == (times == 1)
        for process in self.known:
            await process.journal.aclose()


TestSharedJournal = SharedJournal.TestCase
TestSharedJournal.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
