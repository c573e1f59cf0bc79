"""The server: one handler on aiohttp's low-level server, so that nothing but these lines decides
what is answered.

The order in which a request is looked at, and what the page leaves open at each step:

1. It is received: entered in the ledger, and counted by both throttles, the IP's and (if its key is
   known) the key's. "In parallel" is taken at its word: each counts every request, whatever the
   other says.
2. Token: 401 `unauthorized`. A request with no valid key has no wallet, and its answer says
   `X-Credits-Remaining: 0`, as every answer carries that header; a revoked key still has its
   wallet, which is told.
3. Throttle: 429 `rate_limited`, not charged. The IP's refusal comes before the token is looked at.
4. A scripted fault that strikes before the work.
5. Request id: 409 `duplicate_request` if it was processed or is at work, not charged. Ids are per
   key and hold for all endpoints together.
6. The debit, before the work: 402 `insufficient_credits` if the wallet is too small. As validation
   errors are "not refunded", they are charged: a read its price, an analyze call 25 for every item
   of a `urls` list, whatever the items are. What cannot be counted (no JSON, no list) costs
   nothing, nor do unknown routes.
7. Validation and the work: 422, 404, or the answer. These use up the request id. Whether 402, 429,
   500 and 502 do is not
   documented: `refusals_burn_ids`; a 500 after work that was done always does.
8. A scripted fault that strikes after the work.

A client that goes away does not stop the work, and gets no refund.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeGuard, cast
from urllib.parse import parse_qs
from uuid import uuid4

from aiohttp import web

from .._version import __version__
from . import sending
from .faults import SCRIPTABLE, Fault, Scripting
from .ledger import ANALYZE, COMMENTS, POST, Entry, Key, Ledger, peak
from .openapi import describe
from .sending import Reply
from .throttles import Throttle, build_throttle
from .world import Json, World, fraction_of, is_post_id, post_id_of_url

__all__ = ["DEFAULT_TOKEN", "Sandbox", "serve", "serve_forever"]

DEFAULT_TOKEN = "tkf_live_" + "sandbox0" * 4
"""The token a sandbox takes unless told otherwise. It opens nothing but sandboxes."""

PRICES: Mapping[str, int] = {POST: 1, COMMENTS: 2, ANALYZE: 25}

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
# Pages of comments already encoded. A bench reads the same few over and over; a test never notices.
_PAGES_KEPT = 256
# Seconds a client has for sending a batch: what nginx allows between two reads of a body.
_BODY_TIME = 60.0


class _Connection(web.RequestHandler):
    """aiohttp's connection, which here also says how many requests it has carried and whether it is
    idle."""

    __slots__ = ("busy", "carried")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.carried = 0
        self.busy = False


class _Server(web.Server):
    def __call__(self) -> _Connection:
        return _Connection(self, loop=self._loop, **self._kwargs)


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _error_body(code: str, message: str) -> bytes:
    return _encode({"error": {"code": code, "message": message}})


class Sandbox(Scripting):
    """A strict local stand-in of the Tokfluence API, for tests, examples and benchmarks.

    `async with Sandbox() as sandbox: TokfluenceClient(sandbox.token, base_url=sandbox.url)`. All
    that is time-like reads the event loop's clock: under `tokfluence_async.testing.VirtualLoop`
    hours pass in milliseconds.

    Args:
        token: The default key; `tkf_live_` and 32 alphanumerics. `add_key` adds others.
        credits: What the default key's wallet holds.
        seed: Another seed, other posts and comments.
        per_ip, per_key: Requests per `period` seconds and IP, and per key; None switches that
        throttle off.
        period: Seconds; the service's is a minute.
        throttle: How requests are counted: `fixed_window`, `sliding_window` (a log),
            `sliding_log_counting_refusals`, `sliding_counter`, `token_bucket`, `gcra`, `haproxy`,
            `nginx`; a function (limit, period) -> object with `allow(now)`; None for no throttles.
        throttle_options: Passed on to it: `offset` of the windows, `burst`, `count_refusals` ...
        forwarded_for: Take a request's IP from `X-Forwarded-For`, so that one machine can play
            several.
        seconds_per_url: What analyzing a cold URL takes, or a function of the post id; see
            `heavy_tailed`.
        visibility_delay: Seconds from a post's analysis until it can be read, or a function of the
            post id.
        freshness: A post analyzed less than so many seconds ago comes back as `fresh`, at once,
            unless `force`.
        indexed: Which posts are in the index from the start: a fraction (chosen by their ids), the
            ids, or a function of the id. They were analyzed long ago, so they are not fresh;
            `index(post_id, age=...)` makes one that is.
        comments_per_post: A number, or a function of the id; None for a spread from none to about
            3000.
        page_stride: The most comments a page holds, whatever `limit` asks for.
        hidden_comments: The fraction of comments left out of their pages although the offsets count
            them: pages come back short, or empty.
        analyze_status: The status of a cold URL by post id, instead of `analyzed`; None for
            `analyzed`. A post with another status does not enter the index.
        analyze_rows: Changes the rows of an analyze answer: their order, their spelling, their
            number.
        nulls: The fraction of nullable fields that are null.
        extra_fields: Whether objects carry fields that are not documented.
        refusals_burn_ids: Whether a 402, 429, 500 (before the work) or 502 uses up its request id.
        remember_ids: Seconds for which request ids are remembered.
        latency: Seconds every call takes besides, or a function that says how many.
        transit: Seconds from a request's arrival until it is counted, or a function that says how
            many: jitter.
        keepalive: Seconds after which an idle connection is closed.
        record: Whether to keep what was received: all, none (False; the counters go on), or so many
            of the newest.
        host, port: Where to listen; port 0 takes a free one.

    Everything that is an argument and has an attribute of the same name may be changed while it
    serves.

    - Keys: `add_key`, `key`, `revoke`, `credits`.
    - The index: `index`, `is_indexed`, `add_comments`, `world`.
    - Faults (see `Scripting` for what all of them take): `drop_answer`, `refuse_connection`,
      `drop_reused`, `reset_body`, `cut_body`, `drip`, `stall`, `proxy_error`, `internal_error`,
      `upstream_error`, `rate_limit`, `answer`, `redirect`, `replace_body`, `huge_body`,
      `gzip_bomb`, `nested_body`, `clear_faults`, `pending_faults`; and `close_idle`.
    - The ledger: `requests`, `requests_received`, `credits_spent`, `charged`, `times_charged`,
      `billed_twice`, `rate_limited`, `statuses`, `times`, `peak`, `in_flight`, `peak_in_flight`,
      `open_connections`, `summary`.
    - Over HTTP, unthrottled and unbilled: `GET /openapi.json`, `GET /_sandbox/ledger` (`?entries`
      for all requests), `GET` and `POST /_sandbox/faults` (`{"fault": "drop_answer", "to": ...,
      "times": ...}`).

    Source: the Tokfluence API page; what it leaves open is told at the head of
    `tokfluence_async/_sandbox/server.py`.
    """

    def __init__(
        self,
        *,
        token: str = DEFAULT_TOKEN,
        credits: int = 1_000_000,
        seed: int = 0,
        per_ip: int | None = 600,
        per_key: int | None = 1200,
        period: float = 60.0,
        throttle: str | Callable[..., Throttle] | None = "sliding_window",
        throttle_options: Mapping[str, Any] | None = None,
        forwarded_for: bool = False,
        seconds_per_url: float | Callable[[str], float] = 2.0,
        visibility_delay: float | Callable[[str], float] = 3.0,
        freshness: float = 86_400.0,
        indexed: float | Collection[str] | Callable[[str], bool] = 1.0,
        comments_per_post: int | Callable[[str], int] | None = None,
        page_stride: int | None = None,
        hidden_comments: float = 0.0,
        analyze_status: Callable[[str], str | None] | None = None,
        analyze_rows: Callable[[list[Json]], list[Json]] | None = None,
        nulls: float = 0.0,
        extra_fields: bool = False,
        refusals_burn_ids: bool = False,
        remember_ids: float = 86_400.0,
        latency: float | Callable[[], float] = 0.0,
        transit: float | Callable[[], float] = 0.0,
        keepalive: float = 75.0,
        record: bool | int = True,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__()
        self.host = host
        self.port = port
        self.per_ip = per_ip
        self.per_key = per_key
        self.period = period
        self.seconds_per_url = seconds_per_url
        self.visibility_delay = visibility_delay
        self.freshness = freshness
        self.page_stride = page_stride
        self.hidden_comments = hidden_comments
        self.analyze_status = analyze_status
        self.analyze_rows = analyze_rows
        self.refusals_burn_ids = refusals_burn_ids
        self.latency = latency
        self.transit = transit
        self.world = World(
            seed, comments_per_post=comments_per_post, nulls=nulls, extra_fields=extra_fields
        )
        self._throttle = throttle
        self._throttle_options = throttle_options
        self._forwarded_for = forwarded_for
        self._indexed = indexed
        self._remember_ids = remember_ids
        self._keepalive = keepalive
        self._limits: dict[str, Throttle] = {}
        self._keys: dict[str, Key] = {}
        self._analyzed: dict[str, float] = {}
        self._visible: dict[str, float] = {}
        self._pages: dict[tuple[str, int, int, int], bytes] = {}
        self._ledger = Ledger(None if record is True else int(record))
        self._running: set[asyncio.Task[Any]] = set()
        self._crashes: list[Exception] = []
        self._server: _Server | None = None
        self._listener: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        if page_stride is not None and page_stride < 1:
            raise ValueError("page_stride is 1 or more comments")
        if throttle is not None and (per_ip is not None or per_key is not None):
            # What cannot be built should say so here, not at the first request.
            self._new_throttle(throttle, per_ip or per_key or 1)
        self.token = self.add_key(token, credits=credits).token

    # Life
    # ------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Sandbox:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Begin to serve, at `url`."""
        if self._server is not None:
            raise RuntimeError("this sandbox is already serving")
        self._loop = asyncio.get_running_loop()
        self._server = _Server(self._handle, access_log=None, keepalive_timeout=self._keepalive)
        self._listener = await self._loop.create_server(
            self._server, self.host, self.port, backlog=1024
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Stop serving: connections are closed, work in progress is abandoned. Closing twice is
        harmless.

        Raises:
            ExceptionGroup: The sandbox itself failed on a request (and answered it 500). That is a
                bug of the sandbox, and no test should pass over it.
        """
        server, listener = self._server, self._listener
        self._server = self._listener = None
        if server is None or listener is None:
            return
        listener.close()
        running = [task for task in self._running if not task.done()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        server.pre_shutdown()
        # The handlers are gone already, so this only closes the connections; zero would mean to
        # wait for ever.
        await server.shutdown(0.05)
        await listener.wait_closed()
        if self._crashes:
            crashes, self._crashes = self._crashes, []
            raise ExceptionGroup("the sandbox failed", crashes)

    @property
    def url(self) -> str:
        """Where it serves: give it to the client as `base_url`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    # Keys and wallets
    # ------------------------------------------------------------------------------------------------

    def add_key(self, token: str, *, credits: int = 1_000_000) -> Key:
        """Another API key, with a wallet of its own."""
        if token in self._keys:
            raise ValueError("this token is already a key")
        key = self._keys[token] = Key(token, credits, self._remember_ids)
        return key

    def key(self, token: str | None = None) -> Key:
        """The key of a token (the default one without it): its `credits` and `revoked` may be set
        at any time."""
        return self._keys[self.token if token is None else token]

    def revoke(self, token: str | None = None) -> None:
        """Revoke a key: its very next request gets 401."""
        self.key(token).revoked = True

    @property
    def credits(self) -> int:
        """What the default key's wallet holds."""
        return self.key().credits

    @credits.setter
    def credits(self, credits: int) -> None:
        self.key().credits = credits

    # The index
    # -------------------------------------------------------------------------------------------------------

    def index(self, post_id: str, *, age: float = math.inf) -> None:
        """Put a post into the index now, last analyzed `age` seconds ago."""
        self._analyzed[post_id] = self._now() - age
        self._visible[post_id] = -math.inf

    def is_indexed(self, post_id: str) -> bool:
        """Whether `GET /v1/posts/:id` would find it now."""
        visible = self._visible.get(post_id)
        if visible is not None and visible <= self._now():
            return True
        indexed = self._indexed
        if isinstance(indexed, (int, float)):
            return indexed > fraction_of(self.world.seed, "indexed", post_id)
        if callable(indexed):
            return indexed(post_id)
        return post_id in indexed

    def add_comments(self, post_id: str, count: int) -> None:
        """New comments arrive in front: the offsets of all others shift, and `total` grows."""
        self.world.add_comments(post_id, count)

    # Connections
    # ------------------------------------------------------------------------------------------------------

    def close_idle(self) -> int:
        """Close every connection that no request is using, now; returns how many."""
        idle = [connection for connection in self._connections() if not connection.busy]
        for connection in idle:
            connection.force_close()
        return len(idle)

    # The ledger
    # ------------------------------------------------------------------------------------------------------

    @property
    def requests(self) -> list[Entry]:
        """Every request under `/v1`, as received, oldest first (as many as `record` keeps)."""
        return list(self._ledger.entries)

    @property
    def requests_received(self) -> int:
        """How many requests were received, whether kept or not."""
        return self._ledger.received

    @property
    def credits_spent(self) -> int:
        """Credits charged and not refunded, by all keys."""
        return self._ledger.spent

    @property
    def rate_limited(self) -> int:
        """How many requests got 429."""
        return self._ledger.statuses[429]

    @property
    def statuses(self) -> dict[int, int]:
        """How many answers of each status were made."""
        return dict(self._ledger.statuses)

    def charged(self, post_id: str, to: str | None = None) -> int:
        """Credits charged and not refunded for one post, on one route (`POST /v1/posts/analyze`,
        ...) or on all."""
        return self._ledger.charged(post_id, to)

    def times_charged(self, to: str = ANALYZE) -> dict[str, int]:
        """How many times each post was charged and not refunded on a route."""
        return self._ledger.times_charged(to)

    def billed_twice(self) -> list[str]:
        """The posts whose analysis was charged more than once."""
        return sorted(
            post_id for post_id, times in self._ledger.times_charged(ANALYZE).items() if times > 1
        )

    def times(
        self, to: str | None = None, *, key: str | None = None, status: int | None = None
    ) -> list[float]:
        """When requests arrived, on the loop's clock: of a route, of a key (its token), with a
        status."""
        prefix = None if key is None else key[:13]
        return [
            entry.time
            for entry in self._ledger.entries
            if (to is None or entry.route == to)
            and (prefix is None or entry.key == prefix)
            and (status is None or entry.status == status)
        ]

    def peak(
        self, window: float | None = None, *, to: str | None = None, key: str | None = None
    ) -> int:
        """The most requests received in any `window` seconds (default: the throttle's period)."""
        return peak(self.times(to, key=key), self.period if window is None else window)

    def in_flight(self, to: str | None = None) -> int:
        """How many requests are being worked on now."""
        return self._ledger.in_flight(to)

    def peak_in_flight(self, to: str) -> int:
        """The most requests of a route that were worked on at once."""
        return self._ledger.peak_in_flight(to)

    @property
    def open_connections(self) -> int:
        """How many connections are open now, idle ones included."""
        return len(self._connections())

    def summary(self) -> Json:
        """The ledger as JSON, as `/_sandbox/ledger` serves it."""
        ledger = self._ledger
        return {
            "now": self._now(),
            "requests": ledger.received,
            "routes": dict(ledger.routes),
            "statuses": {str(status): count for status, count in ledger.statuses.items()},
            "faults": dict(ledger.faults),
            "credits_spent": ledger.spent,
            "keys": {
                key.prefix: {"credits": key.credits, "spent": key.spent, "revoked": key.revoked}
                for key in self._keys.values()
            },
            "analyze_charges": ledger.times_charged(ANALYZE),
            "billed_twice": self.billed_twice(),
            "peak": self.peak(),
            "peak_in_flight": {route: ledger.peak_in_flight(route) for route in ledger.routes},
            "open_connections": self.open_connections,
        }

    # Inside
    # ----------------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return (self._loop or asyncio.get_running_loop()).time()

    def _connections(self) -> list[_Connection]:
        return [] if self._server is None else cast("list[_Connection]", self._server.connections)

    def _new_throttle(self, algorithm: str | Callable[..., Throttle], limit: int) -> Throttle:
        return build_throttle(algorithm, limit, self.period, self._throttle_options)

    def _refused_for(self, lane: str, limit: int | None, now: float) -> float:
        if limit is None or self._throttle is None:
            return 0.0
        counter = self._limits.get(lane)
        if counter is None:
            counter = self._limits[lane] = self._new_throttle(self._throttle, limit)
        return counter.allow(now)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast("_Connection", request.protocol)
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._running.add(task)
        connection.busy = True
        try:
            return await self._route(request, connection)
        except ConnectionError:
            # The client has gone.
            return sending.hang_up(request)
        except Exception as error:
            self._crashes.append(error)
            return sending.whole(
                Reply(500, _error_body("sandbox_failed", repr(error)), {"Connection": "close"})
            )
        finally:
            connection.carried += 1
            connection.busy = False
            self._running.discard(task)

    async def _route(self, request: web.BaseRequest, connection: _Connection) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        if not path.startswith("/v1/"):
            return sending.whole(await self._outside(request, path, query))
        transit = self.transit
        if transit:
            await asyncio.sleep(transit() if callable(transit) else transit)

        method = request.method
        post_id = ""
        parts = path.split("/")
        if len(parts) >= 4 and parts[2] == "posts" and parts[3]:
            if len(parts) == 4 and method == "GET":
                route, post_id = POST, parts[3]
            elif len(parts) == 5 and parts[4] == "comments" and method == "GET":
                route, post_id = COMMENTS, parts[3]
            elif len(parts) == 4 and parts[3] == "analyze" and method == "POST":
                route = ANALYZE
            else:
                route = f"{method} {path}"
        else:
            route = f"{method} {path}"

        now = self._now()
        headers = request.headers
        peer = (
            request.transport.get_extra_info("peername") if request.transport is not None else None
        )
        ip = peer[0] if peer else ""
        if self._forwarded_for and "X-Forwarded-For" in headers:
            ip = headers["X-Forwarded-For"].partition(",")[0].strip()
        ledger = self._ledger
        entry = Entry(
            ledger.received + 1,
            now,
            method,
            path,
            query,
            route,
            ip,
            {name.lower(): value for name, value in headers.items()} if ledger.keep != 0 else {},
            request_id=headers.get("X-Request-Id"),
            connection=connection.carried,
        )
        if post_id:
            entry.post_ids.append(post_id)
        ledger.receive(entry)
        try:
            return await self._admit(request, entry, headers.get("Authorization"))
        finally:
            ledger.end(entry, self._now())

    async def _outside(self, request: web.BaseRequest, path: str, query: str) -> Reply:
        """What is not the API: its description, and the doors for tests in other processes.
        Unthrottled, unbilled."""
        method = request.method
        if path == "/openapi.json" and method == "GET":
            return Reply(200, _encode(describe(self.url, __version__)), {})
        if path == "/_sandbox/ledger" and method == "GET":
            summary = self.summary()
            if "entries" in query:
                summary["entries"] = [entry.as_json() for entry in self._ledger.entries]
            return Reply(200, _encode(summary), {})
        if path == "/_sandbox/faults" and method == "POST":
            try:
                wanted = json.loads(await request.read())
                name = wanted.pop("fault")
                if name not in SCRIPTABLE:
                    raise ValueError(f"no such fault: {name!r}")
                fault: Fault = getattr(self, name)(**wanted)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                return Reply(422, _error_body("invalid_fault", repr(error)), {})
            return Reply(
                201, _encode({"kind": fault.kind, "to": fault.to, "times": fault.times}), {}
            )
        if path == "/_sandbox/faults" and method == "GET":
            armed = [
                {"kind": f.kind, "to": f.to, "times": f.times, "hits": f.hits}
                for f in self._faults.armed
            ]
            return Reply(200, _encode({"armed": armed}), {})
        return Reply(404, _error_body("not_found", "The API is under /v1."), {})

    def _error(
        self, entry: Entry, key: Key | None, status: int, code: str, message: str, **headers: str
    ) -> Reply:
        entry.code = code
        return self._reply(
            entry,
            key,
            status,
            _error_body(code, message),
            {k.replace("_", "-"): v for k, v in headers.items()},
        )

    def _reply(
        self,
        entry: Entry,
        key: Key | None,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        entry.status = status
        head = {
            "X-Credits-Remaining": str(0 if key is None else key.credits),
            "X-Request-Id": entry.request_id or str(uuid4()),
        }
        if headers:
            head.update(headers)
        return Reply(status, body, head)

    async def _admit(
        self, request: web.BaseRequest, entry: Entry, authorization: str | None
    ) -> web.StreamResponse:
        """Steps 1 to 4 and 8 of the module's docstring."""
        key = None
        if authorization is not None and authorization.startswith("Bearer "):
            key = self._keys.get(authorization[7:])
        by_ip = self._refused_for(entry.ip, self.per_ip, entry.time)
        by_key = 0.0
        if key is not None:
            entry.key = key.prefix
            by_key = self._refused_for(key.token, self.per_key, entry.time)
        if by_ip:
            reply = self._throttled(entry, key, str(max(1, math.ceil(max(by_ip, by_key)))))
        elif key is None or key.revoked:
            message = (
                "This token was revoked."
                if key is not None
                else "The token is missing or malformed."
            )
            reply = self._error(entry, key, 401, "unauthorized", message)
        elif by_key:
            reply = self._throttled(entry, key, str(max(1, math.ceil(by_key))))
        else:
            fault = self._faults.take(entry)
            if fault is not None:
                return await self._strike(request, entry, key, fault)
            reply = await self._perform(request, entry, key, None)
        return self._answered(entry, reply)

    def _throttled(self, entry: Entry, key: Key | None, retry_after: str | None) -> Reply:
        if (
            self.refusals_burn_ids
            and key is not None
            and entry.request_id
            and not key.ids.known(entry.request_id, entry.time)
        ):
            key.ids.use_up(entry.request_id, entry.time)
        headers = {} if retry_after is None else {"Retry_After": retry_after}
        return self._error(
            entry, key, 429, "rate_limited", "Too many requests. Honour Retry-After.", **headers
        )

    async def _perform(
        self, request: web.BaseRequest, entry: Entry, key: Key, fault: Fault | None
    ) -> Reply:
        """Steps 5 to 7. A fault given here is one of the API's own errors, which strike within
        them."""
        route = entry.route
        price = PRICES.get(route)
        body = b""
        if route == ANALYZE:
            body = await self._read(request)
            if self._ledger.keep != 0:
                entry.body = body
        request_id = entry.request_id
        if not request_id:
            return (await self._charge_and_work(entry, key, price, body, fault))[0]
        if key.ids.known(request_id, self._now()):
            return self._error(
                entry,
                key,
                409,
                "duplicate_request",
                "This request id was already processed; it was not charged again.",
            )
        key.ids.begin(request_id)
        used_up = True
        try:
            reply, used_up = await self._charge_and_work(entry, key, price, body, fault)
        finally:
            key.ids.end(request_id, self._now(), used_up=used_up)
        return reply

    async def _read(self, request: web.BaseRequest) -> bytes:
        try:
            # A body that breaks its own framing never ends for aiohttp, and neither does one that
            # does not come.
            async with asyncio.timeout(_BODY_TIME):
                return await request.read()
        except (web.HTTPRequestEntityTooLarge, web.RequestPayloadError, TimeoutError):
            # More than aiohttp takes (1 MiB; 50 URLs are a few KiB), or not what its own framing
            # says.
            return b""

    async def _charge_and_work(
        self, entry: Entry, key: Key, price: int | None, body: bytes, fault: Fault | None
    ) -> tuple[Reply, bool]:
        """The answer, and whether the request id is used up."""
        if price is None:
            return self._no_such_route(entry, key), True
        parsed: object = None
        urls: list[Any] = []
        count = 1
        if entry.route == ANALYZE:
            parsed, urls = _parse_body(body)
            entry.post_ids.extend(
                post_id for url in urls if (post_id := post_id_of_url(url)) is not None
            )
            count = len(urls)
        own_error = None if fault is None else fault.kind
        cost = price * count
        if own_error != "internal_error" or (fault is not None and fault.options["charged"]):
            if cost > key.credits:
                message = "Out of API credits. Top up or wait for the next refill cycle."
                return self._error(
                    entry, key, 402, "insufficient_credits", message
                ), self.refusals_burn_ids
            key.credits -= cost
            key.spent += cost
            self._ledger.charge(entry, cost, price)

        if fault is not None and own_error == "upstream_error":
            key.credits += cost
            key.spent -= cost
            self._ledger.refund(entry, price)
            message = "The TikTok pipeline is unreachable. Your credits were refunded."
            return self._error(entry, key, 502, "upstream_error", message), self.refusals_burn_ids
        if fault is not None and own_error == "internal_error" and fault.when == "before":
            return self._internal_error(entry, key), self.refusals_burn_ids

        latency = self.latency
        if latency:
            await asyncio.sleep(latency() if callable(latency) else latency)
        if entry.route == POST:
            reply = self._get_post(entry, key)
        elif entry.route == COMMENTS:
            reply = self._get_comments(entry, key)
        else:
            reply = await self._analyze(entry, key, parsed, urls)
        if own_error == "internal_error":
            reply = self._internal_error(entry, key)
        return reply, True

    def _internal_error(self, entry: Entry, key: Key) -> Reply:
        return self._error(entry, key, 500, "internal_error", "Something went wrong on our side.")

    def _invalid(self, entry: Entry, key: Key, message: str) -> Reply:
        return self._error(entry, key, 422, "missing_parameter", message)

    def _no_such_route(self, entry: Entry, key: Key) -> Reply:
        parts = entry.path.split("/")
        if (
            len(parts) in (4, 5)
            and parts[2] == "posts"
            and parts[3]
            and (len(parts) == 4 or parts[4] == "comments")
        ):
            allow = "GET, POST" if parts[3] == "analyze" and len(parts) == 4 else "GET"
            return self._error(entry, key, 405, "method_not_allowed", f"Only {allow}.", Allow=allow)
        return self._error(
            entry, key, 404, "not_found", "There is no such endpoint in the sandbox."
        )

    def _get_post(self, entry: Entry, key: Key) -> Reply:
        post_id = entry.post_ids[0]
        if not is_post_id(post_id) or not self.is_indexed(post_id):
            return self._not_found(entry, key)
        entry.done = True
        return self._reply(entry, key, 200, _encode({"data": self.world.post(post_id)}))

    def _not_found(self, entry: Entry, key: Key) -> Reply:
        return self._error(entry, key, 404, "post_not_found", "This post is not in the index.")

    def _get_comments(self, entry: Entry, key: Key) -> Reply:
        post_id = entry.post_ids[0]
        query = parse_qs(entry.query, keep_blank_values=True)
        # As in Rails and most others, the last one of a repeated parameter counts.
        cursor_text, limit_text = query.get("cursor", ["0"])[-1], query.get("limit", ["50"])[-1]
        if not _NUMBER.fullmatch(cursor_text):
            return self._invalid(entry, key, "cursor is a number of comments to skip, 0 or more.")
        if not _NUMBER.fullmatch(limit_text) or not 1 <= int(limit_text) <= 200:
            return self._invalid(entry, key, "limit is a number of comments, 1 to 200.")
        if not is_post_id(post_id) or not self.is_indexed(post_id):
            return self._not_found(entry, key)
        entry.done = True
        return self._reply(entry, key, 200, self._page(post_id, int(cursor_text), int(limit_text)))

    def _page(self, post_id: str, cursor: int, limit: int) -> bytes:
        total = self.world.total_comments(post_id)
        page = (post_id, cursor, limit, total)
        body = self._pages.get(page)
        if body is not None:
            return body
        end = min(total, cursor + min(limit, self.page_stride or limit))
        offsets: Iterable[int] = range(cursor, end)
        hidden, seed = self.hidden_comments, self.world.seed
        if hidden:
            offsets = [
                n for n in offsets if fraction_of(seed, "hidden", post_id, total - n) >= hidden
            ]
        rows = list(self.world.comments(post_id, offsets))
        body = _encode(
            {"data": rows, "meta": {"total": total, "next_cursor": end if end < total else None}}
        )
        if len(self._pages) >= _PAGES_KEPT:
            self._pages.clear()
        self._pages[page] = body
        return body

    async def _analyze(self, entry: Entry, key: Key, parsed: object, urls: list[Any]) -> Reply:
        problem = _problem_with(parsed, urls)
        if problem is not None or not _is_object(parsed):
            return self._invalid(entry, key, str(problem))
        force = parsed.get("force", False)
        rows: list[Json] = []
        for url, post_id in zip(urls, entry.post_ids, strict=True):
            at = self._analyzed.get(post_id)
            if not force and at is not None and self._now() - at < self.freshness:
                status = "fresh"
                entry.fresh.append(post_id)
            else:
                seconds = self.seconds_per_url
                seconds = seconds(post_id) if callable(seconds) else seconds
                if seconds:
                    await asyncio.sleep(seconds)
                special = self.analyze_status(post_id) if self.analyze_status is not None else None
                # A post that could not be analyzed does not get into the index.
                status = special or "analyzed"
                if status == "analyzed":
                    self._was_analyzed(post_id)
            rows.append({"url": url, "postId": post_id, "status": status})
        if self.analyze_rows is not None:
            rows = self.analyze_rows(rows)
        entry.done = True
        meta = {"submitted": len(entry.post_ids), "cost": PRICES[ANALYZE] * len(entry.post_ids)}
        return self._reply(entry, key, 200, _encode({"data": rows, "meta": meta}))

    def _was_analyzed(self, post_id: str) -> None:
        now = self._now()
        self._analyzed[post_id] = now
        delay = self.visibility_delay
        visible = now + (delay(post_id) if callable(delay) else delay)
        # What can be read already stays readable while it is refreshed.
        self._visible[post_id] = min(visible, self._visible.get(post_id, math.inf))

    # Carrying out faults
    # ---------------------------------------------------------------------------------------------

    async def _strike(
        self, request: web.BaseRequest, entry: Entry, key: Key, fault: Fault
    ) -> web.StreamResponse:
        if fault.when == "before":
            return await self._strike_before(request, entry, key, fault)
        own = fault if fault.kind == "internal_error" else None
        reply = await self._perform(request, entry, key, own)
        await asyncio.sleep(fault.options.get("delay", 0.0))
        return await self._strike_after(request, entry, reply, fault)

    async def _strike_before(
        self, request: web.BaseRequest, entry: Entry, key: Key, fault: Fault
    ) -> web.StreamResponse:
        kind, options = fault.kind, fault.options
        await asyncio.sleep(options.get("delay", 0.0))
        if kind in ("drop", "reset"):
            return sending.hang_up(request, reset=kind == "reset")
        if kind == "answer":
            return await self._answer_instead(request, entry, options)
        if kind == "rate_limit":
            after = options["retry_after"]
            return self._answered(
                entry, self._throttled(entry, key, None if after is None else str(after))
            )
        if kind == "stall":
            await sending.wait(options["seconds"])
            return self._answered(entry, await self._perform(request, entry, key, None))
        return self._answered(entry, await self._perform(request, entry, key, fault))

    async def _strike_after(
        self, request: web.BaseRequest, entry: Entry, reply: Reply, fault: Fault
    ) -> web.StreamResponse:
        kind, options = fault.kind, fault.options
        if kind in ("drop", "reset"):
            return sending.hang_up(request, reset=kind == "reset")
        if kind == "answer":
            return await self._answer_instead(request, entry, options)
        if kind in ("cut", "reset_body"):
            chunked = options.get("chunked", False)
            return await sending.cut(
                request, reply, options["at"], chunked=chunked, reset=kind == "reset_body"
            )
        if kind == "stall" and options["in_body"]:
            response: web.StreamResponse = await sending.half_then_wait(
                request, reply, options["seconds"]
            )
        elif kind == "drip":
            response = await sending.drip(request, reply, options["piece"], options["every"])
        elif kind == "huge":
            response = await sending.huge(request, reply, options["size"])
        else:
            if kind == "stall":
                await sending.wait(options["seconds"])
            elif kind == "replace_body":
                reply = reply._replace(body=_bytes(options["body"]))
            elif kind == "nested":
                reply = reply._replace(
                    body=b'{"data":%b%b}' % (b"[" * options["depth"], b"]" * options["depth"])
                )
            elif kind == "gzip_bomb":
                packed = sending.gzip_padded(reply.body, options["size"])
                reply = reply._replace(
                    body=packed, headers={**reply.headers, "Content-Encoding": "gzip"}
                )
            response = sending.whole(reply)
        entry.answered = True
        return response

    def _answered(self, entry: Entry, reply: Reply) -> web.Response:
        entry.answered = True
        return sending.whole(reply)

    async def _answer_instead(
        self, request: web.BaseRequest, entry: Entry, options: Mapping[str, Any]
    ) -> web.StreamResponse:
        reply = Reply(options["status"], _bytes(options["body"]), dict(options["headers"]))
        entry.status, entry.code = reply.status, None
        if options.get("cut") is not None:
            return await sending.cut(request, reply, options["cut"])
        return self._answered(entry, reply)


def _bytes(body: bytes | str) -> bytes:
    return body.encode() if isinstance(body, str) else body


def _is_object(value: object) -> TypeGuard[Json]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _parse_body(body: bytes) -> tuple[object, list[Any]]:
    """The JSON of an analyze body (None if it is none), and the items of its `urls`, if that is a
    list."""
    try:
        parsed: object = json.loads(body.decode())
    except (ValueError, RecursionError):
        return None, []
    urls: object = parsed.get("urls") if _is_object(parsed) else None
    return parsed, urls if _is_list(urls) else []


def _problem_with(parsed: object, urls: list[Any]) -> str | None:
    """What is wrong with the body of an analyze call, or None."""
    if not _is_object(parsed):
        return "The body is a JSON object with urls."
    if not 1 <= len(urls) <= 50:
        return "urls is a list of 1 to 50 TikTok video URLs."
    for url in urls:
        if post_id_of_url(url) is None:
            return f"This is not the URL of a TikTok video: {str(url)[:200]!r}"
    if not isinstance(parsed.get("force", False), bool):
        return "force is true or false."
    return None


async def serve_forever(
    sandbox: Sandbox, on_ready: Callable[[Sandbox], None] | None = None
) -> None:
    """Serve until SIGINT or SIGTERM (where signals can be heard: in the main thread), or until
    cancelled.

    Args:
        on_ready: Called once with the sandbox when it accepts connections: its `url` is known then.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    heard: list[signal.Signals] = []
    async with sandbox:
        try:
            if threading.current_thread() is threading.main_thread():
                for name in (signal.SIGINT, signal.SIGTERM):
                    with contextlib.suppress(NotImplementedError):
                        loop.add_signal_handler(name, stop.set)
                        heard.append(name)
            if on_ready is not None:
                on_ready(sandbox)
            await stop.wait()
        finally:
            for name in heard:
                loop.remove_signal_handler(name)


def serve(*, on_ready: Callable[[Sandbox], None] | None = None, **options: Any) -> None:
    """Serve a sandbox with these options of `Sandbox` in a loop of its own, until SIGINT or
    SIGTERM."""
    asyncio.run(serve_forever(Sandbox(**options), on_ready))
