"""Scripted faults, carried out on one request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from . import bodies, sending
from .answers import Reply
from .faults import Fault
from .ledger import Entry, Key
from .service import Service

__all__ = ["strike"]

_Options = Mapping[str, Any]


def _gzip_bomb(reply: Reply, options: _Options) -> Reply:
    packed = bodies.gzip_padded(reply.body, options["size"])
    return reply._replace(body=packed, headers={**reply.headers, "Content-Encoding": "gzip"})


def _replace_body(reply: Reply, options: _Options) -> Reply:
    body = options["body"]
    return reply._replace(body=body(reply.body) if callable(body) else body)


def _half_emoji(reply: Reply, options: _Options) -> Reply:
    return reply._replace(body=bodies.half_emoji(reply.body, options["half"], options["fields"]))


def _nearly_json(reply: Reply, options: _Options) -> Reply:
    return reply._replace(body=bodies.nearly_json(reply.body, options["how"], options["fields"]))


# Another answer, sent as it should be.
_CHANGED: Mapping[str, Callable[[Reply, _Options], Reply]] = {
    "gzip_bomb": _gzip_bomb,
    "half_emoji": _half_emoji,
    "nearly_json": _nearly_json,
    "nested": lambda reply, options: reply._replace(body=bodies.nested(options["depth"])),
    "replace_body": _replace_body,
}


async def _stall(request: web.BaseRequest, reply: Reply, options: _Options) -> web.StreamResponse:
    if options["in_body"]:
        return await sending.half_then_wait(request, reply, options["seconds"])
    await sending.wait(options["seconds"])
    return sending.whole(reply)


# The right answer, sent as it should not be, but sent.
_SENT: Mapping[str, Callable[[web.BaseRequest, Reply, _Options], Awaitable[web.StreamResponse]]] = {
    "drip": lambda request, reply, options: sending.drip(
        request, reply, options["piece"], options["every"]
    ),
    "huge": lambda request, reply, options: sending.huge(request, reply, options["size"]),
    "stall": _stall,
}


async def strike(
    service: Service, request: web.BaseRequest, entry: Entry, key: Key, fault: Fault
) -> web.StreamResponse:
    """Answer a request that a fault hits, before the work or after it."""
    options = fault.options
    delay = options.get("delay", 0.0)
    if fault.when == "before":
        await asyncio.sleep(delay)
        return await _strike_before(service, request, entry, key, fault)
    own = fault if fault.kind == "internal_error" else None
    reply = await service.perform(request, entry, key, own)
    await asyncio.sleep(delay)
    if fault.kind in ("drop", "reset", "answer"):
        return await _instead(request, entry, fault)
    if fault.kind in ("cut", "reset_body"):
        chunked, with_reset = options.get("chunked", False), fault.kind == "reset_body"
        return await sending.cut(
            request, reply, options["at"], chunked=chunked, with_reset=with_reset
        )
    send = _SENT.get(fault.kind)
    change = _CHANGED.get(fault.kind)
    if send is not None:
        response = await send(request, reply, options)
    else:
        response = sending.whole(reply if change is None else change(reply, options))
    entry.answered = True
    return response


async def _strike_before(
    service: Service, request: web.BaseRequest, entry: Entry, key: Key, fault: Fault
) -> web.StreamResponse:
    if fault.kind in ("drop", "reset", "answer"):
        return await _instead(request, entry, fault)
    if fault.kind == "rate_limit":
        after = fault.options["retry_after"]
        reply = service.throttled(entry, key, None if after is None else str(after))
    elif fault.kind == "stall":
        await sending.wait(fault.options["seconds"])
        reply = await service.perform(request, entry, key, None)
    else:
        own = fault if fault.kind in ("internal_error", "upstream_error") else None
        reply = await service.perform(request, entry, key, own)
    entry.answered = True
    return sending.whole(reply)


async def _instead(request: web.BaseRequest, entry: Entry, fault: Fault) -> web.StreamResponse:
    """Something else than the API's answer, or nothing at all."""
    if fault.kind in ("drop", "reset"):
        return sending.hang_up(request, with_reset=fault.kind == "reset")
    options = fault.options
    body = options["body"]
    reply = Reply(
        options["status"],
        body.encode() if isinstance(body, str) else body,
        dict(options["headers"]),
    )
    entry.status, entry.code = reply.status, None
    if options.get("cut") is not None:
        return await sending.cut(request, reply, options["cut"])
    entry.answered = True
    return sending.whole(reply)
