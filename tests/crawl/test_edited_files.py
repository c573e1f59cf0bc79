"""Record files that somebody changed between two runs: only what a crash can have left is cut.

Everything else is an error that names the file and says what to do, before anything is sent.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tokfluence_async import JournalError, Progress, Sandbox, TokfluenceClient, crawl

IDS = [str(7234567890123456789 + n) for n in range(6)]
BEFORE = Path(__file__).parent / "fixtures" / "before"


class Edit(NamedTuple):
    """What somebody does to a file.

    Attributes:
        shows_in_length: Whether a journal can tell that knows the file's length alone.
    """

    name: str
    do: Callable[[Path], object]
    shows_in_length: bool = True

    def __call__(self, path: Path) -> None:
        self.do(path)

    def __str__(self) -> str:
        return self.name


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def jq(path: Path) -> None:
    """A column added to each line, as `jq -c '. + {team: "a"}'` does it."""
    lines = [json.loads(line) | {"team": "a"} for line in path.read_bytes().splitlines()]
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


def shorter(path: Path) -> None:
    """A column taken away, and so many lines added that the file is longer than it was."""
    length = path.stat().st_size
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    text = "".join(json.dumps(dict(list(line.items())[:2])) + "\n" for line in lines)
    path.write_text(text * (length // len(text) + 2))


def crlf(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def bom(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def one_byte(path: Path) -> None:
    """Nothing that the length shows."""
    data = path.read_bytes()
    path.write_bytes(data.replace(b"tiktok", b"tiktak", 1) if b"tiktok" in data else data[::-1])


def swapped(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(reversed(lines)))


def append(data: bytes) -> Edit:
    def do(path: Path) -> None:
        with path.open("ab") as file:
            file.write(data)

    return Edit(f"append {data!r}", do)


def copy_of_a_line(path: Path) -> None:
    append(path.read_bytes().splitlines(keepends=True)[0])(path)


def doubled(path: Path) -> None:
    append(path.read_bytes())(path)


def cut_in_the_middle(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 20)


def cut_after_a_line(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def replaced(path: Path) -> None:
    path.unlink()
    path.write_text('{"post_id":"1"}\n' * 1000)


EDITS = [
    *(Edit(do.__name__, do) for do in (jq, shorter, crlf, bom, copy_of_a_line, doubled)),
    *(Edit(do.__name__, do) for do in (cut_in_the_middle, cut_after_a_line, emptied, replaced)),
    *(Edit(do.__name__, do, shows_in_length=False) for do in (one_byte, swapped)),
    Edit("deleted", Path.unlink),
    append(b'{"mine":1}\n'),
    append(b'{"post_id":"7234567890123499999","comment_id":"1"}'),
    append(b"hello\n"),
    append(b"hello"),
    append(b"\n"),
    append(b"\r\n"),
]


@pytest.mark.sandbox(comments_per_post=30)
@pytest.mark.parametrize("name", ["posts.jsonl", "comments.jsonl"])
@pytest.mark.parametrize(
    "edit", [*EDITS, append(b'{"post_id":"7234567890123499999","comment_id":"1"}\n')], ids=str
)
async def test_a_file_that_was_edited_is_an_error_before_anything_is_sent(
    out: Path, sandbox: Sandbox, client: TokfluenceClient, edit: Edit, name: str
) -> None:
    """It used to be cut in the middle of a line, and the posts that were gone counted as done."""
    await crawl(client, IDS[:4], out, comments=True)
    path = out / name
    before = path.read_bytes()
    edit(path)
    edited = path.read_bytes() if path.exists() else None
    assert edited != before
    sent = sandbox.requests_received

    with pytest.raises(JournalError) as caught:
        await crawl(client, IDS, out, comments=True)

    assert str(path) in str(caught.value)
    assert "Nothing was sent" in str(caught.value)
    assert re.search(r"[Pp]ut it back|[Rr]estore|truncate", str(caught.value))
    assert sandbox.requests_received == sent
    assert (path.read_bytes() if path.exists() else None) == edited

    path.write_bytes(before)  # as the message says
    report = await crawl(client, IDS, out, comments=True)
    assert (report.skipped, report.posts) == (4, 2)
    assert path.read_bytes().startswith(before)


async def killed(client: TokfluenceClient, ids: list[str], out: Path) -> None:
    """Leave in `out` what a kill at the end of a run would: lines are written, and the journal was
    not closed."""

    def copy(progress: Progress) -> None:
        if progress.done == len(ids):
            shutil.copytree(out, out.with_name("copy"), dirs_exist_ok=True)

    await crawl(client, ids, out, comments=True, on_progress=copy)
    shutil.rmtree(out)
    out.with_name("copy").rename(out)


@pytest.mark.sandbox(comments_per_post=30)
@pytest.mark.parametrize("name", ["posts.jsonl", "comments.jsonl"])
@pytest.mark.parametrize("edit", EDITS, ids=str)
async def test_a_file_of_a_killed_run_that_was_edited_is_an_error_too(
    out: Path, sandbox: Sandbox, client: TokfluenceClient, edit: Edit, name: str
) -> None:
    """A crash explains lines behind what the journal knows, and nothing else."""
    await crawl(client, IDS[:2], out, comments=True)
    await killed(client, IDS[:4], out)
    path = out / name
    edit(path)
    edited = path.read_bytes() if path.exists() else None
    sent = sandbox.requests_received

    with pytest.raises(JournalError, match="Nothing was sent") as caught:
        await crawl(client, IDS, out, comments=True)

    assert str(path) in str(caught.value)
    assert sandbox.requests_received == sent
    assert (path.read_bytes() if path.exists() else None) == edited


@pytest.mark.parametrize("edit", [edit for edit in EDITS if edit.shows_in_length], ids=str)
async def test_a_file_of_an_earlier_version_that_was_edited_is_an_error(
    out: Path, sandbox: Sandbox, client: TokfluenceClient, edit: Edit
) -> None:
    """Its journal knows the length alone, which tells of most edits."""
    shutil.copytree(BEFORE / "killed", out)
    edit(out / "posts.jsonl")

    with pytest.raises(JournalError, match="Nothing was sent"):
        await crawl(client, IDS, out)

    assert sandbox.requests_received == 0


@pytest.mark.sandbox(comments_per_post=30)
async def test_whole_lines_that_a_kill_left_are_cut(
    out: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The write was done and its commit not: the posts are bought and written again."""
    await crawl(client, IDS[:2], out, comments=True)
    await killed(client, IDS[:4], out)
    append(b'{"post_id":"7234567890123499999","comment_id":"1"}\n')(out / "comments.jsonl")
    append(b'{"post_id":"7234567890123499999"}\n')(out / "posts.jsonl")

    report = await crawl(client, IDS, out, comments=True)

    assert report.failed == 0
    posts = [json.loads(line) for line in (out / "posts.jsonl").read_bytes().splitlines()]
    assert sorted(post["post_id"] for post in posts) == IDS


@pytest.mark.sandbox(comments_per_post=30)
@pytest.mark.parametrize(
    "tail",
    [
        b"{",
        b'{"post_id":"7234567890123499999","desc":"ha',
        b'{"post_id":"7234567890123499999"}\n{"post_i',
        b"\0" * 5000,
        b'{"post_id":"72345\0\0\0\0\n{"a":1}\n\0\0',
    ],
)
async def test_a_torn_end_is_cut(
    out: Path, sandbox: Sandbox, client: TokfluenceClient, tail: bytes
) -> None:
    """A kill leaves half a line, and a power cut zeros."""
    await crawl(client, IDS[:2], out, comments=True)
    for name in ("posts.jsonl", "comments.jsonl"):
        append(tail)(out / name)

    report = await crawl(client, IDS, out, comments=True)

    assert (report.skipped, report.posts, report.failed) == (2, 4, 0)
    posts = [json.loads(line) for line in (out / "posts.jsonl").read_bytes().splitlines()]
    assert sorted(post["post_id"] for post in posts) == IDS


async def test_a_copy_of_the_folder_goes_on(
    out: Path, tmp_path: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Another file with the same bytes: moved to another machine, or put back from a backup."""
    await crawl(client, IDS[:2], out)
    other = Path(shutil.copytree(out, tmp_path / "other"))
    os.utime(other / "posts.jsonl", (1, 1))

    report = await crawl(client, IDS, other)

    assert (report.skipped, report.posts) == (2, 4)


async def test_a_file_that_nobody_touched_is_not_read_again(
    out: Path, client: TokfluenceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tens of gigabytes, at each start."""
    await crawl(client, IDS[:2], out)
    read: list[int] = []
    pread = os.pread

    def counted(fd: int, length: int, at: int) -> bytes:
        read.append(length)
        return pread(fd, length, at)

    monkeypatch.setattr(os, "pread", counted)

    await crawl(client, IDS, out)

    assert sum(read) <= 1  # the last byte: a line ends there
