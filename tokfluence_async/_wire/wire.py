"""Requests as values, and (status, headers, body) to a Struct or an error. Nothing here knows
aiohttp or time.

What is hard about the service's answers, and is coped with here:

- Not every body is the service's. A proxy in between answers with HTML, with nothing, or with half
  of something [public]; an error body is therefore read leniently, and `code` is None when it is
  not the service's shape.
- A body may be hostile. It is bounded in size by the transport before it gets here, in what would
  be made of it by `check_count`, and in depth by `check_nesting`: msgspec recurses per level, and
  in a thread with a small stack deep nesting kills the process instead of raising.
- Not every body is UTF-8, and msgspec looks at a text only when it decodes it: a Raw is handed on
  as it came, into files that then nobody can read. So a body that is kept in part as it came is
  looked at as a whole, by `check_text`.
- A field may come in another type than the page shows. A documented object is mended then
  (`_mend`): an answer is paid for, and one odd field must not lose it.
- A decoder leaves by four doors (`ValidationError`, `DecodeError`, `UnicodeDecodeError`,
  `RecursionError`). All of them become `APIResponseValidationError`.

Source: the Tokfluence API page, all of it.
"""

from __future__ import annotations

import logging
import re
from codecs import utf_8_decode
from collections.abc import Mapping
from enum import Enum
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote, unquote, urlencode

import msgspec
from msgspec import Raw, Struct, field

from .._errors import APIError, APIResponseValidationError, APIStatusError, status_error
from .._models import Comment, Music, Post
from .repair import mend

__all__ = [
    "ANALYZE_PRICE",
    "COMMENT_PAGE_PRICE",
    "MAX_BATCH",
    "MAX_BODY",
    "MAX_LIMIT",
    "POST_PRICE",
    "AnalyzeBody",
    "AnalyzeRow",
    "Answer",
    "Call",
    "CommentsBody",
    "Kind",
    "PostBody",
    "RawCommentsBody",
    "RawPostBody",
    "Shape",
    "build_analyze",
    "build_comments",
    "build_get_post",
    "build_request",
    "charge_of",
    "check_count",
    "check_nesting",
    "check_post",
    "check_text",
    "is_charged",
    "parse_answer",
]

T = TypeVar("T")

logger = logging.getLogger("tokfluence_async")

# Credits [public, seed].
POST_PRICE = 1
COMMENT_PAGE_PRICE = 2
ANALYZE_PRICE = 25

MAX_BATCH = 50  # URLs in one analyze call [seed]
MAX_LIMIT = 200  # comments in one page [seed]
# Credits that are believed where no price is known: eight times the dearest documented call (50
# URLs).
_DEAREST = 10_000
# 32 MiB. A page of 200 comments is about 75 KB, fifty creators less; what is larger is not an
# answer of this API.
MAX_BODY = 32 * 2**20


class Kind(Enum):
    """What a repeat means: a read is done anew under a new request id, a write is the same work
    under its own."""

    READ = "read"
    WRITE = "write"


class Call(Struct, frozen=True, gc=False):
    """One logical request.

    Attributes:
        target: Path and query, percent-encoded, beginning with `/v1`.
        body: JSON, or None.
        price: The most it can cost in credits.
        units: URLs in an analyze batch, which its time limit grows with; else 0.
        endpoint: The route, where it is known beforehand.
    """

    method: str
    target: str
    kind: Kind
    price: int
    body: bytes | None = None
    units: int = 0
    endpoint: str = ""

    @property
    def route(self) -> str:
        """The endpoint, without its ids and query, for counting by it."""
        if self.endpoint:
            return self.endpoint
        path = self.target.partition("?")[0]
        return f"{self.method} {_ID_SEGMENT.sub('/:id', path)}"


_ID_SEGMENT = re.compile(r"/(?:[0-9]+|tkc_[0-9a-f]+)(?=/|\Z)")


class Answer(Struct, frozen=True, gc=False):
    """One HTTP answer, read to its end.

    Attributes:
        credits_remaining: `X-Credits-Remaining`, or None if missing or not a number.
        retry_after: `Retry-After` in seconds, or None if it is missing or makes no sense.
    """

    status: int
    body: bytes
    request_id: str
    credits_remaining: int | None = None
    retry_after: float | None = None

    def __repr__(self) -> str:
        # Without the body: a proxy's may echo the token, and tracebacks with locals print this.
        return f"Answer(status={self.status}, body of {len(self.body)} bytes, request_id={self.request_id!r})"


# --- the documented bodies ------------------------------------------------------------------------


class PostBody(Struct, frozen=True, gc=False):
    data: Post


class _PageMeta(Struct, frozen=True, gc=False):
    # Required although it may be null: it alone ends a walk, and a missing one taken for null would
    # lose comments.
    next_cursor: int | None
    total: int | None = None


class CommentsBody(Struct, frozen=True, gc=False):
    data: list[Comment]
    meta: _PageMeta


class RawCommentsBody(Struct, frozen=True, gc=False):
    """The same page, with each comment as the bytes that came: `crawl` passes unknown fields on."""

    data: list[Raw]
    meta: _PageMeta


class RawPostBody(Struct, frozen=True, gc=False):
    data: Raw


class AnalyzeRow(Struct, frozen=True, gc=False):
    """A row of an analyze answer, before it is matched to an input: whatever identifies it is
    welcome, of whatever type."""

    url: Any = None
    post_id: Any = field(default=None, name="postId")
    status: Any = None


class AnalyzeBody(Struct, frozen=True, gc=False):
    """An analyze answer. It is paid for, at 25 credits a URL, so one odd row or `meta` must not
    take the others with it."""

    data: list[AnalyzeRow | str | int | float | bool | list[Any] | None]
    meta: Any = None


class _Fault(Struct, frozen=True, gc=False):
    code: str | None = None
    message: str | None = None


class _ErrorBody(Struct, frozen=True, gc=False):
    error: _Fault


class _Cost(Struct, frozen=True, gc=False):
    cost: int | None = None


class _MetaBody(Struct, frozen=True, gc=False):
    meta: _Cost | None = None


# --- requests -------------------------------------------------------------------------------------


def build_get_post(post_id: str) -> Call:
    """`GET /v1/posts/:id`. `post_id` comes from `ids`, so it is digits and needs no quoting."""
    return Call("GET", f"/v1/posts/{post_id}", Kind.READ, POST_PRICE, endpoint="GET /v1/posts/:id")


def build_comments(post_id: str, cursor: int, limit: int) -> Call:
    """`GET /v1/posts/:id/comments`; `cursor` and `limit` are checked ints."""
    return Call(
        "GET",
        f"/v1/posts/{post_id}/comments?cursor={cursor}&limit={limit}",
        Kind.READ,
        COMMENT_PAGE_PRICE,
        endpoint="GET /v1/posts/:id/comments",
    )


def build_analyze(urls: list[str], force: bool) -> Call:
    """`POST /v1/posts/analyze`; 1 to 50 URLs, 25 credits each whatever comes of them."""
    body: dict[str, Any] = {"urls": urls, "force": True} if force else {"urls": urls}
    return Call(
        "POST",
        "/v1/posts/analyze",
        Kind.WRITE,
        ANALYZE_PRICE * len(urls),
        msgspec.json.encode(body),
        len(urls),
    )


_PATH = re.compile(
    r"/v1(?:/[A-Za-z0-9._~@:!$&'()*+,;=-]|/?%[0-9A-Fa-f]{2}|[A-Za-z0-9._~@:!$&'()*+,;=-])*/?\Z"
)

_SEPARATORS = re.compile(r"[/\\]")

# What is known of the other endpoints' prices [public]; (method, pattern, credits, the list that is
# charged by length).
_PRICES: tuple[tuple[str, re.Pattern[str], int, str | None], ...] = tuple(
    (method, re.compile(pattern + r"/?\Z"), price, per)
    for method, pattern, price, per in (
        ("GET", r"/v1/posts/[^/]+", POST_PRICE, None),
        ("GET", r"/v1/posts/[^/]+/comments", COMMENT_PAGE_PRICE, None),
        ("POST", r"/v1/posts/analyze", 0, "urls"),
        ("GET", r"/v1/creators/[^/]+", 1, None),
        ("GET", r"/v1/creators/[^/]+/posts", 25, None),
        ("GET", r"/v1/creators", 1, None),
        ("POST", r"/v1/campaigns", 1, "posts"),
        ("GET", r"/v1/campaigns/[^/]+", 1, None),
        ("GET", r"/v1/campaigns/[^/]+/(?:metrics|posts|influencers)", 2, None),
        ("DELETE", r"/v1/campaigns/[^/]+", 0, None),
        ("POST", r"/v1/ai_search", 25, None),
    )
)


def build_request(method: str, path: str, params: Mapping[str, Any] | None, json: Any) -> Call:
    """Any endpoint. `path` is the one of the API page, with `/v1`.

    Raises:
        ValueError: The path is not below `/v1`, or could mean another path after a server has
            normalised it.
    """
    method = method.upper()
    if method not in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        raise ValueError(f"method must be GET, POST, PUT, PATCH or DELETE, not {method!r}")
    if not path.startswith("/v1/"):
        raise ValueError(
            f"path must begin with /v1/, as in the API's documentation, not {path[:80]!r}"
        )
    # As a server may read it that decodes before it splits, and one that knows `;` parameters or
    # takes `\\` for `/`.
    segments = _SEPARATORS.split(unquote(path))
    if not _PATH.match(path) or any(
        segment.partition(";")[0] in (".", "..") for segment in segments
    ):
        raise ValueError(
            f"{path[:80]!r} is not a plain path: quote its parts (urllib.parse.quote(part, safe='')), "
            "leave out '.' and '..', and give the query as params="
        )
    target = path
    if params:
        pairs = {k: _text(v) for k, v in params.items() if v is not None}
        target += "?" + urlencode(pairs, doseq=True, quote_via=quote)
    body = None if json is None else msgspec.json.encode(json)
    price = _price(method, path, json)
    units = _length(json, "urls") if path.rstrip("/") == "/v1/posts/analyze" else 0
    return Call(method, target, Kind.READ if method == "GET" else Kind.WRITE, price, body, units)


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value


def _length(json: Any, name: str) -> int:
    """How long the list `name` of a body is; 0 where there is none."""
    items = cast("Mapping[str, Any]", json).get(name) if isinstance(json, Mapping) else None
    return len(cast("list[Any]", items)) if isinstance(items, (list, tuple)) else 0


def _price(method: str, path: str, json: Any) -> int:
    for known, pattern, price, per in _PRICES:
        if method == known and pattern.match(path):
            return price + (ANALYZE_PRICE * _length(json, per) if per else 0)
    return 0


# --- answers --------------------------------------------------------------------------------------


class Shape(Generic[T]):
    """A type and its decoder, made once."""

    __slots__ = ("_as_it_came", "_decode", "type")

    def __init__(self, type: Any) -> None:
        self.type = type
        self._as_it_came = type not in _DECODED
        self._decode = msgspec.json.Decoder(type).decode

    def decode(self, body: bytes) -> T:
        """The body as `type`; raises what msgspec raises, or `_TooMuchError`. Count, nesting and
        encoding are checked first."""
        if len(body) > _SAFE_OPENS:
            if len(body) > _SHORT and self.type is not Raw:
                check_count(body)
            check_nesting(body)
        if self._as_it_came and not body.isascii():
            check_text(body)
        try:
            return self._decode(body)  # type: ignore[no-any-return]
        except msgspec.ValidationError as error:
            # The slow path: one odd field costs itself, not the answer.
            mended = mend(body, self.type, _LENIENT)
            if mended is body:
                raise
            value = self._decode(mended)
            _tell(str(error))
            return value  # type: ignore[no-any-return]


_told: set[str] = set()


def _tell(problem: str) -> None:
    """Say it once for each field: a crawl may meet it a million times. That a time without a zone
    is UTC needs no saying."""
    level = logging.DEBUG if problem in _told or "timezone" in problem else logging.WARNING
    if len(_told) < _MOST_TOLD:
        _told.add(problem)
    logger.log(
        level,
        "an answer is not of the documented types (%s); what of it says nothing else is None",
        problem,
    )


# Objects of the page, which an odd field does not spoil. Not the error body: a code that is no text
# is not the service's word.
_LENIENT = (Post, Comment, Music, _PageMeta, AnalyzeBody, AnalyzeRow, _Cost)
# Types that keep no text which msgspec has not decoded, and by that found to be UTF-8. A `Raw` it
# hands on unseen.
_DECODED = (PostBody, CommentsBody, AnalyzeBody, _ErrorBody, _MetaBody)
_PIECE = 1024 * 1024
_MOST_TOLD = 100


def check_text(body: bytes) -> None:
    """Raise `UnicodeDecodeError` if `body` is not UTF-8.

    A page of 200 comments takes 28 µs of the 180 that it takes in all as Raw. In pieces only where
    the text, of four bytes a character, would be
    large: with pieces of 16 KiB a page took 6 µs more. Most posts are ASCII, which `isascii` says
    in a microsecond.
    """
    if len(body) <= _PIECE:
        utf_8_decode(body, "strict", True)
        return
    view = memoryview(body)
    at = 0
    while at < len(view):
        end = at + _PIECE
        at += utf_8_decode(view[at:end], "strict", end >= len(view))[1]


class _TooMuchError(ValueError):
    pass


# Values in one answer; a page of 200 comments has 2,500, a batch of 50 rows 160. Commas in texts
# count as well, and are fewer than this.
_MOST_VALUES = 100_000
# A value takes two bytes at least, so a shorter body cannot have more. Real pages of 200 comments
# are 70 to 130 KB: they are not counted.
_SHORT = 2 * _MOST_VALUES


def check_count(body: bytes) -> None:
    """Raise if `body` would be made into more objects than any answer is.

    31 KiB of gzip can be 32 MiB of `[],[],[],…`, below every limit on size, and that 0.9 to 1.3 GB
    of Python and 2 to 12 s without a turn of the event loop. Every value but the first comes after
    a comma or an opening bracket. Counting them takes 24 ms of it.
    """
    if sum(_count(body, mark, _MOST_VALUES) for mark in (b",", b"[", b"{")) > _MOST_VALUES:
        raise _TooMuchError(
            f"it holds more than {_MOST_VALUES} values. Where that is right, ask for it as msgspec.Raw, by client.request"
        )


# A body with at most this many opening brackets, in strings or not, cannot be nested deeper than
# that; 300 levels decode in a thread with a stack of 128 KiB (what musl gives one), 400 kill it,
# whatever they are decoded into. Real pages of 200 comments have about 210.
_SAFE_OPENS = 256
# Where the count alone does not clear a body, its true depth has to. Documented bodies are 4 deep.
_MAX_DEPTH = 64
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def check_nesting(body: bytes) -> None:
    """Raise if `body` is nested too deeply to be decoded safely.

    Counting the opening brackets settles all but crafted bodies; what is left is stripped of its
    strings, and of innermost pairs, one level a pass.
    """
    if _count(body, b"{", _SAFE_OPENS) + _count(body, b"[", _SAFE_OPENS) <= _SAFE_OPENS:
        return
    brackets = _STRING.sub(b"", body).translate(None, _NOT_BRACKETS)
    for _ in range(_MAX_DEPTH):
        reduced = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(reduced) == len(brackets):
            break
        brackets = reduced
    # What cannot be paired is what a cut body left open, as deep as it is long.
    if len(brackets) > _MAX_DEPTH:
        raise _TooMuchError(f"nested more than {_MAX_DEPTH} levels deep")


def _count(body: bytes, mark: bytes, enough: int) -> int:
    """How often `mark` occurs, but no more than is needed to know that it is too often.

    `replace` goes from one to the next by memchr and copies what is between: 9 µs for a page of 200
    comments (70 KB) on Python 3.11 to 3.13. `translate` takes 35 to 104, `count` 26 a bracket,
    `split` 34 to 102, `find` in a loop 24 to 67, a pattern 600.
    """
    return len(body) - len(body.replace(mark, b"", enough + 1))


_ERROR: Shape[_ErrorBody] = Shape(_ErrorBody)
_META: Shape[_MetaBody] = Shape(_MetaBody)
_DECODING_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, _TooMuchError)


def parse_answer(answer: Answer, shape: Shape[T], *, secret: str = "") -> T:
    """The decoded body of a 2xx answer.

    Args:
        secret: A text that must not appear in an error, as a proxy may echo what it was sent.
    Raises:
        APIStatusError: Any other status.
        APIResponseValidationError: A 2xx with a body that is not of that shape.
    """
    if 200 <= answer.status < 300:
        try:
            # No content is JSON's null: where a type allows it that is the answer, and no reason to
            # send a write again.
            return shape.decode(answer.body if answer.body or answer.status != 204 else b"null")
        except _DECODING_ERRORS as error:
            raise _invalid(answer, error, secret) from None
    raise parse_error(answer, secret=secret)


class _Named(Struct, frozen=True, gc=False):
    post_id: str


_NAMED = msgspec.json.Decoder(_Named).decode  # of what was decoded as a whole before


def check_post(data: Post | Raw, post_id: str) -> None:
    """Raise if a body's post is not the one that was asked for: under a wrong id it would be kept,
    and never got again."""
    try:
        found = data.post_id if isinstance(data, Post) else _NAMED(data).post_id
    except _DECODING_ERRORS as error:
        problem = f"the post cannot be read ({error})"
    else:
        if found == post_id:
            return
        problem = f"it is post {found[:40]!r}"
    raise APIResponseValidationError(
        f"Asked for post {post_id}, but {problem}. It was charged.", status=200
    )


def parse_error(answer: Answer, *, secret: str = "") -> APIStatusError:
    """The error for an answer that is not 2xx; whatever its body is, this does not fail."""
    code: str | None = None
    message = ""
    try:
        fault = _ERROR.decode(answer.body).error
        code, message = fault.code, fault.message or ""
    except _DECODING_ERRORS:
        if 300 <= answer.status < 400:
            message = (
                "a redirect, which is never followed: the token goes to the configured origin only"
            )
        else:
            message = (
                f"answered by something in between: {_excerpt(answer.body, secret)!r}"
                if answer.body
                else "an empty body"
            )
    return status_error(answer.status)(
        answer.status,
        _mask(code, secret),
        _mask(message, secret) or "",
        request_id=answer.request_id,
        credits_remaining=answer.credits_remaining,
        retry_after=answer.retry_after,
    )


def _invalid(answer: Answer, error: Exception, secret: str) -> APIError:
    malformed = not isinstance(error, (msgspec.ValidationError, _TooMuchError, RecursionError))
    what = str(error) if not isinstance(error, UnicodeDecodeError) else "it is not UTF-8"
    return APIResponseValidationError(
        _mask(
            f"The body of a {answer.status} answer is not what the API promises: {what}. It was probably charged.",
            secret,
        )
        or "",
        status=answer.status,
        body=_excerpt(answer.body, secret),
        malformed=malformed,
        request_id=answer.request_id,
        credits_remaining=answer.credits_remaining,
    )


def _excerpt(body: bytes, secret: str) -> str:
    # Masked before it is cut: the better part of a token is as good as all of it.
    if secret:
        body = body.replace(secret.encode(), b"[token]")
    return " ".join(body[:800].decode("utf-8", "replace").split())[:200]


def _mask(text: str | None, secret: str) -> str | None:
    return text.replace(secret, "[token]") if text and secret else text


def is_charged(status: int, code: str | None) -> bool:
    """Whether a request that ended in an error status was charged. Where the page does not say, it
    is taken as charged.

    Cache misses, validation errors and other 4xx are not refunded; a request turned away at the
    door (401, 402, 409, 429) was never debited; `upstream_error` is refunded; of a 500 nothing is
    known [public].
    """
    if status in (401, 402, 409, 429) or 300 <= status < 400:
        return False
    return not (status == 502 and code == "upstream_error")


def charge_of(answer: Answer, call: Call) -> int:
    """Credits a 2xx answer was charged: `meta.cost` where the endpoint gives one that is possible,
    else the price.

    The price is the most a call can cost [seed, public]. A larger figure is a mistake, and would
    end a budget with one answer.
    """
    if call.kind is Kind.WRITE:
        try:
            meta = _META.decode(answer.body).meta
        except _DECODING_ERRORS:
            return call.price
        if (
            meta is not None
            and meta.cost is not None
            and 0 <= meta.cost <= (call.price or _DEAREST)
        ):
            return meta.cost
    return call.price
