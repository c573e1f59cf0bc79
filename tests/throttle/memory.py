"""A store in memory that several processes of one test share: on any clock, late or away on
demand."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

from tokfluence_async._throttle.schedule import MICRO, Cells, LaneState, exchange
from tokfluence_async._throttle.store import Answer, Ask, Done, StoreError


class MemoryCells(Cells):
    def __init__(self) -> None:
        self.values: dict[int, int] = {}

    def get(self, index: int) -> int:
        return self.values.get(index, 0)

    def set(self, index: int, value: int) -> None:
        self.values[index] = value

    def clear(self, limit: int) -> None:
        self.values.clear()


class Schedules:
    """What a server holds."""

    def __init__(self) -> None:
        self.trip = 0.0
        self.error: StoreError | None = None
        self.asks: list[tuple[str, Ask]] = []
        self.clear()

    def clear(self) -> None:
        """As after a restart that kept nothing."""
        self.ips: dict[bytes, LaneState] = {}
        self.keys: dict[bytes, tuple[LaneState, MemoryCells]] = {}

    def exchange(self, now: float, ask: Ask) -> Answer:
        ip = self.ips.setdefault(ask.ip.name, LaneState())
        key, cells = self.keys.setdefault(ask.key.name, (LaneState(), MemoryCells()))
        return exchange(round(now * MICRO), ask, ip, key, cells)


class MemoryStore:
    """One process' way there. Its name makes it a process of its own."""

    patience = 0.0

    def __init__(self, schedules: Schedules, name: str) -> None:
        self.schedules, self.name = schedules, name
        self.closed = 0

    def __repr__(self) -> str:
        return "<MemoryStore>"

    def request(
        self, ask: Ask, loop: asyncio.AbstractEventLoop, now: Callable[[], float], done: Done
    ) -> None:
        ask = dataclasses.replace(ask, process=self.name.encode())
        self.schedules.asks.append((self.name, ask))
        if not self.schedules.trip:
            done(self._answer(ask, now()), now())
            return
        sent, half = now(), self.schedules.trip / 2

        def there() -> None:
            answer = self._answer(ask, now())
            loop.call_later(half, lambda: done(answer, (sent + now()) / 2))

        loop.call_later(half, there)

    def _answer(self, ask: Ask, now: float) -> object:
        if self.schedules.error is not None:
            return self.schedules.error
        return self.schedules.exchange(now, ask)

    async def aclose(self) -> None:
        self.closed += 1
