"""A raw HTTP caller: the sandbox is met over loopback, with no code of the client in between."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDictProxy

from tokfluence_async import Sandbox

POST_ID = "7234567890123456789"
OTHER_ID = "7234567890987654321"


def url_of(post_id: str) -> str:
    return f"https://www.tiktok.com/@wwe/video/{post_id}"


@dataclass
class Answer:
    status: int
    headers: CIMultiDictProxy[str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def code(self) -> str:
        """The error code; fails unless the body is the documented envelope."""
        body = self.body
        assert list(body) == ["error"]
        assert list(body["error"]) == ["code", "message"]
        assert isinstance(body["error"]["message"], str)
        return str(body["error"]["code"])

    @property
    def credits(self) -> int:
        return int(self.headers["X-Credits-Remaining"])


class Caller:
    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.session = session

    async def call(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        request_id: str | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 3600,
        **more: Any,
    ) -> Answer:
        sent = {"Authorization": f"Bearer {token or self.sandbox.token}", **(headers or {})}
        if request_id is not None:
            sent["X-Request-Id"] = request_id
        async with self.session.request(
            method,
            self.sandbox.url + path,
            headers={name: value for name, value in sent.items() if value},
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(timeout),
            **more,
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, post_id: str = POST_ID, **more: Any) -> Answer:
        return await self.call("GET", f"/v1/posts/{post_id}", **more)

    async def comments(self, post_id: str = POST_ID, query: str = "", **more: Any) -> Answer:
        return await self.call("GET", f"/v1/posts/{post_id}/comments{query}", **more)

    async def analyze(self, *post_ids: str, force: bool | None = None, **more: Any) -> Answer:
        body: dict[str, Any] = {"urls": [url_of(post_id) for post_id in post_ids]}
        if force is not None:
            body["force"] = force
        return await self.call("POST", "/v1/posts/analyze", json=body, **more)


@pytest.fixture
async def opened() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def start(opened: AsyncExitStack) -> Callable[..., Any]:
    """Start a sandbox with these options; gives a caller. By default each request has a connection
    of its own.

    On a reused connection aiohttp would send a read again by itself, and the sandbox would see two.
    """

    async def start_(*, reuse: bool = False, **options: Any) -> Caller:
        sandbox = await opened.enter_async_context(Sandbox(**options))
        session = await opened.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=not reuse, limit=0))
        )
        return Caller(sandbox, session)

    return start_
