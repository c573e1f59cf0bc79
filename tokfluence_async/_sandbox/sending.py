"""Answers as they leave, whole or not: what is broken is broken on the connection itself."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from http import HTTPStatus

from aiohttp import web

from .answers import JSON, Reply

__all__ = ["cut", "drip", "half_then_wait", "hang_up", "huge", "reset", "wait", "whole"]

# SO_LINGER, on and zero seconds, turns a close into a RST. Windows has smaller integers in it.
_NO_LINGER = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


def whole(reply: Reply) -> web.Response:
    """The answer as it should be."""
    headers = {"Content-Type": JSON, **reply.headers}
    return web.Response(status=reply.status, body=reply.body, headers=headers)


def reset(transport: asyncio.Transport) -> None:
    """Reset a connection, whatever was written to it."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


def hang_up(request: web.BaseRequest, *, with_reset: bool = False) -> web.Response:
    """Close the connection, after what was written to it; or reset it, whatever was."""
    transport = request.transport
    if transport is not None:
        if with_reset:
            reset(transport)
        else:
            transport.close()
    # aiohttp wants a response all the same, fails to write it on the closed connection, and takes
    # that for the client's leave.
    return web.Response()


def _head(reply: Reply, *, chunked: bool = False) -> bytes:
    status = reply.status
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(reply.body)}"
    headers = {"Content-Type": JSON, **reply.headers}
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        length,
        *(f"{n}: {v}" for n, v in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def _write(request: web.BaseRequest, data: bytes) -> None:
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has gone")
    transport.write(data)


async def cut(
    request: web.BaseRequest,
    reply: Reply,
    at: float,
    *,
    chunked: bool = False,
    with_reset: bool = False,
) -> web.Response:
    """The fraction `at` of the body, then the end of the connection."""
    body = reply.body[: int(len(reply.body) * at)]
    if chunked:
        # The chunk is whole; the last, empty one never comes.
        body = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
    _write(request, _head(reply, chunked=chunked) + body)
    for _ in range(5):
        # A few turns in which a client in this loop reads what has come: a RST may overtake what is
        # on its way.
        await asyncio.sleep(0)
    return hang_up(request, with_reset=with_reset)


async def half_then_wait(
    request: web.BaseRequest, reply: Reply, seconds: float | None
) -> web.Response:
    """Half of the body, `seconds` of silence (None: for ever), the other half."""
    half = len(reply.body) // 2
    _write(request, _head(reply) + reply.body[:half])
    await wait(seconds)
    _write(request, reply.body[half:])
    return hang_up(request)


async def drip(request: web.BaseRequest, reply: Reply, piece: int, every: float) -> web.Response:
    """`piece` bytes of the body at a time, each after `every` seconds."""
    _write(request, _head(reply))
    for start in range(0, len(reply.body), piece):
        await asyncio.sleep(every)
        _write(request, reply.body[start : start + piece])
    return hang_up(request)


async def huge(request: web.BaseRequest, reply: Reply, size: int) -> web.StreamResponse:
    """The body, then white space up to `size` bytes, never much of it in memory."""
    response = web.StreamResponse(
        status=reply.status, headers={"Content-Type": JSON, **reply.headers}
    )
    response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write(reply.body)
    blank = b" " * 65536
    for start in range(len(reply.body), size, len(blank)):
        await response.write(blank[: size - start])
    await response.write_eof()
    return response


async def wait(seconds: float | None) -> None:
    """Sleep; None is for ever, until the sandbox closes and cancels it."""
    if seconds is None:
        await asyncio.get_running_loop().create_future()
    else:
        await asyncio.sleep(seconds)
