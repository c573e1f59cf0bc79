"""Files of JSON lines that grow in step with the journal.

A commit writes the lines, syncs the files, and only then records their new lengths, together with
the rows that say what the lines hold. After a crash a file is cut to its recorded length: torn
lines, and lines the journal knows nothing of, go. They are bought and written again.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from .._errors import JournalError
from .._platform import OPEN_FLAGS, sync_data, sync_folder, write_all
from .._text import plural
from .schema import LENGTH

__all__ = ["Output", "open_output"]


class Output:
    """A file of JSON lines that grows in step with the journal; see `SQLiteJournal.attach`.

    Attributes:
        length: Bytes it will have when everything given so far is written.
        durable: Bytes that the journal has recorded.
    """

    __slots__ = ("durable", "fd", "length", "name", "path")

    def __init__(self, name: str, path: Path, fd: int, length: int) -> None:
        self.name = name
        self.path = path
        self.fd = fd
        self.length = length
        self.durable = length

    def append(self, lines: list[bytes]) -> None:
        """Write lines, and return when they are on disk."""
        write_all(self.fd, lines)
        sync_data(self.fd)
        self.durable += sum(map(len, lines))

    def cut(self, length: int) -> None:
        """Take back what was written behind `length`."""
        os.ftruncate(self.fd, length)

    def close(self) -> None:
        os.close(self.fd)


def open_output(db: sqlite3.Connection, journal: Path, name: str, path: Path) -> Output:
    """Open an output file, made if it does not exist, and cut what the journal knows nothing of.

    Raises:
        JournalError: It cannot be written; or it does not belong to this journal. Neither is
            touched.
    """
    row = db.execute("SELECT length FROM outputs WHERE name = ?", (name,)).fetchone()
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | OPEN_FLAGS, 0o666)
    except OSError as error:
        raise JournalError(f"{path} cannot be written: {error.strerror}.") from error
    try:
        size = os.fstat(fd).st_size
        if row is None and size:
            raise JournalError(
                f"{path} holds {plural(size, 'byte')}, but the journal {journal} knows nothing of "
                "them: it is new, or another crawl's. Give the folder's own journal, or another "
                "folder."
            )
        length: int = row[0] if row else 0
        if size < length:
            raise JournalError(
                f"{path} has {plural(size, 'byte')}, {length - size:,} less than the journal "
                f"{journal} says were written. Restore it, or begin in another folder."
            )
        os.ftruncate(fd, length)
        if row is None:
            sync_folder(path.parent)
            LENGTH.run(db, (name, 0))
    except BaseException:
        os.close(fd)
        raise
    return Output(name, path, fd, length)
