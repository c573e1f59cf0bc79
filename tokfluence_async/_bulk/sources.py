"""Inputs of bulk calls: any iterable or async iterable of ids and URLs, read no faster than it is
used.

Duplicates are folded by video id. What a text or number subclass names is kept as a plain `str` or
`int`. Any other object is an item of its own with an error, and never the end of the job. If there
is a journal, each item comes with what that knows of its post.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Sized
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct, structs

from .._errors import InvalidPostError, TokfluenceError
from .._journal.records import DUPLICATE, Entry
from .._models import Analysis, Outcome
from .._wire.ids import PostRef, parse_post, plain
from .reader import Reader, cancelled_elsewhere
from .seen import Seen
from .shards import ShardFilter

if TYPE_CHECKING:
    from .._journal.journal import Journal

__all__ = ["Inputs", "Item", "Source", "count_inputs"]

T = TypeVar("T")

Inputs = Iterable[Any] | AsyncIterable[Any]

# Inputs that are looked at without giving the loop a turn: 0.5 ms. A long text counts as several:
# one of 4,096 characters that names no post takes up to 1 ms.
_TURN = 128
_LONG = 64

_END = object()


class Item(Struct, frozen=True):
    """One input, the `index`-th that was given out.

    Attributes:
        ref: Its post; None where it names none, and then `error` says why.
        entry: What the journal knows of the post.
    """

    index: int
    given: object
    ref: PostRef | None = None
    error: InvalidPostError | None = None
    entry: Entry | None = None

    @property
    def post(self) -> PostRef:
        """The post of an item that names one."""
        assert self.ref is not None
        return self.ref

    @property
    def post_id(self) -> str:
        """The post's id of an item that names one."""
        return self.post.post_id

    @property
    def paid(self) -> Entry | None:
        """What the journal knows of the post's analysis, if it was paid for."""
        return None if self.entry is None or self.entry.status is None else self.entry

    def succeeded(self, value: T) -> Outcome[T]:
        """Its outcome: what was got for its post."""
        return Outcome(input=self.given, post_id=self.post_id, value=value)

    def failed(self, error: TokfluenceError) -> Outcome[Any]:
        """Its outcome: why nothing could be got."""
        post_id = None if self.ref is None else self.ref.post_id
        # Without its traceback, which would keep every frame it passed alive as long as the outcome
        # is.
        return Outcome(input=self.given, post_id=post_id, error=error.with_traceback(None))

    def duplicate(self) -> Outcome[Analysis]:
        """Its outcome: an earlier attempt has had the post analyzed."""
        return self.succeeded(Analysis(post_id=self.post_id, url=self.post.url, status=DUPLICATE))

    def recalled(self, entry: Entry) -> Analysis:
        """The analysis that an earlier run has recorded."""
        return Analysis(post_id=self.post_id, url=entry.url, status=entry.status or DUPLICATE)


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
        self._journal: Journal | None = None
        self._skip: Callable[[Item, Entry], Awaitable[bool]] | None = None
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

    async def remember(
        self, journal: Journal, skip: Callable[[Item, Entry], Awaitable[bool]] | None = None
    ) -> None:
        """Ask `journal` about each post from now on.

        Args:
            skip: Whether an item is to be left out, given what is known of its post.
        """
        # The source gives each post once, so what a new journal learns from now on is never asked
        # for.
        if not await journal.is_new():
            self._journal, self._skip = journal, skip

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
                if item is not None and item.ref is not None and self._journal is not None:
                    item = await self._looked_up(item, self._journal)
                if item is not None:
                    return item
        return None

    async def _looked_up(self, item: Item, journal: Journal) -> Item | None:
        entry = await journal.look_up(item.post_id)
        if entry is None:
            return item
        if self._skip is not None and await self._skip(item, entry):
            return None
        return structs.replace(item, entry=entry)

    async def _next(self) -> Any:
        if self._reader is not None:
            return await self._reader.next()
        assert self._sync is not None
        # One task at a time: else each of fifty would do as much before the loop's next turn.
        async with self._turn:
            if self._work >= _TURN:
                self._work = 0
                await asyncio.sleep(0)
            try:
                given = self._context.run(next, self._sync, _END)
            except asyncio.CancelledError as cancelled:  # of a task that it asks for its result
                raise cancelled_elsewhere(cancelled) from cancelled
        if given is _END:
            raise StopAsyncIteration
        self._work += 1 + (len(given) // _LONG if type(given) is str else 0)
        return given

    def _fold(self, given: Any) -> Item | None:
        ref = error = None
        try:
            given = plain(given)
            ref = parse_post(given)
        except InvalidPostError as invalid:
            error = invalid
        except Exception:  # an odd object's own, when it was looked at: this input's fault alone
            kind = type(given).__name__
            error = InvalidPostError(f"<{kind}>", f"it is of type {kind}, and cannot be looked at")
        if self._only is not None and not self._only.takes(None if ref is None else ref.post_id):
            return None
        if ref is not None:
            if not self._seen.add(ref.post_id):
                self.duplicates += 1
                return None
            if type(given) not in (str, int):
                given = int(ref.post_id)  # numpy's integers
        self.taken += 1
        return Item(self.taken, given, ref, error)

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


async def count_inputs(source: Source, *, comments: bool) -> dict[str, int]:
    """How many posts of each kind there are: `new`, `unread` (their analysis was paid for),
    `unwalked` (written without their comments), `done`, and `malformed` inputs.

    Raises what the caller's own iterator raised.
    """
    counts = {"new": 0, "unread": 0, "unwalked": 0, "done": 0, "malformed": 0}
    try:
        while (item := await source.next()) is not None:
            counts[_kind_of(item, comments)] += 1
    finally:
        await source.aclose()
    if source.error is not None:
        raise source.error
    return counts


def _kind_of(item: Item, comments: bool) -> str:
    if item.ref is None:
        return "malformed"
    if item.entry is None or not item.entry.written:
        return "new" if item.paid is None else "unread"
    return "unwalked" if comments and not item.entry.walked else "done"
