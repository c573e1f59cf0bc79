"""The bad days: a hostile network and a hostile server, met by the real client.

Three kinds of opponent: the sandbox with scripted faults (it also says what was charged), raw
asyncio servers that answer with whatever bytes a test likes, and real proxies. What must hold
afterwards is said once, in `check_money`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tokfluence_async import Outcome, Sandbox, TokfluenceClient
from tokfluence_async._sandbox.ledger import ANALYZE, COMMENTS, POST

FIRST_ID = 7234567890123456789
POST_ID = str(FIRST_ID)
TOKEN = "tkf_live_" + "S3cretS3cretS3cretS3cretS3cretS3"
SECRET = TOKEN[13:]  # what comes after the display prefix, the only part that may ever be shown


def ids(count: int, start: int = 0) -> list[str]:
    return [str(FIRST_ID + start + i) for i in range(count)]


@asynccontextmanager
async def rig(
    client: dict[str, Any] | None = None, **sandbox: Any
) -> AsyncIterator[tuple[Sandbox, TokfluenceClient]]:
    """A sandbox and a client of it; afterwards, nothing is left running."""
    before = asyncio.all_tasks()
    async with (
        Sandbox(token=TOKEN, **sandbox) as server,
        TokfluenceClient(TOKEN, base_url=server.url, **(client or {})) as user,
    ):
        yield server, user
    assert asyncio.all_tasks() <= before


def check_money(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """What holds under every fault: one door to the wire, no batch billed twice, and no credit that
    we do not know of."""
    usage = client.usage
    assert usage.requests == sandbox.requests_received
    assert sandbox.billed_twice() == []
    assert usage.credits_spent >= sandbox.credits_spent
    reads = [entry.request_id for entry in sandbox.requests if entry.method == "GET"]
    assert len(set(reads)) == len(reads), "a read was sent twice under one request id"
    bodies: defaultdict[str | None, set[bytes]] = defaultdict(set)
    for entry in sandbox.requests:
        if entry.body:  # a connection that is reset before the work has its body read by nobody
            bodies[entry.request_id].add(entry.body)
    assert all(len(sent) == 1 for sent in bodies.values()), "one request id stands for two batches"
    assert all(entry.headers["authorization"] == f"Bearer {TOKEN}" for entry in sandbox.requests)


# What a user does, once each: (the endpoint that suffers, the call, credits it costs when nothing
# goes wrong).


async def get(client: TokfluenceClient) -> Any:
    return await client.posts.get(POST_ID)


async def analyze(client: TokfluenceClient) -> Any:
    report = await client.posts.analyze(ids(3), batch_size=3)
    assert [outcome.post_id for outcome in report.outcomes] == ids(3)
    report.raise_for_errors()
    return report


async def comments(client: TokfluenceClient) -> Any:
    found = [comment.comment_id async for comment in client.posts.comments(POST_ID)]
    assert len(set(found)) == len(found)
    return found


async def comments_ahead(client: TokfluenceClient) -> Any:
    found = [comment.comment_id async for comment in client.posts.comments(POST_ID, prefetch=3)]
    assert len(set(found)) == len(found)
    return found


async def resolve(client: TokfluenceClient) -> Any:
    outcomes: list[Outcome[Any]] = [outcome async for outcome in client.posts.resolve(ids(3))]
    for outcome in outcomes:
        outcome.unwrap()
    return outcomes


CALLS: dict[str, tuple[str, Callable[[TokfluenceClient], Awaitable[Any]], dict[str, Any]]] = {
    "get": (POST, get, {"indexed": 1.0}),
    "analyze": (ANALYZE, analyze, {"indexed": 0.0}),
    "comments": (COMMENTS, comments, {"indexed": 1.0, "comments_per_post": 900}),
    "comments_ahead": (COMMENTS, comments_ahead, {"indexed": 1.0, "comments_per_post": 900}),
    "resolve": (ANALYZE, resolve, {"indexed": 0.0}),
}


# --- raw servers ----------------------------------------------------------------------------------


@dataclass
class Request:
    """One request as its bytes came. Its repr shows none of them: it is among the locals of
    tracebacks."""

    head: bytes = field(repr=False)
    body: bytes = field(repr=False)

    def header(self, name: str) -> str | None:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name.lower().encode():
                return value.strip().decode("latin-1")
        return None


Behaviour = Callable[[Request, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RawServer:
    """Answers the n-th request with the n-th behaviour, the last one for ever; closes the
    connection after each.

    A behaviour is bytes to send, or a coroutine function that does what it likes with the
    connection.
    """

    behaviours: list[bytes | Behaviour]
    requests: list[Request] = field(default_factory=list[Request])
    connections: int = 0
    url: str = ""
    working: set[asyncio.Task[Any] | None] = field(default_factory=set[asyncio.Task[Any] | None])

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.working.add(asyncio.current_task())
        # `asyncio.start_server` logs what its handlers let out, a cancellation too.
        with contextlib.suppress(
            ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
        ):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                request = Request(head, b"")
                request.body = await reader.readexactly(int(request.header("content-length") or 0))
                self.requests.append(request)
                behaviour = self.behaviours[min(len(self.requests), len(self.behaviours)) - 1]
                if isinstance(behaviour, bytes):
                    writer.write(behaviour)
                    await writer.drain()
                else:
                    await behaviour(request, reader, writer)
            finally:
                writer.close()


@asynccontextmanager
async def raw_server(*behaviours: bytes | Behaviour, **listen: Any) -> AsyncIterator[RawServer]:
    server = RawServer(list(behaviours))
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0, **listen)
    scheme = "https" if "ssl" in listen else "http"
    server.url = f"{scheme}://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()
        working = [task for task in server.working if task is not None and not task.done()]
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)


@asynccontextmanager
async def raw_rig(
    *behaviours: bytes | Behaviour, listen: dict[str, Any] | None = None, **client: Any
) -> AsyncIterator[tuple[RawServer, TokfluenceClient]]:
    async with (
        raw_server(*behaviours, **(listen or {})) as server,
        TokfluenceClient(TOKEN, base_url=server.url, **client) as user,
    ):
        yield server, user


def http(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    if "Content_Length" not in headers and "Transfer_Encoding" not in headers:
        lines.append(f"Content-Length: {len(body)}")
    lines.append("Connection: close")  # as `RawServer` does
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


GOOD_POST = http(b'{"data":{"post_id":"' + POST_ID.encode() + b'"}}', X_Credits_Remaining="41")


# --- what no test may do --------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever happened: the token is in no log record, at any level, and nothing was printed to
    standard error."""
    caplog.set_level(logging.DEBUG)
    yield
    assert SECRET not in "\n".join(
        logging.Formatter().format(record) + repr(record.__dict__)
        for record in caplog.get_records("call")
    )
    assert capfd.readouterr().err == ""
