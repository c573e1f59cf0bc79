"""One attempt: bytes out, bytes in, aiohttp's errors mapped to ours. The one door to the wire.

Behind the door are two ways. With the versions of aiohttp it was tested with, an attempt goes by
`_direct`: aiohttp's pool and parser, without its session between. With any other version, with a
session of the caller's, and where somebody has replaced the session's method (aioresponses,
tracing), it goes through the session, here. Both take the slot, and stamp token and request id,
once for each physical send; the suite runs over both (`pytest --through-session`).

What is hard about aiohttp's session, and is coped with:

- It sends GET, HEAD, PUT and DELETE again *by itself* when a reused connection drops, with
  identical headers. The second send would carry a used request id: 409, and the answer that was
  paid for is lost. So throttle slot, token and request id are stamped in a client middleware, which
  runs once per physical send, and a dropped connection leaves it as an error of ours, which aiohttp
  does not repeat. Whether to repeat is `_retry`'s decision, and every request on the wire is one we
  counted.
- The middleware runs before a connection is there. A slot is good for the moment it is given: where
  connecting took longer than the throttle's margin, the slot is let go unused and another one
  taken, with the connection in hand. Our own connector says when that is. A session of the caller's
  has another, so there the request's `send` does; and its pool may be smaller than our concurrency,
  so waiting in it is not timed.
- A session's `total` timeout counts the wait for a pooled connection, and `sock_read` does not stop
  a slow drip. So aiohttp's `connect` and `sock_read` are used, and the total is ours, from the
  moment the request may leave.
- It bounds no body after decompression: a 1 MB gzip answer took 2.1 GB with `read()`. Bodies are
  read in pieces against a cap, unless a declared length below the cap already bounds them.
- The `repr` of its errors holds request headers, the token among them: ours are raised `from None`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import aiohttp
from aiohttp import ClientRequest, ClientResponse, hdrs
from multidict import CIMultiDict
from yarl import URL

from .._errors import TokfluenceError
from .._models import Timeout
from .._throttle.lanes import Lanes
from .._version import __version__
from .._wire.answers import Answer
from .._wire.calls import Call
from .._wire.secret import Secret
from .direct import Direct
from .failures import MOST_RETAKEN, Exchange, answer_of, late, lost, too_large

__all__ = ["Exchange", "Transport"]

# asyncio reads into blocks of 256 KiB. glibc maps and unmaps such blocks anew for every read, until
# one of their size has been freed; from then on it keeps them. Whether that happens by itself is
# chance. It is 19 page faults for each page of 200 comments, a sixth of its CPU; with this, once,
# none.
bytes(1024 * 1024)

_USER_AGENT = f"tokfluence_async/{__version__}"
_REQUEST_ID = "X-Request-Id"
_KEEPALIVE = 15.0


def _original() -> Any:
    """`ClientSession._request` as aiohttp has it; None if it had been replaced before this module
    was loaded."""
    found = getattr(aiohttp.ClientSession, "_request", None)
    code = getattr(found, "__code__", None)
    return found if code is not None and code.co_filename == aiohttp.client.__file__ else None


_REQUEST = _original()

# aiohttp 4 makes it private.
_SEND = "send" if hasattr(ClientRequest, "send") else "_send"


class _Attempt:
    """The client middleware of one attempt: takes the slot, stamps the headers, starts the
    clock."""

    __slots__ = (
        "_clock",
        "_lanes",
        "_limit",
        "_own",
        "_patience",
        "_priority",
        "_request_id",
        "_slot_at",
        "_token",
        "exchange",
    )

    def __init__(
        self,
        exchange: Exchange,
        request_id: str,
        token: Secret,
        lanes: Lanes,
        priority: bool,
        patience: float,
        limit: float | None,
        clock: asyncio.Timeout,
        own: bool,
    ) -> None:
        self.exchange = exchange
        self._own = own
        self._request_id = request_id
        self._token = token
        self._lanes = lanes
        self._priority = priority
        self._patience = patience
        self._limit = limit
        self._clock = clock
        self._slot_at: float | None = None  # when the slot in hand was taken

    async def __call__(
        self, request: ClientRequest, handler: Callable[[ClientRequest], Awaitable[ClientResponse]]
    ) -> ClientResponse:
        request.headers[_REQUEST_ID] = self._request_id
        request.headers[hdrs.AUTHORIZATION] = f"Bearer {self._token.reveal()}"
        await self._take_slot(starts_clock=self._own)
        if self._own:
            request.tokfluence_attempt = self  # type: ignore[attr-defined]
        else:
            setattr(request, _SEND, self._send_when_connected(getattr(request, _SEND)))
        try:
            return await handler(request)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            # Left alone, this is what makes aiohttp send again.
            self.exchange.leaves()
            raise lost(error, self.exchange, self._request_id, self._token) from None
        finally:
            if not self.exchange.sent:
                self._forfeit()

    def _send_when_connected(
        self, send: Callable[[aiohttp.connector.Connection], Awaitable[ClientResponse]]
    ) -> Callable[[aiohttp.connector.Connection], Awaitable[ClientResponse]]:
        async def send_(connection: aiohttp.connector.Connection) -> ClientResponse:
            if _has_spoken(connection):
                raise lost(
                    aiohttp.ServerDisconnectedError(), self.exchange, self._request_id, self._token
                )
            await self.connected()
            return await send(connection)

        return send_

    async def _take_slot(self, *, starts_clock: bool = True) -> None:
        loop = asyncio.get_running_loop()
        if self._lanes.try_acquire():
            self._slot_at = loop.time()
        else:
            self._clock.reschedule(None)
            began = loop.time()
            self._slot_at = await self._lanes.grant(
                priority=self._priority, patience=self._patience
            )
            self.exchange.waited += self._slot_at - began
        if starts_clock:
            self._start_clock(loop.time())

    def _forfeit(self) -> None:
        # Nothing left, so it is somebody else's turn.
        if self._slot_at is not None:
            self._lanes.forfeit(asyncio.get_running_loop().time() - self._slot_at)
            self._slot_at = None

    def _start_clock(self, now: float) -> None:
        if self._limit is not None:
            self._clock.reschedule(now + self._limit)

    async def connected(self) -> None:
        """A connection is in hand; the bytes leave when this returns."""
        loop = asyncio.get_running_loop()
        retaken = 0
        while self._slot_at is None or (
            loop.time() - self._slot_at > self._lanes.slot_lifetime and retaken < MOST_RETAKEN
        ):
            # Not given back: those that connected slowly together would all take theirs anew, and
            # leave, at one instant.
            self._slot_at = None
            retaken += 1
            await self._take_slot()
        if not retaken and not self._own:
            self._start_clock(loop.time())
        self.exchange.may_leave()
        self.exchange.leaves()


def _has_spoken(connection: aiohttp.connector.Connection) -> bool:
    """Whether bytes came in before anything was asked: an answer that aiohttp would take for that
    of the next request.

    HAProxy says 408 to idle connections, and a proxy that has lost step may send what was meant for
    somebody else.
    """
    return connection.protocol is not None and connection.protocol.should_close


class _Connector(aiohttp.TCPConnector):
    """aiohttp's connector, which says when a connection is in hand."""

    async def connect(
        self, req: ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        connection = await super().connect(req, traces, timeout)
        new = False
        while _has_spoken(connection):
            connection.close()
            if new:  # whoever speaks first there speaks no HTTP
                raise aiohttp.ServerDisconnectedError
            new = not any(self._conns.values())
            connection = await super().connect(req, traces, timeout)
        attempt: _Attempt | None = getattr(req, "tokfluence_attempt", None)
        if attempt is not None:
            try:
                await attempt.connected()
            except BaseException:
                connection.release()
                raise
        return connection

    def close_now(self) -> None:
        """Close without waiting for the peers' goodbyes, also where there is no loop to wait on."""
        if self._loop.is_closed():
            for connections in self._conns.values():
                for protocol, _ in connections:
                    _close_socket(protocol.transport)
        self._close()

    def abandon(self) -> None:
        """Forget the connections without touching them: in a forked child they are the parent's."""
        self._closed = True


def _close_socket(transport: asyncio.Transport | None) -> None:
    """Close what a closed loop has left open; a transport can only be closed by its loop, and
    complains when collected."""
    inner = getattr(
        transport, "_ssl_protocol", None
    )  # TLS: the socket is that of the transport below
    transport = getattr(inner, "_transport", transport)
    sock = getattr(transport, "_sock", None)
    if sock is not None:
        sock.close()
        transport._sock = None  # type: ignore[union-attr]  # what it looks at when it is collected


class Transport:
    """The connections of one event loop.

    Args:
        base_url: The origin and path prefix that every request goes to, and the token to nowhere
            else.
        max_body: Bytes of one answer's body after decompression.
        session: A session of the caller's, which is used and never closed.
    """

    def __init__(
        self, base_url: str, *, max_body: int, session: aiohttp.ClientSession | None
    ) -> None:
        self._base = str(URL(base_url)).rstrip("/")  # with its path quoted, once
        self._max_body = max_body
        self._own = session is None
        self._pid = os.getpid()
        self._direct: Direct | None = None
        if session is None:
            session = aiohttp.ClientSession(
                # No limit of its own: the concurrency limits above bound it, and a wait in the pool
                # would be timed.
                connector=_Connector(limit=0, keepalive_timeout=_KEEPALIVE),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=None, sock_connect=None, sock_read=None
                ),
                trust_env=False,
                raise_for_status=False,
                headers={hdrs.USER_AGENT: _USER_AGENT},
            )
            self._direct = Direct.over(session, base_url, max_body=max_body, user_agent=_USER_AGENT)
        self._session = session

    exchange = Exchange

    def send(
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
    ) -> Coroutine[Any, Any, Answer]:
        """Send `call` once and read its answer to the end, whatever its status.

        Args:
            limit: Seconds from the moment the request may leave to the last byte of the answer;
                None for no limit.
            priority: Take the next slot before those who wait without it.
            patience: Seconds; no slot is waited for while a gate is closed for longer.
        Raises:
            APIConnectionError: No complete answer; `exchange.sent` says whether the request may
                have been done.
            APIResponseValidationError: The body is larger than the cap.
            GateClosedError: Nothing was sent.
        """
        # Somebody who puts something in the place of the session's method (aioresponses, tracing)
        # wants to see the call.
        short = _REQUEST is not None and aiohttp.ClientSession._request is _REQUEST  # pyright: ignore[reportPrivateUsage]
        way = self._direct.send if short and self._direct is not None else self._send
        return way(
            call,
            exchange,
            request_id=request_id,
            token=token,
            lanes=lanes,
            timeout=timeout,
            limit=limit,
            priority=priority,
            patience=patience,
        )

    async def _send(
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
        clock = asyncio.timeout(None)
        try:
            async with clock:
                attempt = _Attempt(
                    exchange, request_id, token, lanes, priority, patience, limit, clock, self._own
                )
                response = await self._session.request(
                    call.method,
                    URL(self._base + call.target, encoded=True),
                    data=call.body,
                    headers=_PLAIN_HEADERS if call.body is None else _JSON_HEADERS,
                    allow_redirects=False,
                    raise_for_status=False,
                    timeout=aiohttp.ClientTimeout(
                        total=None, connect=timeout.connect, sock_read=timeout.read
                    )
                    if self._own
                    else aiohttp.ClientTimeout(
                        total=None, sock_connect=timeout.connect, sock_read=timeout.read
                    ),
                    middlewares=(attempt,),
                )
                try:
                    exchange.leaves()
                    body = await self._read(response, request_id)
                except BaseException:
                    response.close()
                    raise
        except TokfluenceError:
            raise
        except TimeoutError as error:
            raise late(error, exchange, request_id, clock.expired(), limit, timeout) from None
        except (aiohttp.ClientError, OSError) as error:
            raise lost(error, exchange, request_id, token) from None
        return answer_of(response.status, response.headers, body, request_id)

    async def _read(self, response: ClientResponse, request_id: str) -> bytes:
        length = response.content_length
        if (
            length is not None
            and length <= self._max_body
            and hdrs.CONTENT_ENCODING not in response.headers
        ):
            return await response.read()
        pieces: list[bytes] = []
        size = 0
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > self._max_body:
                pieces, piece = (
                    [],
                    b"",
                )  # a traceback with locals would show them, and a proxy may echo the token
                raise too_large(response.status, self._max_body, request_id)
            pieces.append(piece)
        return b"".join(pieces)

    async def aclose(self) -> None:
        """Close every connection and wait for it, on the loop they belong to."""
        connector = self._detach()
        if connector is not None:
            await connector.close()

    def close_now(self) -> None:
        """Close every connection without waiting; harmless on a closed loop, in a forked child, and
        twice."""
        connector = self._detach()
        if connector is None:
            return
        if os.getpid() == self._pid:
            connector.close_now()
        else:
            connector.abandon()

    def _detach(self) -> _Connector | None:
        if not self._own or self._session.closed:
            return None
        connector = self._session.connector
        self._session.detach()
        assert isinstance(connector, _Connector)
        return connector


_PLAIN_HEADERS = CIMultiDict[str]()
_JSON_HEADERS = CIMultiDict({hdrs.CONTENT_TYPE: "application/json"})
