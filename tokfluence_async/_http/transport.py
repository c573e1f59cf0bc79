"""The one way to the wire: one attempt through aiohttp's session.

Promises, for each request that leaves: one slot, one request id, the token, a time limit that
begins when the bytes may leave, and a body that is bounded after decompression.

Relies on `ClientSession.request` with a client middleware, and on a connector's `connect`. A
session of the caller's goes the same way; its connector is not ours, so the connection is asked for
ahead (`_leave_ahead`).

Hard: aiohttp sends again by itself when a reused connection drops, with the same headers. Under a
used request id that is a 409, and the answer that was paid for is lost. The middleware runs for
each request that leaves, and turns the drop into an error of ours, which aiohttp does not repeat.

What was measured and rejected: docs/design/transport.md.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from weakref import WeakSet

import aiohttp
from aiohttp import (
    ClientHandlerType,
    ClientMiddlewareType,
    ClientRequest,
    ClientResponse,
    hdrs,
)
from multidict import CIMultiDict, istr
from yarl import URL

from .._errors import ClosedError
from .._version import __version__
from .._wire.answers import Answer
from .._wire.calls import Call
from .attempt import Attempt
from .connector import Connector, connection_for
from .failures import answer_of, late, lost, too_large

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

__all__ = ["Transport", "read_body"]

# asyncio reads into blocks of 256 KiB. glibc maps and unmaps such blocks anew for every read, until
# one of their size has been freed; from then on it keeps them. Without this line that happens by
# chance. It is 19 page faults for each page of 200 comments, a sixth of its CPU.
bytes(1024 * 1024)

_SESSION_CLOSED = (
    "The aiohttp session that this client uses (session=...) is closed. Close the client first, or "
    "let it make a session of its own."
)
# What leaves aiohttp; a session that is closed under a request, by an assertion or a RuntimeError.
_FOREIGN = (TimeoutError, aiohttp.ClientError, OSError, AssertionError, RuntimeError)
_REQUEST_ID = istr("X-Request-Id")
_HEADERS = {hdrs.USER_AGENT: f"tokfluence_async/{__version__}"}
_JSON = CIMultiDict({hdrs.CONTENT_TYPE: "application/json"})


class Transport:
    """The connections of one event loop.

    Args:
        base_url: The origin and path prefix that every request goes to, and the token to nowhere
            else.
        max_body: Bytes of one answer's body after decompression.
        session: A session of the caller's, which is used and never closed.
        proxy: The URL of an HTTP proxy, as checked by the client.
    """

    def __init__(
        self,
        base_url: str,
        *,
        max_body: int,
        session: aiohttp.ClientSession | None,
        proxy: str | None,
    ) -> None:
        base = URL(base_url)  # quotes what its path may need
        self._scheme = base.scheme
        self._authority = base.raw_authority
        self._prefix = base.raw_path.rstrip("/")
        self._max_body = max_body
        self._proxy = None if proxy is None else URL(proxy)
        self._own: Connector | None = None
        self._used: WeakSet[ResponseHandler] = WeakSet()
        if session is None:
            self._own = Connector()
            session = aiohttp.ClientSession(
                connector=self._own,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                headers=_HEADERS,
            )
        self._session = session

    async def send(
        self, call: Call, attempt: Attempt, more: Mapping[str, str] | None = None
    ) -> Answer:
        """Send `call` once, with a slot in hand, and read its answer to the end, whatever its
        status.

        Args:
            more: Headers beside our own, such as `traceparent`.
        Raises:
            APIConnectionError: No complete answer; `attempt.sent` says whether the request may have
                been done.
            APIResponseValidationError: The body is larger than the cap.
            GateClosedError: Nothing was sent.
        """
        try:
            async with asyncio.timeout_at(attempt.start_clock()) as attempt.clock:
                response = await self._session.request(
                    call.method,
                    self._url(call.target),
                    data=call.body,
                    headers=_headers(call, more),
                    allow_redirects=False,
                    raise_for_status=False,
                    proxy=self._proxy,
                    timeout=_connect_limit(attempt.timeout.connect, self._own is not None),
                    middlewares=(self._middleware(attempt),),
                )
                try:
                    if not attempt.sent:  # somebody answers in the session's place
                        attempt.leaves()
                    body = await self._read(response, attempt)
                except BaseException:
                    response.close()
                    raise
        except _FOREIGN as error:
            raise self._in_our_words(error, attempt) from None
        finally:
            if not attempt.sent:
                attempt.forfeit_slot()
        return answer_of(response.status, response.headers, body, attempt.request_id)

    def _in_our_words(self, error: Exception, attempt: Attempt) -> Exception:
        if isinstance(error, TimeoutError):
            return late(error, attempt)
        if self._session.closed:  # aiohttp has no error of its own for that
            return ClosedError(_SESSION_CLOSED) if self._own is None else ClosedError()
        return lost(error, attempt) if isinstance(error, (aiohttp.ClientError, OSError)) else error

    def _middleware(self, attempt: Attempt) -> ClientMiddlewareType:
        """What runs once for each request that leaves. A function and not an object: recorders such
        as aioresponses copy what they are given, deeply, but not functions."""

        async def leave(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
            # Here and not in `session.request`: what traces are given at its start holds no token.
            request.headers[_REQUEST_ID] = attempt.request_id
            request.headers[hdrs.AUTHORIZATION] = f"Bearer {attempt.token.reveal()}"
            try:
                if self._own is None:
                    return await self._leave_ahead(attempt, request, handler)
                self._own.attempts[request] = attempt
                return await handler(request)
            except aiohttp.ClientConnectorError:
                raise
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                # Left alone, this is what makes aiohttp send again.
                raise lost(error, attempt) from None

        return leave

    def _url(self, target: str) -> URL:
        # As it is built here it needs no parsing, which is 4 µs of a request.
        path, _, query = target.partition("?")
        return URL.build(
            scheme=self._scheme,
            authority=self._authority,
            path=self._prefix + path,
            query_string=query,
            encoded=True,
        )

    async def _leave_ahead(
        self, attempt: Attempt, request: ClientRequest, handler: ClientHandlerType
    ) -> ClientResponse:
        """Let a request leave on the connector of a caller's session.

        The connection is asked for ahead, put back, and taken again by `handler` in the same turn
        of the loop: a slot does not get old while connecting. The pool may hand out another idle
        connection than the one that was looked at. So an answer that is there without a turn of the
        loop is refused: it arrived before the request left.
        """
        connector = self._session.connector
        if connector is None or connector.force_close:
            attempt.leaves()  # no connection is kept that could be taken again
            return await handler(request)

        async def connect() -> Connection:
            with attempt.untimed():  # its pool may be smaller than our concurrency
                return await connector.connect(request, [], _NO_LIMITS)

        connection = await connection_for(attempt, connect, self._used)
        connection.release()
        turn = asyncio.get_running_loop().create_future()
        turn.get_loop().call_soon(turn.set_result, None)
        response = await handler(request)
        if not turn.done():
            response.close()
            raise aiohttp.ServerDisconnectedError
        return response

    async def _read(self, response: ClientResponse, attempt: Attempt) -> bytes:
        content = response.content
        if content.at_eof():  # empty; or a recorder, such as vcrpy, has read it
            return await response.read()
        body = await read_body(content, self._max_body, attempt.heard)
        if body is None:
            raise too_large(response.status, self._max_body, attempt.request_id)
        return body

    def detach(self) -> None:
        """Let nothing more be sent, and touch no connection: their loop is gone, or they are a
        forked parent's."""
        if self._own is not None:
            self._session.detach()

    async def aclose(self) -> None:
        """Close every connection, on the loop they belong to. Idempotent."""
        if self._own is not None:
            self._session.detach()
            await self._own.close()


def _headers(call: Call, more: Mapping[str, str] | None) -> CIMultiDict[str] | None:
    headers = None if call.body is None else _JSON
    return CIMultiDict((*(headers or {}).items(), *more.items())) if more else headers


async def read_body(
    content: aiohttp.StreamReader, most: int, heard: Callable[[], None]
) -> bytes | None:
    """The rest of `content`; None if it is longer than `most` bytes.

    aiohttp has no limit on a body after decompression: a gzip answer of 1 MB took 2.1 GB by
    `response.read()`, and 56 MB so.

    Args:
        heard: Called with the head, and with each piece.
    """
    if content.is_eof():  # it has come with its head, as a post does
        body = content.read_nowait()
        return body if len(body) <= most else None
    pieces: list[bytes] = []
    size = 0
    heard()
    while piece := await content.readany():
        heard()
        size += len(piece)
        if size > most:
            # A traceback with locals would show them, and a proxy may echo the token.
            pieces, piece = [], b""
            return None
        pieces.append(piece)
    return b"".join(pieces)


_NO_LIMITS = aiohttp.ClientTimeout(total=None)


@functools.lru_cache(maxsize=64)
def _connect_limit(seconds: float | None, own: bool) -> aiohttp.ClientTimeout:
    if own:
        return aiohttp.ClientTimeout(total=None, connect=seconds)
    # `connect` would count the wait in a pool that may be smaller than our concurrency.
    return aiohttp.ClientTimeout(total=None, sock_connect=seconds)
