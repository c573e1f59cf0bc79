"""What a client shares with its copies, and the loop over the attempts of a call.

Promises: a call makes as many attempts as its policy and its money allow, each under a request id
that is right for it, and ends in an answer, in `Settled`, or in one of our errors.

Relies on the rooms below: `call` keeps what a call needs between its steps, `transport` makes one
attempt, `retry` decides what follows.

Hard: event loops and threads. Whatever belongs to a loop is in a `LoopState`; what is shared here
(budgets, ledgers, lanes) has locks of its own.
"""

from __future__ import annotations

import asyncio
import math
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Raw, structs

from .._credits.budget import Budget
from .._credits.ledger import Ledger
from .._errors import APIError, APIStatusError, ClosedError, TokfluenceError
from .._models import Usage
from .._tasks import finish
from .._throttle.lanes import Lanes
from .._throttle.throttle import Throttle
from .._wire.calls import Call, build_analyze
from .._wire.secret import Secret
from .._wire.shapes import Shape
from .call import CallUnderWay, Ids, Options
from .foreign_server import ForeignServer
from .keys import KeyState
from .loops import Counts, LoopState, States, close_elsewhere
from .outage import Outage
from .retry import GiveUp, Settled

if TYPE_CHECKING:
    import aiohttp

    from .telemetry import Telemetry

__all__ = ["ClosedError", "Engine", "Ids", "Options"]

T = TypeVar("T")

_NOTHING: Shape[Raw] = Shape(Raw)


class Engine:
    """What a client shares with its `with_options` copies: connections, throttle, counts and
    background tasks."""

    def __init__(
        self,
        *,
        origin: str,
        base_url: str,
        throttle: Throttle,
        max_body: int,
        session: aiohttp.ClientSession | None,
        proxy: str | None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.origin = origin
        self._begin: Callable[..., CallUnderWay[Any]] = (
            CallUnderWay if telemetry is None else telemetry.call
        )
        self.throttle = throttle
        self.closed = False
        self._base_url = base_url
        self._max_body = max_body
        self._session = session
        self._proxy = proxy
        self._states: States = {}
        self._counts: list[Counts] = []
        self._wallets: dict[str, Ledger] = {}
        self._lanes: dict[str, Lanes] = {}
        self._foreign_server = ForeignServer(base_url)
        self._lock = threading.Lock()
        # Without `aclose`, the connections go when the client does, quietly: in notebooks cells are
        # run again.
        weakref.finalize(self, close_elsewhere, self._states)

    # --- the running loop's own -------------------------------------------------------------------

    def loop_state(self) -> LoopState:
        """What this client has in the running loop.

        Raises:
            ClosedError: The client is closed.
        """
        loop = asyncio.get_running_loop()
        state = self._states.get(loop)
        if state is not None:
            return state
        if self.closed:
            raise ClosedError
        from .transport import Transport  # aiohttp is loaded with the first call

        with self._lock:
            gone = {loop: state for loop, state in self._states.items() if loop.is_closed()}
            for each in gone:
                del self._states[each]
            close_elsewhere(gone)
            counts = Counts()
            self._counts.append(counts)
            transport = Transport(
                self._base_url, max_body=self._max_body, session=self._session, proxy=self._proxy
            )
            state = self._states[loop] = LoopState(
                self._states, transport, counts, Outage(self.origin), self._foreign_server
            )
        return state

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in the background. It belongs to the client: `aclose` ends it."""
        try:
            state = self.loop_state()
        except ClosedError:
            work.close()
            raise
        task = state.loop.create_task(work)
        state.tasks.add(task)
        task.add_done_callback(state.tasks.discard)
        return task

    async def aclose(self) -> None:
        """End background work and close the connections, of every event loop the client was used
        in, however often this is cancelled meanwhile. Idempotent."""
        self.closed = True
        with self._lock:
            here = self._states.pop(asyncio.get_running_loop(), None)
            elsewhere = dict(self._states)
            self._states.clear()
        close_elsewhere(elsewhere)
        if here is not None:
            await finish(self._close_here(here, asyncio.current_task()))

    async def _close_here(self, here: LoopState, caller: asyncio.Task[Any] | None) -> None:
        try:
            await here.aclose(caller)
        finally:
            for lanes in list(self._lanes.values()):
                await lanes.aclose()

    # --- counts -----------------------------------------------------------------------------------

    def wallet(self, token: Secret) -> Ledger:
        with self._lock:
            if token not in self._wallets:
                self._wallets[token] = Ledger()
            return self._wallets[token]

    def lanes(self, token: Secret) -> Lanes:
        with self._lock:
            if token not in self._lanes:
                self._lanes[token] = self.throttle.lanes(self.origin, token.reveal())
            return self._lanes[token]

    def usage(self, options: Options) -> Usage:
        statistics = self.throttle.statistics()
        counts = [structs.asdict(each) for each in self._counts]
        states = list(self._states.values())
        return Usage(
            **{name: sum(each[name] for each in counts) for name in Counts.__struct_fields__},
            credits_spent=options.budget.spent,
            credits_reserved=options.budget.reserved,
            pace=None if math.isinf(statistics.pace) else statistics.pace,
            slowed=statistics.slowed,
            no_connection_for=max((each.outage.lasts for each in states), default=0.0),
        )

    @property
    def final_error(self) -> APIError | None:
        """What the rest of a job ends in: something else than the API answers, or nobody has been
        reached for a long time. None as long as requests may fare better."""
        state = self.loop_state()
        return state.foreign_server.error or state.outage.error

    # --- calls ------------------------------------------------------------------------------------

    async def perform(
        self,
        call: Call,
        shape: Shape[T],
        options: Options,
        *,
        ids: Ids | None = None,
        at_least: float = 0.0,
    ) -> T | Settled:
        """Make `call`: reserve its price, wait for its turn, send it, read the answer, and decide
        what follows; again, as often as it takes.

        Args:
            ids: Where the request ids of an analyze batch come from. A batch takes a place under
                `analyze_concurrency`, goes before waiting reads, and may end in `Settled` instead
                of an answer. None for every other call.
            at_least: Seconds that earlier batches show an attempt to need; it gets them unless the
                user chose a timeout.
        Raises:
            TokfluenceError: What the last attempt ended in; `attempts` says how many there were.
        """
        state = self.loop_state()
        key = state.keys.get(options.token) or self._add_key(state, options.token)
        if options.budget.keeps and options.budget.unseen:
            async with state.looking:
                if options.budget.unseen:  # still: calls that began together look once
                    await self._look(options)
        task = asyncio.current_task(state.loop)
        assert task is not None
        cancelling = task.cancelling()
        call_under_way: CallUnderWay[T] = self._begin(
            state, key, call, shape, options, ids, at_least
        )
        state.calls.add(task)
        try:
            while True:
                attempt = await call_under_way.reserve()
                try:
                    return call_under_way.read(attempt, await call_under_way.exchange(attempt))
                except TokfluenceError as error:
                    decision = call_under_way.decide(attempt, error)
                    if isinstance(decision, GiveUp):
                        raise
                except BaseException:
                    call_under_way.interrupted(attempt)
                    raise
                if isinstance(decision, Settled):
                    return decision
                if decision.after > 0:
                    await asyncio.sleep(decision.after)
        except asyncio.CancelledError:
            if task in state.ended:
                state.ended.discard(task)
                if task.uncancel() <= cancelling:
                    raise ClosedError from None
            raise
        finally:
            state.calls.discard(task)
            call_under_way.end()

    def _add_key(self, state: LoopState, token: Secret) -> KeyState:
        key = KeyState(self.lanes(token), self.wallet(token), self.throttle)
        return state.keys.setdefault(token, key)

    async def _look(self, options: Options) -> None:
        """Ask what is left in the wallet, as a floor has to know it before anything is spent.

        Every answer carries it, errors included, and analyzing no URLs costs 25 credits for each of
        none [public, seed].
        """
        with suppress(APIStatusError):
            nothing = structs.replace(options, budget=Budget())
            await self.perform(build_analyze([], False), _NOTHING, nothing)
        remaining = self.wallet(options.token).remaining
        if remaining is not None:
            options.budget.saw(remaining)
