"""Connections: which one a request may leave on, and when.

Promises: no answer is taken from a connection that spoke before it was asked; a repeat after a loss
leaves on a connection that is new; the slot is fresh when the bytes leave.

Relies on `connect` of aiohttp's connectors, `Connection.close`, `release` and `closed`
(documented), and on `Connection.protocol.should_close`. That name is public and not in aiohttp's
manual. It is the only one: aiohttp hands out a pooled connection without a look at what has arrived
on it.

Hard: bytes that arrive on an idle connection are parsed as an answer and kept. The next request
would take them for its own. HAProxy says 408 to idle connections before it closes them, and a proxy
that has lost step may send what was meant for somebody else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import aiohttp
from aiohttp import ClientRequest

from .attempt import Attempt

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

__all__ = ["Connector", "connection_for"]

_KEEPALIVE = 15.0


class Connector(aiohttp.TCPConnector):
    """aiohttp's connector, for requests that each belong to an attempt.

    Attributes:
        attempts: The attempt of each request that is about to ask for its connection.
    """

    def __init__(self) -> None:
        # No limit of its own: the client's concurrency bounds the connections.
        super().__init__(  # pyright: ignore[reportUnknownMemberType]  # aiohttp's own annotations
            limit=0, keepalive_timeout=_KEEPALIVE
        )
        self.attempts: dict[ClientRequest, Attempt] = {}
        self.used: WeakSet[ResponseHandler] = WeakSet()

    async def connect(
        self, req: ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        attempt = self.attempts.pop(req)
        connect = partial(super().connect, req, traces, timeout)
        return await connection_for(attempt, connect, self.used)

    def __del__(self, *_: Any) -> None:
        """Nothing: a connector that is collected before it was closed is one whose event loop is
        gone, or, in a forked child, its parent's. aiohttp's finalizer would reach for the loop."""


async def connection_for(
    attempt: Attempt,
    connect: Callable[[], Awaitable[Connection]],
    used: WeakSet[ResponseHandler],
) -> Connection:
    """A connection that is fit for `attempt`, whose bytes leave when this returns.

    Args:
        connect: Takes a connection from the pool, or opens one.
        used: The connections of this pool that have carried a request. New ones are added.
    Raises:
        ServerDisconnectedError: A new connection was closed, or spoken on, before it was used.
    """
    while True:
        connection = await connect()
        protocol = connection.protocol
        assert protocol is not None
        reused = protocol in used
        if not protocol.should_close and not (reused and attempt.new_connection):
            try:
                if not attempt.slot_is_fresh:
                    await attempt.refresh_slot()
                if not reused:
                    used.add(protocol)
                    attempt.start_clock()
                if not protocol.should_close:  # still, after a wait for the slot
                    attempt.reused = reused
                    attempt.leaves()
                    return connection
            except BaseException:
                connection.release()
                raise
        connection.close()
        if not reused:
            raise aiohttp.ServerDisconnectedError
