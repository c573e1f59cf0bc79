"""Requests as they arrive: which route one is for, what the ledger keeps of it, its body."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from .ledger import ANALYZE, COMMENTS, POST, Entry
from .world import is_list, is_object, post_id_of_url

__all__ = ["build_entry", "parse_batch", "problem_with", "read_body"]

# Seconds a client has for sending a batch: what nginx allows between two reads of a body.
_BODY_TIME = 60.0


def _route_of(method: str, path: str) -> tuple[str, str | None]:
    """The route, and the post it is about. What is no route of the API stands for itself."""
    match path.split("/"):
        case ["", "v1", "posts", post_id] if post_id and method == "GET":
            return POST, post_id
        case ["", "v1", "posts", post_id, "comments"] if post_id and method == "GET":
            return COMMENTS, post_id
        case ["", "v1", "posts", "analyze"] if method == "POST":
            return ANALYZE, None
        case _:
            return f"{method} {path}", None


def _ip_of(request: web.BaseRequest, *, forwarded_for: bool) -> str:
    if forwarded_for and "X-Forwarded-For" in request.headers:
        return request.headers["X-Forwarded-For"].partition(",")[0].strip()
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return peer[0] if peer else ""


def build_entry(
    request: web.BaseRequest,
    *,
    number: int,
    now: float,
    carried: int,
    forwarded_for: bool,
    keep_headers: bool,
) -> Entry:
    """A request under `/v1` as the ledger keeps it.

    Args:
        carried: Requests that its connection carried before.
        forwarded_for: Whether `X-Forwarded-For` says its IP.
    """
    path, _, query = request.raw_path.partition("?")
    route, post_id = _route_of(request.method, path)
    headers = request.headers
    return Entry(
        number,
        now,
        request.method,
        path,
        query,
        route,
        _ip_of(request, forwarded_for=forwarded_for),
        {name.lower(): value for name, value in headers.items()} if keep_headers else {},
        request_id=headers.get("X-Request-Id"),
        connection=carried,
        post_ids=[] if post_id is None else [post_id],
    )


async def read_body(request: web.BaseRequest) -> bytes:
    """The body; nothing if it breaks its own framing, does not come, or is more than aiohttp takes
    (1 MiB; 50 URLs are a few KiB)."""
    try:
        # A body that breaks its own framing never ends for aiohttp.
        async with asyncio.timeout(_BODY_TIME):
            return await request.read()
    except (web.HTTPRequestEntityTooLarge, web.RequestPayloadError, TimeoutError):
        return b""


def parse_batch(body: bytes) -> tuple[object, list[Any]]:
    """The JSON of an analyze body (None if it is none), and the items of its `urls`, if that is a
    list."""
    try:
        parsed: object = json.loads(body.decode())
    except (ValueError, RecursionError):
        return None, []
    urls: object = parsed.get("urls") if is_object(parsed) else None
    return parsed, urls if is_list(urls) else []


def problem_with(parsed: object, urls: list[Any]) -> str | None:
    """What is wrong with the body of an analyze call, or None."""
    if not is_object(parsed):
        return "The body is a JSON object with urls."
    if not 1 <= len(urls) <= 50:
        return "urls is a list of 1 to 50 TikTok video URLs."
    for url in urls:
        if post_id_of_url(url) is None:
            return f"This is not the URL of a TikTok video: {str(url)[:200]!r}"
    if not isinstance(parsed.get("force", False), bool):
        return "force is true or false."
    return None
