"""The server: listening, connections, and what can happen to all of them at once.

One handler on aiohttp's low-level server, so that nothing but this package decides what is
answered. Requests outside the API (`/openapi.json`, `/_sandbox/…`) are answered whatever has
happened to the network: they are a test's own way in.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Literal, cast

from aiohttp import web

from . import sending
from .answers import Reply, error_body

__all__ = ["Connection", "Server"]

_BACKLOG = 1024
# Turns the loop takes from accepting a connection until it is known here: one that arrives while
# the server closes is closed as well.
_TURNS_TO_ACCEPT = 4


class Connection(web.RequestHandler):
    """aiohttp's connection, and what is known of it here.

    Attributes:
        carried: Requests it has carried.
        at_work: The kind of request it is carrying now, if any.
        lost: What happens to requests of the API on it from now on, if they are lost: `reset` or
            `silent`.
    """

    __slots__ = ("at_work", "carried", "lost")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.carried = 0
        self.at_work: Literal["api", "outside"] | None = None
        self.lost: Literal["reset", "silent"] | None = None


class Server:
    """Serves one handler.

    Args:
        handle: Answers a request. It may write to the connection itself.
        keepalive: Seconds after which an idle connection is closed.
    """

    def __init__(
        self,
        handle: Callable[[web.BaseRequest, Connection], Awaitable[web.StreamResponse]],
        keepalive: float,
    ) -> None:
        self._answer = handle
        self._web = web.Server(self._handle, access_log=None, keepalive_timeout=keepalive)
        self._options = {"access_log": None, "keepalive_timeout": keepalive}
        self._loop = asyncio.get_running_loop()
        self._listener: asyncio.Server | None = None
        self._place: socket.socket | None = None
        self._away: Literal["refusing", "silent"] | None = None
        self._back: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[Any]] = set()
        self._crashes: list[Exception] = []
        self._address: tuple[Any, ...] = ("", 0)

    def _connect(self) -> Connection:
        connection = Connection(self._web, loop=self._loop, **self._options)
        if self._away is not None:
            connection.lost = "silent"
        return connection

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port."""
        self._listener = await self._loop.create_server(self._connect, host, port, backlog=_BACKLOG)
        self._address = self._listener.sockets[0].getsockname()
        chosen: int = self._address[1]
        return chosen

    async def aclose(self) -> None:
        """Close connections and abandon the work in progress.

        Raises:
            ExceptionGroup: The handler failed on a request.
        """
        if self._back is not None:
            self._back.cancel()
        self._leave_place()
        if self._listener is not None:
            self._listener.close()
        for _ in range(_TURNS_TO_ACCEPT):
            await asyncio.sleep(0)
        running = [task for task in self._running if not task.done()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._web.pre_shutdown()
        # The handlers are gone already, so this only closes the connections; zero would mean to
        # wait for ever.
        await self._web.shutdown(0.05)
        if self._listener is not None:
            await self._listener.wait_closed()
        if self._crashes:
            crashes, self._crashes = self._crashes, []
            raise ExceptionGroup("the sandbox failed", crashes)

    @property
    def connections(self) -> list[Connection]:
        """Those that are open now."""
        return cast("list[Connection]", self._web.connections)

    def close_idle(self) -> int:
        """Close the connections that no request is using; returns how many."""
        idle = [connection for connection in self.connections if connection.at_work is None]
        for connection in idle:
            connection.force_close()
        return len(idle)

    # What happens to all connections at once ------------------------------------------------------

    def lose_connections(self, *, silent: bool) -> int:
        """Let every connection be one that nobody knows any more; returns how many."""
        lost = [each for each in self.connections if each.at_work != "outside"]
        for connection in lost:
            connection.lost = "silent" if silent else "reset"
            if connection.at_work is not None and not silent and connection.transport is not None:
                sending.reset(connection.transport)
        return len(lost)

    def lose_network(self, seconds: float | None, *, silent: bool) -> None:
        """Lose all connections and let no new one be made, for `seconds` or until
        `restore_network`."""
        if self._away is not None:
            raise RuntimeError("the network is away already")
        self._away = "silent" if silent else "refusing"
        self.lose_connections(silent=silent)
        if not silent and self._listener is not None:
            self._listener.close()
            self._listener = None
            self._hold_place()
        if seconds is not None:
            self._back = self._loop.call_later(seconds, self._come_back)

    async def restore_network(self) -> None:
        """Let connections be made again. Those that were lost stay lost."""
        if self._back is not None:
            self._back.cancel()
            self._back = None
        away, self._away = self._away, None
        if away == "refusing":
            place, self._place = self._place, None
            if place is None:
                await self.start(*self._address[:2])
            else:
                self._listener = await self._loop.create_server(
                    self._connect, sock=place, backlog=_BACKLOG
                )

    def _come_back(self) -> None:
        task = self._loop.create_task(self.restore_network())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _hold_place(self) -> None:
        # A bound socket that does not listen: connections are refused, and nobody else gets the
        # port meanwhile.
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        place = socket.socket(family, socket.SOCK_STREAM)
        place.setblocking(False)
        try:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind(self._address)
        except OSError:  # loops that close a listener a turn later (uvloop): then it is not held
            place.close()
        else:
            self._place = place

    def _leave_place(self) -> None:
        if self._place is not None:
            self._place.close()
            self._place = None

    # One request ----------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast("Connection", request.protocol)
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._running.add(task)
        connection.at_work = "api" if request.raw_path.startswith("/v1/") else "outside"
        try:
            if connection.lost is not None and connection.at_work == "api":
                return await self._lose(request, connection)
            response = await self._answer(request, connection)
            if connection.lost is not None and connection.at_work == "api":
                return await self._lose(request, connection)
            return response
        except ConnectionError:
            # The client has gone.
            return sending.hang_up(request)
        except Exception as error:
            self._crashes.append(error)
            return sending.whole(
                Reply(500, error_body("sandbox_failed", repr(error)), {"Connection": "close"})
            )
        finally:
            connection.carried += 1
            connection.at_work = None
            self._running.discard(task)

    async def _lose(self, request: web.BaseRequest, connection: Connection) -> web.StreamResponse:
        if connection.lost == "silent":
            await sending.wait(None)
        return sending.hang_up(request, with_reset=True)
