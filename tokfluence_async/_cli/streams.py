"""The standard streams of the process, as they are in the field.

Promises: what is written to standard output arrives whole, or `OutputFailedError` says that it did
not. Standard error never fails: a message that cannot be written is dropped. No file or socket of
ours gets the number of a standard stream that was closed.

Relies on: the descriptors 0, 1 and 2, and `os.write`, which says how much it took.

Hard: a stream can be full (a disk), gone (a terminal, a reader), closed, or not blocking, which is
a property of the pipe and not of this process. Nobody may wait for a reader of standard error: a
parent that reads only standard output would never end.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import select
import selectors
import sys
import threading
import time
from collections.abc import Generator
from typing import Any

__all__ = [
    "OutputFailedError",
    "OutputGoneError",
    "finish",
    "prepare_streams",
    "wait_until_ready",
    "write",
]

# What a writable pipe takes at least without blocking (PIPE_BUF of POSIX).
_PIECE = 512
# Seconds that a message waits for a reader. The loop stands still for so long, once.
_PATIENCE = 1.0
# An object without a descriptor in a stream's place that says "not now" is asked again so often.
_PAUSE = 0.01
_ASCII = str.maketrans(
    dict.fromkeys("─━╌╴╶╸╺═", "-")
    | dict.fromkeys("│┃║", "|")
    | dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼╔╗╚╝", "+")
    | {"…": "...", "–": "-", "—": "-", "’": "'", "·": "*", "•": "*"}
)


class OutputGoneError(Exception):
    """Whoever read standard output has gone. That is their right: it ends quietly."""


class OutputFailedError(Exception):
    """Standard output did not take everything."""


def prepare_streams() -> None:
    """Make the standard streams safe to use; called once, before anything else is opened.

    A closed one gets the null device for its descriptor, and stays None in `sys`. `sys.stderr`
    becomes a stream that does not fail. Help is written in any encoding.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # Takes the lowest number that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error("tokfluence.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="tokfluence.plain")
    sys.stderr = _StandardError(sys.stderr)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Characters that an encoding lacks: drawn in ASCII, or escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_ASCII)
    return text.encode("ascii", "backslashreplace").decode(), error.end


class _StandardError(io.TextIOBase):
    """`sys.stderr` that drops what cannot be written. It writes at once and holds nothing back, so
    that nothing is left for the interpreter to complain of at its end."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._lock = threading.Lock()
        self._stuck = False
        self._descriptor = None if stream is None else _descriptor(stream)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("standard error is closed")
        return int(self._stream.fileno())

    def isatty(self) -> bool:
        return self._stream is not None and bool(self._stream.isatty())

    def write(self, text: str) -> int:
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._descriptor is not None:
                data = memoryview(text.encode(self._encoding, "tokfluence.plain"))
                while data and self._takes_some(self._descriptor):
                    data = data[os.write(self._descriptor, data[:_PIECE]) :]
            elif self._stream is not None:
                self._stream.write(text)
                self._stream.flush()
        return len(text)

    def _takes_some(self, descriptor: int) -> bool:
        """Whether the stream takes a piece without making anybody wait."""
        if not hasattr(select, "poll"):  # Windows, where pipes cannot be asked
            return True
        waiting = select.poll()
        waiting.register(descriptor, select.POLLOUT)
        self._stuck = not waiting.poll(0 if self._stuck else _PATIENCE * 1000)
        return not self._stuck


def write(data: bytes) -> None:
    """Write all of `data` to standard output; waits for a slow reader, so it belongs in a thread.

    Raises:
        OutputGoneError: The reader has gone.
        OutputFailedError: Not everything could be written.
    """
    stream = sys.stdout
    with _failing():
        descriptor = _descriptor(stream)
        rest = memoryview(data)
        while rest:
            rest = rest[_write_some(stream, descriptor, rest) :]
        if descriptor is None:
            stream.buffer.flush()


def finish() -> None:
    """Ask the system whether it has kept what was written: network file systems say so when a
    descriptor is closed.

    Raises:
        OutputGoneError, OutputFailedError: As `write`.
    """
    descriptor = _descriptor(sys.stdout)
    if descriptor is not None:
        with _failing():
            os.close(os.dup(descriptor))


@contextlib.contextmanager
def _failing() -> Generator[None]:
    try:
        yield
    except BrokenPipeError:
        raise OutputGoneError from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise OutputFailedError(f"standard output: {why}") from None


@contextlib.contextmanager
def checked_text() -> Generator[None]:
    """See that the text printed inside `with`, such as help, has arrived.

    Raises:
        SystemExit: It has not. The interpreter would find out at its end, with a traceback.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        sys.stdout = None  # else the interpreter tries once more
        if isinstance(error, BrokenPipeError):
            sys.exit(141)
        print(f"standard output: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)


def _descriptor(stream: Any) -> int | None:
    """Where `os.write` can write what is written to `stream`, if it can."""
    if os.name == "nt" and stream.isatty():  # a console there takes texts, not bytes
        return None
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, ValueError):  # an object in its place, as in tests
        return None


def _write_some(stream: Any, descriptor: int | None, data: memoryview) -> int:
    """How much of `data` was taken, perhaps nothing yet."""
    try:
        if descriptor is not None:
            return os.write(descriptor, data)
        taken = stream.buffer.write(data)
    except BlockingIOError as full:
        if descriptor is not None:
            wait_until_ready(descriptor, selectors.EVENT_WRITE)
            return 0
        taken = full.characters_written
    if not taken:
        time.sleep(_PAUSE)
    return taken or 0


def wait_until_ready(descriptor: int, event: int) -> None:
    """Wait until a descriptor that does not block can be read (`selectors.EVENT_READ`) or
    written."""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, event)
        selector.select()
