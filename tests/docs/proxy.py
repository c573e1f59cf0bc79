"""A proxy for the page about proxies: it passes plain HTTP on, and counts connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

__all__ = ["Proxy", "proxy"]


class Proxy:
    """Where it listens, and how many connections it has carried."""

    def __init__(self) -> None:
        self.url = ""
        self.carried = 0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, rest = head.split(b" ", 2)
        parts = urlsplit(target.decode())
        assert parts.hostname == "127.0.0.1", "a request for a proxy names the whole address"
        there, to = await asyncio.open_connection(parts.hostname, parts.port)
        self.carried += 1
        to.write(b" ".join([method, f"{parts.path}?{parts.query}".rstrip("?").encode(), rest]))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, to))
                group.create_task(_pass_on(there, writer))
        finally:
            to.close()
            writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy on a port of 127.0.0.1."""
    running = Proxy()
    server = await asyncio.start_server(running.carry, "127.0.0.1", 0)
    running.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield running
