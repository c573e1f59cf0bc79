"""Each call that a system may lack, and what is done in its place."""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tokfluence_async import _platform

PARTS = [b"%d\n" % number for number in range(3000)]


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(
        tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_APPEND | _platform.OPEN_FLAGS
    )
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=["posix", "elsewhere"])
def _system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is here, and with the calls gone that Windows lacks."""
    if request.param == "elsewhere":
        for name in ("pread", "fdatasync", "register_at_fork", "O_DIRECTORY"):
            monkeypatch.delattr(os, name, raising=False)


@pytest.mark.usefixtures("_system")
def test_all_parts_are_written_and_read_back(fd: int) -> None:
    """However many there are."""
    _platform.write_all(fd, PARTS)
    _platform.sync_data(fd)

    whole = b"".join(PARTS)
    assert _platform.read_at(fd, len(whole) + 1, 0) == whole
    assert _platform.read_at(fd, 4, len(whole) - 5) == whole[-5:-1]


@pytest.mark.usefixtures("_system")
def test_reading_does_not_move_where_the_next_write_goes(fd: int) -> None:
    """Without `pread` the position moves; a file opened to append does not look at it."""
    _platform.write_all(fd, [b"one", b"two"])
    assert _platform.read_at(fd, 3, 0) == b"one"

    _platform.write_all(fd, [b"three"])

    assert _platform.read_at(fd, 100, 0) == b"onetwothree"


@pytest.mark.usefixtures("_system")
def test_a_folder_is_synced_where_that_is_possible(tmp_path: Path) -> None:
    """Where folders cannot be opened this is no error: nothing more can be done there."""
    _platform.sync_folder(tmp_path)
    _platform.after_fork_in_child(lambda: None)


def test_a_missing_folder_is_an_error_where_folders_can_be_synced(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _platform.sync_folder(tmp_path / "gone")


class _WindowsLocks(SimpleNamespace):
    """`msvcrt`'s locks as its documentation has them: a byte range, held by a descriptor, refused
    with EACCES at once or with EDEADLK after ten tries."""

    LK_LOCK, LK_NBLCK, LK_UNLCK = 1, 2, 3

    def __init__(self) -> None:
        super().__init__(holder=None, tries=0)

    def locking(self, fd: int, mode: int, count: int) -> None:
        assert os.lseek(fd, 0, os.SEEK_CUR) == 2**30
        assert count == 1
        if mode == self.LK_UNLCK:
            self.holder = None
        elif self.holder is None:
            self.holder = fd
        elif mode == self.LK_NBLCK:
            raise PermissionError(errno.EACCES, "Permission denied")
        else:
            self.tries += 1
            if self.tries == 3:
                self.holder = None  # the other has gone
            raise OSError(errno.EDEADLK, "Resource deadlock avoided")


@pytest.mark.parametrize("system", ["posix", "windows"])
def test_a_file_is_held_by_one_at_a_time(
    system: str, fd: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two descriptors exclude each other, also within a process."""
    if system == "windows":
        monkeypatch.setattr(_platform, "fcntl", None)
        monkeypatch.setattr(_platform, "msvcrt", _WindowsLocks())
    other = os.open(tmp_path / "file", os.O_RDWR | _platform.OPEN_FLAGS)
    try:
        _platform.lock_file(fd, wait=False)
        with pytest.raises(BlockingIOError):
            _platform.lock_file(other, wait=False)
        _platform.unlock_file(fd)
        _platform.lock_file(other, wait=False)
        _platform.unlock_file(other)
    finally:
        os.close(other)


def test_a_lock_is_waited_for_longer_than_windows_waits(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`LK_LOCK` gives up after ten seconds: to wait is to call it again."""
    locks = _WindowsLocks()
    monkeypatch.setattr(_platform, "fcntl", None)
    monkeypatch.setattr(_platform, "msvcrt", locks)
    locks.holder = -1

    _platform.lock_file(fd)

    assert (locks.holder, locks.tries) == (fd, 3)


def test_a_system_without_locks_says_so(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_platform, "fcntl", None)
    monkeypatch.setattr(_platform, "msvcrt", None)

    with pytest.raises(OSError, match="no file locks"):
        _platform.lock_file(fd)


class _Proactor(asyncio.SelectorEventLoop):
    """Takes no signal handlers, as Windows' loops."""

    def add_signal_handler(self, *_: object) -> None:  # type: ignore[override]
        raise NotImplementedError


@pytest.mark.real_time
@pytest.mark.parametrize("make_loop", [asyncio.SelectorEventLoop, _Proactor])
def test_signals_are_heard_in_the_loop(make_loop: type[asyncio.SelectorEventLoop]) -> None:
    """Whether or not the loop takes handlers; and the handler before is put back."""
    before = signal.getsignal(signal.SIGTERM)

    async def main() -> list[signal.Signals]:
        heard: list[signal.Signals] = []
        arrived = asyncio.Event()

        def hear(which: signal.Signals) -> None:
            heard.append(which)
            arrived.set()

        with _platform.hear_signals(_platform.STOP_SIGNALS, hear):
            os.kill(os.getpid(), signal.SIGTERM)
            await arrived.wait()
        return heard

    with asyncio.Runner(loop_factory=make_loop) as runner:
        assert runner.run(main()) == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_nohup_ignores_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job under `nohup` is meant to outlive its terminal."""
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_IGN)
    added: list[signal.Signals] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "add_signal_handler", lambda which, *_: added.append(which))
        monkeypatch.setattr(loop, "remove_signal_handler", lambda _: True)
        with _platform.hear_signals([signal.SIGHUP, signal.SIGTERM], lambda _: None):
            pass

    asyncio.run(main())

    assert added == [signal.SIGTERM]


@pytest.mark.real_time
def test_in_another_thread_no_signal_is_heard() -> None:
    """A command run inside somebody's program: their handlers stay as they are."""
    before = signal.getsignal(signal.SIGTERM)

    async def main() -> bool:
        with _platform.hear_signals(_platform.STOP_SIGNALS, lambda _: None):
            return signal.getsignal(signal.SIGTERM) is before

    assert asyncio.run(asyncio.to_thread(asyncio.run, main())) is True


def test_signals_that_a_system_lacks_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no SIGHUP."""
    monkeypatch.delattr(signal, "SIGHUP")
    try:
        assert signal.SIGTERM in importlib.reload(_platform).STOP_SIGNALS
        assert "SIGHUP" not in [which.name for which in _platform.STOP_SIGNALS]
    finally:
        monkeypatch.undo()
        importlib.reload(_platform)
