"""What an SQLite journal does in its thread: open the file, write one commit, read, say what is
wrong with it.

Everything here blocks. One thread runs it, so nothing here is locked. Every failure of the disk, of
SQLite or of a damaged row leaves as a `JournalError` that names the file and says what to do.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from .._errors import JournalError
from .._platform import sync_folder
from .outputs import Output, open_output
from .records import Entry
from .schema import FILE, FINISHED, LOOK_UP, Statement, set_up

__all__ = ["Question", "Store", "Work"]

# Seconds another process may take to let go of the file.
_PATIENCE = 1.0
# What reading a damaged row raises; SQLite's own message about it may be no UTF-8 either.
_UNREADABLE = (ValueError, TypeError, msgspec.MsgspecError)
# The statements are right for the tables as they were made. Where SQLite finds a mistake in one,
# the tables are damaged.
_DAMAGE = ("CORRUPT", "NOTADB", "ERROR", "MISMATCH", "CONSTRAINT")


# The number of a post, whose entry is asked for, or a function that is run in the thread.
Question: TypeAlias = int | Callable[[], Any]


class Work(Struct):
    """What one trip to the thread takes along.

    Attributes:
        writes: For each statement, the values of all its rows one after the other.
        lines: What is appended to the output files.
        size: Bytes of these lines.
        asked: Questions, and who waits for each answer.
    """

    writes: dict[Statement, list[Any]] = {}
    lines: dict[Output, list[bytes]] = {}
    size: int = 0
    asked: list[tuple[Question, asyncio.Future[Any]]] = []

    def add(self, write: Statement, *row: Any) -> None:
        self.writes.setdefault(write, []).extend(row)


class Store:
    """The file of an SQLite journal, and the output files that grow with it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._given = str(path)
        self.path = Path(path)
        with suppress(RuntimeError, OSError):  # what cannot be found is told when it is opened
            self.path = self.path.expanduser().absolute()
        self.outputs: dict[str, Output] = {}
        self._db: sqlite3.Connection | None = None

    @property
    def db(self) -> sqlite3.Connection:
        assert self._db is not None
        return self._db

    # --- opening and closing ----------------------------------------------------------------------

    def connect(self) -> None:
        """Open the file, made if it does not exist.

        Raises:
            JournalError: It cannot be used.
        """
        try:
            name = self._given
            # SQLite takes these for a database in memory, or for options.
            if (
                "\0" in name
                or name == ":memory:"
                or name.startswith(("file:", "redis://", "rediss://", "unix://"))
                or self.path.is_dir()
            ):
                raise JournalError(
                    f"The journal {name!r} cannot be opened: give the path of a file. What was "
                    "paid for is remembered there, so it has to outlive this process. Nothing was "
                    "sent."
                )
            new = not self.path.exists() or self.path.stat().st_size == 0
            self._db = sqlite3.connect(
                self.path,
                timeout=_PATIENCE,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=64,
            )
            set_up(self._db, self.path)
            if new:
                sync_folder(self.path.parent)
        except (sqlite3.Error, *_UNREADABLE) as error:
            raise self.explain(error) from error
        except OSError as error:
            raise JournalError(
                f"The journal {self.path} cannot be opened: {error.strerror or error}."
            ) from error

    def disconnect(self, finished: bool) -> None:
        """Close everything. What broke is not `finished`: it leaves its outputs as a crash does,
        for the next run to put in order."""
        for output in self.outputs.values():
            if finished:
                with suppress(sqlite3.Error):
                    FINISHED.run(self.db, (output.name,))
            os.close(output.fd)
        self.outputs.clear()
        if self._db is not None:
            self._db.close()
            self._db = None

    def attach(self, name: str, path: Path) -> Output:
        output = self.outputs[name] = open_output(self.db, self.path, name, path)
        return output

    # --- one trip of the writer -------------------------------------------------------------------

    def do(self, work: Work) -> list[Any]:
        """Commit what `work` writes; answer what it asks, each answer a value or an exception."""
        if work.writes or work.lines:
            try:
                self._save(work)
            except (sqlite3.Error, UnicodeError) as error:
                self._undo(work)
                raise self.explain(error) from error
            except OSError as error:
                self._undo(work)
                raise JournalError(
                    f"The output beside the journal {self.path} cannot be written: "
                    f"{error.strerror or error}. What was recorded before stands; make room and "
                    "run again."
                ) from error
        return self._answers([question for question, _ in work.asked])

    def _save(self, work: Work) -> None:
        self.append(work.lines)
        for output in work.lines:
            work.add(FILE, *output.row())
        self.db.execute("BEGIN IMMEDIATE")
        for write in sorted(work.writes, key=lambda write: write.place):
            write.run(self.db, work.writes[write])
        self.commit()

    def append(self, lines: dict[Output, list[bytes]]) -> None:
        for output, each in lines.items():
            output.append(each)

    def commit(self) -> None:
        self.db.execute("COMMIT")

    def _undo(self, work: Work) -> None:
        """Cut the output files back to what the journal knows. If that fails too, the next run does
        it."""
        with suppress(sqlite3.Error):
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
        with suppress(sqlite3.Error, OSError):
            for output in work.lines:
                row = self.db.execute(
                    "SELECT length FROM outputs WHERE name = ?", (output.name,)
                ).fetchone()
                os.ftruncate(output.fd, row[0])

    def _answers(self, questions: list[Question]) -> list[Any]:
        numbers = [question for question in questions if isinstance(question, int)]
        entries: dict[int, Entry] | None = None
        with suppress(sqlite3.Error, *_UNREADABLE):  # then it is the error of who asked for it
            entries = self._entries(numbers)
        return [
            entries.get(question)
            if isinstance(question, int) and entries is not None
            else self._answer(question)
            for question in questions
        ]

    def _answer(self, question: Question) -> Any:
        try:
            if isinstance(question, int):
                return self._entries([question]).get(question)
            return question()
        except (sqlite3.Error, *_UNREADABLE) as error:
            told = self.explain(error)
            told.__cause__ = error
            return told
        except Exception as error:  # the reader's own, for whoever asked
            return error

    def _entries(self, numbers: list[int]) -> dict[int, Entry]:
        return {
            number: Entry(
                status, url, bool(unsure), analyzed_at, bool(written), cursor, bool(walked)
            )
            for number, status, url, unsure, analyzed_at, written, cursor, walked in LOOK_UP.run(
                self.db, numbers
            )
        }

    # --- what is wrong ----------------------------------------------------------------------------

    def explain(self, error: Exception) -> JournalError:
        """What SQLite's error, or that of an unreadable row, means for the user."""
        code = (getattr(error, "sqlite_errorname", "") or "").removeprefix("SQLITE_")
        if code.startswith(("BUSY", "LOCKED")):
            return JournalError(
                f"The journal {self.path} is in use by another process, or by another Journal of "
                "this one. Two runs must not share a journal, or both would pay. Wait for the "
                "other, or give another path."
            )
        if (
            code.startswith(_DAMAGE)
            or isinstance(error, _UNREADABLE)
            or str(error).startswith("Could not decode")
        ):
            return JournalError(
                f"The journal {self.path} is damaged ({error}). It is left as it is. Restore it "
                "from a copy; or begin with a new one, which may pay again for what only this one "
                "remembered."
            )
        if code.startswith("CANTOPEN"):
            return JournalError(
                f"The journal {self.path} cannot be opened: no such folder, or no permission."
            )
        return JournalError(
            f"The journal {self.path} cannot be written: {error}. What was recorded before stands; "
            "make room and run again with the same journal."
        )
