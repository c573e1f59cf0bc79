"""A Redis inside this process, on the clock of the running event loop."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest

from tokfluence_async import RedisJournal
from tokfluence_async._journal import redis_store

EPOCH = 1_700_000_000.0


class Store:
    """A Redis inside this process, on the clock of the running event loop.

    Attributes:
        server: fakeredis' server; `connected = False` takes it away.
    """

    def __init__(self) -> None:
        self.server = fakeredis.FakeServer()
        self.config = {"appendonly": "yes", "appendfsync": "always"}

    def connect(self, _: Any) -> Any:
        client: Any = fakeredis.FakeAsyncRedis(server=self.server, decode_responses=True)
        client.config_get = self._config_get
        return client

    async def _config_get(self, *_: str) -> dict[str, str]:
        return self.config

    def journal(self, job: str = "job") -> RedisJournal:
        """Another process's journal of the job."""
        return RedisJournal("redis://127.0.0.1:6379/0", job)


def install(patch: pytest.MonkeyPatch) -> Store:
    """A store that every `RedisJournal` reaches, whatever its URL."""
    made = Store()
    patch.setattr(redis_store, "connect", made.connect)

    def now() -> float:
        try:
            return EPOCH + asyncio.get_running_loop().time()
        except RuntimeError:
            return time.time()

    clock = SimpleNamespace(time=now, monotonic=time.monotonic, sleep=time.sleep)
    patch.setattr("fakeredis.commands_mixins.server_mixin.time", clock)
    return made
