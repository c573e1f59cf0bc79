"""The process's budgets, by origin.

Promises: loops on the operating system's clock share their budgets, over threads. A loop with a
clock of its own (`testing.VirtualLoop`) has budgets of its own, as its times mean nothing
elsewhere. A forked child starts with nothing: no lanes, and the first slot of a new one opens only
after one interval.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from typing import TypeAlias

from .._platform import after_fork_in_child
from .limits import Limits
from .origin import Origin
from .store import Store

#: Of budgets: the service, and where they are shared under which name of an address.
Name: TypeAlias = tuple[str, str | None, str]

__all__ = ["Registry", "current", "running_loop"]


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The running event loop, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _on_the_real_clock(loop: asyncio.AbstractEventLoop) -> bool:
    kind = type(loop)
    return kind.__module__.partition(".")[0] == "uvloop" or kind.time is asyncio.BaseEventLoop.time


class Registry:
    """The budgets of one process."""

    def __init__(self, forked: bool = False) -> None:
        self.lock = threading.Lock()
        self.forked = forked
        #: For the names that statistics give to keys.
        self.salt = secrets.token_bytes(16)
        #: What tells this process from others that share a store.
        self.process = secrets.token_bytes(16)
        self.real: dict[Name, Origin] = {}
        self.virtual: dict[asyncio.AbstractEventLoop, dict[Name, Origin]] = {}
        self.stores: dict[tuple[str, str | None], Store] = {}

    def origins(self, loop: asyncio.AbstractEventLoop | None) -> dict[Name, Origin]:
        """The budgets on the clock of `loop`. Wants `lock` held."""
        if loop is None or _on_the_real_clock(loop):
            return self.real
        found = self.virtual.get(loop)
        if found is None:
            for gone in [known for known in self.virtual if known.is_closed()]:
                del self.virtual[gone]
            found = self.virtual[loop] = {}
        return found

    def origin(self, name: str, loop: asyncio.AbstractEventLoop | None, limits: Limits) -> Origin:
        """The budgets of one service on the clock of `loop`, and in the store that is named."""
        shared, ip = (None, "") if limits.shared is None else (limits.shared.reveal(), limits.ip)
        with self.lock:
            origins = self.origins(loop)
            origin = origins.get((name, shared, ip))
            if origin is None:
                real = origins is self.real
                if shared is None:
                    origin = Origin(name, real, self.forked)
                else:
                    # Nobody who shares nothing loads this.
                    from .shared import SharedOrigin

                    store = self._store(shared, None if real else f"virtual {id(loop)}")
                    origin = SharedOrigin(name, real, self.forked, store, ip, self.process)
                origins[name, shared, ip] = origin
        return origin

    def _store(self, shared: str, clock: str | None) -> Store:
        store = self.stores.get((shared, clock))
        if store is None:
            from .stores import open_store

            store = self.stores[shared, clock] = open_store(shared, clock)
        return store


#: This process's budgets. Always read as `registry.current`: a fork puts a new one in its place.
current = Registry()


def _after_fork() -> None:
    global current
    current = Registry(forked=True)


after_fork_in_child(_after_fork)
