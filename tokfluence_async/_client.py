"""The door: builds the rooms, shares them with its copies, closes them."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, TypeVar, overload
from urllib.parse import urlsplit

import msgspec
from yarl import URL

from ._credits.budget import Budget, MaxCredits
from ._credits.ledger import Ledger
from ._errors import ConfigurationError, WrongTypeError, check_count
from ._http.engine import Engine, Options
from ._http.retry import RetryPolicy, Settled
from ._models import Timeout, Usage
from ._posts import Posts
from ._throttle.throttle import Throttle
from ._wire.calls import build_request
from ._wire.checks import MAX_BODY
from ._wire.secret import Secret
from ._wire.shapes import Shape

if TYPE_CHECKING:
    import aiohttp

    from ._http.telemetry import MeterProvider, Telemetry, TracerProvider

__all__ = ["BASE_URL", "TokfluenceClient"]

T = TypeVar("T")

logger = logging.getLogger("tokfluence_async")

BASE_URL = "https://developers.tokfluence.com"

# Reads in flight at once. The throttle lets 10 a second go, so this is room for answers of up to
# five seconds.
_MAX_CONCURRENCY = 50
_ANALYZE_CONCURRENCY = 8
_MAX_RETRIES = 5


class TokfluenceClient:
    """The asyncio client of the Tokfluence API.

        async with TokfluenceClient() as client:
            post = await client.posts.get("7234567890123456789")

    Without `async with`, connections open on first use; `await client.aclose()` when done. A client
    may be made anywhere (no event loop is touched), used by any number of tasks at once, in several
    event loops one after another, and in several threads. All clients of a process share the
    throttle, so that together they stay within the service's limits.

    Args:
        token: The API token; None reads `TOKFLUENCE_TOKEN`.
        base_url: Where the service is; None reads `TOKFLUENCE_BASE_URL`, else
            `https://developers.tokfluence.com`. The token goes there and nowhere else.
        throttle: How often requests may leave; None for the documented 600 a minute per IP and 1200
            per key.
        max_concurrency: Reads in flight at once, 1 or more; in each event loop, for each key.
        analyze_concurrency: Analyze requests in flight at once, 1 or more. The service asks to cap
            them; where it refuses more than so many, as many are in flight, and one more is tried
            now and then.
        timeout: Time limits of one attempt: seconds in total, or a `Timeout`. Waiting for a slot
            does not count. An analyze attempt gets 15 s per URL on top. None for no limit.
        max_retries: Retries after the first attempt, 429 included; 0 means one attempt.
        max_credits: Credits this client (with its copies) may spend at most; None for no end. What
            may not be spent is not sent and fails with `BudgetExceededError`. A charge that is not
            known counts as spent. A `SharedBudget` is one limit for several processes.
        keep_credits: Credits to leave in the wallet, whoever else spends from it; None for no
            floor. What would go below is not sent and fails with `BudgetExceededError`. What is
            left is asked for before the first call, which costs nothing but a request.
        max_body: Bytes of one answer's body after decompression at most; what is larger is
            `APIResponseValidationError`.
        session: An `aiohttp.ClientSession` to use instead of an own one; it is not closed, and
            belongs to one event loop.
        proxy: The URL of an HTTP proxy to connect by, such as `http://user:password@host:3128`.
            None for a direct connection, whatever the environment says.
        tracer_provider, meter_provider: Where spans and metrics of OpenTelemetry go; None for the
            global ones, if `opentelemetry` has been imported before (extra `[otel]`). A
            `NoOpTracerProvider` switches spans off, and leaves requests to automatic
            instrumentation.

    Raises:
        ConfigurationError: No token, or one that cannot be put into a header; a base URL that is
            none; an option of another type than it has here.
        ValueError: A number out of its range.

    Own connections do not read proxies from the environment, follow no redirects, keep no cookies,
    and verify TLS.
    """

    def __init__(
        self,
        token: str | None = None,
        *,
        base_url: str | None = None,
        throttle: Throttle | None = None,
        max_concurrency: int = _MAX_CONCURRENCY,
        analyze_concurrency: int = _ANALYZE_CONCURRENCY,
        timeout: float | Timeout | None = Timeout(),  # noqa: B008 - frozen
        max_retries: int = _MAX_RETRIES,
        max_credits: MaxCredits = None,
        keep_credits: int | None = None,
        max_body: int = MAX_BODY,
        session: aiohttp.ClientSession | None = None,
        proxy: str | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        if "TOKFLUENCE_LOG" in os.environ:
            from ._http.log import configure_from_environment

            configure_from_environment()
        secret = _check_token(token if token is not None else os.environ.get("TOKFLUENCE_TOKEN"))
        if base_url is None:
            base_url = os.environ.get("TOKFLUENCE_BASE_URL") or BASE_URL
        # An empty text is refused, as it is a caller's own variable that was not set: their token
        # would go to the service.
        origin, base = _check_base_url(base_url)
        options = Options(
            token=secret,
            timeout=_check_timeout(timeout),
            policy=_check_retries(max_retries),
            max_concurrency=check_count("max_concurrency", max_concurrency),
            analyze_concurrency=check_count("analyze_concurrency", analyze_concurrency),
            budget=Budget(max_credits, keep=keep_credits),
        )
        self._engine = Engine(
            origin=origin,
            base_url=base,
            throttle=_check_throttle(throttle),
            max_body=check_count("max_body", max_body),
            session=_check_session(session),
            proxy=_check_proxy(proxy),
            telemetry=_telemetry(base, tracer_provider, meter_provider),
        )
        self._owner = True
        self._use(options)

    def _use(self, options: Options) -> None:
        self._options = options
        self._posts = Posts(self._engine, options)

    def with_options(
        self,
        *,
        token: str | None = None,
        max_concurrency: int | None = None,
        analyze_concurrency: int | None = None,
        timeout: float | Timeout | msgspec.UnsetType | None = msgspec.UNSET,
        max_retries: int | None = None,
        max_credits: MaxCredits = None,
    ) -> TokfluenceClient:
        """A cheap copy with other options, which shares connections, throttle, counts and budget.

        `max_credits` gives the copy a budget of its own *within* the shared one. Closing a copy,
        also by `async with`, leaves the connections open: they are the first client's.

        Raises:
            ConfigurationError, ValueError: As the constructor.
        """
        old = self._options
        changes: dict[str, Any] = {}
        if token is not None:
            changes["token"] = _check_token(token)
        if max_concurrency is not None:
            changes["max_concurrency"] = check_count("max_concurrency", max_concurrency)
        if analyze_concurrency is not None:
            changes["analyze_concurrency"] = check_count("analyze_concurrency", analyze_concurrency)
        if timeout is not msgspec.UNSET:
            changes["timeout"] = _check_timeout(timeout)
        if max_retries is not None:
            changes["policy"] = _check_retries(max_retries)
        if max_credits is not None:
            changes["budget"] = Budget(max_credits, old.budget)
        other = copy(self)
        other._owner = False
        other._use(msgspec.structs.replace(old, **changes))
        return other

    @property
    def posts(self) -> Posts:
        """Posts, their comments and their analysis: `get`, `get_many`, `comments`, `comment_pages`,
        `analyze`, `analyze_iter`, `resolve` and `estimate`; `help(client.posts)` tells of each."""
        return self._posts

    @property
    def credits_remaining(self) -> int | None:
        """Credits left in the wallet, as the service last said; None before its first answer.

        "Last" is by the order of sending: an answer to an older request never overwrites a newer
        one's.
        """
        return self._engine.wallet(self._options.token).remaining

    @property
    def ledger(self) -> Ledger:
        """What this client's calls have cost, by endpoint and by request id, and where the
        service's count differs."""
        return self._engine.wallet(self._options.token)

    @property
    def throttle(self) -> Throttle:
        """The throttle in use; `client.throttle.statistics()` says who waits for it, and how fast
        it lets requests go."""
        return self._engine.throttle

    @property
    def usage(self) -> Usage:
        """What this client and its copies have done so far; `credits_spent` and `credits_reserved`
        are those of this copy's budget."""
        return self._engine.usage(self._options)

    @overload
    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        response_type: type[T],
    ) -> T: ...

    @overload
    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        response_type: None = None,
    ) -> Any: ...

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        response_type: Any = None,
    ) -> Any:
        """Call any endpoint of the API through the same auth, throttle, retries, budget and
        decoding.

        Args:
            method: GET, POST, PUT, PATCH or DELETE. A GET is repeated under a new request id;
                anything else keeps its own over all retries, so that the service does it at most
                once.
            path: As in the API's documentation, with `/v1`. Its parts must be quoted already.
                Absolute URLs are refused.
            params: The query: texts, numbers, booleans (as `true`), dates and aware times (ISO
                8601, in UTC), UUIDs, enums (their value). Lists repeat their name, None is left
                out, in lists too. Anything else is refused.
            json: The body, anything msgspec encodes.
            response_type: The type of the *whole* body: a Struct, `dict`, `list[...]`,
                `msgspec.Raw`; None for plain dicts and lists. An answer of more than 100,000 values
                is refused as anything but `msgspec.Raw`.
        Raises:
            ValueError: A method, path or parameter that is none; nothing was sent.
            DuplicateRequestError: A write was done by an attempt whose answer was lost; it is not
                replayed.
            TokfluenceError: As everywhere.

        What it costs is the endpoint's own price; where this package knows it, it is reserved in
        the budget beforehand.
        Source: the Tokfluence API page, *The rest of the API*, *Idempotency*.
        """
        call = build_request(method, path, params, json)
        shape: Shape[Any] = Shape(Any if response_type is None else response_type)
        answer = await self._engine.perform(call, shape, self._options)
        assert not isinstance(answer, Settled)
        return answer

    async def aclose(self) -> None:
        """End background work and close the connections. Idempotent; on a `with_options` copy it
        does nothing."""
        try:
            if self._owner:
                await self._engine.aclose()
        finally:
            if self._options.budget.leases:
                await self._options.budget.give_back()

    async def __aenter__(self) -> TokfluenceClient:
        self._engine.loop_state()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<TokfluenceClient of {self._engine.origin}, key {self._options.token!r}>"


def _telemetry(
    base_url: str, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None
) -> Telemetry | None:
    """None, unless a provider was given or `opentelemetry` is there: importing it takes 50 ms."""
    given = tracer_provider is not None or meter_provider is not None
    if not given and "opentelemetry.trace" not in sys.modules:
        return None
    try:
        from ._http.telemetry import Telemetry

        return Telemetry(base_url, tracer_provider, meter_provider)
    except (AttributeError, ImportError, TypeError) as error:
        if given:
            raise
        # Somebody else's version of it is no reason not to start.
        logger.warning("opentelemetry-api is too old; there is no telemetry (%s)", error)
        return None


# Visible ASCII. Its form is not checked beyond what a header can carry: the service knows its
# tokens, not we.
_TOKEN = re.compile(r"[\x21-\x7e]{1,1024}\Z")


def _check_token(token: str | None) -> Secret:
    if token is not None and not isinstance(token, str):
        raise ConfigurationError(f"The API token must be a str, not {type(token).__name__}.")
    if token is None or not token.strip():
        raise ConfigurationError(
            "No API token. Set TOKFLUENCE_TOKEN in the environment, or give "
            "TokfluenceClient(token=...). "
            "To try things without one, use the Sandbox."
        )
    if not _TOKEN.match(token):
        raise ConfigurationError(
            "The API token has characters that no header can carry (white space, control or "
            "non-ASCII characters); "
            "check TOKFLUENCE_TOKEN, or token=..., for a stray line break or quote."
        )
    return Secret(token)


_BREAK = re.compile(r"[\x00-\x1f\x7f]")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")


def _can_be_host(name: str) -> bool:
    """Whether aiohttp and the system's resolver take it. They find out at the first request, and
    raise what is no error of a connection."""
    try:
        (URL.build(scheme="http", host=name).raw_host or "").encode("idna")
    except ValueError:
        return False
    return True


def _check_base_url(url: str) -> tuple[str, str]:
    if not isinstance(url, str):
        raise WrongTypeError(f"The base URL must be a str, not {type(url).__name__}.")
    url = url.strip()
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"The base URL {url!r} cannot be read: {error}.") from None
    # urlsplit takes line breaks and tabs out of an address without a word.
    if _BLANK.search(parts.netloc) or _BREAK.search(url):
        raise ConfigurationError(
            f"The base URL {url!r} has a blank or a control character in its host "
            "(check TOKFLUENCE_BASE_URL)."
        )
    if "@" in parts.netloc:
        raise ConfigurationError(
            "The base URL carries a login; the token is all that this API takes."
        )
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigurationError(
            f"The base URL {url!r} is not one; give the scheme and host, such as {BASE_URL} "
            "(check TOKFLUENCE_BASE_URL)."
        )
    if not _can_be_host(host):
        raise ConfigurationError(
            f"The base URL {url!r} has a host that no address can have (check TOKFLUENCE_BASE_URL)."
        )
    path = parts.path.rstrip("/")
    if path.endswith("/v1"):
        raise ConfigurationError(
            f"The base URL {url!r} ends in /v1; leave that out, every path has it already."
        )
    default = {"http": 80, "https": 443}[parts.scheme]
    named = f"[{host}]" if ":" in host else host
    origin = f"{parts.scheme}://{named}" + ("" if port in (None, default) else f":{port}")
    return origin, origin + path


def _check_timeout(timeout: float | Timeout | None) -> Timeout:
    if isinstance(timeout, Timeout):
        limits = timeout
    elif timeout is None:
        limits = Timeout(connect=None, read=None, total=None)
    elif isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise WrongTypeError(
            f"timeout must be a number of seconds, a Timeout or None, not {timeout!r}."
        )
    else:
        limits = Timeout(total=float(timeout))
    for name in ("connect", "read", "total"):
        value = getattr(limits, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise WrongTypeError(
                f"timeout: {name} must be a number of seconds, or None for no limit, not {value!r}."
            )
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(
                f"timeout: {name} must be more than 0 seconds, or None for no limit, not {value!r}"
            )
    return limits


def _check_retries(max_retries: int) -> RetryPolicy:
    return RetryPolicy(max_retries=check_count("max_retries", max_retries, 0))


def _check_throttle(throttle: Throttle | None) -> Throttle:
    if throttle is None:
        return Throttle()
    if not isinstance(throttle, Throttle):
        raise WrongTypeError(
            f"throttle must be a Throttle, such as Throttle(per_ip=300), or None, not {throttle!r}."
        )
    return throttle


def _check_session(session: aiohttp.ClientSession | None) -> aiohttp.ClientSession | None:
    if session is not None:
        import aiohttp

        if not isinstance(session, aiohttp.ClientSession):
            raise WrongTypeError(
                f"session must be an aiohttp.ClientSession or None, not of type "
                f"{type(session).__name__}."
            )
    return session


def _check_proxy(proxy: str | None) -> str | None:
    if proxy is None:
        return None
    if not isinstance(proxy, str):
        raise WrongTypeError(f"proxy must be a URL as str, or None, not {type(proxy).__name__}.")
    proxy = proxy.strip()
    try:
        parts = urlsplit(proxy)
        http, host, _ = parts.scheme in ("http", "https"), parts.hostname, parts.port
    except ValueError:
        http, host = False, None
    if not http or not host or _BLANK.search(proxy) or not _can_be_host(host):
        # Not quoted in the message: it may hold a password.
        raise ConfigurationError(
            "proxy is not the URL of an HTTP proxy; give its scheme and host, such as "
            "http://proxy.example.com:3128."
        )
    return proxy
