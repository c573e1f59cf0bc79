"""What aiohttp tells of an attempt, in our words: answers as `Answer`, errors as ours.

Promises: no error of aiohttp's leaves this wing. Its `repr` holds request headers, the token among
them. So it is never chained: callers raise what is made here `from None`.

Every message says what happened, what it may have cost, and what to do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TypeVar

import aiohttp
from aiohttp import hdrs
from multidict import istr

from .._errors import APIConnectionError, APIResponseValidationError, APITimeoutError
from .._throttle.retry_after import parse_date, parse_retry_after
from .._wire.answers import Answer
from .attempt import Attempt

__all__ = ["answer_of", "late", "lost", "too_large"]

_E = TypeVar("_E", bound=APIConnectionError)

# Compared without folding their case again: 0.2 µs each.
_CREDITS = istr("X-Credits-Remaining")


def answer_of(status: int, headers: Mapping[str, str], body: bytes, request_id: str) -> Answer:
    """The answer, with what the service says in its headers."""
    credits = headers.get(_CREDITS)
    # Python refuses to read more than 4300 digits; below that, a wallet of more than 18 is none
    # either.
    sound = credits is not None and len(credits) <= 18 and credits.isdecimal() and credits.isascii()
    return Answer(
        status,
        body,
        request_id,
        int(credits) if credits is not None and sound else None,
        _retry_after(headers) if status >= 300 else None,
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get(hdrs.RETRY_AFTER)
    if text is None:
        return None
    # A date is read against the service's own clock where it tells it.
    now = parse_date(headers.get(hdrs.DATE))
    return parse_retry_after(text, time.time() if now is None else now)


def too_large(status: int, max_body: int, request_id: str) -> APIResponseValidationError:
    return APIResponseValidationError(
        f"The body of a {status} answer is larger than {max_body} "
        f"{'byte' if max_body == 1 else 'bytes'}, so it was not read on. No documented answer is.",
        status=status,
        request_id=request_id,
    )


def late(error: TimeoutError, attempt: Attempt) -> APITimeoutError:
    """An attempt that took too long. `error` says by whose clock."""
    timeout = attempt.timeout
    expired = attempt.clock is not None and attempt.clock.expired()
    if expired and not attempt.was_silent:
        what = f"No complete answer within {timeout.total:g} s"
        advice = "If that is too short, raise timeout=."
    elif isinstance(error, aiohttp.ConnectionTimeoutError):
        attempt.sent = False
        attempt.unreachable = True
        what = f"No connection within {timeout.connect:g} s"
        advice = f"{_look(False)}; if that is too short, raise timeout=Timeout(connect=...)."
    elif expired:
        what = f"The answer stalled for {timeout.read:g} s"
        advice = "If that is too short, raise timeout=Timeout(read=...)."
    else:  # ETIMEDOUT, after the operating system's probes
        what = "The operating system gave the connection up"
        advice = "Check the network."
    return _failed(APITimeoutError(f"{what}. {_CHARGED[attempt.sent]} {advice}"), attempt)


def lost(error: Exception, attempt: Attempt) -> APIConnectionError:
    """An attempt that ended without a complete answer."""
    advice = ""
    if isinstance(error, aiohttp.ClientConnectorError):
        attempt.sent = False
        # A certificate that is refused is not an outage: nobody has to wait for it.
        attempt.unreachable = not isinstance(error, aiohttp.ClientSSLError)
        # It names the kind of encryption, of an http address too: ` ssl:default`, or a context's
        # repr.
        kind = "default" if error.ssl is True else error.ssl
        what = str(error).replace(f" ssl:{kind}", "", 1)
        advice = f" {_look(isinstance(error, aiohttp.ClientProxyConnectionError))}."
    elif isinstance(error, aiohttp.ClientHttpProxyError):
        attempt.sent = False
        # It cannot reach the service, or can do nothing now; a login that it wants is no outage.
        attempt.unreachable = error.status >= 500
        what = f"The proxy refused to connect ({error.status} {error.message})"
        advice = " Check proxy=."
    elif isinstance(error, aiohttp.InvalidURL):
        what = f"No connection can be made to {error.url} ({error.description or 'no address'})"
        advice = f" {_look(False)}."
    elif isinstance(error, aiohttp.ClientResponseError):
        # Its text quotes what arrived, its repr what was sent; only the former is told, and without
        # the token, which a server may have echoed.
        said = " ".join((error.message or str(error.status)).split())
        what = f"The answer is not HTTP ({said.replace(attempt.token.reveal(), '[token]')[:200]})"
    else:
        what = f"The connection broke before the answer was complete ({type(error).__name__})"
    return _failed(APIConnectionError(f"{what}. {_CHARGED[attempt.sent]}{advice}"), attempt)


_CHARGED = {
    False: "Nothing was sent and nothing was charged.",
    True: (
        "The request may have been done and charged: to ask again costs a read its price, and a "
        "batch under its request id nothing."
    ),
}
_PROXY_VARIABLES = ("https_proxy", "http_proxy", "all_proxy")


def _look(by_proxy: bool) -> str:
    if by_proxy:
        return "Check proxy= and the network"
    advice = "Check base_url (TOKFLUENCE_BASE_URL) and the network"
    named = [name for name in os.environ if name.lower() in _PROXY_VARIABLES and os.environ[name]]
    if named:
        advice += (
            f"; {named[0]} is set, and this client reads no proxy from the environment: give it "
            "proxy=..., or --proxy to the command, if one is needed"
        )
    return advice


def _failed(error: _E, attempt: Attempt) -> _E:
    error.sent = attempt.sent
    error.request_id = attempt.request_id
    return error
