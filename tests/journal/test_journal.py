"""The journal: written before it is sent, told after it is written, and clear about files it cannot
use."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from pieces import ANALYZE, IDS, analyzed, posts

from tokfluence_async import (
    ConfigurationError,
    Journal,
    JournalError,
    Sandbox,
    TokfluenceClient,
)
from tokfluence_async._bulk.analyze import RESEND_WITHIN
from tokfluence_async._bulk.sources import Source
from tokfluence_async._journal import writer as _writer
from tokfluence_async._journal.sqlite import SQLiteJournal
from tokfluence_async._journal.store import Store
from tokfluence_async._wire.ids import PostRef

T = TypeVar("T")

GET = "GET /v1/posts/:id"


async def in_thread(journal: Journal, work: Callable[[sqlite3.Connection], T]) -> T:
    """Run `work` where the journal's own statements run."""
    assert isinstance(journal, SQLiteJournal)
    return await journal.in_thread(lambda: work(journal._store.db))


class Clock:
    """The time of day, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


# --- batches and posts ----------------------------------------------------------------------------


async def test_what_was_about_to_be_sent_is_in_doubt_after_a_restart(path: Path) -> None:
    """Between the record and the answer anything may have happened."""
    clock = Clock()
    async with SQLiteJournal(path, clock=clock) as journal:
        await journal.sending("id-1", posts(*IDS[:3]), replaces=None)
    clock.now += 100

    async with SQLiteJournal(path, clock=clock) as journal:
        [doubt] = await journal.unsettled()

    assert (doubt.request_id, doubt.posts, doubt.age) == (
        "id-1",
        [PostRef(i) for i in IDS[:3]],
        100.0,
    )


async def test_records_of_concurrent_calls_share_a_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit is an fsync; fifty of them in a row would take as long as the work."""
    commits = 0
    commit = Store.commit

    def counted(self: Store) -> None:
        nonlocal commits
        commits += 1
        commit(self)

    monkeypatch.setattr(Store, "commit", counted)
    async with SQLiteJournal(path) as journal:
        await asyncio.gather(
            *[journal.sending(f"id-{n}", posts(IDS[0]), replaces=None) for n in range(50)]
        )

        assert commits <= 3
        assert len(await journal.unsettled()) == 0  # all of them are under way here
    async with SQLiteJournal(path) as journal:
        assert len(await journal.unsettled()) == 50


async def test_many_rows_take_few_statements(path: Path) -> None:
    """Between two statements the thread waits for the event loop, 5 ms where that computes: a
    thousand would take seconds."""
    ids = [str(n) for n in range(1, 2346)]
    statements: list[str] = []
    async with SQLiteJournal(path) as journal:
        await in_thread(journal, lambda db: db.set_trace_callback(statements.append))
        await journal.settled("none", [analyzed(post_id) for post_id in ids])
        entries = await asyncio.gather(
            *[journal.look_up(post_id) for post_id in [*ids, "9999", *ids[:5]]]
        )

    assert [entry is not None for entry in entries] == [True] * len(ids) + [False] + [True] * 5
    writing = [statement for statement in statements if statement.startswith(("INSERT", "DELETE"))]
    assert len(writing) < 60
    assert sum(statement.startswith("SELECT") for statement in statements) < 60


@pytest.mark.parametrize("count", [1, 9, 10, 11, 99, 100, 101, 500, 1111])
async def test_every_row_of_a_commit_is_kept_with_its_own_values(
    path: Path, tmp_path: Path, count: int
) -> None:
    """However they are divided among statements, in the order that makes sense: a post, its pages,
    the end of its walk."""
    posts = [str(n) for n in range(1, count + 1)]
    async with SQLiteJournal(path) as journal:
        output = await journal.attach("posts.jsonl", tmp_path / "posts.jsonl")
        for n, post_id in enumerate(posts):
            await journal.write_post(output, post_id, b"%d\n" % n)
            await journal.write_page(output, post_id, b"page %d\n" % n, 0, 10 + n)
            if n % 2:
                await journal.write_page(output, post_id, b"last %d\n" % n, 10 + n, None)
        await journal.flush()
        pages = [await journal.last_pages(output, post_id) for post_id in posts]

    async with SQLiteJournal(path) as journal:
        entries = [await journal.look_up(post_id) for post_id in posts]
    assert [(e.written, e.cursor, e.walked) for e in entries if e] == [
        (True, 10 + n, n % 2 == 1) for n in range(count)
    ]
    assert pages == [[] if n % 2 else [b"page %d\n" % n] for n in range(count)]


# --- output files ---------------------------------------------------------------------------------


async def test_torn_and_unknown_lines_are_cut_after_a_crash(path: Path, tmp_path: Path) -> None:
    """What the journal does not know of was bought but not recorded; it will be bought and written
    again. `tests/crawl/test_edited_files.py` has what is not cut."""
    out = tmp_path / "posts.jsonl"
    async with SQLiteJournal(path) as journal:
        await journal.write_post(await journal.attach("posts.jsonl", out), IDS[0], b'{"a":1}\n')
    with out.open("ab") as file:
        file.write(b'{"b":2}\n{"c":')

    async with SQLiteJournal(path) as journal:
        await journal.attach("posts.jsonl", out)
        assert (await journal.look_up(IDS[0])).written  # type: ignore[union-attr]

    assert out.read_bytes() == b'{"a":1}\n'


async def test_an_output_that_lost_lines_is_an_error_and_is_left_alone(
    path: Path, tmp_path: Path
) -> None:
    """Going on would leave posts out for ever, as the journal says they are there."""
    out = tmp_path / "posts.jsonl"
    async with SQLiteJournal(path) as journal:
        await journal.write_post(await journal.attach("posts.jsonl", out), IDS[0], b'{"a":1}\n')
    out.write_bytes(b'{"a"')

    async with SQLiteJournal(path) as journal:
        with pytest.raises(JournalError, match="4 bytes, 4 less than the journal"):
            await journal.attach("posts.jsonl", out)

    assert out.read_bytes() == b'{"a"'


async def test_lines_without_their_journal_are_an_error_and_are_left_alone(
    path: Path, tmp_path: Path
) -> None:
    """A journal that was lost, or truncated to nothing, would have everything bought and written
    once more."""
    out = tmp_path / "posts.jsonl"
    out.write_bytes(b'{"a":1}\n')
    path.touch()

    async with SQLiteJournal(path) as journal:
        with pytest.raises(JournalError, match="knows nothing of them"):
            await journal.attach("posts.jsonl", out)

    assert out.read_bytes() == b'{"a":1}\n'


async def test_lines_that_wait_for_the_disk_are_bounded(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is slower than the network slows the network down, and does not fill the
    memory."""
    monkeypatch.setattr(_writer, "BACKLOG", 1000)
    async with SQLiteJournal(path) as journal:
        output = await journal.attach("posts.jsonl", tmp_path / "posts.jsonl")
        waiting = []
        for n in range(50):
            await journal.write_post(output, str(n + 1), b"x" * 99 + b"\n")
            waiting.append(int(repr(journal).split(", ")[-1].split()[0].replace(",", "")))

    assert max(waiting) <= 1000
    assert (tmp_path / "posts.jsonl").stat().st_size == 5000


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_what_was_given_is_written_although_the_caller_is_cancelled(
    path: Path, tmp_path: Path, times: int
) -> None:
    """Lines that nobody waits for were paid for. A second cancellation comes while the first is
    seen to."""
    out = tmp_path / "posts.jsonl"

    async def write() -> None:
        async with SQLiteJournal(path) as journal:
            output = await journal.attach("posts.jsonl", out)
            for n in range(3):
                await journal.write_post(output, IDS[n], b"%d\n" % n)
            started.set()
            await asyncio.sleep(100)

    started = asyncio.Event()
    task = asyncio.create_task(write())
    await started.wait()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task

    assert out.read_bytes() == b"0\n1\n2\n"
    async with SQLiteJournal(path) as journal:  # closed, not just abandoned
        assert await journal.known() == IDS[:3]


async def test_a_cancelled_scope_does_not_cut_the_closing_short(path: Path, tmp_path: Path) -> None:
    """A scope of anyio's cancels again at every turn of the loop."""
    out = tmp_path / "posts.jsonl"
    with anyio.CancelScope() as scope:
        async with SQLiteJournal(path) as journal:
            output = await journal.attach("posts.jsonl", out)
            await journal.write_post(output, IDS[0], b"0\n")
            scope.cancel()
            await asyncio.sleep(1)

    assert out.read_bytes() == b"0\n"
    async with SQLiteJournal(path) as journal:
        assert await journal.known() == IDS[:1]


@pytest.mark.parametrize("wrong", ["~nobody-of-that-name/j.sqlite", "gone"])
async def test_a_path_that_leads_nowhere_is_one_clear_error(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home that is not known, a working directory that was deleted."""
    if wrong == "gone":
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
    with pytest.raises(JournalError, match="cannot be opened"):
        await SQLiteJournal(wrong).open()


async def test_a_path_keeps_its_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home, and a relative path the one it was when it was given."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    at_home, here = Journal("~/a.sqlite"), Journal("b.sqlite")
    monkeypatch.chdir(tmp_path / "home")

    async with at_home, here:
        await here.settled("none", [analyzed(IDS[0])])

    assert {path.name for path in tmp_path.rglob("*.sqlite")} == {"a.sqlite", "b.sqlite"}
    assert (tmp_path / "home" / "a.sqlite").exists()
    assert (tmp_path / "b.sqlite").exists()


# --- files it cannot use --------------------------------------------------------------------------


async def test_two_journals_never_share_a_file(path: Path) -> None:
    """Two crawls on one journal would both pay."""
    async with SQLiteJournal(path):
        with pytest.raises(JournalError, match="in use by another process, or by another Journal"):
            await SQLiteJournal(path).open()


@pytest.mark.real_time
async def test_a_journal_held_by_another_process_is_said_to_be(path: Path) -> None:
    """And free again as soon as that process is dead, however it died."""
    script = (
        "import asyncio, sys\nfrom tokfluence_async import Journal\n"
        "async def main():\n    await Journal(sys.argv[1]).open()\n    print('open', "
        "flush=True)\n    sys.stdin.read()\n"
        "asyncio.run(main())"
    )
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert await other.stdout.readline() == b"open\n"

    with pytest.raises(JournalError, match="in use by another process"):
        await SQLiteJournal(path).open()
    other.kill()
    await other.communicate()
    async with SQLiteJournal(path) as journal:
        assert await journal.unsettled() == []


async def test_a_newer_format_is_not_touched(path: Path) -> None:
    """What a newer version wrote, this one would misread."""
    async with SQLiteJournal(path):
        pass
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = path.read_bytes()

    with pytest.raises(JournalError, match="newer version of this package \\(format 99"):
        await SQLiteJournal(path).open()

    assert path.read_bytes() == before


@pytest.mark.parametrize("left", [100, 1000, 5000, 20_000])
async def test_a_truncated_journal_is_damaged_and_said_to_be(path: Path, left: int) -> None:
    """Restoring it is the user's decision: going on would pay for what it has forgotten."""
    async with SQLiteJournal(path) as journal:
        await journal.settled("none", [analyzed(str(n + 1)) for n in range(2000)])
    with path.open("r+b") as file:
        file.truncate(left)

    with pytest.raises(JournalError, match="damaged"):
        await SQLiteJournal(path).open()


async def test_no_damage_leaves_by_another_door(path: Path, tmp_path: Path) -> None:
    """SQLite quotes what it cannot read, and Python cannot always read the quotation; what is in a
    row may be anything too."""
    out = tmp_path / "comments.jsonl"
    async with SQLiteJournal(path) as journal:
        for n in range(30):
            await journal.sending(f"id-{n}", posts(*IDS), replaces=None)
        await journal.settled("none", [analyzed(str(n + 1)) for n in range(300)])
        output = await journal.attach("comments.jsonl", out)
        await journal.write_page(output, "1", b'{"a":1}\n', 0, 200)
        journal.learn(urls=1.0, seconds=2.0)
    good, line = path.read_bytes(), out.read_bytes()
    chance = random.Random(7)
    told: list[str] = []
    for n in range(200):
        data = bytearray(good)
        if n % 4 == 0:  # the text of the schema, which SQLite parses and quotes
            at = data.index(b"CREATE TABLE", 100)
            data[at + chance.randrange(60)] = chance.randrange(128, 256)
        elif n % 4 == 1:  # a batch in doubt
            at = data.index(IDS[n % 10].encode())
            data[at + chance.randrange(40)] = chance.randrange(256)
        else:
            at = chance.randrange(100, len(data) - 8)
            data[at : at + 8] = chance.randbytes(8)
        path.write_bytes(data)
        out.write_bytes(line)

        journal = SQLiteJournal(path)
        try:
            async with journal:
                await journal.unsettled()
                await journal.learnt()
                output = await journal.attach("comments.jsonl", out)
                for post_id in range(1, 40):
                    await journal.look_up(str(post_id))
                await journal.last_pages(output, "1")
                await journal.settled("id-3", [analyzed(post_id) for post_id in IDS])
        except JournalError as error:
            told.append(str(error))
        for left in ("-wal", "-shm"):
            path.with_name(path.name + left).unlink(missing_ok=True)

    assert len(told) > 50
    assert not [text for text in told if "make room" in text]


async def test_a_row_that_cannot_be_read_is_its_own_askers_error(path: Path) -> None:
    """Look-ups share a trip to the disk, not their fate."""
    async with SQLiteJournal(path) as journal:
        await journal.settled("none", [analyzed(post_id) for post_id in IDS[:3]])
        broken = "UPDATE posts SET status = CAST(x'ff' AS TEXT) WHERE post_id = ?"
        await in_thread(journal, lambda db: db.execute(broken, (int(IDS[1]),)).fetchall())

        found = await asyncio.gather(
            *[journal.look_up(post_id) for post_id in IDS[:3]], return_exceptions=True
        )

    assert [type(each).__name__ for each in found] == ["Entry", "JournalError", "Entry"]


async def test_a_damaged_schema_is_damage(path: Path) -> None:
    """Not a UnicodeDecodeError, which names neither the file nor what to do with it."""
    async with SQLiteJournal(path):
        pass
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE batches", b"CREAT\xd9 TABLE batches"))

    with pytest.raises(JournalError, match=r"damaged .* Restore it from a copy"):
        await SQLiteJournal(path).open()


@pytest.mark.parametrize(
    "wrong", ["journal\0.sqlite", ":memory:", "", "file:x?mode=memory", "file::memory:", "."]
)
async def test_a_path_that_is_no_files_is_refused(
    wrong: str, client: TokfluenceClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite takes some for a database in memory: a record that is gone with the process, of what
    was paid for."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(JournalError, match=r"cannot be opened: .*path of a file"):
        await SQLiteJournal(wrong).open()
    with pytest.raises(JournalError, match=r"path of a file"):
        await client.posts.analyze(IDS, journal=wrong)

    assert client.usage.requests == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to be looked at" * 20, "other"]
)
async def test_a_foreign_file_is_no_journal(path: Path, content: Any) -> None:
    """A path typed wrongly must not cost somebody else's file."""
    if content == "other":
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE theirs (a)")
        db.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()

    with pytest.raises(JournalError, match=r"no journal of this package|damaged"):
        await SQLiteJournal(path).open()

    assert path.read_bytes() == before


async def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    """And of the kind that means: set it up otherwise."""
    with pytest.raises(ConfigurationError, match="cannot be opened: no such folder"):
        await SQLiteJournal(tmp_path / "missing" / "journal.sqlite").open()


# --- a full disk ----------------------------------------------------------------------------------


async def test_a_full_disk_ends_the_run_and_keeps_what_was_recorded(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a line may be written when the disk is full; it must not stay."""
    out = tmp_path / "posts.jsonl"
    write = os.write
    room = 30

    def small_disk(fd: int, data: Any) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(fd, bytes(data[:room]))
        room -= written
        return written

    monkeypatch.setattr(os, "write", small_disk)
    journal = await SQLiteJournal(path).open()
    output = await journal.attach("posts.jsonl", out)
    await journal.write_post(output, IDS[0], b"x" * 19 + b"\n")
    await journal.flush()
    await journal.write_post(output, IDS[1], b"y" * 19 + b"\n")
    with pytest.raises(JournalError, match="No space left on device"):
        await journal.flush()
    with pytest.raises(JournalError):
        await journal.sending("id-1", posts(IDS[2]), replaces=None)
    await journal.aclose()

    assert out.read_bytes() == b"x" * 19 + b"\n"
    async with SQLiteJournal(path) as journal:
        assert await journal.look_up(IDS[1]) is None


async def test_a_write_that_takes_only_a_part_is_gone_on_with(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a disk does that is nearly full, and any system for more than 2 GB."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:100])))
    lines = [b"%d\n" % n for n in range(3000)]
    async with SQLiteJournal(path) as journal:
        output = await journal.attach("posts.jsonl", tmp_path / "posts.jsonl")
        for n, line in enumerate(lines):
            await journal.write_post(output, str(n + 1), line)

    assert (tmp_path / "posts.jsonl").read_bytes() == b"".join(lines)


async def test_a_full_disk_under_the_journal_itself_is_said_to_be(path: Path) -> None:
    """SQLite's own limit on pages stands in for the disk's end."""
    async with SQLiteJournal(path) as journal:
        await in_thread(journal, lambda db: db.execute("PRAGMA max_page_count = 12").fetchall())
        with pytest.raises(JournalError, match="disk is full"):
            await journal.settled("none", [analyzed(str(n + 1)) for n in range(5000)])

    async with SQLiteJournal(path) as journal:
        assert await journal.look_up("1") is None


async def test_nothing_is_sent_that_cannot_be_written_down(
    path: Path, sandbox: Sandbox, client: TokfluenceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch nobody remembers is a batch paid for twice."""

    def full(self: Store) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    async with SQLiteJournal(path) as journal:
        monkeypatch.setattr(Store, "commit", full)
        with pytest.raises(JournalError, match="disk is full"):
            await client.posts.analyze(IDS, journal=journal)

    assert sandbox.requests_received == 0


# --- life cycle -----------------------------------------------------------------------------------


async def test_the_journal_at_a_path_is_one_in_sqlite(path: Path) -> None:
    """`Journal` is what every journal can do, and may be made as before."""
    async with Journal(path) as journal:
        assert type(journal) is SQLiteJournal
        assert repr(journal) == f"<SQLiteJournal {str(path)!r}, open, 0 bytes waiting>"


@pytest.mark.parametrize("journal", [5, b"crawl.sqlite", open])
async def test_what_is_no_journal_is_refused_in_words(
    journal: Any, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """It was an `AttributeError`."""
    with pytest.raises(ConfigurationError, match=r"^journal= takes .*; not .*Nothing was sent"):
        await client.posts.analyze(["1"], journal=journal)

    assert sandbox.requests_received == 0


async def test_a_journal_opens_once_and_closes_twice(path: Path) -> None:
    """Opening what is open and closing what is closed are no mistakes; using what is closed is."""
    journal = SQLiteJournal(path)
    with pytest.raises(RuntimeError, match="not open"):
        await journal.look_up("1")
    async with journal:
        assert await journal.open() is journal
        assert "open" in repr(journal)
    await journal.aclose()
    assert "closed" in repr(journal)
    async with journal:
        assert await journal.unsettled() == []
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


def test_a_journal_belongs_to_one_event_loop_at_a_time(path: Path) -> None:
    """Its waiters are futures of the loop it was opened in."""
    journal = SQLiteJournal(path)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(journal.open())

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            await journal.open()

    asyncio.run(elsewhere())
    loop.run_until_complete(journal.aclose())
    loop.close()


# --- with analyze and resolve ---------------------------------------------------------------------


@pytest.mark.sandbox(indexed=0.0, visibility_delay=0.0)
@pytest.mark.client(max_retries=0)
@pytest.mark.parametrize("done", [True, False])
async def test_an_old_doubt_is_settled_by_reading_first(
    path: Path, sandbox: Sandbox, client: TokfluenceClient, done: bool
) -> None:
    """A service that has forgotten the id would do the work again under it."""
    clock = Clock()
    if done:
        sandbox.drop_answer(to=ANALYZE)
    else:
        sandbox.refuse_connection(to=ANALYZE)
    async with SQLiteJournal(path, clock=clock) as journal:
        await client.posts.analyze(IDS, batch_size=50, journal=journal)
    clock.now += RESEND_WITHIN + 1
    await asyncio.sleep(RESEND_WITHIN + 1)

    async with SQLiteJournal(path, clock=clock) as journal:
        report = await client.posts.analyze(IDS, batch_size=50, journal=journal)

    assert len(report.succeeded) == len(IDS)
    sent = [entry.request_id for entry in sandbox.requests if entry.route == ANALYZE]
    assert len(sent) == len(set(sent)) == (1 if done else 2)
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}
    assert report.credits_spent == len(IDS) + (0 if done else 25 * len(IDS))


@pytest.mark.sandbox(indexed=0.0, seconds_per_url=5.0)
async def test_a_batch_that_is_still_at_work_is_waited_for_and_not_paid_for(
    path: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A killed process leaves its batch at work; the 409 comes early, and the posts come late."""
    task = asyncio.create_task(client.posts.analyze(IDS, batch_size=50, journal=path))
    await asyncio.sleep(2)
    assert sandbox.in_flight(ANALYZE)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    report = await client.posts.analyze(IDS, batch_size=50, journal=path)

    assert len(report.succeeded) == len(IDS)
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}
    early = [entry for entry in sandbox.requests if entry.route == GET and entry.status == 404]
    assert len(early) <= 8


@pytest.mark.sandbox(indexed=0.0, refusals_burn_ids=True, credits=0)
async def test_a_wallet_that_ran_dry_leaves_no_doubt(
    path: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A 402 was refused for certain: the next run begins anew, with no reading and no waiting."""
    report = await client.posts.analyze(IDS, journal=path)
    assert not report.succeeded
    async with SQLiteJournal(path) as journal:
        assert await journal.unsettled() == []
    sandbox.credits = 10_000

    report = await client.posts.analyze(IDS, journal=path)

    assert len(report.succeeded) == len(IDS)
    assert sandbox.credits_spent == 25 * len(IDS)


@pytest.mark.sandbox(indexed=0.0)
async def test_what_cannot_be_settled_stays_listed_and_is_not_sent_under_another_id(
    path: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A new id for a batch in doubt is a second bill."""
    once = client.with_options(max_retries=0)
    sandbox.drop_answer(to=ANALYZE)
    await once.posts.analyze(IDS[:5], batch_size=50, journal=path)
    sandbox.proxy_error(to=ANALYZE, times=1)

    report = await once.posts.analyze(IDS[:5], batch_size=50, journal=path)

    assert len(report.failed) == 5
    async with SQLiteJournal(path) as journal:
        [doubt] = await journal.unsettled()
    assert {ref.post_id for ref in doubt.posts} == set(IDS[:5])
    assert len({entry.request_id for entry in sandbox.requests if entry.route == ANALYZE}) == 1


@pytest.mark.sandbox(indexed=0.0)
async def test_resolve_reads_what_an_earlier_run_has_paid_for(
    path: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """25 credits are spent once over all runs; reading is 1."""
    await client.posts.analyze(IDS, journal=path)
    await asyncio.sleep(60)
    spent = sandbox.credits_spent

    outcomes = [outcome async for outcome in client.posts.resolve(IDS, journal=path)]

    assert all(outcome.ok for outcome in outcomes)
    assert sandbox.credits_spent - spent == len(IDS)


@pytest.mark.sandbox(indexed=0.0)
async def test_analyze_iter_takes_a_journal_too(
    path: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """It is `analyze` with its outcomes told as they come, and stopped at will."""
    stopped = client.posts.analyze_iter(IDS, batch_size=4, journal=path)
    first = await anext(stopped)
    await stopped.aclose()
    everything = [
        outcome async for outcome in client.posts.analyze_iter(IDS, batch_size=4, journal=path)
    ]

    assert first.ok
    assert sorted(outcome.post_id or "" for outcome in everything) == sorted(IDS)
    assert all(outcome.ok for outcome in everything)
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}


@pytest.mark.sandbox(indexed=0.0, visibility_delay=5.0)
@pytest.mark.parametrize("how", ["analyze", "analyze_iter", "resolve"])
async def test_every_call_with_a_journal_leaves_what_it_learnt_to_the_next(
    path: Path, sandbox: Sandbox, client: TokfluenceClient, how: str
) -> None:
    """Seconds per URL, so that no small batches are needed to find them out; and when posts are
    readable: early reads cost credits."""

    def received(route: str) -> int:
        return sum(entry.route == route for entry in sandbox.requests)

    async def run(first: int) -> tuple[int, int]:
        urls = range(first, first + 200)
        analyzed, read = received(ANALYZE), received(GET)
        if how == "analyze":
            assert not (await client.posts.analyze(urls, journal=path)).failed
        else:
            call = client.posts.analyze_iter if how == "analyze_iter" else client.posts.resolve
            assert all([outcome.ok async for outcome in call(urls, journal=path)])
        return received(ANALYZE) - analyzed, received(GET) - read

    first, second = await run(1000), await run(2000)

    if how == "resolve":
        assert second[1] < first[1]
    elif how == "analyze":
        assert second[0] < first[0]
    else:  # how far it may be ahead of its reader cuts its batches, not what was learnt
        assert second[0] <= first[0]


@pytest.mark.sandbox(indexed=0.0, analyze_rows=lambda rows: rows[1:])
async def test_a_post_left_out_of_an_answer_is_read_before_it_is_paid_for_again(
    path: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """It was charged, and may well be there."""
    first = await client.posts.analyze(IDS, batch_size=50, journal=path)
    assert len(first.failed) == 1
    await asyncio.sleep(60)

    second = await client.posts.analyze(IDS, batch_size=50, journal=path)

    assert len(second.succeeded) == len(IDS)
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}


async def test_a_source_over_a_journal_counts_as_its_inputs_do(path: Path) -> None:
    """The planner and the progress go by these numbers."""
    async with SQLiteJournal(path) as journal:
        source = Source([IDS[0], "bad", IDS[1]])
        await source.remember(journal)
        assert (source.total, source.left, source.error) == (3, 3, None)
        given = [await source.next() for _ in range(4)]
        assert [item and item.ref and item.ref.post_id for item in given] == [
            IDS[0],
            None,
            IDS[1],
            None,
        ]
        assert source.left == 0


@pytest.mark.sandbox(indexed=0.0)
@pytest.mark.client(max_retries=0)
async def test_a_doubt_that_was_taken_up_and_cancelled_is_taken_up_again(
    path: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """By the next call with the same open journal: those that were waiting for their turn as well
    as those under way."""
    sandbox.drop_answer(to=ANALYZE, times=None)
    async with SQLiteJournal(path) as journal:
        await client.posts.analyze(IDS, batch_size=1, journal=journal)
        assert len(await journal.unsettled()) == len(IDS)
        sandbox.clear_faults()
        sandbox.stall(seconds=50.0, to=ANALYZE, times=None)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await client.posts.analyze(IDS, batch_size=1, journal=journal)
        assert len(await journal.unsettled()) == len(IDS)
        sandbox.clear_faults()

        report = await client.posts.analyze(IDS, batch_size=1, journal=journal)

    assert len(report.succeeded) == len(IDS)
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}


@pytest.mark.sandbox(indexed=0.0, visibility_delay=9.0)
@pytest.mark.client(max_retries=0)
async def test_what_an_earlier_run_sent_again_may_still_be_at_work(
    path: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """First sent an hour ago, and once more a moment ago, done and lost: its id may be forgotten,
    but its posts are on their way."""
    clock = Clock()
    sandbox.refuse_connection(to=ANALYZE)
    sandbox.drop_answer(to=ANALYZE)
    for seconds in (RESEND_WITHIN - 10, 20.0, 0.0):
        async with SQLiteJournal(path, clock=clock) as journal:
            report = await client.posts.analyze(IDS[:2], batch_size=2, journal=journal)
        clock.now += seconds
        await asyncio.sleep(min(seconds, 1.0))

    assert [outcome.value.status for outcome in report if outcome.value] == [
        "duplicate_request"
    ] * 2
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}


async def test_a_journal_of_the_first_format_is_read_on(path: Path) -> None:
    """What it holds in doubt cost money."""
    async with SQLiteJournal(path) as journal:
        await journal.sending("id-1", posts(*IDS[:2]), replaces=None)
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE batches DROP COLUMN sent_again_at")
        db.execute("PRAGMA user_version = 1")
    db.close()

    async with SQLiteJournal(path) as journal:
        [doubt] = await journal.unsettled()
        await journal.sending_again("id-1")

    assert (doubt.request_id, doubt.posts) == ("id-1", [PostRef(i) for i in IDS[:2]])
