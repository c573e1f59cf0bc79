"""The tables of an SQLite journal, the statements that write them, and the upgrades from older
formats.

A statement takes many rows at once. After each one, the thread has to wait for the interpreter, up
to 5 ms while the event loop computes: beside a busy loop a thousand rows took 4 s one by one, and a
tenth of that in hundreds.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Sequence
from typing import Any

from .._errors import JournalError

__all__ = [
    "ANALYZED",
    "FILE",
    "FINISHED",
    "GONE",
    "LEARNT",
    "LOOK_UP",
    "NO_PAGES",
    "PAGE",
    "SENDING",
    "SENDING_AGAIN",
    "WALKED",
    "WRITTEN",
    "Statement",
    "set_up",
]

_APPLICATION = 0x746B666A  # "tkfj"
_FORMAT = 3
_VALUES = 500  # in one statement; old SQLites allow 999

_TABLES = """
CREATE TABLE batches (
    request_id TEXT PRIMARY KEY, sent_at REAL NOT NULL, posts BLOB NOT NULL, sent_again_at REAL
) WITHOUT ROWID;
CREATE TABLE posts (
    post_id INTEGER PRIMARY KEY, status TEXT, url TEXT, unsure INTEGER NOT NULL DEFAULT 0,
    analyzed_at REAL, written INTEGER NOT NULL DEFAULT 0, cursor INTEGER NOT NULL DEFAULT 0,
    walked INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE pages (
    post_id INTEGER NOT NULL, cursor INTEGER NOT NULL, start INTEGER NOT NULL,
    length INTEGER NOT NULL, PRIMARY KEY (post_id, cursor)
) WITHOUT ROWID;
CREATE TABLE outputs (
    name TEXT PRIMARY KEY, length INTEGER NOT NULL, checksum INTEGER, changed_at INTEGER,
    finished INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE learnt (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
"""

# Columns that later formats brought: table, column, type.
_ADDED = (
    ("batches", "sent_again_at", "REAL"),  # format 2
    ("outputs", "checksum", "INTEGER"),  # format 3
    ("outputs", "changed_at", "INTEGER"),
    ("outputs", "finished", "INTEGER NOT NULL DEFAULT 0"),
)


class Statement:
    """A statement for many rows at once, or for one at a time where `row` is empty.

    Attributes:
        place: In the order within a commit, which is that of this file.
    """

    _places = itertools.count()

    def __init__(self, before: str, row: str = "", after: str = "") -> None:
        self.place = next(self._places)
        self._before, self._row, self._after = before, row, after
        self._width = (row or before).count("?")
        self._most = _VALUES // self._width if row else 1

    def run(self, db: sqlite3.Connection, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run it for `values`, the rows' values one after the other. Returns what it finds."""
        found: list[tuple[Any, ...]] = []
        step = self._width * self._most
        for at in range(0, len(values), step):
            part = values[at : at + step]
            rows = ", ".join([self._row] * (len(part) // self._width))
            found += db.execute(f"{self._before} {rows} {self._after}", part)
        return found


# A commit runs them in this order, whatever the order they were given in: a post is analyzed before
# it is written, and written before its comments; its pages are forgotten when no more are to come.
SENDING = Statement("INSERT INTO batches VALUES", "(?, ?, ?, NULL)")
SENDING_AGAIN = Statement("UPDATE batches SET sent_again_at = ? WHERE request_id = ?")
GONE = Statement("DELETE FROM batches WHERE request_id IN (", "?", ")")
ANALYZED = Statement(
    "INSERT INTO posts (post_id, status, url, unsure, analyzed_at) VALUES",
    "(?, ?, ?, ?, ?)",
    "ON CONFLICT (post_id) DO UPDATE SET status = excluded.status, url = excluded.url, "
    "unsure = excluded.unsure, analyzed_at = excluded.analyzed_at",
)
WRITTEN = Statement(
    "INSERT INTO posts (post_id, written) VALUES",
    "(?, 1)",
    "ON CONFLICT (post_id) DO UPDATE SET written = 1, unsure = 0",
)
WALKED = Statement(
    "INSERT INTO posts (cursor, walked, post_id) VALUES",
    "(?, ?, ?)",
    "ON CONFLICT (post_id) DO UPDATE SET cursor = excluded.cursor, walked = excluded.walked",
)
PAGE = Statement("INSERT OR REPLACE INTO pages VALUES", "(?, ?, ?, ?)")
NO_PAGES = Statement("DELETE FROM pages WHERE post_id IN (", "?", ")")
FILE = Statement(
    "INSERT INTO outputs VALUES",
    "(?, ?, ?, ?, 0)",
    "ON CONFLICT (name) DO UPDATE SET length = excluded.length, checksum = excluded.checksum, "
    "changed_at = excluded.changed_at, finished = 0",
)
FINISHED = Statement("UPDATE outputs SET finished = 1 WHERE name = ?")
LEARNT = Statement(
    "INSERT INTO learnt VALUES", "(?, ?)", "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
LOOK_UP = Statement(
    "SELECT post_id, status, url, unsure, analyzed_at, written, cursor, walked FROM posts "
    "WHERE post_id IN (",
    "?",
    ")",
)


def set_up(db: sqlite3.Connection, path: object) -> None:
    """Make the tables, or check and upgrade those that are there. Holds the file's lock from now
    on.

    Raises:
        JournalError: The file is another program's, or of a newer version.
        ValueError: It is damaged.
        sqlite3.Error: It is locked, damaged or cannot be written.
    """
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and application != _APPLICATION:
        raise JournalError(
            f"{path} is an SQLite database, but no journal of this package; give another path."
        )
    if version > _FORMAT:
        raise JournalError(
            f"The journal {path} was written by a newer version of this package (format {version}, "
            f"this one reads up to {_FORMAT}). Update tokfluence_async, or give another path."
        )
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA cache_size = -8192")
    if tables and (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise ValueError(found)
    # A write takes the lock, and shows here and now whether one is possible.
    db.execute("BEGIN IMMEDIATE")
    if tables:
        statements = [
            f"ALTER TABLE {table} ADD COLUMN {column} {kind}"
            for table, column, kind in _ADDED
            if column not in {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
        ]
    else:
        statements = [*_TABLES.split(";"), f"PRAGMA application_id = {_APPLICATION}"]
    for sql in [*statements, f"PRAGMA user_version = {_FORMAT}"]:
        db.execute(sql)
    db.execute("COMMIT")
