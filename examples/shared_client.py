"""A web service that shares one client over all its requests (aiohttp.web; a FastAPI lifespan looks
the same).

    TOKFLUENCE_TOKEN=tkf_live_... python examples/shared_client.py
    curl localhost:8080/posts/7234567890123456789
    curl 'localhost:8080/posts/7234567890123456789/comments?max_items=3'

One client per process, not one per request: connections are reused, all requests stay within the
service's limits together, and one budget holds for all of them. A caller who goes away cancels what
was asked for him, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing

import msgspec
from aiohttp import typedefs, web

from tokfluence_async import (
    APIConnectionError,
    BudgetExceededError,
    ConfigurationError,
    InsufficientCreditsError,
    InvalidPostError,
    NotFoundError,
    TokfluenceClient,
    TokfluenceError,
)

CLIENT = web.AppKey("client", TokfluenceClient)

# What our own callers are told. Whatever else goes wrong is a bad gateway, from where they stand.
STATUSES: dict[type[TokfluenceError], int] = {
    InvalidPostError: 400,
    NotFoundError: 404,
    BudgetExceededError: 503,
    InsufficientCreditsError: 503,
    APIConnectionError: 504,
}


async def tokfluence(app: web.Application) -> AsyncIterator[None]:
    """The client lives as long as the application. Without a `max_credits`, a crawler that finds
    our URL spends the wallet."""
    async with TokfluenceClient(max_credits=int(os.environ.get("MAX_CREDITS", "10000"))) as client:
        app[CLIENT] = client
        yield


@web.middleware
async def errors(request: web.Request, handler: typedefs.Handler) -> web.StreamResponse:
    """Errors of the SDK as errors of ours. Their texts carry no token, so they may be shown."""
    try:
        return await handler(request)
    except TokfluenceError as error:
        status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 502)
        return web.json_response({"error": str(error)}, status=status)


async def post(request: web.Request) -> web.Response:
    found = await request.app[CLIENT].posts.get(request.match_info["post"])
    return web.Response(body=msgspec.json.encode(found), content_type="application/json")


async def comments(request: web.Request) -> web.StreamResponse:
    """JSON lines, as the pages arrive: the consumer's pace is the producer's, and memory holds a
    page."""
    try:
        max_items = int(request.query.get("max_items", "1000"))
        found = request.app[CLIENT].posts.comments(request.match_info["post"], max_items=max_items)
    except ValueError as error:  # InvalidPostError is one
        return web.json_response({"error": str(error)}, status=400)
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    async with aclosing(found):
        async for comment in found:
            # Prepared with the first comment, so that an unknown post can still be a 404.
            if not response.prepared:
                await response.prepare(request)
            await response.write(msgspec.json.encode(comment) + b"\n")
    if not response.prepared:
        await response.prepare(request)
    await response.write_eof()
    return response


async def usage(request: web.Request) -> web.Response:
    client = request.app[CLIENT]
    text = json.dumps(
        {**msgspec.structs.asdict(client.usage), "credits_remaining": client.credits_remaining}
    )
    return web.Response(text=text, content_type="application/json")


def build() -> web.Application:
    app = web.Application(middlewares=[errors])
    app.cleanup_ctx.append(tokfluence)
    app.router.add_get("/posts/{post}", post)
    app.router.add_get("/posts/{post}/comments", comments)
    app.router.add_get("/usage", usage)
    return app


if __name__ == "__main__":
    try:
        web.run_app(build(), host="127.0.0.1", port=8080, loop=asyncio.new_event_loop())
    except ConfigurationError as error:  # no token
        print(error, file=sys.stderr)
        sys.exit(2)
