"""Files that are written anew as a whole: the failures of a run, tables, what shards are merged to.

Such a file is written beside the one whose place it takes when it is complete. A run that is killed
leaves the file of the run before it.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .._errors import JournalError

__all__ = ["NewFile", "whole_lines", "writing"]

_CHUNK = 2**20


@contextmanager
def writing(path: Path, more: str = "") -> Generator[None]:
    """Raise `JournalError` for what the system refuses; its message ends with `more`."""
    try:
        yield
    except OSError as error:
        raise JournalError(f"{path} cannot be written: {error.strerror or error}.{more}") from error


def whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """What a file holds, many whole lines at a time. What follows the end of the last line comes
    last."""
    rest = b""
    while chunk := file.read(_CHUNK):
        end = chunk.rfind(b"\n") + 1
        if end:
            yield rest + chunk[:end]
            rest = b""
        rest += chunk[end:]
    if rest:
        yield rest


class NewFile:
    """What a file will hold. `keep` gives it its name; `close` removes it, if it has none yet. It
    is made by `open`, or by the first `write`.

    Args:
        beside: Its name until then.

    Raises:
        JournalError: From `open`, `write` and `keep`: the disk is full, say.
    """

    def __init__(self, path: Path, beside: str | None = None) -> None:
        self._path = path
        self._new = path.with_name(beside or f".{path.name}.{os.getpid()}.part")
        self._file: BinaryIO | None = None

    def open(self, more: str = "") -> None:
        with writing(self._new, more):
            self._file = self._new.open("wb")

    def write(self, data: bytes) -> None:
        if self._file is None:
            self.open()
        assert self._file is not None
        with writing(self._new):
            self._file.write(data)

    def keep(self) -> None:
        assert self._file is not None
        with writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._new.replace(self._path)

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # a full disk, which was met before
                self._file.close()
            self._new.unlink(missing_ok=True)
