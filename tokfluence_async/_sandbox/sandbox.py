"""`Sandbox`: what users see of the stand-in. Its life, its keys, its index, its network, its
ledger."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any

from aiohttp import web

from . import sending
from .endpoints import Endpoints
from .index import Index
from .ledger import ANALYZE, Entry, Key, Ledger, peak
from .options import Options, number_of
from .outside import answer_outside
from .requests import build_entry
from .scripting import Scripting
from .server import Connection, Server
from .service import Service
from .striking import strike
from .throttles import Lanes, Throttle
from .world import Json, World

__all__ = ["DEFAULT_TOKEN", "Sandbox"]

DEFAULT_TOKEN = "tkf_live_" + "sandbox0" * 4
"""The token a sandbox takes unless told otherwise. It opens nothing but sandboxes."""


class Sandbox(Options, Scripting):
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
      `gzip_bomb`, `nested_body`, `half_emoji`, `nearly_json`, `clear_faults`, `pending_faults`.
    - The network: `close_idle`, `lose_connections`, `lose_network`, `restore_network`.
    - The ledger: `requests`, `requests_received`, `credits_spent`, `charged`, `times_charged`,
      `billed_twice`, `rate_limited`, `statuses`, `times`, `peak`, `in_flight`, `peak_in_flight`,
      `open_connections`, `summary`.
    - Over HTTP, unthrottled and unbilled: `GET /openapi.json`, `GET /_sandbox/ledger` (`?entries`
      for all requests), `GET` and `POST /_sandbox/faults` (`{"fault": "drop_answer", "to": ...,
      "times": ...}`, or `{"fault": "lose_network", "seconds": 40}`).

    Source: the Tokfluence API page; what it leaves open is told at the head of
    `tokfluence_async/_sandbox/service.py`.
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
        if page_stride is not None and page_stride < 1:
            raise ValueError("page_stride is 1 or more comments")
        self.world = World(
            seed, comments_per_post=comments_per_post, nulls=nulls, extra_fields=extra_fields
        )
        lanes = Lanes(throttle, throttle_options)
        if per_ip is not None or per_key is not None:
            lanes.check(per_ip or per_key or 1, period)
        self._index = Index(seed, indexed)
        self._ledger = Ledger(None if record is True else int(record))
        endpoints = Endpoints(self, self.world, self._index, self._now)
        self._service = Service(self, endpoints, lanes, self._ledger, self._now)
        self._forwarded_for = forwarded_for
        self._remember_ids = remember_ids
        self._keepalive = keepalive
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.token = self.add_key(token, credits=credits).token

    # Life -----------------------------------------------------------------------------------------

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
        server = Server(self._receive, self._keepalive)
        self.port = await server.start(self.host, self.port)
        self._server = server

    async def aclose(self) -> None:
        """Stop serving: connections are closed, work in progress is abandoned. Closing twice is
        harmless.

        Raises:
            ExceptionGroup: The sandbox itself failed on a request (and answered it 500). That is a
                bug of the sandbox, and no test should pass over it.
        """
        server, self._server = self._server, None
        if server is not None:
            await server.aclose()

    @property
    def url(self) -> str:
        """Where it serves: give it to the client as `base_url`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    # Keys and wallets -----------------------------------------------------------------------------

    def add_key(self, token: str, *, credits: int = 1_000_000) -> Key:
        """Another API key, with a wallet of its own."""
        keys = self._service.keys
        if token in keys:
            raise ValueError("this token is already a key")
        key = keys[token] = Key(token, credits, self._remember_ids)
        return key

    def key(self, token: str | None = None) -> Key:
        """The key of a token (the default one without it): its `credits` and `revoked` may be set
        at any time."""
        return self._service.keys[self.token if token is None else token]

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

    # The index ------------------------------------------------------------------------------------

    def index(self, post_id: str, *, age: float = math.inf) -> None:
        """Put a post into the index now, last analyzed `age` seconds ago."""
        self._index.put(post_id, self._now() - age)

    def is_indexed(self, post_id: str) -> bool:
        """Whether `GET /v1/posts/:id` would find it now."""
        return self._index.is_readable(post_id, self._now())

    def add_comments(self, post_id: str, count: int) -> None:
        """New comments arrive in front: the offsets of all others shift, and `total` grows."""
        self.world.add_comments(post_id, count)

    # The network ----------------------------------------------------------------------------------

    def close_idle(self) -> int:
        """Close every connection that no request is using, now; returns how many."""
        return self._serving.close_idle()

    def lose_connections(self, *, silent: bool = False) -> int:
        """Let all connections that are open now be dead, as where a balancer has lost its state.

        Nobody is told: a client finds out when it uses one again, and gets a reset before any work.
        Requests under way are worked on and charged, and their answers are lost. New connections
        are not touched.

        Args:
            silent: No reset either. What is sent on them vanishes.
        Returns:
            How many there were.
        """
        return self._serving.lose_connections(silent=silent)

    def lose_network(self, seconds: float | None = None, *, silent: bool = False) -> None:
        """Be out of reach for `seconds`, or until `restore_network`: all connections are lost as by
        `lose_connections`, and new ones are refused.

        Args:
            silent: New connections are made by the system, but what is sent on them vanishes, also
                after the network is back.
        Raises:
            RuntimeError: It is away already, or the sandbox does not serve.
        """
        self._serving.lose_network(seconds, silent=silent)

    async def restore_network(self) -> None:
        """End what `lose_network` began, before its time or where it had none."""
        await self._serving.restore_network()

    # The ledger -----------------------------------------------------------------------------------

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
        return 0 if self._server is None else len(self._server.connections)

    def summary(self, *, entries: bool = False) -> Json:
        """The ledger as JSON, as `/_sandbox/ledger` serves it.

        Args:
            entries: With every request that is kept.
        """
        ledger = self._ledger
        summary: Json = {
            "now": self._now(),
            "requests": ledger.received,
            "routes": dict(ledger.routes),
            "statuses": {str(status): count for status, count in ledger.statuses.items()},
            "faults": dict(ledger.faults),
            "credits_spent": ledger.spent,
            "keys": {
                key.prefix: {"credits": key.credits, "spent": key.spent, "revoked": key.revoked}
                for key in self._service.keys.values()
            },
            "analyze_charges": ledger.times_charged(ANALYZE),
            "billed_twice": self.billed_twice(),
            "peak": self.peak(),
            "peak_in_flight": {route: ledger.peak_in_flight(route) for route in ledger.routes},
            "open_connections": self.open_connections,
        }
        if entries:
            summary["entries"] = [entry.as_json() for entry in ledger.entries]
        return summary

    # One request ----------------------------------------------------------------------------------

    def _now(self) -> float:
        return (self._loop or asyncio.get_running_loop()).time()

    @property
    def _serving(self) -> Server:
        if self._server is None:
            raise RuntimeError("this sandbox is not serving")
        return self._server

    async def _receive(
        self, request: web.BaseRequest, connection: Connection
    ) -> web.StreamResponse:
        if not request.raw_path.startswith("/v1/"):
            return sending.whole(await answer_outside(self, request))
        transit = number_of(self.transit)
        if transit:
            await asyncio.sleep(transit)
        ledger = self._ledger
        entry = build_entry(
            request,
            number=ledger.received + 1,
            now=self._now(),
            carried=connection.carried,
            forwarded_for=self._forwarded_for,
            keep_headers=ledger.keep != 0,
        )
        ledger.receive(entry)
        try:
            response = await self._answer(request, entry)
            if connection.lost is not None:
                entry.answered = False
            return response
        finally:
            ledger.end(entry, self._now())

    async def _answer(self, request: web.BaseRequest, entry: Entry) -> web.StreamResponse:
        key = self._service.admit(entry, request.headers.get("Authorization"))
        if isinstance(key, Key):
            fault = self._faults.take(entry)
            if fault is not None:
                return await strike(self._service, request, entry, key, fault)
            reply = await self._service.perform(request, entry, key, None)
        else:
            reply = key
        entry.answered = True
        return sending.whole(reply)
