"""Shards of one job put together: their posts, comments, failures and tables in one folder.

The lines are copied as they are, shard after shard, as `cat` would do it. Before anything is
written, the folders have to be shards of one job: of one number of shards, from one origin, each
given once, and those that are done made from the same list of inputs. What is missing is reported,
and what is there is merged all the same.

Each post falls to one shard, so nothing has to be folded; each line is checked for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
from msgspec import Struct

from .._bulk.shards import Shard
from .._errors import ConfigurationError, JournalError
from .._text import plural
from .files import NewFile, whole_lines
from .folder import CrawlFolder, ShardMark
from .table_files import TableFile

__all__ = ["MergeReport", "merge"]

_FORMATS = ("csv", "parquet")


class MergeReport(Struct, frozen=True, kw_only=True):
    """What `merge` has put together.

    Attributes:
        posts, comments, failed: Lines in each of the merged files.
        tables: The names of the tables that were made.
        missing: What is missing, a sentence for each; empty if the job is complete.
    """

    posts: int
    comments: int
    failed: int
    tables: list[str]
    missing: list[str]


class _Part(NamedTuple):
    """A shard's folder and its mark."""

    folder: CrawlFolder
    mark: ShardMark

    @property
    def is_done(self) -> bool:
        return self.mark.inputs is not None


class _PostId(Struct, frozen=True, gc=False):
    post_id: str


_post_ids = msgspec.json.Decoder(_PostId)


def merge(folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> MergeReport:
    """Put the shards in `folders` together in the folder `out`.

    `out` gets `posts.jsonl`, `failures.jsonl`, `comments.jsonl` where shards have comments, and the
    tables that shards have. An `out` of an earlier merge is replaced.

    Raises:
        ConfigurationError: The folders are no shards of one job, or `out` holds something else.
            Nothing was written.
        JournalError: A file of a shard was edited, or one of `out` cannot be written.
        ModuleNotFoundError: Shards have Parquet tables, and pyarrow is not installed.
    """
    parts = _parts(folders)
    _check_job(parts)
    target = CrawlFolder(out)
    mark = target.path / ".merged"
    _prepare(target, mark)
    with_comments = [part for part in parts if part.folder.comments.exists()]
    posts = _write(target.posts, parts)
    comments = 0
    if with_comments:
        comments = _write(target.comments, with_comments)
    else:
        target.comments.unlink(missing_ok=True)
    failed = _write(target.failures, parts, checked=False)
    tables = _write_tables(target, parts)
    mark.write_text("The shards of a crawl, merged.\n", "utf-8", newline="\n")
    return MergeReport(
        posts=posts,
        comments=comments,
        failed=failed,
        tables=tables,
        missing=_missing(parts, with_comments),
    )


def _parts(folders: Sequence[str | os.PathLike[str]]) -> list[_Part]:
    if not folders:
        raise ConfigurationError("Give the folders of the shards. Nothing was written.")
    parts: list[_Part] = []
    for path in folders:
        folder = CrawlFolder(path)
        mark = folder.shard()
        if mark is None:
            what = "no shard of a crawl" if folder.path.is_dir() else "no folder"
            raise ConfigurationError(f"{folder.path} is {what}. Nothing was written.")
        parts.append(_Part(folder, mark))
    return sorted(parts, key=lambda part: part.mark.shard.number)


def _check_job(parts: list[_Part]) -> None:
    """Refuse folders that are not of one job."""
    for one, other in pairwise(parts):
        origins = one.folder.origin(), other.folder.origin()
        if one.mark.shard.total != other.mark.shard.total:
            _refuse(one, other, "they are not of one number of shards")
        if origins[0] != origins[1]:
            _refuse(one, other, f"they hold posts of {origins[0]} and of {origins[1]}")
        if one.mark.shard == other.mark.shard:
            _refuse(one, other, "they are the same shard")
    for one, other in pairwise(part for part in parts if part.is_done):
        if one.mark[1:] != other.mark[1:]:
            inputs = plural(one.mark.inputs or 0, "input")
            _refuse(
                one,
                other,
                f"they were made from different lists, of {inputs} and of {other.mark.inputs:,}; "
                "run both again with the same list",
            )


def _refuse(one: _Part, other: _Part, why: str) -> None:
    raise ConfigurationError(
        f"{one.folder.path} (shard {one.mark.shard}) and {other.folder.path} (shard "
        f"{other.mark.shard}) are not of one job: {why}. Nothing was written."
    )


def _missing(parts: list[_Part], with_comments: list[_Part]) -> list[str]:
    total = parts[0].mark.shard.total
    given = {part.mark.shard.number for part in parts}
    missing = [f"Shard {Shard(n, total)} was not given." for n in range(total) if n not in given]
    for part in parts:
        if not part.is_done:
            missing.append(
                f"Shard {part.mark.shard} in {part.folder.path} is not done; run it again."
            )
        elif with_comments and part not in with_comments:
            missing.append(f"Shard {part.mark.shard} in {part.folder.path} has no comments.")
    return missing


def _prepare(target: CrawlFolder, mark: Path) -> None:
    """Make the folder, and refuse one that holds anything but an earlier merge."""
    if target.journal.exists() or target.shard() is not None:
        raise ConfigurationError(
            f"{target.path} holds a crawl; give another folder. Nothing was written."
        )
    if target.posts.exists() and not mark.exists():
        raise ConfigurationError(
            f"{target.posts} is not of a merge; give another folder. Nothing was written."
        )
    try:
        target.prepare()
    except ConfigurationError as error:
        told = str(error).replace("Nothing was sent", "Nothing was written")
        raise ConfigurationError(told) from None


def _write(path: Path, parts: list[_Part], *, checked: bool = True) -> int:
    """Copy the lines that the shards have under the same name, after a look whose they are if
    `checked`. Returns their number."""
    count = 0
    with closing(NewFile(path)) as file:
        file.open()
        for part in parts:
            for lines in _lines(part.folder.path / path.name, part, checked):
                file.write(lines)
                count += lines.count(b"\n")
        file.keep()
    return count


def _write_tables(target: CrawlFolder, parts: list[_Part]) -> list[str]:
    """Make the tables that a shard has, of the merged lines, and remove others of an earlier
    merge."""
    tables: list[str] = []
    for form in _FORMATS:
        for lines in (target.posts, target.comments):
            table = lines.with_suffix("." + form)
            if any((part.folder.path / table.name).exists() for part in parts):
                with closing(TableFile(lines, form)) as file:
                    file.finish()
                tables.append(table.name)
            else:
                table.unlink(missing_ok=True)
    return tables


def _lines(path: Path, part: _Part, checked: bool) -> Iterator[bytes]:
    """The lines of a file, many at a time. A shard that is not done may end in a torn line, which
    is left out."""
    done = part.is_done or not checked
    try:
        file: BinaryIO = path.open("rb")
    except FileNotFoundError:
        if part.is_done and checked:
            raise _edited(path, "it is missing") from None
        return
    with file:
        for lines in whole_lines(file):
            if lines.endswith(b"\n"):
                if checked:
                    _check_lines(lines, path, part.mark.shard)
                yield lines
            elif done:
                raise _edited(path, "its last line is torn")


def _check_lines(lines: bytes, path: Path, shard: Shard) -> None:
    """See that all lines are of posts that fall to the shard."""
    try:
        ids = {line.post_id for line in _post_ids.decode_lines(lines)}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _edited(path, f"a line cannot be read ({error})") from None
    for post_id in ids:
        if not shard.holds(post_id):
            raise _edited(path, f"post {post_id[:40]} does not fall to shard {shard}")


def _edited(path: Path, what: str) -> JournalError:
    return JournalError(
        f"{path} is not as the crawl has written it: {what}. Put it back as it was, or make the "
        "shard again in another folder."
    )
