"""A client of redis-py for a URL, and what its errors mean.

Promises: no password is shown. The text of redis-py's errors may hold the URL, so only what the
server itself wrote is told.

Hard: a script that was sent twice may have run twice. So a client retries nothing by itself;
whether to try again is for the wing to say that knows its scripts.
"""

# redis-py leaves some of what it takes untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from msgspec import Struct

from .._errors import ConfigurationError
from .._wire.secret import Secret

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["SCHEMES", "Failure", "connect", "explain", "shown"]

SCHEMES: Final = ("redis", "rediss", "unix")

Kind: TypeAlias = Literal["away", "late", "loading", "refused", "foreign", "other"]


class Failure(Struct, frozen=True):
    """What a trip to a server ended in.

    Attributes:
        what: In words that follow "the server".
        kind: `"away"`: it cannot be reached, or the connection broke. `"late"`: no answer in time.
            `"refused"`: the user or the password. `"foreign"`: something else is under our keys.
    """

    what: str
    kind: Kind = "other"

    @property
    def passes(self) -> bool:
        """Whether another try may fare better."""
        return self.kind in ("away", "late", "loading")


def shown(url: str) -> str:
    """A server as it may be shown: without user, password and options."""
    scheme = url.partition("://")[0]
    try:
        parts = urlsplit(url)
        if scheme == "unix":
            return f"unix://{parts.path}"
        return f"{scheme}://{parts.hostname or 'localhost'}:{parts.port or 6379}{parts.path}"
    except ValueError:
        return f"{scheme}://"


def connect(url: Secret, who: str, seconds: float) -> Redis:
    """A client, which opens its connections when they are used.

    Args:
        who: Wants it, such as "A shared budget".
        seconds: To connect, and to wait for an answer.
    Raises:
        ConfigurationError: redis-py is missing, or takes nothing of the URL.
    """
    try:
        from redis import backoff
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
    except ModuleNotFoundError:
        raise ConfigurationError(
            f"{who} needs redis-py, which is not installed: "
            "pip install 'tokfluence_async[redis]' (or from a checkout: pip install '.[redis]'). "
            "Nothing was sent."
        ) from None
    try:
        client: Redis = Redis.from_url(
            url.reveal(),
            decode_responses=True,
            socket_connect_timeout=seconds,
            socket_timeout=seconds,
            retry=Retry(backoff.NoBackoff(), 0),
        )
    except (ValueError, TypeError):  # without its text, which may hold the URL
        raise ConfigurationError(
            f"{who} cannot read its URL; it looks like redis://host:6379/0. Nothing was sent."
        ) from None
    return client


def explain(error: Exception) -> Failure:
    """What an error of a trip means."""
    from redis import exceptions

    text = " ".join(str(error).split())[:200]

    # A server says "unauthenticated" to a long command, before it asks for a password.
    if isinstance(error, exceptions.AuthenticationError) or any(
        word in text for word in ("NOAUTH", "WRONGPASS", "unauthenticated")
    ):
        return Failure("refuses the user or the password", "refused")
    if isinstance(error, exceptions.BusyLoadingError):
        return Failure("is still loading its data", "loading")
    if isinstance(error, (TimeoutError, exceptions.TimeoutError)):
        return Failure("did not answer in time", "late")
    if isinstance(error, (exceptions.ConnectionError, OSError)):
        return Failure("cannot be reached", "away")
    if "WRONGTYPE" in text or "SOMETHINGELSE" in text:
        return Failure("holds something else under our keys; give another name", "foreign")
    if "NOPERM" in text or isinstance(error, exceptions.NoPermissionError):
        return Failure("does not permit the user what is needed (NOPERM)", "refused")
    if "OOM " in text or isinstance(error, exceptions.OutOfMemoryError):
        return Failure("is full (OOM command not allowed); make room and run again")
    if "READONLY" in text or isinstance(error, exceptions.ReadOnlyError):
        return Failure("is read-only (READONLY): a replica")
    if "MISCONF" in text:
        return Failure("cannot write to its disk (MISCONF)")
    if isinstance(error, exceptions.ResponseError):
        return Failure(f"answered: {text}")
    return Failure(f"was not understood ({type(error).__name__})")
