"""What aiohttp tells of an exchange, in our words: its answers as `Answer`, its errors as ours, and
nothing else of it.

The `repr` of its errors holds request headers, the token among them, so they are never chained:
callers raise what is made here `from None`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import aiohttp
from aiohttp import hdrs
from multidict import istr

from .._errors import APIConnectionError, APIResponseValidationError, APITimeoutError
from .._models import Timeout
from .._throttle.retry_after import parse_date, parse_retry_after
from .._wire.answers import Answer
from .._wire.secret import Secret

__all__ = ["MOST_RETAKEN", "Exchange", "answer_of", "late", "lost", "too_large"]

_E = TypeVar("_E", bound=APIConnectionError)

# Slots that a request lets go unused because they were too old when it could leave. The next one it
# takes as it comes: a loop that is late at every turn would send nothing at all.
MOST_RETAKEN = 3

# Compared without folding their case again: 0.2 µs each.
_CREDITS = istr("X-Credits-Remaining")
_next_order = itertools.count(1).__next__


class Exchange:
    """What one attempt did, for whoever counts.

    Attributes:
        may_leave: Called when it is its turn; raises if nothing is to be sent any more.
        sent: Whether its bytes may have left.
        waited: Seconds spent waiting for a slot of the throttle.
        order: The place of this send among all sends of the process; answers are ordered by it, not
            by arrival.
    """

    __slots__ = ("may_leave", "order", "sent", "waited")

    def __init__(self, may_leave: Callable[[], None] = lambda: None) -> None:
        self.may_leave = may_leave
        self.sent = False
        self.waited = 0.0
        self.order = 0

    def leaves(self) -> None:
        """From here on its bytes may be out."""
        if not self.sent:
            self.sent = True
            self.order = _next_order()


def answer_of(status: int, headers: Mapping[str, str], body: bytes, request_id: str) -> Answer:
    """The answer, with what the service says in its headers."""
    return Answer(
        status,
        body,
        request_id,
        _credits(headers.get(_CREDITS)),
        _retry_after(headers) if status >= 300 else None,
    )


def _credits(text: str | None) -> int | None:
    # Python refuses to read more than 4300 digits; below that, a wallet of more than 18 is none
    # either.
    if text is None or len(text) > 18 or not (text.isdecimal() and text.isascii()):
        return None
    return int(text)


def too_large(status: int, max_body: int, request_id: str) -> APIResponseValidationError:
    return APIResponseValidationError(
        f"The body of a {status} answer is larger than {max_body} {'byte' if max_body == 1 else 'bytes'}, so it was not read on. No documented answer is.",
        status=status,
        request_id=request_id,
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get(hdrs.RETRY_AFTER)
    if text is None:
        return None
    # A date is read against the service's own clock where it tells it.
    now = parse_date(headers.get(hdrs.DATE))
    return parse_retry_after(text, time.time() if now is None else now)


def late(
    error: TimeoutError,
    exchange: Exchange,
    request_id: str,
    ours: bool,
    limit: float | None,
    timeout: Timeout,
) -> APITimeoutError:
    if ours:
        what, advice = (
            f"No complete answer within {limit:g} s",
            "If that is too short, raise timeout=.",
        )
    elif isinstance(error, aiohttp.ConnectionTimeoutError):
        exchange.sent = False
        what = f"No connection within {timeout.connect:g} s"
        advice = f"{_LOOK}; if that is too short, raise timeout=Timeout(connect=...)."
    elif timeout.read is not None:
        what = f"The answer stalled for {timeout.read:g} s"
        advice = "If that is too short, raise timeout=Timeout(read=...)."
    else:
        what, advice = (
            "The operating system gave the connection up",
            "Check the network.",
        )  # ETIMEDOUT, after its probes
    return _failed(
        APITimeoutError(f"{what}. {_CHARGED[exchange.sent]} {advice}"), exchange, request_id
    )


def lost(
    error: Exception, exchange: Exchange, request_id: str, token: Secret
) -> APIConnectionError:
    advice = ""
    if isinstance(error, aiohttp.ClientConnectorError):
        exchange.sent = False
        # It names the kind of encryption, of an http address too: ` ssl:default`, or a context's
        # repr.
        kind = "default" if error.ssl is True else error.ssl
        what, advice = str(error).replace(f" ssl:{kind}", "", 1), f" {_LOOK}."
    elif isinstance(error, aiohttp.ClientResponseError):
        # Its text quotes what arrived, its repr what was sent; only the former is told, and without
        # the token, which a server may have echoed.
        said = " ".join((error.message or str(error.status)).split()).replace(
            token.reveal(), "[token]"
        )
        what = f"The answer is not HTTP ({said[:200]})"
    else:
        what = f"The connection broke before the answer was complete ({type(error).__name__})"
    return _failed(
        APIConnectionError(f"{what}. {_CHARGED[exchange.sent]}{advice}"), exchange, request_id
    )


_CHARGED = {
    False: "Nothing was sent and nothing was charged.",
    True: "The request may have been done and charged: to ask again costs a read its price, and a batch under its request id nothing.",
}
_LOOK = "Check base_url (TOKFLUENCE_BASE_URL) and the network"


def _failed(error: _E, exchange: Exchange, request_id: str) -> _E:
    error.sent = exchange.sent
    error.request_id = request_id
    return error
