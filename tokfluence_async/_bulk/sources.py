"""Inputs of bulk calls: any iterable or async iterable of ids and URLs, read no faster than it is
used.

Duplicates are folded by video id. What a text or number subclass names is kept as a plain `str` or
`int`. Any other object is an item of its own with an error, and never the end of the job.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable, Iterator, Sized
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from .._errors import InvalidPostError
from .._wire.ids import PostRef, parse_post, plain
from .reader import Reader
from .seen import Seen
from .shards import ShardFilter

if TYPE_CHECKING:
    from .._journal.records import Entry

__all__ = ["Inputs", "Item", "ItemSource", "Source"]

Inputs = Iterable[Any] | AsyncIterable[Any]

# Inputs that are looked at without giving the loop a turn: 0.5 ms. A long text counts as several:
# one of 4,096 characters that names no post takes up to 1 ms.
_TURN = 128
_LONG = 64

_END = object()


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

    Args:
        only: Lets some inputs pass by without a trace; see `ShardFilter`.

    Attributes:
        duplicates: Inputs left out because their post had been seen.
        taken: Items given out so far.
        ended: Whether the input has ended.
        error: What the input itself raised. It ends there; whoever drives raises it after what was
            begun is done.
    """

    def __init__(self, inputs: Inputs, only: ShardFilter | None = None) -> None:
        if isinstance(inputs, (str, bytes)):
            raise TypeError(
                "give an iterable of ids or URLs, not one text; for a single post: [url]"
            )
        self._sync: Iterator[Any] | None = None
        self._reader: Reader | None = None
        if isinstance(inputs, AsyncIterable):
            self._reader = Reader(aiter(inputs))
        else:
            try:
                self._sync = iter(inputs)
            except TypeError:
                raise TypeError(
                    f"give an iterable of ids or URLs, not one {type(inputs).__name__}; "
                    "for a single post: [id]"
                ) from None
        # A generator's context variables have to be there again at its next item, whichever task
        # asks for that.
        self._context = copy_context()
        self._only = only
        self._length = _length_of(inputs) if only is None else None
        self._seen = Seen()
        self._turn = asyncio.Lock()
        self._work = 0
        self.duplicates = 0
        self.taken = 0
        self.ended = False
        self.error: Exception | None = None

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
        """The next item, or None at the end. Several tasks may call it."""
        while not self.ended:
            try:
                given = await self._next()
            except StopAsyncIteration:
                self.ended = True
            except Exception as error:  # the caller's own iterator; told at the end
                self.ended, self.error = True, error
            else:
                item = self._fold(given)
                if item is not None:
                    return item
        return None

    async def _next(self) -> Any:
        if self._reader is not None:
            return await self._reader.next()
        assert self._sync is not None
        # One task at a time: else each of fifty would do as much before the loop's next turn.
        async with self._turn:
            if self._work >= _TURN:
                self._work = 0
                await asyncio.sleep(0)
            given = self._context.run(next, self._sync, _END)
        if given is _END:
            raise StopAsyncIteration
        self._work += 1 + (len(given) // _LONG if type(given) is str else 0)
        return given

    def remembered(self, item: Item) -> Entry | None:
        """Nothing: there is no journal."""
        return None

    def age(self, at: float | None) -> float:
        return 0.0

    def _fold(self, given: Any) -> Item | None:
        try:
            given = plain(given)
            ref = parse_post(given)
        except InvalidPostError as error:
            return self._refuse(given, error)
        except Exception:  # an odd object's own, when it was looked at: this input's fault alone
            kind = type(given).__name__
            reason = f"it is of type {kind}, and cannot be looked at"
            return self._refuse(given, InvalidPostError(f"<{kind}>", reason))
        if self._only is not None and not self._only.takes(ref.post_id):
            return None
        if not self._seen.add(ref.post_id):
            self.duplicates += 1
            return None
        if type(given) not in (str, int):
            given = int(ref.post_id)  # numpy's integers
        self.taken += 1
        return Item(self.taken, given, ref)

    def _refuse(self, given: object, error: InvalidPostError) -> Item | None:
        if self._only is not None and not self._only.takes(None):
            return None
        self.taken += 1
        return Item(self.taken, given, error=error)

    def end(self) -> None:
        """Give out nothing more, not even what is being waited for."""
        self.ended = True
        if self._reader is not None:
            self._reader.stop()

    async def aclose(self) -> None:
        """Let go of the input. An async generator is closed by the task that read it; nobody else
        can."""
        self.ended = True
        if self._reader is not None:
            await self._reader.aclose()


def _length_of(inputs: object) -> int | None:
    """How many there are, if that can be known: `len` of a progress bar raises."""
    if not isinstance(inputs, Sized):
        return None
    try:
        return len(inputs)
    except Exception:
        return None
