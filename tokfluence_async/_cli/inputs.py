"""FILE or standard input: a URL or id per line, read as it is needed; blank lines and `#` comments
are skipped."""

from __future__ import annotations

import asyncio
import codecs
import concurrent.futures
import io
import os
import selectors
import shlex
import stat
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from .._bulk.shards import Shard
from .._errors import InvalidPostError
from .._text import one_line, plural
from .._wire.ids import bare, parse_post_id
from .streams import wait_until_ready

__all__ = [
    "WANTED",
    "FileLines",
    "Inputs",
    "Malformed",
    "StreamLines",
    "UsageError",
    "from_home",
    "malformed_lines",
    "open_inputs",
]

WANTED = "a file with a URL or id per line is wanted, or - for standard input"

# A URL has a few hundred characters at most. A longer line means that the file is no list of them.
_LONGEST_LINE = 65_536
_CHUNK = 65_536
# Malformed lines shown one by one; the others are in failures.jsonl.
_SHOWN = 10


class UsageError(Exception):
    """Wrong usage: one clear line on standard error, exit status 2."""


class Malformed(NamedTuple):
    """A line that names no post."""

    line: int
    text: str
    reason: str


class Inputs:
    """Lines on their way into a bulk call.

    Attributes:
        name: What it is called in messages.
        malformed: The first few lines that name no post, with their line numbers.
        malformed_count: How many there were.
        shard: The shard that is worked, if only one is.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.malformed: list[Malformed] = []
        self.malformed_count = 0
        self.shard: Shard | None = None
        self._stopped = False

    def stop(self) -> None:
        """End the input here: what was handed out is finished, nothing new is begun."""
        self._stopped = True

    def _look_at(self, number: int, text: str) -> None:
        if self.shard is not None and self.shard.number:
            return  # malformed inputs belong to shard 0
        try:
            parse_post_id(text)
        except InvalidPostError as error:
            self.malformed_count += 1
            if len(self.malformed) < _SHOWN:
                self.malformed.append(Malformed(number, text, error.reason))


def malformed_lines(inputs: Inputs) -> list[str]:
    """What a summary says of the lines that name no post."""
    count = inputs.malformed_count
    if not count:
        return []
    lines = [
        f"{plural(count, 'line')} of {inputs.name} {'names' if count == 1 else 'name'} no post; "
        "nothing was sent or charged for that:"
    ]
    for malformed in inputs.malformed:
        lines.append(f"  line {malformed.line}: {one_line(malformed.text, 100)}")
        lines.append(f"    {malformed.reason}")
    if count > len(inputs.malformed):
        lines.append(f"  and {count - len(inputs.malformed):,} more")
    return lines


class FileLines(Inputs):
    """A regular file. It has been read once already: all of it is text, and its length is known."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._length = 0
        try:
            for _ in self._numbered():
                self._length += 1
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from None

    def _numbered(self) -> Iterator[tuple[int, str]]:
        with self._path.open("rb") as file:
            yield from _useful(_lines(iter(lambda: file.read(_CHUNK), b""), self.name))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[str]:
        for number, text in self._numbered():
            if self._stopped:
                return
            self._look_at(number, text)
            yield text


class StreamLines(Inputs):
    """Standard input, or a named pipe: lines are handed on as they arrive."""

    def __init__(self, name: str, path: Path | None = None) -> None:
        super().__init__(name)
        self._path = path
        self._ended: asyncio.Event | None = None

    def stop(self) -> None:
        super().stop()
        if self._ended is not None:
            self._ended.set()

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            descriptor = _standard_input().fileno() if self._path is None else None
        except (OSError, ValueError):  # an object in its place, as in tests
            for number, text in _useful(_lines([sys.stdin.buffer.read()], self.name)):
                self._look_at(number, text)
                yield text
            return
        self._ended = asyncio.Event()
        arriving: asyncio.Queue[bytes | OSError] = asyncio.Queue(maxsize=4)
        # A daemon thread: a read that waits for a writer must not keep the process from ending. It
        # reads the descriptor, as the interpreter's end would wait for the lock of `sys.stdin`.
        threading.Thread(
            target=_read,
            args=(descriptor, self._path, arriving, asyncio.get_running_loop()),
            daemon=True,
        ).start()
        splitter = _Splitter(self.name)
        number = 0
        while not self._stopped:
            chunk = await self._next_chunk(arriving)
            if chunk is None:
                return
            if isinstance(chunk, OSError):
                raise UsageError(f"{self.name}: {chunk.strerror or chunk}")
            for line in splitter.feed(chunk):
                number += 1
                text = bare(line)
                if text and not text.startswith("#") and not self._stopped:
                    self._look_at(number, text)
                    yield text
            if not chunk:
                return

    async def _next_chunk(self, arriving: asyncio.Queue[bytes | OSError]) -> bytes | OSError | None:
        assert self._ended is not None
        get = asyncio.ensure_future(arriving.get())
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((get, ended), return_when=asyncio.FIRST_COMPLETED)
            return get.result() if get.done() else None
        finally:
            get.cancel()
            ended.cancel()


def _standard_input() -> TextIO:
    if sys.stdin is None:
        raise UsageError("standard input is closed: there is nothing to read")
    return sys.stdin


def _read(
    descriptor: int | None,
    path: Path | None,
    arriving: asyncio.Queue[bytes | OSError],
    loop: asyncio.AbstractEventLoop,
) -> None:
    def put(chunk: bytes | OSError) -> None:
        # Waits while the queue is full: what is not asked for yet stays in the pipe.
        waiting = arriving.put(chunk)
        try:
            asyncio.run_coroutine_threadsafe(waiting, loop).result()
        finally:
            waiting.close()  # if the loop is closed, nobody has begun it

    try:
        if descriptor is None:
            assert path is not None
            descriptor = os.open(path, os.O_RDONLY)
        while True:
            try:
                chunk = os.read(descriptor, _CHUNK)
            except BlockingIOError:  # nothing yet, which is not the end
                wait_until_ready(descriptor, selectors.EVENT_READ)
                continue
            put(chunk)
            if not chunk:
                return
    except OSError as error:
        put(error)
    except (RuntimeError, concurrent.futures.CancelledError):
        return  # the loop is gone, and with it whoever was to read this


class _Splitter:
    """Bytes in, complete lines out. Lines end with `\\n` alone (a `\\r` before it is stripped as
    white space): other separators that Python knows occur within texts."""

    def __init__(self, name: str) -> None:
        self._name = name
        # Lines end as they do for `open`: some spreadsheets end them with a carriage return alone.
        text = codecs.getincrementaldecoder("utf-8-sig")("strict")
        self._decoder = io.IncrementalNewlineDecoder(text, translate=True)
        self._rest = ""
        self._count = 0

    def feed(self, chunk: bytes) -> list[str]:
        """The lines completed by `chunk`; an empty one ends the text."""
        try:
            text = self._rest + self._decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as wrong:
            line = self._count + 1 + wrong.object[: wrong.start].count(b"\n")
            raise UsageError(f"{self._name} is not UTF-8 text (near line {line})") from None
        before, nul, _ = text.partition("\0")
        if nul:
            line = self._count + 1 + before.count("\n")
            raise UsageError(f"{self._name} is not text: there is a NUL byte near line {line}")
        *lines, self._rest = text.split("\n")
        if not chunk and self._rest:
            lines.append(self._rest)
            self._rest = ""
        if len(self._rest) > _LONGEST_LINE:
            raise UsageError(
                f"{self._name} is not a list of URLs: line {self._count + len(lines) + 1} has no "
                "end"
            )
        self._count += len(lines)
        return lines


def _lines(chunks: Iterable[bytes], name: str) -> Iterator[str]:
    splitter = _Splitter(name)
    for chunk in chunks:
        if chunk:
            yield from splitter.feed(chunk)
    yield from splitter.feed(b"")


def _useful(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        text = bare(line)
        if text and not text.startswith("#"):
            yield number, text


def _meant(name: str, again: str) -> str:
    """What to type instead where the file that is not there is a post."""
    is_url = "://" in name
    try:
        parse_post_id(name)
    except InvalidPostError:
        return f"; that is a URL; {WANTED}" if is_url else ""
    word = shlex.quote(name)
    what = "URL" if is_url or "/" in name else "id"
    return f"; that is a post's {what}: `echo {word} | {again}`, or `tokfluence post {word}`"


def from_home(name: str | Path) -> Path:
    """A path as it was typed, with `~` as the user's home: a shell leaves it in `--out=~/x`.

    Raises:
        UsageError: There is no such home.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{name}: {error}") from None


def open_inputs(name: str, again: str) -> FileLines | StreamLines:
    """FILE, or `-` for standard input.

    Args:
        again: The command that reads standard input instead, for who gives a post in the file's
            place.
    Raises:
        UsageError: It is not there, cannot be read, or is not text.
    """
    if name == "-":
        _standard_input()
        return StreamLines("standard input")
    try:
        path = from_home(name)
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror or error}{_meant(name, again)}") from None
    except ValueError:
        raise UsageError("the file's name has a NUL byte in it") from None
    if stat.S_ISDIR(mode):
        raise UsageError(
            f"{name} is a folder; give a file with a URL or id per line, or - for standard input"
        )
    return FileLines(path) if stat.S_ISREG(mode) else StreamLines(name, path)
