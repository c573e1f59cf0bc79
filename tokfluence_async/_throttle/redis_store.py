"""A shared throttle's store in Redis or Valkey: for processes of any number of machines.

Promises: one trip an ask, in which the server runs `redis_script` as one step. Neither tokens nor
passwords are written anywhere: lanes are named by salted hashes, and messages name the server
without its password.

Relies on a server that may keep nothing over a restart: an emptied store begins as a restarted
process does.

Hard: connections belong to event loops. Each loop has its own, made at its first request and closed
by `aclose`.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from .._redis_py.client import connect, explain, shown
from .._wire.secret import Secret
from .redis_script import SCRIPT
from .store import Answer, Ask, Done, LaneAnswer, LaneAsk, StoreError

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

__all__ = ["RedisStore"]

_COMMON: Final = "{tokfluence}:throttle"
# Seconds for one trip: the first, and any after one that failed. Then four times what the last one
# took, and the least. A trip to a store far away takes 0.2; who waits longer goes on alone.
_TRIP: Final = 2.0
_TRIP_LEAST: Final = 0.6


class _Connection:
    """One loop's connections, and what is under way on them."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.script: AsyncScript = client.register_script(SCRIPT)
        #: Seconds for the next trip.
        self.within = _TRIP
        self.tasks: set[asyncio.Task[None]] = set()


class RedisStore:
    """Schedules in Redis.

    Args:
        url: `redis://`, `rediss://` or `unix://`, as redis-py reads them.
    """

    #: A server that is away has leased nothing since.
    patience = 0.0

    def __init__(self, url: Secret) -> None:
        self._url = url
        self._shown = shown(url.reveal())
        self._salt = secrets.token_hex(16)
        self._connections: dict[asyncio.AbstractEventLoop, _Connection] = {}

    def __repr__(self) -> str:
        return f"<RedisStore {self._shown}>"

    # ---------------------------------------------------------------- what the throttle calls

    def request(
        self, ask: Ask, loop: asyncio.AbstractEventLoop, now: Callable[[], float], done: Done
    ) -> None:
        """Ask in a task of this loop; `done` is called when the answer is there."""
        connection = self._connections.get(loop)
        if connection is None:
            for gone in [known for known in self._connections if known.is_closed()]:
                del self._connections[gone]
            connection = self._connections[loop] = _Connection(self._client())
        task = loop.create_task(self._trip(connection, ask, now, done))
        connection.tasks.add(task)
        task.add_done_callback(connection.tasks.discard)

    async def aclose(self) -> None:
        """Close this loop's connections. The next request opens them again."""
        connection = self._connections.pop(asyncio.get_running_loop(), None)
        if connection is None:
            return
        if connection.tasks:
            await asyncio.wait(connection.tasks, timeout=_TRIP)
        for task in connection.tasks:
            task.cancel()
        await connection.client.aclose()

    # ---------------------------------------------------------------- one trip

    def _client(self) -> Redis:
        return connect(self._url, "A shared throttle", _TRIP)

    async def _trip(
        self, connection: _Connection, ask: Ask, now: Callable[[], float], done: Done
    ) -> None:
        answer: Answer | StoreError | None = None
        sent = now()
        try:
            async with asyncio.timeout(connection.within):
                try:
                    answer = await self._exchange(connection, ask)
                except Exception as error:
                    if explain(error).kind != "away":
                        raise
                    sent = now()
                    # A connection of the pool that the server has closed meanwhile.
                    answer = await self._exchange(connection, ask)
            connection.within = min(_TRIP, max(_TRIP_LEAST, 4 * (now() - sent)))
        except (ValueError, TypeError, IndexError):
            answer = self._something_else("an answer that is not ours")
        except Exception as error:
            failure = explain(error)
            if failure.kind == "foreign":
                answer = self._something_else(_COMMON)
            else:
                answer = StoreError(f"{self._shown} {failure.what}", lasting=not failure.passes)
        finally:
            # Half a trip for each way, as nothing else is known of them.
            if not isinstance(answer, Answer):
                connection.within = _TRIP
            done(answer, (sent + now()) / 2)

    async def _exchange(self, connection: _Connection, ask: Ask) -> Answer:
        for _ in range(3):
            reply = await connection.script(keys=self._keys(ask), args=self._arguments(ask))
            if reply[0] != "salt":
                return _read(reply)
            # Names are salted as those who came first do it.
            self._salt = str(reply[1])
        raise ValueError("the salt changes all the time")

    def _keys(self, ask: Ask) -> list[str]:
        names = [f"{_COMMON}:{self._named(lane.name)}" for lane in (ask.ip, ask.key)]
        parts = ("", ":alive", ":free", ":cells")
        return [_COMMON, *(name + part for name in names for part in parts)]

    def _named(self, name: bytes) -> str:
        return hashlib.blake2b(name, key=self._salt.encode()[:64], digest_size=16).hexdigest()

    def _arguments(self, ask: Ask) -> list[str | int | float]:
        return [
            self._salt,
            ask.process.hex(),
            ask.slots,
            int(ask.leaving),
            *_lane_arguments(ask.ip),
            *_lane_arguments(ask.key),
            *ask.back,
        ]

    def _something_else(self, what: str) -> StoreError:
        return StoreError(
            f"{self._shown} holds something else than a shared throttle under our keys ({what}); "
            "name another database",
            lasting=True,
        )


def _lane_arguments(lane: LaneAsk) -> list[str | int | float]:
    refusal = lane.refusal
    pause, version = "", "0"
    learnt: tuple[str, ...] = ("",) * 5
    if refusal is not None:
        pause, version = _number(refusal.pause), str(refusal.version)
        if refusal.learnt is not None:
            learnt = tuple(_number(value) for value in refusal.learnt)
    return [
        lane.limit,
        repr(lane.span),
        repr(lane.window),
        int(lane.opened),
        pause,
        version,
        *learnt,
    ]


def _number(value: float) -> str:
    # What Lua reads; it knows no infinity.
    return repr(float(min(max(value, -1e15), 1e300)))


def _read(reply: list[Any]) -> Answer:
    """An answer of the script, which may come from a stranger: every part has to be a number."""
    lanes: list[LaneAnswer] = []
    for at in (1, 11):
        numbers = [float(value) for value in reply[at : at + 10]]
        until, opens, gate_version, low, hold, stepped, proven, kept, version, processes = numbers
        lanes.append(
            LaneAnswer(
                until=until,
                opens=opens,
                gate_version=int(gate_version),
                learnt=(low, hold, stepped, proven, kept),
                version=int(version),
                processes=int(processes),
            )
        )
    leases = tuple(
        (int(lease), float(delay)) for lease, delay in zip(reply[21::2], reply[22::2], strict=True)
    )
    return Answer(leases=leases, ip=lanes[0], key=lanes[1])
