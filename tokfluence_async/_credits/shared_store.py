"""A shared budget's record in Redis or Valkey: one hash, and one script that changes it.

Promises: a trip ends within a few seconds, with an answer, with a `BudgetExceededError` that says
why nothing may be spent, or with a `ConfigurationError` where it will never work. Passwords are in
no message: a server is named by host, port and database.

A trip makes a connection of its own: with blocks leased ahead there is one for some hundred calls,
and a budget then belongs to no event loop and needs no closing.

Hard: a store that lost its data looks like a new one. So a budget has an epoch, and who meets
another one than before refuses to go on.
"""

# redis-py leaves some of what it takes untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import Any
from uuid import uuid4

from msgspec import Struct

from .._errors import BudgetExceededError, ConfigurationError
from .._redis_py.client import SCHEMES, Failure, connect, explain, shown
from .._wire.secret import Secret

__all__ = ["BudgetStore", "check_url"]

_TRIP = 4.0
_WHO = "A shared budget"

# ARGV: credits wanted, ahead of that, spent since, given back, limit, the epoch known, a new one.
_SCRIPT = """
local kind = redis.call('TYPE', KEYS[1])
if type(kind) == 'table' then kind = kind.ok end
if kind ~= 'none' and kind ~= 'hash' then return {'other'} end
if kind == 'hash' and redis.call('HGET', KEYS[1], 'kind') ~= 'tokfluence budget 1' then
  return {'other'}
end
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then epoch = '' end
if ARGV[6] ~= '' and epoch ~= ARGV[6] then return {'lost'} end
local spent, leased = 0, 0
if epoch ~= '' then
  spent = tonumber(redis.call('HGET', KEYS[1], 'spent'))
  leased = tonumber(redis.call('HGET', KEYS[1], 'leased'))
  if not spent or not leased then return {'other'} end
else
  epoch = ARGV[7]
end
spent = spent + tonumber(ARGV[3])
leased = leased - tonumber(ARGV[3]) - tonumber(ARGV[4])
local left = math.max(tonumber(ARGV[5]) - spent - leased, 0)
local want = tonumber(ARGV[1])
local granted = math.min(left, want)
if granted == want then
  granted = granted + math.min(tonumber(ARGV[2]), math.floor((left - granted) / 10))
end
leased = leased + granted
local function text(number) return string.format('%.0f', number) end
redis.call('HSET', KEYS[1], 'kind', 'tokfluence budget 1', 'epoch', epoch,
  'limit', ARGV[5], 'spent', text(spent), 'leased', text(leased))
return {'ok', epoch, text(granted), text(left - granted), text(spent), text(leased)}
"""


def check_url(url: object) -> Secret:
    """A URL of a Redis.

    Raises:
        ConfigurationError: It is none, or redis-py is missing.
    """
    example = "it looks like redis://host:6379/0"
    if not isinstance(url, str) or not url.isprintable():
        what = "holds a character that no URL has" if isinstance(url, str) else "is no text"
        raise ConfigurationError(f"The URL of a shared budget {what}; {example}. Nothing was sent.")
    scheme = url.partition("://")[0] if "://" in url else "none"
    if scheme not in SCHEMES:
        raise ConfigurationError(
            "The URL of a shared budget begins with redis://, rediss:// or unix://, such as "
            f"redis://host:6379/0; its scheme is {scheme[:20]}. Nothing was sent."
        )
    secret = Secret(url)
    connect(secret, _WHO, _TRIP)
    return secret


class Record(Struct, frozen=True):
    """What a trip found, in credits.

    Attributes:
        granted: Leased by this trip.
        left: May still be leased.
        spent, leased: By all processes.
    """

    granted: int
    left: int
    spent: int
    leased: int


class BudgetStore:
    """The record of one budget.

    Attributes:
        shown: The server, for people.
    """

    def __init__(self, url: Secret, name: str, limit: int) -> None:
        self.shown = shown(url.reveal())
        self.name = name
        self.limit = limit
        self._url = url
        self._key = f"{{tokfluence:budget:{name}}}"
        self._epoch = ""

    def __repr__(self) -> str:
        return f"<BudgetStore {self.shown}, {self.name}>"

    async def trip(self, *, want: int = 0, ahead: int = 0, spent: int = 0, back: int = 0) -> Record:
        """Lease `want` credits, or what there is; and `ahead` more where much is left. Tell what
        was spent of those leased before, and give back what was not."""
        arguments = (want, ahead, spent, back, self.limit, self._epoch, uuid4().hex)
        failure: Failure | None = None
        reply: list[str] = []
        try:
            async with connect(self._url, _WHO, _TRIP) as client:
                answered: Any = await client.eval(_SCRIPT, 1, self._key, *map(str, arguments))
                reply = [str(part) for part in answered]
        except Exception as error:
            failure = explain(error)
        if failure is not None:
            why = f"the server {failure.what}"
            if failure.kind == "refused":
                raise ConfigurationError(
                    f"The shared budget {self.name} at {self.shown}: {why}. Nothing was sent."
                )
            raise self._used_up(want, why)
        if reply[0] == "other":
            raise ConfigurationError(
                f"{self.shown} holds something else under the name of the shared budget "
                f"{self.name}. Choose another name or another database. Nothing was sent."
            )
        if reply[0] == "lost":
            raise self._used_up(
                want, "the server has lost what was spent; use one that keeps its data"
            )
        self._epoch = reply[1]
        return Record(*map(int, reply[2:]))

    def _used_up(self, want: int, why: str) -> BudgetExceededError:
        return BudgetExceededError(want, 0, self.limit, why=f"{self.name} at {self.shown}: {why}")
