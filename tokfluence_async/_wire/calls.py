"""Requests as values: method, path, body and price, ready to be sent.

Knows the API page and nothing of HTTP libraries. A path is checked before it becomes a request,
because a server may decode and normalise it: an unchecked one can reach another endpoint, and be
charged there.

Source: the Tokfluence API page, *Posts*.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, cast
from urllib.parse import quote, unquote, urlencode
from uuid import UUID

import msgspec
from msgspec import Struct

from .ids import plain
from .prices import ANALYZE_PRICE, COMMENT_PAGE_PRICE, POST_PRICE, length_of, price_of

__all__ = [
    "MAX_BATCH",
    "MAX_LIMIT",
    "Call",
    "Kind",
    "build_analyze",
    "build_comments",
    "build_get_post",
    "build_request",
]

MAX_BATCH = 50  # URLs in one analyze call [seed]
MAX_LIMIT = 200  # comments in one page [seed]


class Kind(Enum):
    """What a repeat means. A read is done again, under a new request id. A write must not be done
    twice, so it keeps its request id."""

    READ = "read"
    WRITE = "write"


class Call(Struct, frozen=True, gc=False):
    """One logical request.

    Attributes:
        target: Path and query, percent-encoded, beginning with `/v1`.
        body: JSON, or None.
        price: The most it can cost in credits.
        units: URLs in an analyze batch, as its time limit grows with them; else 0.
        endpoint: The route, where it is known beforehand.
        operation: What the call is for, as telemetry names it.
    """

    method: str
    target: str
    price: int
    body: bytes | None = None
    units: int = 0
    endpoint: str = ""
    operation: str = "request"

    @property
    def kind(self) -> Kind:
        return Kind.READ if self.method == "GET" else Kind.WRITE

    @property
    def route(self) -> str:
        """The endpoint, without its ids and query, for counting by it."""
        if self.endpoint:
            return self.endpoint
        path = self.target.partition("?")[0]
        return f"{self.method} {_ID_SEGMENT.sub('/:id', path)}"


_ID_SEGMENT = re.compile(r"/(?:[0-9]+|tkc_[0-9a-f]+)(?=/|\Z)")


def build_get_post(post_id: str) -> Call:
    """`GET /v1/posts/:id`. `post_id` comes from `ids`, so it is digits and needs no quoting."""
    return Call(
        "GET",
        f"/v1/posts/{post_id}",
        POST_PRICE,
        endpoint="GET /v1/posts/:id",
        operation="posts.get",
    )


def build_comments(post_id: str, cursor: int, limit: int) -> Call:
    """`GET /v1/posts/:id/comments`; `cursor` and `limit` are checked."""
    return Call(
        "GET",
        f"/v1/posts/{post_id}/comments?cursor={int(cursor)}&limit={int(limit)}",
        COMMENT_PAGE_PRICE,
        endpoint="GET /v1/posts/:id/comments",
        operation="posts.comments",
    )


def build_analyze(urls: list[str], force: bool) -> Call:
    """`POST /v1/posts/analyze`; 1 to 50 URLs, 25 credits each whatever comes of them."""
    body: dict[str, Any] = {"urls": urls, "force": True} if force else {"urls": urls}
    return Call(
        "POST",
        "/v1/posts/analyze",
        ANALYZE_PRICE * len(urls),
        msgspec.json.encode(body),
        len(urls),
        operation="posts.analyze",
    )


_PATH = re.compile(
    r"/v1(?:/[A-Za-z0-9._~@:!$&'()*+,;=-]|/?%[0-9A-Fa-f]{2}|[A-Za-z0-9._~@:!$&'()*+,;=-])*/?\Z"
)

_SEPARATORS = re.compile(r"[/\\]")


def build_request(method: str, path: str, params: Mapping[str, Any] | None, json: Any) -> Call:
    """Any endpoint. `path` is the one of the API page, with `/v1`.

    Raises:
        ValueError: The path is not below `/v1`, or could mean another path after a server has
            normalised it; or a parameter is nothing that a query holds.
    """
    method, path = str.__str__(method).upper(), str.__str__(path)
    if method not in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        raise ValueError(f"method must be GET, POST, PUT, PATCH or DELETE, not {method!r}")
    if not path.startswith("/v1/"):
        raise ValueError(
            f"path must begin with /v1/, as in the API's documentation, not {path[:80]!r}"
        )
    # As read by a server that decodes before it splits, knows `;` parameters, or takes a backslash
    # for a slash.
    segments = _SEPARATORS.split(unquote(path))
    if not _PATH.match(path) or any(
        segment.partition(";")[0] in (".", "..") for segment in segments
    ):
        raise ValueError(
            f"{path[:80]!r} is not a plain path: quote its parts "
            "(urllib.parse.quote(part, safe='')), leave out '.' and '..', and give the query as "
            "params="
        )
    query = "" if params is None else _query(params)
    target = f"{path}?{query}" if query else path
    body = None if json is None else msgspec.json.encode(json)
    price = price_of(method, path, json)
    units = length_of(json, "urls") if path.rstrip("/") == "/v1/posts/analyze" else 0
    return Call(method, target, price, body, units)


def _query(params: Mapping[Any, Any]) -> str:
    """Parameters as a query: values as JSON writes them, but texts without quotes. A list repeats
    its name; None is left out, in lists too."""
    if not isinstance(params, Mapping):
        raise ValueError(f"params is of type {type(params).__name__}, not a dict")
    pairs: list[tuple[str, str]] = []
    for key, value in params.items():
        name = _text(key, "a name")
        several = isinstance(value, (list, tuple, set, frozenset))
        items = cast("Iterable[Any]", value) if several else (value,)
        pairs += [(name, _text(each, f"params[{name!r}]")) for each in items if each is not None]
    return urlencode(pairs, quote_via=quote)


def _text(value: Any, what: str) -> str:
    value = plain(value.value if isinstance(value, Enum) else value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (float, Decimal)) and not math.isfinite(value):
        raise ValueError(f"{what} is {value}, which no query can hold")
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{what} is a time without a zone; give one, such as tzinfo=UTC")
        try:
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        except OverflowError:
            raise ValueError(f"{what} is {value}, which is out of range in UTC") from None
    if isinstance(value, (str, int, float, Decimal, UUID)):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    kind = type(cast("object", value))
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    raise ValueError(
        f"{what} is of type {name}; a query holds texts, numbers, booleans, dates, times, UUIDs, "
        "enums, None, and lists of them"
    )
