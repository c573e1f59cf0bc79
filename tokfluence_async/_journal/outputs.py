"""Files of JSON lines that grow in step with the journal.

A commit writes the lines, syncs the files, and only then records their new lengths, together with
the rows that say what the lines hold. So a crash leaves lines behind the recorded length, the last
one torn perhaps. They are cut, to be bought and written again.

People edit such files between runs: a column added with jq, other line ends, a line appended.
Nothing of that is cut. The part that was recorded has to be what was written, which a checksum
says, and what follows it has to be what a crash can have left. All else is a `JournalError`, and
the file stays as it is. `docs/design/journal.md` lists what counts as left by a crash.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from .._errors import JournalError
from .._platform import OPEN_FLAGS, read_at, sync_data, sync_folder, write_all
from .._text import plural
from .._wire.ids import signed
from .schema import FILE

__all__ = ["Output", "open_output"]

_CHUNK = 2**20
# A line longer than this was not written by a crawl: answers are bounded.
_LONGEST = 256 * 2**20


class Output(Struct, eq=False):
    """A file of JSON lines that grows in step with the journal; see `SQLiteJournal.attach`.

    Attributes:
        length: Bytes it will have when everything given so far is written.
        durable: Bytes that the journal has recorded, or is about to.
        checksum: Theirs.
    """

    name: str
    fd: int
    length: int
    durable: int
    checksum: int

    def append(self, lines: list[bytes]) -> None:
        """Write lines, and return when they are on disk."""
        write_all(self.fd, lines)
        sync_data(self.fd)
        for line in lines:
            self.checksum = zlib.crc32(line, self.checksum)
            self.durable += len(line)

    def row(self) -> tuple[str, int, int, int]:
        """What the journal records of the file: name, length, checksum, time of the last write."""
        return self.name, self.durable, self.checksum, os.fstat(self.fd).st_mtime_ns


class _Recorded(Struct, frozen=True):
    """What the journal knows of an output; format 2 knew its length alone.

    Attributes:
        changed_at: The file's own time of its last change, in nanoseconds.
        finished: Whether the last run ended in order.
    """

    length: int = 0
    checksum: int | None = None
    changed_at: int | None = None
    finished: bool = False


class _Ids(Struct, frozen=True):
    post_id: str | None = None


_line = msgspec.json.Decoder(_Ids)


def open_output(db: sqlite3.Connection, journal: Path, name: str, path: Path) -> Output:
    """Open an output file, made if it is new, and cut what a crash has left.

    Raises:
        JournalError: It cannot be written, or is not what the journal says was written. Neither is
            touched.
    """
    row = db.execute(
        "SELECT length, checksum, changed_at, finished FROM outputs WHERE name = ?", (name,)
    ).fetchone()
    recorded = _Recorded(*row) if row else _Recorded()
    fd = _open(path, journal, recorded.length)
    try:
        if row is None and (size := os.fstat(fd).st_size):
            raise JournalError(
                f"{path} holds {plural(size, 'byte')}, but the journal {journal} knows nothing of "
                "them: it is new, or another crawl's. Put the folder's own journal back, or give "
                "another folder. Nothing was sent."
            )
        checksum = _check(fd, path, journal, recorded, _is_known(db, name))
        os.ftruncate(fd, recorded.length)
        sync_folder(path.parent)
        output = Output(name, fd, recorded.length, recorded.length, checksum)
        FILE.run(db, output.row())
    except BaseException:
        os.close(fd)
        raise
    return output


def _open(path: Path, journal: Path, length: int) -> int:
    # A file that was deleted is not made anew: its posts would count as written.
    make = 0 if length else os.O_CREAT
    try:
        return os.open(path, os.O_RDWR | make | os.O_APPEND | OPEN_FLAGS, 0o666)
    except FileNotFoundError:
        if make:
            raise JournalError(f"{path} cannot be made. Nothing was sent.") from None
        raise JournalError(
            f"{path} is missing, but the journal {journal} says that {plural(length, 'byte')} were "
            "written to it. Put it back, or begin in another folder. Nothing was sent."
        ) from None
    except OSError as error:
        raise JournalError(
            f"{path} cannot be written: {error.strerror}. Nothing was sent."
        ) from error


def _check(
    fd: int, path: Path, journal: Path, recorded: _Recorded, is_known: Callable[[str], bool]
) -> int:
    """See that a file is what was recorded, and what a crash has left. Returns its checksum."""
    found = os.fstat(fd)
    length = recorded.length
    if found.st_size < length:
        raise JournalError(
            f"{path} has {plural(found.st_size, 'byte')}, {length - found.st_size:,} less than the "
            f"journal {journal} says were written. Put it back as it was, or begin in another "
            "folder. Nothing was sent."
        )
    checksum = recorded.checksum
    untouched = (found.st_size, found.st_mtime_ns) == (length, recorded.changed_at)
    if checksum is None or not untouched:
        checksum = _checksum_of(fd, length)
    whole_lines = not length or read_at(fd, 1, length - 1) == b"\n"
    if not whole_lines or checksum != (recorded.checksum or checksum):
        raise JournalError(
            f"{path} was changed since the last run: what it holds is not what the journal "
            f"{journal} says was written. Put it back as it was, or begin in another folder; keep "
            "what you edit somewhere else. Nothing was sent."
        )
    if found.st_size > length and not _left_by_a_crash(path, recorded, is_known):
        raise JournalError(
            f"{path} was changed since the last run: {plural(found.st_size - length, 'byte')} "
            f"follow the {length:,} that the journal {journal} says were written. Take them out "
            f"(`truncate -s {length} {path}`), or begin in another folder. Nothing was sent."
        )
    return checksum


def _checksum_of(fd: int, length: int) -> int:
    checksum = at = 0
    while at < length and (chunk := read_at(fd, min(_CHUNK, length - at), at)):
        checksum = zlib.crc32(chunk, checksum)
        at += len(chunk)
    return checksum


def _left_by_a_crash(path: Path, recorded: _Recorded, is_known: Callable[[str], bool]) -> bool:
    """Whether what follows the recorded part can be lines whose commit did not come.

    Such lines name posts that the journal does not know as done. Whole lines are left by a run
    that was killed, not by one that ended in order. A torn line is left by a write that was
    interrupted; nobody else leaves one.
    """
    [last] = deque(_lines(path, recorded.length), maxlen=1)
    torn = not last.endswith(b"\n")
    if not _is_torn(last) if torn else recorded.finished:
        return False
    for line in _lines(path, recorded.length):
        # No JSON text holds a zero byte: blocks that a power cut left unwritten.
        if b"\0" in line or not line.endswith(b"\n"):
            continue
        post_id = _post_of(line)
        if post_id is None or (post_id == "" and not torn) or (post_id and is_known(post_id)):
            return False
    return True


def _lines(path: Path, at: int) -> Iterator[bytes]:
    """The lines from `at`, with their ends; the last may have none."""
    with path.open("rb") as file:
        file.seek(at)
        yield from iter(lambda: file.readline(_LONGEST), b"")


def _is_torn(piece: bytes) -> bool:
    """Whether a piece is the beginning of a line and not all of it, or was never written."""
    if not piece.startswith((b"{", b"\0")):
        return False
    try:
        msgspec.json.decode(piece)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True
    return False


def _post_of(line: bytes) -> str | None:
    """The post that a line names, "" if it is an object that names none; None: no object."""
    try:
        return _line.decode(line).post_id or ""
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _is_known(db: sqlite3.Connection, name: str) -> Callable[[str], bool]:
    """Whether a post is done in this output: written to it, or all its comments."""
    column = "walked" if name == "comments.jsonl" else "written"

    def is_known(post_id: str) -> bool:
        if not post_id.isascii() or not post_id.isdigit() or len(post_id) > 20:
            return True  # no line of ours
        row: Any = db.execute(
            f"SELECT {column} FROM posts WHERE post_id = ?",  # noqa: S608 - two words of ours
            (signed(post_id),),
        ).fetchone()
        return bool(row and row[0])

    return is_known
