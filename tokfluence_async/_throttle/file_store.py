"""A shared throttle's store in a file: for the processes of one machine, without a server.

Promises: one process at a time works on the file. A process that is killed at any moment leaves
schedules that the next one can go on with. A file that holds something else is left alone.

Relies on: locks of the file system, so not on NFS; and on one monotonic clock for all processes of
a machine. The clock begins anew when the machine starts, so the file remembers which start it
belongs to, and is emptied after another one.

Hard: kills. The file is not mapped, as a mapped file that somebody truncates kills its readers.
Cells are written before the lane that they belong to, and each lane in one piece: whatever is
missing after a kill is a slot that nobody uses.

Layout: a header, then lanes one behind the other. A lane whose grid became larger moves to the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import struct
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .._platform import OPEN_FLAGS, lock_file, unlock_file
from .schedule import Cells, LaneState, exchange, ring_size
from .store import Answer, Ask, Done, StoreError

if TYPE_CHECKING:
    import asyncio

__all__ = ["FileStore", "name_of_boot"]

_MAGIC: Final = b"tokfluence throttle 1\n"
# Magic, the clock's name, and a number that changes whenever the file is emptied.
_HEADER: Final = struct.Struct("<32s16s16s")
# Of a lane: a mark, its name, and for how many cells there is room.
_HEAD: Final = struct.Struct("<4s16sI")
_MARK: Final = b"lane"
_NUMBERS: Final = tuple(f.name for f in fields(LaneState) if f.name not in ("processes", "free"))
_PROCESSES: Final = 256
_FREE: Final = 64
_BODY: Final = struct.Struct(f"<{len(_NUMBERS)}d" + "16sd" * _PROCESSES + f"{_FREE}q")
_CELL: Final = struct.Struct("<q")
# How long to try for the lock before the caller's event loop goes on, in seconds. It is held for
# some 50 us at a time.
_PATIENCE: Final = 0.002
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def name_of_boot() -> str:
    """What the monotonic clock's times belong to: this start of this machine."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return "unknown"


@dataclass(slots=True)
class _Place:
    """Where a lane lies in the file."""

    offset: int
    cells: int


class FileStore:
    """Schedules in a file.

    Args:
        path: The file. It is made, readable for its owner only, if it is not there.
        clock: The name of the clock that callers' times are on; by default this start of this
            machine. What was written on another clock is forgotten.
    """

    #: Somebody else holds the lock: for a moment.
    patience = 1.0

    def __init__(self, path: str, clock: str | None = None) -> None:
        self.path = path
        name = name_of_boot() if clock is None else clock
        self._clock = hashlib.blake2b(name.encode(), digest_size=16).digest()
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._generation = b""
        self._places: dict[bytes, _Place] = {}
        self._end = _HEADER.size

    def __repr__(self) -> str:
        return f"<FileStore {self.path}>"

    # ---------------------------------------------------------------- what the throttle calls

    def request(
        self, ask: Ask, loop: asyncio.AbstractEventLoop, now: Callable[[], float], done: Done
    ) -> None:
        """Ask; `done` is called before this returns."""
        del loop
        try:
            with self._lock, self._locked():
                moment = now()
                answer = self._exchange(int(moment * 1e6), ask)
        except BlockingIOError:
            done(StoreError(f"{self.path} is locked by another process", lasting=False), now())
        except OSError as error:
            done(StoreError(f"{self.path}: {error.strerror or error}", lasting=True), now())
        except (ValueError, OverflowError, ZeroDivisionError, struct.error):
            done(self._something_else(), now())
        except StoreError as error:
            done(error, now())
        else:
            done(answer, moment)

    async def aclose(self) -> None:
        """Close the file. The next request opens it again."""
        with self._lock:
            self._close()

    # ---------------------------------------------------------------- the file

    def _something_else(self) -> StoreError:
        return StoreError(
            f"{self.path} holds something else than a shared throttle; name another file",
            lasting=True,
        )

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        """Hold the file that the path names now; it may have been removed since the last time."""
        fd = self._open()
        self._wait_for(fd)
        try:
            if not self._is_current(fd):
                unlock_file(fd)
                self._close()
                fd = self._open()
                self._wait_for(fd)
            yield
        finally:
            unlock_file(fd)

    def _open(self) -> int:
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | OPEN_FLAGS, 0o600)
            self._generation = b""
        return self._fd

    def _wait_for(self, fd: int) -> None:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                lock_file(fd, wait=False)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                time.sleep(0)
            else:
                return

    def _is_current(self, fd: int) -> bool:
        ours = os.fstat(fd)
        try:
            named = Path(self.path).stat()
        except FileNotFoundError:
            return False
        return (ours.st_ino, ours.st_dev) == (named.st_ino, named.st_dev)

    def _read(self, offset: int, size: int) -> bytes:
        assert self._fd is not None
        os.lseek(self._fd, offset, os.SEEK_SET)
        return os.read(self._fd, size)

    def _write(self, offset: int, data: bytes) -> None:
        assert self._fd is not None
        os.lseek(self._fd, offset, os.SEEK_SET)
        while data:
            data = data[os.write(self._fd, data) :]

    # ---------------------------------------------------------------- lanes

    def _exchange(self, now: int, ask: Ask) -> Answer:
        self._read_header()
        names = [
            hashlib.blake2b(lane.name, key=self._generation, digest_size=16).digest()
            for lane in (ask.ip, ask.key)
        ]
        ip, key = self._load(names[0]), self._load(names[1])
        answer = exchange(now, ask, ip, key, _FileCells(self, names[1]))
        self._save(names[1], key)
        self._save(names[0], ip)
        return answer

    def _read_header(self) -> None:
        """See whose file it is; empty it if its times are on another clock."""
        header = self._read(0, _HEADER.size)
        if header and not header.startswith(_MAGIC[: len(header)]):
            raise self._something_else()
        if len(header) == _HEADER.size:
            _, clock, generation = _HEADER.unpack(header)
            if clock == self._clock:
                if generation != self._generation:
                    self._generation = generation
                    self._places, self._end = {}, _HEADER.size
                return
        assert self._fd is not None
        os.truncate(self._fd, 0)
        self._generation = secrets.token_bytes(16)
        self._write(0, _HEADER.pack(_MAGIC, self._clock, self._generation))
        self._places, self._end = {}, _HEADER.size

    def _place(self, name: bytes) -> _Place | None:
        """Where a lane lies, or None if it is not in the file."""
        known = self._places.get(name)
        if known is not None and self._head(known.offset) == (name, known.cells):
            return known
        if known is not None:  # it was moved, or somebody cut the file
            self._places, self._end = {}, _HEADER.size
        while (head := self._head(self._end)) is not None:
            self._places[head[0]] = _Place(self._end, head[1])
            self._end += _HEAD.size + _BODY.size + head[1] * _CELL.size
        return self._places.get(name)

    def _head(self, offset: int) -> tuple[bytes, int] | None:
        head = self._read(offset, _HEAD.size)
        if len(head) < _HEAD.size:
            return None
        mark, name, cells = _HEAD.unpack(head)
        if mark != _MARK:
            raise self._something_else()
        return name, cells

    def _load(self, name: bytes) -> LaneState:
        place = self._place(name)
        if place is None:
            return LaneState()
        body = self._read(place.offset + _HEAD.size, _BODY.size)
        if len(body) < _BODY.size:
            return LaneState()
        values = _BODY.unpack(body)
        state = LaneState(*values[: len(_NUMBERS)])
        for name_of in ("gate_version", "version", "limit"):
            setattr(state, name_of, int(getattr(state, name_of)))
        known = values[len(_NUMBERS) : -_FREE]
        state.processes = {
            process: seen
            for process, seen in zip(known[::2], known[1::2], strict=True)
            if process.strip(b"\0")
        }
        state.free = [lease for lease in values[-_FREE:] if lease]
        return state

    def _save(self, name: bytes, state: LaneState) -> None:
        place = self._place(name) or self.make_room(name, 0)
        latest = sorted(state.processes.items(), key=lambda each: each[1])[-_PROCESSES:]
        processes = [value for each in latest for value in each]
        processes += [b"", 0.0] * (_PROCESSES - len(latest))
        free = state.free[:_FREE]
        numbers = astuple(state)[: len(_NUMBERS)]
        body = _BODY.pack(*numbers, *processes, *free, *[0] * (_FREE - len(free)))
        self._write(place.offset + _HEAD.size, body)

    def make_room(self, name: bytes, cells: int) -> _Place:
        """A lane's place with room for that many cells, all unused; at the end of the file if there
        was less."""
        place = self._place(name)
        if place is not None and place.cells >= cells:
            self._write(place.offset + _HEAD.size + _BODY.size, bytes(cells * _CELL.size))
            return place
        if place is not None:  # nobody finds the old one any more
            self._write(place.offset, _HEAD.pack(_MARK, bytes(16), place.cells))
        place = _Place(self._end, cells)
        size = _BODY.size + cells * _CELL.size
        self._write(place.offset, _HEAD.pack(_MARK, name, cells) + bytes(size))
        self._end += _HEAD.size + size
        self._places[name] = place
        return place

    def cell(self, name: bytes, index: int) -> int:
        """A cell of a lane's grid."""
        place = self._places.get(name)
        if place is None or index >= place.cells:
            return 0
        data = self._read(self._cell_at(place, index), _CELL.size)
        return int(_CELL.unpack(data)[0]) if len(data) == _CELL.size else 0

    def set_cell(self, name: bytes, index: int, value: int) -> None:
        """Use a cell of a lane's grid, or free it with 0."""
        place = self._places[name]
        if index < place.cells:
            self._write(self._cell_at(place, index), _CELL.pack(value))

    @staticmethod
    def _cell_at(place: _Place, index: int) -> int:
        return place.offset + _HEAD.size + _BODY.size + index * _CELL.size


class _FileCells(Cells):
    """The grid of one lane in the file."""

    def __init__(self, store: FileStore, name: bytes) -> None:
        self._store = store
        self._name = name

    def get(self, index: int) -> int:
        return self._store.cell(self._name, index)

    def set(self, index: int, value: int) -> None:
        self._store.set_cell(self._name, index, value)

    def clear(self, limit: int) -> None:
        self._store.make_room(self._name, ring_size(limit) if limit else 0)
