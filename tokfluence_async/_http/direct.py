"""The short way to the wire: aiohttp's connection pool and its parser, without its session between
them and us.

A session's `_request` builds URL, cookies, timers, headers, a request and a response object,
follows redirects and repeats what was dropped. We have no use for any of it: one origin, headers
that differ in two values, time limits of our own, every send counted. What is left is what aiohttp
is unbeatable at, pooling connections (with TLS, names and happy eyeballs) and parsing answers in C.
Measured against the plain loop of `session.get`, `read` and a decoder, in
turns: 1.5 of its CPU by way of the session, with a middleware; 0.7 this way, with everything the
client does on top.

`Connection.protocol`, `set_response_params` and `read` are what `aiohttp.ClientSession` itself
calls, and not promised to anybody else. So this way is taken only with versions it was tested with;
with any other, with a session of the caller's, and where `ClientSession._request` has been replaced
(by aioresponses, or by tracing), `_transport` goes through the session.

Time limits have no timer each here (a `call_later` and its cancelling are 3 µs; aiohttp's reading
limit takes two): those of the same length fall due in the order they were set, so one timer serves
them all, and with requests in flight it stays where it is.
"""

from __future__ import annotations

import asyncio
import functools
import math
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from aiohttp import ClientRequest, hdrs
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import TimerNoop
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from .._errors import TokfluenceError
from .._models import Timeout
from .._throttle.lanes import Lanes
from .._wire.answers import Answer
from .._wire.calls import Call
from .._wire.secret import Secret
from .failures import MOST_RETAKEN, Exchange, answer_of, late, lost, too_large

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey

__all__ = ["Alarm", "Deadlines", "Direct"]

_TESTED = ("3.14.",)
_NO_TIMER = TimerNoop()
# Lengths of limits that are kept while none is set. The reads of a client share one; every size of
# batch has its own.
_KEPT = 4


class _Protocol(ResponseHandler):
    """aiohttp's protocol, which knows when it last heard from the other side; 0.3 µs a packet."""

    heard = -math.inf

    def data_received(self, data: bytes) -> None:
        self.heard = self._loop.time()
        super().data_received(data)


class _Limits:
    """One attempt under its limits. `expired` is the one that ended it, None before that."""

    __slots__ = ("_task", "expired", "protocol", "timer")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self.expired: Deadlines | None = None
        self.protocol: _Protocol | None = None
        self.timer: asyncio.TimerHandle | None = None

    def expire(self, by: Deadlines) -> None:
        if self.expired is None:
            self.expired = by
            self._task.cancel()


class Alarm:
    """The one timer of all limits of an event loop, for whichever falls due first.

    It stands at that time or earlier, and not at all while no limit is set: an idle client leaves
    nothing in its loop. It is first set by the shortest limit there is, not by the one that was
    started: a request starts its total, then, a moment later, its shorter silence, and would set
    the timer twice.
    """

    __slots__ = ("_handle", "_kinds", "_loop", "_set", "_shortest", "when")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        #: Where the timer stands; infinite where there is none.
        self.when = math.inf
        self._loop = loop
        self._kinds: list[Deadlines] = []
        self._shortest = math.inf
        self._set = 0
        self._handle: asyncio.TimerHandle | None = None

    def add(self, kind: Deadlines) -> None:
        self._kinds.append(kind)
        self._shortest = min(self._shortest, kind.delay)

    def remove(self, kind: Deadlines) -> None:
        self._kinds.remove(kind)
        self._shortest = min((each.delay for each in self._kinds), default=math.inf)

    def began(self, due: float, now: float) -> None:
        """A limit was set."""
        self._set += 1
        if due < self.when:
            self._stand(min(due, now + self._shortest) if self._handle is None else due)

    def ended(self, count: int = 1) -> None:
        """Limits are set no longer."""
        self._set -= count
        if not self._set and self._handle is not None:
            self._handle.cancel()
            self._handle, self.when = None, math.inf

    def _stand(self, when: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self.when = self._loop.call_at(when, self._ring), when

    def _ring(self) -> None:
        self._handle, self.when = None, math.inf
        now = self._loop.time()
        for kind in self._kinds:
            kind.expire(now)
        first = min((kind.first for kind in self._kinds), default=math.inf)
        if first < self.when:
            self._stand(first)


class Deadlines:
    """Limits that are all `delay` seconds after their start, and so fall due in the order they were
    set. Each is exact.

    Args:
        silence: They count from the last byte heard. What was heard is looked at when a limit falls
            due, and such a limit, which has lasted longer than most exchanges, goes on with a timer
            of its own.
    """

    __slots__ = ("_alarm", "_due", "_loop", "_silence", "delay")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, alarm: Alarm, delay: float, *, silence: bool = False
    ) -> None:
        self.delay = delay
        self._alarm = alarm
        self._loop = loop
        self._silence = silence
        self._due: dict[_Limits, float] = {}
        alarm.add(self)

    def __len__(self) -> int:
        return len(self._due)

    @property
    def first(self) -> float:
        """When the next one falls due; infinite if none is set."""
        return next(iter(self._due.values()), math.inf)

    def start(self, limits: _Limits, now: float) -> None:
        """End `limits` after `delay` from `now`, unless stopped before."""
        self._due[limits] = due = now + self.delay
        self._alarm.began(due, now)

    def stop(self, limits: _Limits) -> None:
        if self._due.pop(limits, None) is not None:
            self._alarm.ended()

    def expire(self, now: float) -> None:
        """End those that are due."""
        while (first := next(iter(self._due), None)) is not None and self._due[first] <= now:
            del self._due[first]
            self._alarm.ended()
            self._end(first, now)

    def _end(self, limits: _Limits, now: float) -> None:
        if (
            self._silence
            and limits.protocol is not None
            and (due := limits.protocol.heard + self.delay) > now
        ):
            limits.timer = self._loop.call_at(due, self._look_again, limits)
        else:
            limits.expire(self)

    def _look_again(self, limits: _Limits) -> None:
        limits.timer = None
        self._end(limits, self._loop.time())


class _Template(ClientRequest):
    """What the pool has to know of a request to find or open a connection; all of one origin are
    alike."""

    _key: ConnectionKey | None = None

    @property
    def connection_key(self) -> ConnectionKey:
        if self._key is None:
            self._key = super().connection_key
        return self._key


class Direct:
    """The connections of one session's pool, of one event loop, to one origin.

    Args:
        base_url: Origin and path prefix, as checked by the client.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        connector: aiohttp.TCPConnector,
        base_url: str,
        max_body: int,
        agent: str,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connector = connector
        self._max_body = max_body
        base = URL(base_url + "/")  # quotes what its path may need
        self._prefix = base.raw_path.rstrip("/")
        self._template = _Template("GET", base, loop=self._loop, session=session)
        defaults = ClientRequest.DEFAULT_HEADERS
        fixed = {hdrs.HOST: base.host_port_subcomponent, **defaults, hdrs.USER_AGENT: agent}
        self._fixed = " HTTP/1.1\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in fixed.items()
        )
        # What the pool makes of a new connection; aiohttp has no other place for it.
        connector._factory = cast("Any", functools.partial(_Protocol, loop=self._loop))  # pyright: ignore[reportPrivateUsage]
        self._alarm = Alarm(self._loop)
        self._totals: dict[float, Deadlines] = {}
        self._silences: dict[float, Deadlines] = {}
        self._connect_limits: dict[float | None, aiohttp.ClientTimeout] = {}

    @classmethod
    def over(
        cls, session: aiohttp.ClientSession, base_url: str, *, max_body: int, user_agent: str
    ) -> Direct | None:
        """The short way with `session`'s pool, or None if this aiohttp is not one it was tested
        with."""
        connector = session.connector
        if not aiohttp.__version__.startswith(_TESTED) or not isinstance(
            connector, aiohttp.TCPConnector
        ):
            return None
        return cls(session, connector, base_url, max_body, user_agent)

    async def send(
        self,
        call: Call,
        exchange: Exchange,
        *,
        request_id: str,
        token: Secret,
        lanes: Lanes,
        timeout: Timeout,
        limit: float | None,
        priority: bool,
        patience: float,
    ) -> Answer:
        """As `Transport.send`."""
        loop = self._loop
        task = asyncio.current_task(loop)
        assert task is not None
        cancelling = task.cancelling()
        limits = _Limits(task)
        total = self._limits(self._totals, limit, False)
        read = self._limits(self._silences, timeout.read, True)
        connection: aiohttp.connector.Connection | None = None
        slot_at: float | None = None  # when the slot in hand was granted
        try:
            if lanes.try_acquire():
                now = slot_at = loop.time()
            else:
                began = loop.time()
                slot_at = await lanes.grant(priority=priority, patience=patience)
                exchange.waited += slot_at - began
                now = loop.time()
            if total is not None:
                total.start(limits, now)
            connection = await self._connector.connect(
                self._template, [], self._connecting(timeout.connect)
            )
            now = loop.time()
            retaken = 0
            while now - slot_at > lanes.slot_lifetime and retaken < MOST_RETAKEN:
                # Connecting, or the loop, took too long for this slot to be good still: with the
                # connection in hand, another one.
                if total is not None:
                    total.stop(limits)
                # Not given back: those that connected slowly together would all take theirs anew,
                # and leave, at one instant.
                slot_at = None
                retaken += 1
                if lanes.try_acquire():
                    slot_at = now
                else:
                    slot_at = await lanes.grant(priority=priority, patience=patience)
                    exchange.waited += slot_at - now
                    now = loop.time()
                if total is not None:
                    total.start(limits, now)
            protocol = connection.protocol
            if protocol is None or protocol.transport is None or protocol.transport.is_closing():
                raise aiohttp.ServerDisconnectedError  # while it waited for the slot
            exchange.may_leave()
            exchange.leaves()
            protocol.set_response_params(timer=_NO_TIMER, read_until_eof=True)
            # The token is in no local name, which a traceback could show.
            protocol.transport.write(self._request(call, request_id, token))
            if read is not None:
                assert isinstance(protocol, _Protocol)
                limits.protocol = protocol
                read.start(limits, now)
            message, payload = await protocol.read()
            while 100 <= message.code < 200 and message.code != 101:
                message, payload = await protocol.read()
            if payload.is_eof():
                # A body that came with its headers, as a post's does: no need to wait for it, or to
                # look at its length.
                body = payload.read_nowait()
                if len(body) > self._max_body:
                    body = b""
                    raise too_large(message.code, self._max_body, request_id)
            else:
                body = await self._pieces(message.code, payload, request_id)
            # In the pool again before anything is made of the answer.
            connection.release()
            connection = None
            return answer_of(message.code, message.headers, body, request_id)
        except asyncio.CancelledError:
            if limits.expired is not None and task.uncancel() <= cancelling:
                raise late(
                    TimeoutError(), exchange, request_id, limits.expired is total, limit, timeout
                ) from None
            raise
        except BaseException as error:
            if limits.expired is not None:  # both at once; the cancellation must not be left behind
                task.uncancel()
            if isinstance(error, TokfluenceError):
                raise
            if isinstance(error, TimeoutError):
                # Before the bytes leave it is aiohttp's limit for connecting, afterwards the
                # operating system's.
                slow = error if exchange.sent else aiohttp.ConnectionTimeoutError()
                raise late(slow, exchange, request_id, False, limit, timeout) from None
            if isinstance(error, HttpProcessingError):
                info = self._template.request_info
                said = aiohttp.ClientResponseError(
                    info, (), status=error.code, message=error.message
                )
                raise lost(said, exchange, request_id, token) from None
            if isinstance(error, (aiohttp.ClientError, aiohttp.EofStream, OSError)):
                raise lost(error, exchange, request_id, token) from None
            raise
        finally:
            if slot_at is not None and not exchange.sent:
                lanes.forfeit(loop.time() - slot_at)  # nothing left: somebody else's turn
            if total is not None:
                total.stop(limits)
            if read is not None:
                read.stop(limits)
            if limits.timer is not None:
                limits.timer.cancel()
            if connection is not None:
                connection.close()

    async def _pieces(self, status: int, payload: aiohttp.StreamReader, request_id: str) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while piece := await payload.readany():
            size += len(piece)
            if size > self._max_body:
                pieces, piece = (
                    [],
                    b"",
                )  # a traceback with locals would show them, and a proxy may echo the token
                raise too_large(status, self._max_body, request_id)
            pieces.append(piece)
        return b"".join(pieces)

    def _request(self, call: Call, request_id: str, token: Secret) -> bytes:
        """The bytes of a request. Everything in it was checked where it came from: the target by
        `_wire`, ids and token by patterns."""
        head = (
            f"{call.method} {self._prefix}{call.target}{self._fixed}"
            f"Authorization: Bearer {token.reveal()}\r\nX-Request-Id: {request_id}\r\n"
        )
        if call.body is None:
            if call.method != "GET":
                head += "Content-Length: 0\r\n"
            return f"{head}\r\n".encode("ascii")
        return (
            f"{head}Content-Type: application/json\r\nContent-Length: {len(call.body)}\r\n\r\n".encode(
                "ascii"
            )
            + call.body
        )

    def _limits(
        self, kept: dict[float, Deadlines], delay: float | None, silence: bool
    ) -> Deadlines | None:
        if delay is None:
            return None
        deadlines = kept.get(delay)
        if deadlines is None:
            if len(kept) >= _KEPT:
                for each in [each for each, found in kept.items() if not len(found)]:
                    self._alarm.remove(kept.pop(each))
            deadlines = kept[delay] = Deadlines(self._loop, self._alarm, delay, silence=silence)
        return deadlines

    def _connecting(self, delay: float | None) -> aiohttp.ClientTimeout:
        limits = self._connect_limits.get(delay)
        if limits is None:
            limits = self._connect_limits[delay] = aiohttp.ClientTimeout(total=None, connect=delay)
        return limits
