"""Who is measured: each contender reads one post, and walks a post's comments, the way its users
do.

All of them are set up once, keep their connections, decode into typed objects unless the name says
otherwise, and are driven by the same few lines (`drive`). What a user of a contender gets for the
CPU differs; it is told in `label`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from .bodies import PAGE_SIZE
from .shapes import define_bodies

__all__ = ["CONTENDERS", "Contender", "drive", "is_installed"]

TOKEN = "tkf_live_" + "b" * 32
# Far above what a benchmark reaches: the throttle counts every request and makes none wait.
UNLIMITED = 1e9


class Contender:
    """Set up in its own process, in a running loop."""

    label = ""
    needs: tuple[str, ...] = ()
    uvloop = False
    has_comments = True

    def __init__(self, url: str) -> None:
        self.url = url

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def tidy(self) -> None:
        """After each piece of work, when its figures have been taken."""

    async def get(self, post_id: str) -> Any:
        raise NotImplementedError

    async def comments(self, post_id: str) -> int:
        """Walk them all, one comment at a time, and return how many there were."""
        raise NotImplementedError

    async def all_comments(self, post_ids: list[str]) -> int:
        """Of several posts."""
        return sum([await self.comments(post_id) for post_id in post_ids])

    async def many_posts(self, post_ids: list[str]) -> int:
        """Get them all, 50 in flight."""
        await drive(self.get, iter(post_ids), 50)
        return len(post_ids)


# --- what is sold ---------------------------------------------------------------------------------


class Ours(Contender):
    label = "tokfluence_async"

    async def open(self) -> None:
        from tokfluence_async import Throttle, TokfluenceClient

        throttle = Throttle(per_ip=UNLIMITED, per_key=UNLIMITED)
        # A budget, which counts, and never ends.
        self.client = TokfluenceClient(
            TOKEN, base_url=self.url, throttle=throttle, max_credits=10**12
        )
        await self.client.__aenter__()

    async def close(self) -> None:
        await self.client.aclose()

    async def get(self, post_id: str) -> Any:
        return await self.client.posts.get(post_id)

    async def comments(self, post_id: str) -> int:
        count = 0
        async for _ in self.client.posts.comments(post_id):
            count += 1
        return count


class OursUvloop(Ours):
    label = "tokfluence_async[fast], on uvloop"
    needs = ("uvloop",)
    uvloop = True


class OursPages(Ours):
    label = "tokfluence_async, comment_pages"

    async def comments(self, post_id: str) -> int:
        count = 0
        async for page in self.client.posts.comment_pages(post_id):
            for _ in page.items:
                count += 1
        return count


class OursCrawl(Ours):
    """Each time to a new folder. To remove it takes 20 µs of CPU a page, and is none of the crawl's
    work."""

    label = "tokfluence_async, crawl to disk with a journal"
    folder: str | None = None

    def tidy(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder)
            self.folder = None

    async def close(self) -> None:
        self.tidy()
        await super().close()

    async def all_comments(self, post_ids: list[str]) -> int:
        from tokfluence_async import crawl

        report = await crawl(self.client, post_ids, self._new_folder(), comments=True)
        return report.comments

    async def many_posts(self, post_ids: list[str]) -> int:
        from tokfluence_async import crawl

        report = await crawl(self.client, post_ids, self._new_folder())
        return report.posts

    def _new_folder(self) -> str:
        self.folder = tempfile.mkdtemp(prefix="tokfluence-bench-")
        return self.folder


class OursCrawlUvloop(OursCrawl):
    """As the `tokfluence` command crawls where uvloop is installed."""

    label = "tokfluence_async[fast], crawl to disk on uvloop"
    needs = ("uvloop",)
    uvloop = True


# --- the bar --------------------------------------------------------------------------------------


class HandWritten(Contender):
    """Forty lines a user would write: one session, decoders made once, plain Structs with the
    documented fields."""

    label = "hand-written: aiohttp, msgspec"

    async def open(self) -> None:
        import aiohttp
        import msgspec

        self._set_decoders(msgspec.Struct)
        self.session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"})

    def _set_decoders(self, struct: Any, **options: Any) -> None:
        import msgspec

        def define(name: str, fields: Mapping[str, Any]) -> Any:
            return msgspec.defstruct(name, fields.items(), bases=(struct,), **options)

        post, page = define_bodies(define)
        self.decode_post = msgspec.json.Decoder(post).decode
        self.decode_page = msgspec.json.Decoder(page).decode

    async def close(self) -> None:
        await self.session.close()

    async def get(self, post_id: str) -> Any:
        async with self.session.get(f"{self.url}/v1/posts/{post_id}") as response:
            response.raise_for_status()
            return self.decode_post(await response.read()).data

    async def page(self, post_id: str, cursor: int) -> Any:
        params = {"cursor": cursor, "limit": PAGE_SIZE}
        async with self.session.get(
            f"{self.url}/v1/posts/{post_id}/comments", params=params
        ) as response:
            response.raise_for_status()
            return self.decode_page(await response.read())

    async def comments(self, post_id: str) -> int:
        async def walk() -> Any:
            cursor = 0
            while cursor is not None:
                page = await self.page(post_id, cursor)
                for comment in page.data:
                    yield comment
                cursor = page.meta.next_cursor

        count = 0
        async for _ in walk():
            count += 1
        return count


class HandWrittenPages(HandWritten):
    label = "hand-written, page by page"

    async def comments(self, post_id: str) -> int:
        count = 0
        cursor = 0
        while cursor is not None:
            page = await self.page(post_id, cursor)
            for _ in page.data:
                count += 1
            cursor = page.meta.next_cursor
        return count


class HandWrittenUvloop(HandWritten):
    label = "hand-written, on uvloop"
    needs = ("uvloop",)
    uvloop = True


class HandTuned(HandWritten):
    """The same by somebody who has read aiohttp: no timers, cookies or quoting, and Structs the
    collector skips."""

    label = "hand-written and tuned"

    async def open(self) -> None:
        import aiohttp
        import msgspec
        from yarl import URL

        self._set_decoders(msgspec.Struct, frozen=True, gc=False)
        self.to_url = URL
        self.session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def get(self, post_id: str) -> Any:
        url = self.to_url(f"{self.url}/v1/posts/{post_id}", encoded=True)
        async with self.session.get(url, allow_redirects=False) as response:
            response.raise_for_status()
            return self.decode_post(await response.read()).data

    async def page(self, post_id: str, cursor: int) -> Any:
        url = self.to_url(
            f"{self.url}/v1/posts/{post_id}/comments?cursor={cursor}&limit={PAGE_SIZE}",
            encoded=True,
        )
        async with self.session.get(url, allow_redirects=False) as response:
            response.raise_for_status()
            return self.decode_page(await response.read())


class _Line(asyncio.Protocol):
    """A connection that sends a request and finds the end of its answer, and knows nothing else of
    HTTP."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.read = b""
        self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self.read += data
        head, end, body = self.read.partition(b"\r\n\r\n")
        if end and len(body) == int(head.partition(b"Content-Length: ")[2].split(b"\r\n", 1)[0]):
            self.answer.set_result(body)


class Floor(HandWritten):
    """What no client can go below on this loop: its system calls, its turns, and the decoder."""

    label = "the floor: a bare protocol, no HTTP client"

    async def open(self) -> None:
        await super().open()
        self.host, _, port = self.url.removeprefix("http://").partition(":")
        self.port = int(port)
        self.idle: list[_Line] = []

    async def close(self) -> None:
        for line in self.idle:
            line.transport.close()
        await super().close()

    async def get(self, post_id: str) -> Any:
        if self.idle:
            line = self.idle.pop()
        else:
            _, line = await asyncio.get_running_loop().create_connection(
                _Line, self.host, self.port
            )
        body = await line.ask(
            f"GET /v1/posts/{post_id} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode()
        )
        self.idle.append(line)
        return self.decode_post(body).data


# --- how others write clients ---------------------------------------------------------------------


class HttpxPydantic(Contender):
    """The style of the well-known AI SDKs: httpx, pydantic models, a request id, a retry loop,
    granular timeouts."""

    label = "httpx, pydantic (AI-SDK style)"
    needs = ("httpx", "pydantic")

    async def open(self) -> None:
        import httpx
        from pydantic import BaseModel

        self.post_type, self.page_type = define_bodies(_pydantic(BaseModel))
        self.client = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=httpx.Timeout(60.0, connect=5.0),
            limits=httpx.Limits(max_connections=1000, max_keepalive_connections=100),
        )

    async def close(self) -> None:
        await self.client.aclose()

    async def _fetch(self, path: str, model: Any, params: dict[str, int] | None = None) -> Any:
        from uuid import uuid4

        for _ in range(3):
            response = await self.client.get(
                path, params=params, headers={"X-Request-Id": str(uuid4())}
            )
            if response.status_code < 500 and response.status_code != 429:
                response.raise_for_status()
                return model.model_validate_json(response.content)
        raise RuntimeError("no answer")

    async def get(self, post_id: str) -> Any:
        return (await self._fetch(f"/v1/posts/{post_id}", self.post_type)).data

    async def comments(self, post_id: str) -> int:
        count, cursor = 0, 0
        while cursor is not None:
            params = {"cursor": cursor, "limit": PAGE_SIZE}
            page = await self._fetch(f"/v1/posts/{post_id}/comments", self.page_type, params)
            for _ in page.data:
                count += 1
            cursor = page.meta.next_cursor
        return count


class OpenAI(Contender):
    """The openai package itself, as its `client.get(path, cast_to=...)` for undocumented
    endpoints."""

    label = "openai package, its own models"
    needs = ("openai",)

    async def open(self) -> None:
        from openai import AsyncOpenAI, BaseModel

        self.post_type, self.page_type = define_bodies(_pydantic(BaseModel))
        self.client = AsyncOpenAI(api_key=TOKEN, base_url=f"{self.url}/v1", **self._http())

    def _http(self) -> dict[str, Any]:
        return {}

    async def close(self) -> None:
        await self.client.close()

    async def get(self, post_id: str) -> Any:
        return (await self.client.get(f"/posts/{post_id}", cast_to=self.post_type)).data

    async def comments(self, post_id: str) -> int:
        count = 0
        cursor: int | None = 0
        while cursor is not None:
            query: Any = {"params": {"cursor": cursor, "limit": PAGE_SIZE}}
            page = await self.client.get(
                f"/posts/{post_id}/comments", cast_to=self.page_type, options=query
            )
            for _ in page.data:
                count += 1
            cursor = page.meta.next_cursor
        return count


class OpenAIAiohttp(OpenAI):
    label = "openai package, on its aiohttp backend"

    def _http(self) -> dict[str, Any]:
        from openai import DefaultAioHttpClient

        return {"http_client": DefaultAioHttpClient()}


class Apify(Contender):
    """The apify-client package's HTTP client, with its retries, and `json()` without models."""

    label = "apify-client package, dicts"
    needs = ("apify_client",)
    has_comments = False

    async def open(self) -> None:
        from apify_client.http_clients import ImpitHttpClientAsync

        self.client = ImpitHttpClientAsync(token=TOKEN)

    async def get(self, post_id: str) -> Any:
        response = await self.client.call(method="GET", url=f"{self.url}/v1/posts/{post_id}")
        return response.json()["data"]


CONTENDERS: dict[str, type[Contender]] = {
    "ours": Ours,
    "ours-uvloop": OursUvloop,
    "ours-pages": OursPages,
    "ours-crawl": OursCrawl,
    "ours-crawl-uvloop": OursCrawlUvloop,
    "hand": HandWritten,
    "hand-pages": HandWrittenPages,
    "hand-uvloop": HandWrittenUvloop,
    "hand-tuned": HandTuned,
    "floor": Floor,
    "httpx-pydantic": HttpxPydantic,
    "openai": OpenAI,
    "openai-aiohttp": OpenAIAiohttp,
    "apify": Apify,
}


def is_installed(contender: type[Contender]) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in contender.needs)


def _pydantic(base: Any) -> Callable[[str, Mapping[str, Any]], Any]:
    """How models are made for `define_bodies`, with `base` as their base class."""
    from pydantic import create_model

    def define(name: str, fields: Mapping[str, Any]) -> Any:
        required: Any = {field: (kind, ...) for field, kind in fields.items()}
        return create_model(name, __base__=base, **required)

    return define


async def drive(get: Callable[[str], Awaitable[Any]], ids: Iterator[str], in_flight: int) -> None:
    """`in_flight` tasks that take one id after another. One at a time is a plain loop, as people
    write it."""

    async def work() -> None:
        for post_id in ids:
            await get(post_id)

    if in_flight == 1:
        await work()
    else:
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(work())
