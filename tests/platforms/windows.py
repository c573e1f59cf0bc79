"""A process as on Windows, as far as Linux can play it: `python windows.py MODULE|FILE ARGS…`.

What is taken away or changed before anything of the package is imported:

- the calls, constants and modules that Windows lacks, in `os`, `signal` and the standard library;
- signal handlers in the loop, and pipes in it;
- locks are `msvcrt`'s;
- files that are open can be neither renamed, replaced nor deleted, nor anything put in their place;
- files in text mode get `\\r\\n`, and must name their encoding, as the default is not UTF-8;
- the clock jumps 64 times a second.

What it cannot play: the proactor loop, drives and other file systems, what anti-virus programs do.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import runpy
import signal
import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any, NoReturn

_CALLS = (
    *("fork", "forkpty", "register_at_fork", "killpg", "setsid", "openpty", "wait4", "mkfifo"),
    *(
        "geteuid",
        "getuid",
        "getegid",
        "getgid",
        "getgroups",
        "getpgid",
        "fchmod",
        "chown",
        "fchown",
    ),
    *("fdatasync", "writev", "readv", "pread", "pwrite", "preadv", "pwritev", "sync", "sendfile"),
    *("posix_fallocate", "posix_fadvise", "statvfs", "nice"),
    *("O_DIRECTORY", "O_CLOEXEC", "O_NOFOLLOW", "O_SYNC", "O_DSYNC", "O_NONBLOCK", "O_NOCTTY"),
)
_SIGNALS = (
    *("SIGHUP", "SIGPIPE", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD"),
    *("SIGSTOP", "SIGCONT", "SIGTSTP", "SIGWINCH", "pthread_kill", "pthread_sigmask", "sigwait"),
)
_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "uvloop")

_TICK = 1 / 64


def _take_away() -> None:
    for name in _CALLS:
        if hasattr(os, name):
            delattr(os, name)
    for name in _SIGNALS:
        if hasattr(signal, name):
            delattr(signal, name)
    for name in _MODULES:
        sys.modules[name] = None  # type: ignore[assignment]  # so an import fails


def _tick_slowly() -> None:
    monotonic = time.monotonic
    get_clock_info = time.get_clock_info

    def clock_info(name: str) -> Any:
        info = get_clock_info(name)
        if name == "monotonic":
            info.resolution = _TICK
        return info

    time.monotonic = lambda: monotonic() // _TICK * _TICK
    time.get_clock_info = clock_info  # type: ignore[assignment]


def _is_open(path: Any) -> bool:
    wanted = os.path.realpath(path)
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(fd.readlink()) == wanted:
                return True
    return False


def _hold_open_files() -> None:
    def guarded(name: str) -> None:
        real = getattr(os, name)

        def call(*paths: Any, **more: Any) -> Any:
            # With `dir_fd` it is a tree that is being removed, by a test.
            for path in paths if not more.get("dir_fd") else ():
                if _is_open(path):
                    raise PermissionError(13, "The file is used by another process", str(path))
            return real(*paths, **more)

        setattr(os, name, call)

    for name in ("rename", "replace", "unlink", "remove"):
        guarded(name)


def _write_text_otherwise() -> None:
    real = io.open

    def open_(file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        if "b" not in mode and "r" not in mode and len(args) < 4:
            more.setdefault("newline", "\r\n")
        return real(file, mode, *args, **more)

    io.open = builtins.open = open_
    # With -X warn_default_encoding.
    warnings.filterwarnings("error", category=EncodingWarning, module=r"tokfluence_async")


def _lock_bytes() -> None:
    """`msvcrt.locking`: a lock of a descriptor, refused with EACCES, or with EDEADLK after ten
    tries."""
    import fcntl
    import subprocess  # takes msvcrt for the sign of Windows  # noqa: F401

    def locking(fd: int, mode: int, _: int) -> None:
        if mode == 0:
            fcntl.flock(fd, fcntl.LOCK_UN)
            return
        for _ in range(10 if mode == 1 else 1):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.01)
        if mode == 1:
            raise OSError(errno.EDEADLK, "Resource deadlock avoided")
        raise PermissionError(errno.EACCES, "Permission denied")

    module = types.ModuleType("msvcrt")
    vars(module).update(locking=locking, LK_UNLCK=0, LK_LOCK=1, LK_NBLCK=2)
    sys.modules["msvcrt"] = module


def _loop_without_handlers() -> None:
    import asyncio

    def missing(*_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError

    for name in ("add_signal_handler", "remove_signal_handler"):
        setattr(asyncio.SelectorEventLoop, name, missing)
    for name in ("connect_read_pipe", "connect_write_pipe", "create_unix_connection"):
        setattr(asyncio.SelectorEventLoop, name, missing)


def become_windows() -> None:
    """Let the rest of this process find what it would find on Windows."""
    _lock_bytes()
    _take_away()
    _tick_slowly()
    _loop_without_handlers()
    _hold_open_files()
    _write_text_otherwise()


if __name__ == "__main__":
    become_windows()
    del sys.argv[0]
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
