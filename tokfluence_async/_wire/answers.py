"""An HTTP answer to a value, or to one of our errors.

Not every body is the service's. A proxy in between answers with HTML, with nothing, or with half of
something [public]. So an error body is read leniently, and its `code` is None where it is not of
the service's shape. Excerpts of bodies go into errors; the token is masked in them, as a proxy may
echo what it was sent.

Source: the Tokfluence API page, *Errors* and *Credits*.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from .._errors import APIError, APIResponseValidationError, APIStatusError, status_error
from .._models import Post
from .bodies import CostBody, ErrorBody
from .calls import Call, Kind
from .checks import TooMuchError
from .shapes import DECODING_ERRORS, Shape

__all__ = ["Answer", "charge_of", "check_post", "parse_answer", "parse_error"]

T = TypeVar("T")

# Credits that are believed where no price is known: eight times the dearest documented call (50
# URLs).
_DEAREST = 10_000


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
        size = len(self.body)
        return f"Answer(status={self.status}, {size} bytes, request_id={self.request_id!r})"


_ERROR: Shape[ErrorBody] = Shape(ErrorBody)
_COST: Shape[CostBody] = Shape(CostBody)


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
            # No content is JSON's null. Where a type allows null, that is the answer, and no reason
            # to send a write again.
            return shape.decode(answer.body if answer.body or answer.status != 204 else b"null")
        except DECODING_ERRORS as error:
            raise _invalid(answer, error, secret) from None
    raise parse_error(answer, secret=secret)


class _Named(Struct, frozen=True, gc=False):
    post_id: str


_NAMED = msgspec.json.Decoder(_Named).decode  # of what was decoded as a whole before


def check_post(data: Post | Raw, post_id: str) -> None:
    """Raise if a body's post is not the one that was asked for. A wrong one would be kept under the
    id that was asked for, and nobody would read that post again."""
    try:
        found = data.post_id if isinstance(data, Post) else _NAMED(data).post_id
    except DECODING_ERRORS as error:
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
        code, message = _fault_of(answer.body)
    except DECODING_ERRORS:
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


def _fault_of(body: bytes) -> tuple[str | None, str]:
    try:
        fault = _ERROR.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        # The message is for people only, so one that is not UTF-8 may lose a character.
        fault = _ERROR.decode(body.decode("utf-8", "replace").encode()).error
    message = fault.message
    if isinstance(message, str):
        return fault.code, message
    return fault.code, "" if message is None else msgspec.json.encode(message)[:400].decode()


def _invalid(answer: Answer, error: Exception, secret: str) -> APIError:
    malformed = not isinstance(error, (msgspec.ValidationError, TooMuchError, RecursionError))
    what = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
    message = (
        f"The body of a {answer.status} answer is not what the API promises: {what}. "
        "It was probably charged."
    )
    return APIResponseValidationError(
        _mask(message, secret) or "",
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


def charge_of(answer: Answer, call: Call) -> int:
    """Credits a 2xx answer was charged: `meta.cost` if it is there and possible, else the price.

    The price is the most a call can cost [seed, public]. A larger figure is a mistake; if it were
    believed, one answer could use up a budget.
    """
    if call.kind is Kind.WRITE:
        with suppress(*DECODING_ERRORS):
            meta = _COST.decode(answer.body).meta
            cost = None if meta is None else meta.cost
            if cost is not None and 0 <= cost <= (call.price or _DEAREST):
                return cost
    return call.price
