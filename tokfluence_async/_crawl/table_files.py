"""`crawl --format csv|parquet`: tables beside the JSON lines, written as those grow.

The JSON lines stay the record of a crawl: they are what can be resumed after any death, and they
hold every field the server sent. A table is made by following them, and takes its name when it is
complete: a killed crawl leaves the table of the run before it, or none, and the next run makes it
anew from all lines. Memory holds one row group.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from msgspec import Struct

from .._errors import JournalError
from .._models import Comment, Post
from .._tasks import finish
from .._wire.shapes import DECODING_ERRORS
from .files import NewFile, whole_lines
from .folder import CrawlFolder
from .tables import LineReader, make_encoder

__all__ = ["Follower", "TableFile"]

_EVERY = 1.0


class CommentLine(Comment, frozen=True, gc=False):
    """A line of comments.jsonl: the service's comment with its post's id in front."""

    post_id: str


class TableFile:
    """The table that follows a crawl's file of JSON lines, beside it and of its name."""

    def __init__(self, lines: Path, form: str, *, mark: bool = False) -> None:
        row_type: type[Struct] = Post if lines.stem == "posts" else CommentLine
        self._lines = lines
        self._reader = LineReader(row_type)
        self._rows = make_encoder(form, row_type, mark=mark)
        self._file = NewFile(lines.with_suffix(f".{form}"))
        self._at = 0

    def follow(self) -> None:
        """Take over the lines that have been completed since."""
        try:
            source = self._lines.open("rb")
        except FileNotFoundError:
            return
        with source:
            source.seek(self._at)
            for lines in whole_lines(source):
                if lines.endswith(b"\n"):  # else it is under way
                    self._file.write(self._rows.encode(self._read(lines)))
                    self._at += len(lines)

    def _read(self, lines: bytes) -> list[Any]:
        try:
            return self._reader.read(lines)
        except DECODING_ERRORS as error:
            raise JournalError(
                f"{self._lines} holds a line that cannot be read ({error}), so there is no table "
                "of it. Take the line out, or run without --format."
            ) from None

    def finish(self) -> None:
        """Take over all lines, and give the table its name."""
        self.follow()
        self._file.write(self._rows.end())
        self._file.keep()

    def close(self) -> None:
        """Give up; a table that has its name stays."""
        self._file.close()


class Follower:
    """Follows the files of a crawl inside `async with`; at its end the tables are complete.

    Args:
        form: "csv" or "parquet".
        comments: Whether there will be comments.
        mark: Begin CSV with a byte order mark.
    """

    def __init__(
        self, folder: CrawlFolder, form: str, *, comments: bool, mark: bool = False
    ) -> None:
        self._folder = folder.path
        self._form = form
        files = [folder.posts, folder.comments] if comments else [folder.posts]
        self._tables = [TableFile(lines, form, mark=mark) for lines in files]
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start to follow. Call it when the crawl is under way: by then it holds the folder, and
        has repaired what an earlier run left at the ends of the files."""
        if self._task is None:
            # Left by a run that was killed.
            for left in self._folder.glob(f".*.{self._form}.*.part"):
                left.unlink()
            self._task = asyncio.create_task(self._keep_up())

    async def __aenter__(self) -> Follower:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._task is not None:
                self._task.cancel()
                # It waits for the thread: with another one it would write the same lines twice.
                with contextlib.suppress(asyncio.CancelledError):
                    await self._task
            if kind is None:
                for table in self._tables:
                    await asyncio.to_thread(table.finish)
        finally:
            for table in self._tables:
                table.close()

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            for table in self._tables:
                await finish(asyncio.to_thread(table.follow))
