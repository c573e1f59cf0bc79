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

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from .._errors import BudgetExceededError, ConfigurationError
from .._redis_py.client import SCHEMES, Failure, connect, explain, shown
from .._wire.secret import Secret

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["BudgetStore", "check_url"]

_TRIP = 4.0

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
    _connect(secret)
    return secret


def _connect(url: Secret) -> Redis:
    return connect(url, "A shared budget", _TRIP)


class BudgetStore:
    """The record of one budget.

    Attributes:
        shown: The server, for people.
    """

    def __init__(self, url: Secret, name: str) -> None:
        self.shown = shown(url.reveal())
        self._url = url
        self._name = name
        self._key = f"{{tokfluence:budget:{name}}}"
        self._epoch = ""

    def __repr__(self) -> str:
        return f"<BudgetStore {self.shown}, {self._name}>"

    async def lease(self, want: int, ahead: int, spent: int, limit: int) -> tuple[int, int]:
        """Lease `want` credits, or what there is; and `ahead` more where much is left. Returns what
        was granted, and what is left in the store."""
        answer = await self._trip(want, ahead, spent, 0, limit)
        return answer[0], answer[1]

    async def give_back(self, back: int, spent: int, limit: int) -> None:
        """Tell what was spent, and give back what was not."""
        await self._trip(0, 0, spent, back, limit)

    async def status(self, limit: int) -> tuple[int, int]:
        """What is spent, and what is leased."""
        answer = await self._trip(0, 0, 0, 0, limit)
        return answer[2], answer[3]

    async def _trip(self, want: int, ahead: int, spent: int, back: int, limit: int) -> list[int]:
        arguments = (want, ahead, spent, back, limit, self._epoch, uuid4().hex)
        failure: Failure | None = None
        reply: list[str] = []
        try:
            async with _connect(self._url) as client:
                answered: Any = await client.eval(_SCRIPT, 1, self._key, *map(str, arguments))
                reply = [str(part) for part in answered]
        except Exception as error:
            failure = explain(error)
        if failure is not None:
            why = f"the server {failure.what}"
            if failure.kind == "refused":
                raise ConfigurationError(
                    f"The shared budget {self._name} at {self.shown}: {why}. Nothing was sent."
                )
            raise self._used_up(want, limit, why)
        if reply[0] == "other":
            raise ConfigurationError(
                f"{self.shown} holds something else under the name of the shared budget "
                f"{self._name}. Choose another name or another database. Nothing was sent."
            )
        if reply[0] == "lost":
            raise self._used_up(
                want, limit, "the server has lost what was spent; use one that keeps its data"
            )
        self._epoch = reply[1]
        return [int(part) for part in reply[2:]]

    def _used_up(self, want: int, limit: int, why: str) -> BudgetExceededError:
        return BudgetExceededError(want, 0, limit, why=f"{self._name} at {self.shown}: {why}")
