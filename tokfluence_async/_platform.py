"""What operating systems do differently, and what is done where one of them lacks a call.

Promises: the package imports and works where POSIX's calls are missing (Windows, WebAssembly).
Every other room calls these functions and asks no system for its name.

Relies on: a call that a system lacks is missing from `os`. So a test can take calls away before
the import and run everything on the fallbacks.

Hard: none of the fallbacks may promise less on POSIX. Where a promise is smaller elsewhere, the
function's docstring says what is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import Callable, Generator, Iterable
from functools import partial
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

try:
    import msvcrt
except ImportError:
    msvcrt = None  # type: ignore[assignment]

__all__ = [
    "OPEN_FLAGS",
    "STOP_SIGNALS",
    "after_fork_in_child",
    "hear_signals",
    "lock_file",
    "read_at",
    "sync_data",
    "sync_folder",
    "unlock_file",
    "write_all",
]

# For `os.open` of a file that holds bytes and is not for children: Windows would turn `\n` into
# `\r\n` without O_BINARY, and has its own word for O_CLOEXEC.
OPEN_FLAGS: int = (
    getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)
)

# What people and supervisors send to a process that is to end. SIGHUP: its terminal has gone.
# SIGBREAK: Ctrl-Break on Windows.
STOP_SIGNALS: tuple[signal.Signals, ...] = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if hasattr(signal, name)
)

# The byte that is locked on Windows. A lock there forbids others to read the byte, so it lies far
# behind the end of any file of ours.
_LOCKED_BYTE = 2**30


def after_fork_in_child(do: Callable[[], None]) -> None:
    """Call `do` in every child that is forked from now on. Without fork there are no such
    children."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=do)


def write_all(fd: int, parts: Iterable[bytes]) -> None:
    """Write all of `parts`, also where the system takes a piece at a time."""
    rest = memoryview(b"".join(parts))
    while rest:
        rest = rest[os.write(fd, rest) :]


def read_at(fd: int, length: int, offset: int) -> bytes:
    """`length` bytes from `offset`, fewer at the file's end.

    Without `pread` the descriptor's position moves, so one thread only may use it. Files of ours
    are opened with O_APPEND, where writing does not look at the position.
    """
    if hasattr(os, "pread"):
        return os.pread(fd, length, offset)
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, length)


def sync_data(fd: int) -> None:
    """Return when what was written to `fd` is on disk. Times of access may not be."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:  # macOS has only fsync
        os.fsync(fd)


def sync_folder(folder: Path) -> None:
    """Make it durable that a file is in `folder` at all.

    Windows opens no folders: there a power cut may take back that a file was made or renamed.
    """
    if not hasattr(os, "O_DIRECTORY"):
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | OPEN_FLAGS)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def lock_file(fd: int, *, wait: bool = True) -> None:
    """Hold a file for one process at a time. The system lets go of it when the process ends.

    Locks of two descriptors of one process exclude each other as well.

    Raises:
        BlockingIOError: `wait` is False, and somebody else holds it.
        OSError: The system, or this file's file system, has no locks.
    """
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return
    locks: Any = msvcrt
    if locks is None:
        raise OSError("this system has no file locks")
    os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
    while True:
        try:
            locks.locking(fd, locks.LK_LOCK if wait else locks.LK_NBLCK, 1)
            return
        except PermissionError as error:
            raise BlockingIOError(error.errno, error.strerror) from None
        except OSError as error:
            if error.errno != errno.EDEADLK:  # so LK_LOCK says that ten seconds were not enough
                raise


def unlock_file(fd: int) -> None:
    """Let go of what `lock_file` holds."""
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_UN)
        return
    locks: Any = msvcrt
    if locks is not None:
        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        locks.locking(fd, locks.LK_UNLCK, 1)


@contextlib.contextmanager
def hear_signals(
    signals: Iterable[signal.Signals], hear: Callable[[signal.Signals], object]
) -> Generator[None]:
    """Call `hear` in the running loop for each signal that arrives inside `with`.

    Only the main thread hears signals: in another one nothing is changed. A SIGHUP that is ignored
    stays ignored, as `nohup` wants it. Windows' loops take no handlers; there the handler is the
    process's own and wakes the loop.
    """
    loop = asyncio.get_running_loop()
    undo: list[Callable[[], object]] = []
    for which in signals:
        if which.name == "SIGHUP" and signal.getsignal(which) is signal.SIG_IGN:
            continue
        try:
            loop.add_signal_handler(which, hear, which)
        except NotImplementedError:
            with contextlib.suppress(ValueError):
                undo.append(_hear_without_loop(loop, which, hear))
        except (ValueError, RuntimeError):
            pass
        else:
            undo.append(partial(loop.remove_signal_handler, which))
    try:
        yield
    finally:
        for each in reversed(undo):
            each()


def _hear_without_loop(
    loop: asyncio.AbstractEventLoop,
    which: signal.Signals,
    hear: Callable[[signal.Signals], object],
) -> Callable[[], object]:
    """The process's own handler; returns what puts the one before it back.

    Raises:
        ValueError: Not in the main thread.
    """

    def tell(*_: object) -> None:
        loop.call_soon_threadsafe(hear, which)

    before = signal.signal(which, tell)
    return lambda: signal.signal(which, signal.SIG_DFL if before is None else before)
