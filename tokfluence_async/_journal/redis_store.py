"""One job's keys in a Redis or Valkey: the connection, its retries, and its sign of life.

Promises: a trip ends within `PATIENCE` seconds, with an answer or a `JournalError`. Passwords are
in no message: servers are named by host, port and database.

Relies on `_redis_py.client`, and on scripts that may run twice: where an answer is lost, the trip
is made again.

Hard: a store that was emptied looks like a new one. So the job has an epoch, a number that goes
with its data; whoever meets another one refuses to go on, because what was paid is not known.
"""

# redis-py leaves some of what it takes untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import uuid4

from .._errors import ConfigurationError, JournalError
from .._redis_py import client
from .._tasks import end, finish
from .._wire.secret import Secret
from .scripts import FORMAT, SCRIPTS

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

__all__ = ["HEARTBEAT", "Session", "check_job", "split_url"]

logger = logging.getLogger("tokfluence_async")

# Seconds in which a trip has to succeed, by as many tries as it takes. A server that restarts and
# loads its data is back in less.
PATIENCE = 12.0
_TRY = 4.0
_AGAIN = (0.05, 0.2, 0.5, 1.0)
# Seconds that a journal counts as alive after its last sign. Who waits for its posts looks every
# two seconds, so they are taken over within 30.
HEARTBEAT = 24.0
# And between two signs.
_BEAT = HEARTBEAT / 5

_JOB = re.compile(r"[A-Za-z0-9._:-]{1,100}\Z", re.ASCII)
_KINDS = ("meta", "posts", "batches", "claims", "alive", "learnt")


def split_url(url: str) -> tuple[str, str | None]:
    """A URL without its `job`, and that job.

    Raises:
        ConfigurationError: It is no URL of a Redis.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(
            "The URL of a Redis journal cannot be read; it looks like redis://host:6379/0?job=NAME."
        ) from None
    if parts.scheme not in client.SCHEMES or port == 0:
        raise ConfigurationError(
            "A Redis journal takes a URL that begins with redis://, rediss:// or unix://, such as "
            f"redis://host:6379/0?job=NAME; not {parts.scheme[:20] or 'one without a scheme'}."
        )
    options = parse_qsl(parts.query, keep_blank_values=True)
    jobs = [value for name, value in options if name == "job"]
    rest = urlencode([(name, value) for name, value in options if name != "job"])
    address = url.partition("#")[0].partition("?")[0]
    return address + ("?" + rest if rest else ""), jobs[0] if jobs else None


def check_job(job: object) -> str:
    """The name of a job.

    Raises:
        ConfigurationError: It may not be part of a key.
    """
    if not isinstance(job, str) or not _JOB.match(job):
        raise ConfigurationError(
            "A Redis journal needs the name of a job: 1 to 100 of A-Z a-z 0-9 . _ : -, as in "
            f"redis://host:6379/0?job=NAME; not {job!r:.80}. Nothing was sent."
        )
    return job


class Session:
    """The scripts of one job, and while it is open the heartbeat that says that a journal is alive.

    Args:
        url: Where, with a password perhaps.
        job: The job's name, as `check_job` permits it.

    Attributes:
        shown: The server and the job, for people.
        held_until: Loop time until which this journal counts as alive in the store.
    """

    def __init__(self, url: Secret, job: str) -> None:
        self.shown = f"{client.shown(url.reveal())}, job {job}"
        self.held_until = 0.0
        self._url = url
        self._keys = [f"{{tokfluence:journal:{job}}}:{kind}" for kind in _KINDS]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Redis | None = None  # None: not open
        self._broken: JournalError | None = None
        self._scripts: dict[str, AsyncScript] = {}
        self._journal = ""
        self._epoch = ""
        self._offset = 0.0  # the store's time less the loop's
        self._boot: float = 0.0
        self._heart: asyncio.Task[None] | None = None
        self._behind: set[asyncio.Task[None]] = set()
        self._learnt: dict[str, float] = {}
        self._number = itertools.count(1)

    @property
    def state(self) -> str:
        return "closed" if self._client is None else "broken" if self._broken else "open"

    # --- opening and closing ----------------------------------------------------------------------

    async def open(self) -> None:
        """Reach the server, and begin the job or find it; or do nothing if it is open.

        Raises:
            ConfigurationError: redis-py is missing, or it takes nothing of the URL.
            JournalError: The server cannot be reached, refuses the password, or holds something
                else under the job's keys.
        """
        loop = asyncio.get_running_loop()
        if self._client is not None:
            if self._loop is not loop:
                raise RuntimeError(
                    "This journal is open in another event loop; close it there first."
                )
            return
        connected = connect(self._url)
        self._scripts = {name: connected.register_script(text) for name, text in SCRIPTS.items()}
        self._journal = uuid4().hex
        try:
            kind, *more = await self._run("open", uuid4().hex, FORMAT)
            if kind == "other":
                raise JournalError(
                    f"{self.shown}: the server holds something else under the job's keys. Name "
                    "another job or another database. Nothing was sent."
                )
            if kind == "format":
                raise JournalError(
                    f"{self.shown}: the job was written by another version of this package (format "
                    f"{more[0]:.20}, this one reads {FORMAT}). Nothing was sent."
                )
            self._epoch = more[0]
            await self._warn(connected)
            await self._trip("beat")
        except BaseException:
            await connected.aclose()
            raise
        self._loop, self._client, self._broken = loop, connected, None
        self._heart = loop.create_task(self._beat())

    async def aclose(self) -> None:
        connected, self._client = self._client, None
        if connected is not None:
            await finish(self._close(connected))

    async def _close(self, connected: Redis) -> None:
        if self._heart is not None:
            await end([self._heart])
        if self._behind:
            await asyncio.wait(self._behind)
        try:
            if self._broken is None:
                with suppress(JournalError):  # all that counts was written
                    await self._write_learnt()
                    await self._trip("leave")
        finally:
            await connected.aclose()

    # --- what a journal does ----------------------------------------------------------------------

    def check(self) -> None:
        """Raise if nothing can be asked.

        Raises:
            JournalError: The store was lost, for good.
        """
        if self._broken is not None:
            raise self._broken
        if self._client is None:
            raise RuntimeError(
                "This journal is not open: `async with journal`, or `await journal.open()`."
            )

    async def call(self, script: str, *arguments: str | float) -> list[str]:
        """What a script answers. The first failure is the journal's end: nothing may be sent that
        cannot be written down.

        Raises:
            JournalError: The store is away, refuses, or was emptied.
        """
        self.check()
        try:
            return await self._trip(script, *arguments)
        except JournalError as error:
            self._broken = self._broken or error
            raise

    def next_claim(self) -> str:
        """The owner of a claim: this journal, and a number that no other claim of it has."""
        return f"{self._journal}.{next(self._number)}"

    def forget(self, request_id: str, owner: str) -> None:
        """Let a batch be nobody's, soon: at the latest before the journal is closed."""
        if self._client is not None and self._broken is None:
            task = asyncio.get_running_loop().create_task(self._forget(request_id, owner))
            self._behind.add(task)
            task.add_done_callback(self._behind.discard)

    async def _forget(self, request_id: str, owner: str) -> None:
        with suppress(JournalError):  # else its heartbeat ends, and says the same
            await self._trip("forgotten", request_id, owner)

    def learn(self, values: dict[str, float]) -> None:
        """Remember numbers for the next run, with the next sign of life."""
        self._learnt.update(values)

    def foreign(self, what: str) -> JournalError:
        """The error for something in the store that this package has not written."""
        return JournalError(
            f"{self.shown}: {what} is not as this package writes it. Somebody else writes to the "
            "job's keys, or they are damaged. Nothing more is sent."
        )

    async def _beat(self) -> None:
        """Tell the store that this journal is alive, until it is closed."""
        with suppress(JournalError):  # told to whoever comes next
            while True:
                await asyncio.sleep(_BEAT)
                await self.call("beat")
                await self._write_learnt()

    async def _write_learnt(self) -> None:
        if self._learnt:
            pairs = [part for pair in self._learnt.items() for part in pair]
            self._learnt = {}
            await self._trip("learn", *pairs)

    # --- trips ------------------------------------------------------------------------------------

    async def _trip(self, script: str, *arguments: str | float) -> list[str]:
        """What a script answers, after the store's time."""
        loop = asyncio.get_running_loop()
        began, boot = loop.time(), _since_boot()
        answer = await self._run(script, self._epoch, self._journal, HEARTBEAT, *arguments)
        if answer[0] == "gone":
            raise JournalError(
                f"{self.shown}: the store was emptied, or restored from an older state, while this "
                "ran. What was paid for is not known there any more, so nothing more is sent. Put "
                "the data back; or begin another job, which pays again for what is not in the "
                "service's index."
            )
        self._offset = float(answer[0]) - (began + loop.time()) / 2
        # From before the trip: the store's own count began later.
        self.held_until, self._boot = began + HEARTBEAT, boot
        return answer[1:]

    def time(self) -> float:
        """The store's time of day, as far as it is known."""
        return asyncio.get_running_loop().time() + self._offset

    @property
    def holds(self) -> bool:
        """Whether this journal still counts as alive in the store, with some seconds to spare.

        A process may have been stopped, or its machine asleep, which the loop's clock does not
        count.
        """
        self.check()
        left = self.held_until - asyncio.get_running_loop().time()
        asleep = _since_boot() - self._boot
        return min(left, HEARTBEAT - asleep) > _TRY

    async def _run(self, script: str, *arguments: str | float) -> list[str]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        waits = iter(_AGAIN)
        while True:
            try:
                async with asyncio.timeout(_TRY):
                    found: Any = await self._scripts[script](keys=self._keys, args=list(arguments))
                return [str(part) for part in found]
            except Exception as error:
                failure = client.explain(error)
            wait = next(waits, _AGAIN[-1])
            if not failure.passes or loop.time() + wait >= deadline:
                raise JournalError(f"{self.shown}: the server {failure.what}.")
            await asyncio.sleep(wait)

    async def _warn(self, connected: Redis) -> None:
        """Tell of a server that may forget what was paid for."""
        try:
            async with asyncio.timeout(_TRY):
                found: Any = await connected.config_get(
                    "appendonly", "appendfsync", "maxmemory", "maxmemory-policy"
                )
            told = {str(name): str(value) for name, value in found.items()}
        except Exception as error:
            logger.warning(
                "%s: whether the server keeps what it is told is not known (%s). It has to run "
                "with appendonly yes and appendfsync always.",
                self.shown,
                type(error).__name__,
            )
            return
        if told.get("appendonly") != "yes" or told.get("appendfsync") != "always":
            logger.warning(
                "%s: the server may forget what was paid for when it dies (appendonly %s, "
                "appendfsync %s). A journal needs appendonly yes and appendfsync always.",
                self.shown,
                told.get("appendonly"),
                told.get("appendfsync"),
            )
        if told.get("maxmemory", "0") != "0" and told.get("maxmemory-policy") != "noeviction":
            logger.warning(
                "%s: the server may drop what was paid for when it is full (maxmemory-policy %s). "
                "A journal needs noeviction.",
                self.shown,
                told.get("maxmemory-policy"),
            )


def connect(url: Secret) -> Redis:
    """A client for a job's server."""
    return client.connect(url, "A journal in Redis", _TRY)


def _since_boot() -> float:
    """Seconds since the machine was started, those asleep among them; 0.0 where nobody knows."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return 0.0 if clock is None else time.clock_gettime(clock)
