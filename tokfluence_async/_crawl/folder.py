"""The folder of a crawl: which files belong to it, and whether a client may go on with it.

    posts.jsonl  comments.jsonl  failures.jsonl   what the crawl is for
    posts.csv, comments.parquet and so on         tables that the command makes of them
    journal.sqlite                                what was paid for and written
    .origin                                       where the posts come from: its first line
    .shard                                        which part of a job it is: its first line

A run goes on where the journal ends. So a folder holds what one origin gave: posts that a sandbox
made up must not count as the service's, and as done. All addresses of this machine are one origin,
because each sandbox listens on a port of its own.

The path is made absolute at once: a program may change its working directory during a crawl.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from .._bulk.shards import Shard, ShardFilter
from .._errors import ConfigurationError
from .._text import one_line
from .files import writing

if TYPE_CHECKING:
    from .._journal.journal import Journal

__all__ = ["LOCAL", "CrawlFolder", "ShardMark", "known_as"]

_MARK = re.compile(
    r"([0-9]{1,9})/([0-9]{1,9})\n(?:done: ([0-9]{1,19}) inputs, ([0-9a-f]{16})\n)?", re.ASCII
)
_LONGEST_MARK = 4096  # bytes
# The name under which all origins on this machine are remembered.
LOCAL = "localhost"


class ShardMark(NamedTuple):
    """What a folder says of its shard.

    Attributes:
        inputs: Inputs that its job has, all shards together; None as long as no run has tried
            everything.
        fingerprint: Theirs; shards with different ones have read different lists.
    """

    shard: Shard
    inputs: int | None
    fingerprint: str | None


class CrawlFolder:
    """The paths in a crawl's folder, and the rules for using it.

    Args:
        path: The folder; `~` is the user's home.

    Raises:
        ConfigurationError: The path has no absolute form, as `~` without a home.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self.path = Path(path).expanduser().absolute()
        except (RuntimeError, OSError) as error:
            raise ConfigurationError(
                f"The output folder {str(path)!r} cannot be found: {error}. Nothing was sent."
            ) from None
        self.posts = self.path / "posts.jsonl"
        self.comments = self.path / "comments.jsonl"
        self.failures = self.path / "failures.jsonl"
        self.journal = self.path / "journal.sqlite"
        self._origin = self.path / ".origin"
        self._shard = self.path / ".shard"
        # The command of earlier versions left this one in its sandbox's folders.
        self._sandbox = self.path / ".sandbox"

    def prepare(self) -> None:
        """Make the folder, and see that it can be written.

        Raises:
            ConfigurationError: It cannot be made or written.
        """
        lacking = "made"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lacking = "written"
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except FileExistsError:
            raise ConfigurationError(
                f"The output folder {self.path} is a file. Nothing was sent."
            ) from None
        except OSError as error:
            raise ConfigurationError(
                f"The output folder {self.path} cannot be {lacking}: {error.strerror or error}. "
                "Nothing was sent."
            ) from None

    def origin(self) -> str | None:
        """Where the folder's posts come from, as `known_as` writes it; None if nobody has said."""
        return self._read_mark()[1]

    def shard(self) -> ShardMark | None:
        """Which part of a job the folder is; None if it is no shard."""
        match = _MARK.match("".join(line + "\n" for line in _lines(self._shard)))
        if match is None:
            return None
        index, count, seen, fingerprint = match.groups()
        shard = Shard(int(index), int(count))
        return ShardMark(shard, None if seen is None else int(seen), fingerprint)

    async def claim(self, journal: Journal, origin: str, shard: Shard | None) -> None:
        """Refuse a folder that holds what another origin gave, or another shard; remember `origin`
        and `shard` in any other.

        A folder without a mark, as earlier versions left it, is taken as this origin's. The marks
        of a crawl that got nothing are replaced.

        Raises:
            ConfigurationError: It holds something else.
            JournalError: A mark cannot be written.
        """
        await self._claim_origin(journal, origin)
        mark = self.shard()
        before = None if mark is None else mark.shard
        if before != shard and not await journal.is_empty():
            raise ConfigurationError(
                f"{self.path} holds {_called(before)}, and this run is {_called(shard)}. Give each "
                "shard a folder of its own, and one number of shards to a job. Nothing was sent."
            )
        if shard is None:
            self._shard.unlink(missing_ok=True)
        else:
            self._write(self._shard, f"{shard}\n")

    def shard_is_done(self, shard: Shard, only: ShardFilter) -> None:
        """Remember that a run has tried everything, and which list of inputs it has read.

        Raises:
            JournalError: The mark cannot be written.
        """
        self._write(
            self._shard, f"{shard}\ndone: {only.seen} inputs, {only.fingerprint:016x}\n", ""
        )

    async def _claim_origin(self, journal: Journal, origin: str) -> None:
        mark, before = self._read_mark()
        now = known_as(origin)
        if before == now:
            return
        if before is not None and not await journal.is_empty():
            raise ConfigurationError(
                f"{self.path} holds a crawl of {one_line(before, 200)}, and this client is one of "
                f"{now}. Give another folder, so that a sandbox's posts and the service's are not "
                f"mixed; or delete {mark} if both addresses lead to the same service. Nothing was "
                "sent."
            )
        self._write(
            self._origin,
            f"{now}\nThe posts and comments in this folder come from there. A crawl of another "
            "address is refused.\n",
        )

    def _write(self, mark: Path, text: str, more: str = " Nothing was sent.") -> None:
        # Beside the mark, which a full disk must not empty: it says whose the folder is.
        new = mark.with_name(f"{mark.name}.part")
        with writing(mark, more):
            try:
                new.write_text(text, "utf-8", newline="\n")
                new.replace(mark)
            finally:
                new.unlink(missing_ok=True)

    def remove(self) -> None:
        """Take back a folder that a run has made and got nothing for; files of others stay."""
        output = (self.posts, self.comments, self.failures)
        journal = [self.journal.with_name(self.journal.name + end) for end in ("", "-wal", "-shm")]
        for path in (self._origin, self._shard, *output, *journal):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # somebody else has put something in it
            self.path.rmdir()

    def _read_mark(self) -> tuple[Path, str | None]:
        first = next(iter(_lines(self._origin)), "")
        if first:  # a power cut can leave an empty file
            return self._origin, first
        return (self._sandbox, LOCAL) if self._sandbox.exists() else (self._origin, None)


def _lines(mark: Path) -> list[str]:
    """The lines of a mark, without what editors and git put around them; none if it is not
    there."""
    try:
        with mark.open("rb") as file:
            text = file.read(_LONGEST_MARK).decode("utf-8-sig", "replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines()]


def _called(shard: Shard | None) -> str:
    return "a crawl without shards" if shard is None else f"shard {shard}"


def known_as(origin: str) -> str:
    """The name under which an origin is remembered: itself, or `LOCAL` for any on this machine."""
    host = urlsplit(origin).hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == LOCAL or host.endswith("." + LOCAL)
    return LOCAL if local else origin
