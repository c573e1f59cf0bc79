"""Attempts joined to calls: what the rooms below decide, this room waits for.

One call is a loop over attempts: reserve its price, take a place under the concurrency limit, let
`_transport` take a slot and send, let `_wire` read the answer, let `_retry` say what follows.
Between attempts nothing is held: no connection, no slot, no place.

Everything that belongs to an event loop (connections, places, background tasks) is kept per loop,
in a `_Home`, so that a client works in two loops one after another and in two threads at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import threading
import weakref
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from aiolimiter import AsyncLimiter
from msgspec import Raw, Struct

from .._credits.budget import Budget
from .._credits.ledger import Ledger
from .._errors import APIError, APIStatusError, ClosedError, DuplicateRequestError, TokfluenceError
from .._models import Timeout, Usage
from .._throttle.lanes import GateClosedError, Lanes
from .._throttle.throttle import Throttle
from .._wire.answers import Answer, charge_of, parse_answer
from .._wire.calls import Call, Kind, build_analyze
from .._wire.prices import is_charged
from .._wire.request_ids import next_request_id
from .._wire.secret import Secret
from .._wire.shapes import Shape
from .concurrency import Crowd, Gate
from .foreign import Stranger
from .retry import Again, GiveUp, Past, RetryPolicy, Settled, decide, effect_of

if TYPE_CHECKING:
    import aiohttp

    from .transport import Exchange, Transport

__all__ = ["ClosedError", "Engine", "FreshIds", "Ids", "Options"]

T = TypeVar("T")

logger = logging.getLogger("tokfluence_async")


class Options(Struct, frozen=True, kw_only=True):
    """What `with_options` may change."""

    token: Secret
    timeout: Timeout
    per_url: float
    policy: RetryPolicy
    max_concurrency: int
    analyze_concurrency: int
    budget: Budget


class Ids(Protocol):
    """Where the request ids of one write come from. A journal writes each down before it is used.

    Attributes:
        past: What the first id has been through already, in an earlier process.
    """

    @property
    def past(self) -> Past: ...

    async def next(self) -> str: ...

    def note(self, error: TokfluenceError | None) -> None:
        """An attempt under the current id ended in `error`; None if it was cancelled after its
        bytes may have left."""
        ...


class FreshIds:
    """New ids, written down nowhere."""

    __slots__ = ()
    past = Past.FRESH

    async def next(self) -> str:
        return next_request_id()

    def note(self, error: TokfluenceError | None) -> None:
        pass


class _Meter:
    """Counts of one event loop. One thread writes each, so no lock is needed and no count is
    lost."""

    __slots__ = ("bytes_received", "rate_limited", "requests", "retries", "throttled_seconds")

    def __init__(self) -> None:
        self.requests = 0
        self.retries = 0
        self.throttled_seconds = 0.0
        self.rate_limited = 0
        self.bytes_received = 0


class _Home:
    """What a client has in one event loop."""

    __slots__ = (
        "buckets",
        "calls",
        "crowds",
        "ended",
        "gates",
        "looking",
        "loop",
        "meter",
        "places",
        "tasks",
        "transport",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: Transport, meter: _Meter
    ) -> None:
        self.loop = loop
        self.transport = transport
        self.meter = meter
        self.tasks: set[asyncio.Task[Any]] = set()
        self.calls: set[asyncio.Task[Any]] = set()  # everybody's that are in a call now
        self.ended: set[asyncio.Task[Any]] = set()  # those whose call `aclose` has ended
        self.places: dict[tuple[bool, int, str], asyncio.Semaphore] = {}
        self.crowds: dict[str, Crowd] = {}
        self.buckets: dict[str, AsyncLimiter | None] = {}
        self.gates: dict[str, Gate] = {}
        self.looking = asyncio.Lock()

    def gate(self, token: Secret, lanes: Lanes) -> Gate:
        gate = self.gates.get(token)
        if gate is None:
            gate = self.gates[token] = Gate(lanes)
        return gate

    def bucket(self, token: Secret, throttle: Throttle) -> AsyncLimiter | None:
        """The token bucket that a key's analyze batches pass before they join the throttle's line;
        None without a limit.

        Their line goes before that of the reads, every other slot. What `analyze_concurrency` lets
        through at once (hundreds, if a caller says so; batches that come back `fresh` in no time)
        is let into that line by aiolimiter's bucket, a burst and then the pace of the tighter
        budget. `_throttle` says why it holds the budgets themselves with something else: they
        belong to the process, this bucket to one client in one event loop.
        """
        bucket = self.buckets.get(token)
        if bucket is None and token not in self.buckets:
            limit = min(
                (n for n in (throttle.per_ip, throttle.per_key) if n is not None), default=None
            )
            if limit is not None:
                bucket = AsyncLimiter(
                    throttle.burst, throttle.burst * (throttle.period + throttle.jitter) / limit
                )
            self.buckets[token] = bucket
        return bucket

    def place(self, analyze: bool, limit: int, token: Secret) -> asyncio.Semaphore:
        """Places of one key: those who wait for a slot hold one, and a key that is refused must not
        hold another's."""
        places = self.places.get((analyze, limit, token))
        if places is None:
            # anyio's looks for a cancellation at every turn, 1.5 µs; waiting here is first come,
            # first served as well.
            places = self.places[analyze, limit, token] = asyncio.Semaphore(limit)
        return places

    def crowd(self, token: Secret) -> Crowd:
        crowd = self.crowds.get(token)
        if crowd is None:
            crowd = self.crowds[token] = Crowd()
        return crowd


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
    ) -> None:
        self.origin = origin
        self.throttle = throttle
        self.closed = False
        self._base_url = base_url
        self._max_body = max_body
        self._session = session
        self._homes: dict[asyncio.AbstractEventLoop, _Home] = {}
        self._meters: list[_Meter] = []
        self._wallets: dict[str, Ledger] = {}
        self._lanes: dict[str, Lanes] = {}
        self._stranger = Stranger(base_url)
        self._lock = threading.Lock()
        # Without `aclose`, the connections go when the client does, quietly: in notebooks cells are
        # run again.
        weakref.finalize(self, _abandon, self._homes)

    # --- the loop's own things --------------------------------------------------------------------

    def home(self) -> _Home:
        loop = asyncio.get_running_loop()
        home = self._homes.get(loop)
        if home is not None:
            return home
        if self.closed:
            raise ClosedError
        with self._lock:
            for other in [other for other in self._homes if other.is_closed()]:
                self._homes.pop(other).transport.close_now()
            meter = _Meter()
            self._meters.append(meter)
            from .transport import (
                Transport,  # aiohttp is loaded with the first call, not with the package
            )

            transport = Transport(self._base_url, max_body=self._max_body, session=self._session)
            home = self._homes[loop] = _Home(loop, transport, meter)
        return home

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in the background. It belongs to the client: `aclose` ends it."""
        try:
            home = self.home()
        except ClosedError:
            work.close()
            raise
        task = asyncio.get_running_loop().create_task(work)
        home.tasks.add(task)
        task.add_done_callback(home.tasks.discard)
        return task

    async def aclose(self) -> None:
        """End background work and close the connections, of every event loop the client was used
        in. Idempotent."""
        self.closed = True
        here = asyncio.get_running_loop()
        with self._lock:
            homes = dict(self._homes)
            self._homes.clear()
        mine = homes.pop(here, None)
        for loop, home in homes.items():
            _close_elsewhere(loop, home)
        if mine is not None:
            here_task = asyncio.current_task()
            tasks = [task for task in mine.tasks if task is not here_task]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            # Whoever awaits a call now, however long it would still wait, gets `ClosedError`: as
            # `asyncio.timeout` does it, by a cancellation that is turned into an error before it
            # leaves the call.
            for task in list(mine.calls):
                mine.ended.add(task)
                task.cancel()
            await mine.transport.aclose()

    # --- counts -----------------------------------------------------------------------------------

    def wallet(self, token: Secret) -> Ledger:
        wallet = self._wallets.get(token)
        if wallet is None:
            with self._lock:
                wallet = self._wallets.setdefault(token, Ledger())
        return wallet

    def lanes(self, token: Secret) -> Lanes:
        lanes = self._lanes.get(token)
        if lanes is None:
            with self._lock:
                lanes = self._lanes.setdefault(
                    token, self.throttle.lanes(self.origin, token.reveal())
                )
        return lanes

    def usage(self, options: Options) -> Usage:
        statistics = self.throttle.statistics()
        meters = list(self._meters)
        return Usage(
            requests=sum(m.requests for m in meters),
            retries=sum(m.retries for m in meters),
            throttled_seconds=sum(m.throttled_seconds for m in meters),
            rate_limited=sum(m.rate_limited for m in meters),
            credits_spent=options.budget.spent,
            credits_reserved=options.budget.reserved,
            bytes_received=sum(m.bytes_received for m in meters),
            pace=None if math.isinf(statistics.pace) else statistics.pace,
            slowed=statistics.slowed,
        )

    @property
    def not_the_api(self) -> APIError | None:
        """What the rest of a job ends in, where it is plain that something else than the API
        answers."""
        return self._stranger.error

    # --- calls ------------------------------------------------------------------------------------

    async def perform(
        self,
        call: Call,
        shape: Shape[T],
        options: Options,
        budget: Budget,
        *,
        batch: bool = False,
        ids: Ids = FreshIds(),  # noqa: B008 - stateless
        at_least: float = 0.0,
    ) -> T | Settled:
        """Make `call`, with as many attempts as it takes.

        Args:
            budget: Where its price is reserved and settled.
            batch: An analyze batch: takes a place under `analyze_concurrency`, goes before waiting
                reads, and may end in `Settled` instead of an answer.
            ids: Where a write's request ids come from; reads make their own.
            at_least: Seconds that earlier batches show an attempt to need; it gets them unless the
                user chose a timeout.
        Raises:
            TokfluenceError: What the last attempt ended in; `attempts` says how many there were.
        """
        home = self.home()
        loop = home.loop
        meter = home.meter
        lanes = self.lanes(options.token)
        wallet = self.wallet(options.token)
        most = options.analyze_concurrency if batch else options.max_concurrency
        places = home.place(batch, most, options.token)
        crowd = home.crowd(options.token) if batch else None
        bucket = home.bucket(options.token, self.throttle) if batch else None
        timeout, limit = _limits(call, options, at_least)
        read = call.kind is Kind.READ
        request_id: str | None = None
        past = ids.past
        owed = 0  # credits the current request id may have been charged, as far as we know
        reserved = 0
        attempt = 0
        began: float | None = None
        failed = True
        refusals = 0
        maybe = False  # whether an attempt under the current id may have been charged without our knowing
        if budget.keeps and budget.unseen:
            async with home.looking:
                if budget.unseen:  # still: calls that began together look once
                    await self._look(options, budget)
        task = asyncio.current_task(loop)
        assert task is not None
        home.calls.add(task)
        wallet.began()
        cancelling = task.cancelling()
        try:
            while True:
                attempt += 1
                budget.check()
                if request_id is None:
                    budget.reserve(call.price)
                    reserved, owed = call.price, 0
                    request_id = next_request_id() if read else await ids.next()
                exchange = home.transport.exchange(budget.check)
                try:
                    answer: Answer | None = None
                    while answer is None:
                        if lanes.gate_closed_for > 0:
                            meter.throttled_seconds += await home.gate(options.token, lanes).passed(
                                options.policy
                            )
                        asked = None if crowd is None and not places.locked() else loop.time()
                        await places.acquire()
                        inside = False
                        counted = exchange.waited
                        try:
                            if asked is not None:
                                if crowd is not None:
                                    await crowd.enter(exchange, most)
                                    inside = True
                                if began is not None:
                                    began += (
                                        loop.time() - asked
                                    )  # the deadline is for the service's part
                                if lanes.gate_closed_for > 0:
                                    continue  # it closed while this waited for the place
                            if bucket is not None:
                                asked = loop.time()
                                with lanes.waiting_outside():
                                    await bucket.acquire()
                                exchange.waited += loop.time() - asked
                            answer = await home.transport.send(
                                call,
                                exchange,
                                request_id=request_id,
                                token=options.token,
                                lanes=lanes,
                                timeout=timeout,
                                limit=limit,
                                priority=batch,
                                patience=options.policy.deadline,
                            )
                        except GateClosedError as error:
                            # It closed while this waited for the slot, for longer than this waits
                            # in line.
                            exchange.waited += error.waited
                            continue
                        finally:
                            places.release()
                            if crowd is not None and inside:
                                crowd.leave(exchange)
                            meter.throttled_seconds += exchange.waited - counted
                            if exchange.sent:
                                meter.requests += 1
                                if attempt > 1:
                                    meter.retries += 1
                    meter.bytes_received += len(answer.body)
                    if answer.credits_remaining is not None:
                        wallet.note(exchange.order, answer.credits_remaining)
                        if budget.keeps:
                            budget.saw(answer.credits_remaining)
                    too_many = False
                    if crowd is not None:
                        if answer.status in (429, 503):
                            too_many = crowd.refused(again=refusals > 0)
                            refusals += 1
                        else:
                            crowd.answered()
                    if answer.status == 429:
                        meter.rate_limited += 1
                        lanes.refused(answer.retry_after, lower=not too_many)
                    else:
                        lanes.answered()
                    if logger.isEnabledFor(logging.DEBUG):
                        _log(call, answer, exchange)
                    value = parse_answer(answer, shape, secret=options.token)
                    owed = charge_of(answer, call)
                    maybe = failed = False
                    self._stranger.spoke(None)
                    return value
                except TokfluenceError as error:
                    if budget.closed_by(error):
                        raise  # not by this attempt: it has not been sent
                    if isinstance(error, APIError):
                        error.attempts = attempt
                        self._stranger.spoke(error)
                    if isinstance(error, APIStatusError) and not exchange.sent:
                        raise  # from the closed gate: the service was not asked
                    now = loop.time()
                    began = now if began is None else began
                    decision = decide(
                        error,
                        attempt,
                        call.kind,
                        past,
                        batch=batch,
                        policy=options.policy,
                        elapsed=now - began,
                        rand=random.random(),
                    )
                    effect = effect_of(error)
                    maybe = maybe or bool(effect & Past.MAYBE)
                    ids.note(error)
                    if isinstance(error, APIStatusError):
                        # 409 for an id that was never sent before: something in between has sent it
                        # twice, and the answer that is lost was charged.
                        if is_charged(error.status, error.code) or (
                            error.status == 409 and past is Past.FRESH
                        ):
                            owed = call.price
                    elif exchange.sent:
                        owed = call.price
                    if isinstance(decision, Settled):
                        # Charged here only if an attempt of this call may have run: a batch that an
                        # earlier process left in doubt was charged then, if ever.
                        owed = call.price if maybe or past is Past.FRESH else 0
                        return decision
                    if isinstance(decision, GiveUp):
                        if isinstance(error, DuplicateRequestError) and past & Past.MAYBE:
                            error.advice = "An earlier attempt of this call was done; its answer is not replayed."
                        raise
                    assert isinstance(decision, Again)
                    past |= effect
                    logger.info("%s: %s; again in %.1f s", call.route, error, decision.after)
                    if decision.new_id:
                        budget.settle(reserved, owed)
                        wallet.book(call.route, request_id, owed, certain=not maybe, failed=True)
                        reserved, maybe = 0, False
                        request_id, past = None, Past.FRESH
                    after = decision.after
                except BaseException:
                    # Cancelled: what may have left may have been charged.
                    if exchange.sent:
                        owed = call.price
                        maybe = True
                        ids.note(None)
                    raise
                if after > 0:
                    await asyncio.sleep(after)
        except asyncio.CancelledError:
            if task in home.ended:
                home.ended.discard(task)
                if task.uncancel() <= cancelling:
                    raise ClosedError from None
            raise
        finally:
            home.calls.discard(task)
            if reserved:
                budget.settle(reserved, owed)
            if request_id is not None:
                wallet.book(call.route, request_id, owed, certain=not maybe, failed=failed)
            wallet.ended()

    async def _look(self, options: Options, budget: Budget) -> None:
        """Ask what is left in the wallet, as a floor has to know it before anything is spent.

        Every answer carries it, errors included, and analyzing no URLs costs 25 credits for each of
        none [public, seed].
        """
        with suppress(APIStatusError):
            await self.perform(build_analyze([], False), _NOTHING, options, Budget())
        remaining = self.wallet(options.token).remaining
        if remaining is not None:
            budget.saw(remaining)


_DEFAULT = Timeout()
_NOTHING: Shape[Raw] = Shape(Raw)


def _limits(call: Call, options: Options, at_least: float) -> tuple[Timeout, float | None]:
    timeout = options.timeout
    if not call.units:
        return timeout, timeout.total
    total = None if timeout.total is None else timeout.total + options.per_url * call.units
    # Only ever longer: an attempt that is cut short may have been charged, so no limit is shortened
    # by a guess.
    if total is not None and timeout == _DEFAULT:
        total = max(total, at_least)
    # The service is silent while it works, so only the total bounds the wait.
    return Timeout(connect=timeout.connect, read=None, total=total), total


def _log(call: Call, answer: Answer, exchange: Exchange) -> None:
    logger.debug(
        "%s %s -> %d, price %d, request %s, %d bytes, waited %.3f s for a slot, %s credits left",
        call.method,
        call.target,
        answer.status,
        call.price,
        answer.request_id,
        len(answer.body),
        exchange.waited,
        "?" if answer.credits_remaining is None else answer.credits_remaining,
    )


def _close_elsewhere(loop: asyncio.AbstractEventLoop, home: _Home) -> None:
    """Close a home of a loop that is not running here: at once if it is closed, else by itself, in
    its own thread."""

    def close() -> None:
        for task in home.tasks:
            task.cancel()
        home.transport.close_now()

    if not loop.is_closed() and loop.is_running():
        try:
            loop.call_soon_threadsafe(close)
        except RuntimeError:  # closed in between
            home.transport.close_now()
    else:
        home.transport.close_now()


def _abandon(homes: dict[asyncio.AbstractEventLoop, _Home]) -> None:
    # Runs in whatever thread collects the client, at any time, also at exit.
    for loop, home in homes.items():
        _close_elsewhere(loop, home)
    homes.clear()
