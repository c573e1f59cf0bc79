"""Inputs of bulk calls: any iterable or async iterable of ids and URLs, read no faster than it is
used.

Duplicates are folded by video id. What was seen is kept in memory up to a bound and in a temporary
SQLite database beyond it, so that a job of any size takes the same memory (a Python set of a
million ids takes about 90 MB).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from msgspec import Struct

from .._errors import InvalidPostError
from .._wire.ids import PostRef, parse_post, signed

if TYPE_CHECKING:
    from .._journal.records import Entry

__all__ = ["Inputs", "Item", "ItemSource", "Seen", "Source"]

Inputs = Iterable[Any] | AsyncIterable[Any]

# About 6 MB of set; only jobs above it pay for the database (about 3 µs an id).
_IN_MEMORY = 65_536


class Seen:
    """A set of ids whose memory is bounded."""

    def __init__(self, in_memory: int = _IN_MEMORY) -> None:
        self._recent: set[int] = set()
        self._in_memory = in_memory
        self._spilled: sqlite3.Connection | None = None

    def add(self, post_id: str) -> bool:
        """True if `post_id` is new."""
        number = int(post_id)
        if number in self._recent:
            return False
        if self._spilled is not None and self._is_spilled(number):
            return False
        self._recent.add(number)
        if len(self._recent) >= self._in_memory:
            self._spill()
        return True

    def _is_spilled(self, number: int) -> bool:
        assert self._spilled is not None
        return (
            self._spilled.execute("SELECT 1 FROM seen WHERE id = ?", (signed(number),)).fetchone()
            is not None
        )

    def _spill(self) -> None:
        if self._spilled is None:
            # The empty name is SQLite's own temporary file, which goes with the connection; its
            # cache is 2 MB.
            self._spilled = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._spilled.execute("PRAGMA journal_mode = OFF")
            self._spilled.execute("PRAGMA synchronous = OFF")
            self._spilled.execute("CREATE TABLE seen (id INTEGER PRIMARY KEY)")
        self._spilled.execute("BEGIN")
        self._spilled.executemany(
            "INSERT INTO seen VALUES (?)", ((signed(n),) for n in sorted(self._recent))
        )
        self._spilled.execute("COMMIT")
        self._recent.clear()

    def close(self) -> None:
        if self._spilled is not None:
            self._spilled.close()
            self._spilled = None


class Item(Struct, frozen=True):
    """One input, the `index`-th that was given out. `ref` names its post; where it names none,
    `error` says why."""

    index: int
    given: object
    ref: PostRef | None = None
    error: InvalidPostError | None = None


class ItemSource(Protocol):
    """What bulk calls read: a `Source`, or a `RememberedSource` around one."""

    @property
    def error(self) -> Exception | None: ...

    @property
    def total(self) -> int | None: ...

    @property
    def left(self) -> int | None: ...

    async def next(self) -> Item | None: ...

    def remembered(self, item: Item) -> Entry | None:
        """What an earlier run has recorded of an item's analysis. It is told once."""
        ...

    def age(self, at: float | None) -> float:
        """Seconds since a time of day that such a record has."""
        ...


class Source:
    """The distinct posts of an input, each with its first spelling; a malformed input stands where
    it stood.

    Attributes:
        duplicates: Inputs left out because their post had been seen.
        taken: Items given out so far.
        ended: Whether the input has ended.
        error: What the input itself raised. It ends there; whoever drives raises it after what was
            begun is done.
    """

    def __init__(self, inputs: Inputs) -> None:
        if isinstance(inputs, (str, bytes)):
            raise TypeError(
                "give an iterable of ids or URLs, not one text; for a single post: [url]"
            )
        self._sync: Iterator[Any] | None = None
        self._async: AsyncIterator[Any] | None = None
        if isinstance(inputs, AsyncIterable):
            self._async = aiter(inputs)
        else:
            try:
                self._sync = iter(inputs)
            except TypeError:
                raise TypeError(
                    f"give an iterable of ids or URLs, not one {type(inputs).__name__}; for a single post: [id]"
                ) from None
        self._length = len(inputs) if isinstance(inputs, Sized) else None
        self._turn = asyncio.Lock()
        self._waiting: anyio.CancelScope | None = None
        self._seen = Seen()
        self.duplicates = 0
        self.taken = 0
        self.ended = False
        self.error: Exception | None = None

    @property
    def is_async(self) -> bool:
        """Whether the next item may have to be waited for."""
        return self._async is not None

    @property
    def total(self) -> int | None:
        """Items there will be at most, or None as long as that is not known."""
        if self.ended:
            return self.taken
        return None if self._length is None else max(self._length - self.duplicates, self.taken)

    @property
    def left(self) -> int | None:
        """Items still to come at most, or None as long as that is not known."""
        return None if self.total is None else self.total - self.taken

    async def next(self) -> Item | None:
        """The next item, or None at the end. Several tasks may call it; the input is read by one at
        a time."""
        if self._sync is not None:
            return self.take()
        async with self._turn:
            while not self.ended:
                assert self._async is not None
                given: Any = None
                try:
                    with anyio.CancelScope() as self._waiting:
                        given = await anext(self._async)
                    if self._waiting.cancelled_caught:
                        break
                except StopAsyncIteration:
                    self._end()
                except Exception as error:  # the caller's own iterator; told at the end
                    self._end(error)
                else:
                    item = self._fold(given)
                    if item is not None:
                        return item
        return None

    def remembered(self, item: Item) -> Entry | None:
        """Nothing: there is no journal."""
        return None

    def age(self, at: float | None) -> float:
        return 0.0

    def take(self) -> Item | None:
        """As `next`, where nothing has to be waited for (`is_async` is false)."""
        while not self.ended:
            try:
                assert self._sync is not None
                given = next(self._sync)
            except StopIteration:
                self._end()
            except Exception as error:  # the caller's own iterator; told at the end
                self._end(error)
            else:
                item = self._fold(given)
                if item is not None:
                    return item
        return None

    def _fold(self, given: object) -> Item | None:
        try:
            ref = parse_post(given)
        except InvalidPostError as error:
            self.taken += 1
            return Item(self.taken, given, error=error)
        if not self._seen.add(ref.post_id):
            self.duplicates += 1
            return None
        self.taken += 1
        return Item(self.taken, given, ref)

    def end(self) -> None:
        """Give out nothing more, not even what is being waited for."""
        self._end(self.error)
        if self._waiting is not None:
            self._waiting.cancel()

    def _end(self, error: Exception | None = None) -> None:
        self.ended = True
        self.error = error
        self._seen.close()

    async def aclose(self) -> None:
        """Let go of the input; an async generator among inputs is closed, as nobody else can."""
        self._end(self.error)
        close = getattr(self._async, "aclose", None)
        if close is not None:
            await close()
