"""Rows as CSV and Parquet, and tables that follow a file of lines."""

from __future__ import annotations

import csv
import gc
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokfluence_async import Comment
from tokfluence_async._crawl.folder import CrawlFolder
from tokfluence_async._crawl.table_files import Follower, TableFile
from tokfluence_async._crawl.tables import defuse, make_encoder


def test_parquet_is_written_in_row_groups() -> None:
    """Memory holds one of them, whatever the length of the file."""
    import pyarrow.parquet as pq

    encoder = make_encoder("parquet", Comment)
    parts = [
        encoder.encode([Comment(comment_id=str(n), likes=n) for n in range(start, start + 10_000)])
        for start in range(0, 50_000, 10_000)
    ]

    file = pq.ParquetFile(io.BytesIO(b"".join(parts) + encoder.end()))
    assert file.metadata.num_rows == 50_000
    assert file.metadata.num_row_groups == 3
    assert len(parts[1]) > len(parts[0])  # the first group came before the others


_MEASURE = """
import resource, sys
from pathlib import Path
from tokfluence_async._crawl.table_files import TableFile

lines, count = Path(sys.argv[1]), int(sys.argv[2])
with lines.open("w") as file:
    for n in range(count):
        file.write('{"post_id":"1","comment_id":"%d","text":"%s"}\\n' % (n, "x" * 100))
TableFile(lines, "parquet").finish()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.real_time
def test_the_memory_of_a_table_does_not_grow_with_it(tmp_path: Path) -> None:
    """Five times the comments, the same megabytes (a million more took 12 MB more)."""

    def megabytes(count: int) -> int:
        command = [sys.executable, "-c", _MEASURE, str(tmp_path / f"{count}.jsonl"), str(count)]
        env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        return int(
            subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
        )

    assert megabytes(250_000) - megabytes(50_000) < 40


FORMULAS = [
    "=1+1", "+1", "-1", "@a", "\t=1", "\r=1", "  =1", "＝1", "\n=1", "\x00=1", "\x0b=1", "\x1f=1",
    "\xa0=1", "\ufeff=1", "\u200b=1", "\u061c=1", "\u2066=1", "\u3000=1", "\xad \u200e@a",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS, ids=ascii)
def test_formulas_are_defused(text: str) -> None:
    """Each of these starts a formula in some spreadsheet."""
    assert defuse(text) == "'" + text


# What breaks readers of CSV: separators, quotes, every kind of line break, what looks like a null,
# a number or a comment, a text longer than a reader's buffer.
ODD_TEXTS = [
    "a\rb", "a\r=1+1", "a\r\n=1", "a\nb", "a\r", "\r", "\r\r", "\n", "x\ty", 'quo"te', '"', '""',
    '","', "a,b", "a;b", " lead", "trail ", "a\x00b", "\x0b", "\x0cq", "\x1c", "\x85", "\u2028",
    "NA", "null", "nan", "\\", "a\\", "\\N", "é", "😀", "'", "true", "007", "1e5", "#comment",
    "x" * 70_000, *FORMULAS,
]  # fmt: skip


@pytest.mark.parametrize("mark", [False, True])
def test_every_row_comes_back_as_it_was(mark: bool, tmp_path: Path) -> None:
    """A bare `\\r` was not quoted before 3.11.9 and 3.12.3: `csv` and pandas read 57 rows of 52,
    and DuckDB refused the file."""
    import duckdb
    import pandas as pd
    import polars as pl

    path = tmp_path / "comments.csv"
    rows = [Comment(comment_id=str(n), text=text) for n, text in enumerate(ODD_TEXTS)]
    path.write_bytes(make_encoder("csv", Comment, mark=mark).encode(rows))

    wanted = [defuse(text) for text in ODD_TEXTS]
    assert path.read_bytes().startswith(b"\xef\xbb\xbf") == mark
    csv.field_size_limit(1 << 20)
    with path.open(newline="", encoding="utf-8-sig" if mark else "utf-8") as file:
        assert [row["text"] for row in csv.DictReader(file)] == wanted
    assert list(pd.read_csv(path, dtype=str, keep_default_na=False)["text"]) == wanted
    assert list(pl.read_csv(path, infer_schema_length=0)["text"]) == wanted
    query = f"select text from read_csv('{path}', all_varchar = true)"
    assert [row[0] for row in duckdb.sql(query).fetchall()] == wanted


def test_csv_spreads_music_and_keeps_numbers() -> None:
    """A negative number is a number; a list is JSON; null is an empty cell."""
    from tokfluence_async import Music, Post

    table = make_encoder("csv", Post).encode(
        [
            Post(
                post_id="1", likes=-3, hashtags=["a", "=b"], music=Music(title="=x", original=True)
            ),
            Post(post_id="2"),
        ]
    )

    first, second = csv.DictReader(io.StringIO(table.decode()))
    assert (first["likes"], first["hashtags"]) == ("-3", '["a","=b"]')
    assert (first["music.title"], first["music.original"]) == ("'=x", "true")
    assert (second["music.title"], second["likes"]) == ("", "")


def test_a_table_follows_lines_as_they_are_completed(tmp_path: Path) -> None:
    """A line under way is left for the next look; lines longer than a chunk are taken whole."""
    lines, table = tmp_path / "comments.jsonl", tmp_path / "comments.csv"
    follower = TableFile(lines, "csv")
    long = "x" * (3 << 20)

    follower.follow()
    with lines.open("a", buffering=1) as file:
        file.write('{"post_id":"1","comment_id":"1","text":"a"}\n{"post_id":"1",')
        file.flush()
        follower.follow()
        assert not table.exists()
        file.write('"comment_id":"2","new":[1]}\n{"post_id":"1","comment_id":"3","text":"' + long)
        file.flush()
        follower.follow()
        file.write('"}\n')
    follower.finish()

    csv.field_size_limit(10 << 20)
    rows = list(csv.DictReader(io.StringIO(table.read_text("utf-8"), newline="")))
    assert [(row["comment_id"], row["text"]) for row in rows] == [
        ("1", "a"),
        ("2", ""),
        ("3", long),
    ]


def test_a_table_reads_an_odd_line_as_the_library_does(tmp_path: Path) -> None:
    """The lines are what came; one count as text in a million comments must not cost the table."""
    lines, table = tmp_path / "comments.jsonl", tmp_path / "comments.csv"
    lines.write_text(
        '{"post_id":"1","comment_id":"1","likes":1,"published_at":"2026-01-01T00:00:00"}\n'
        '{"post_id":"1","comment_id":"2","likes":"2"}\n{"post_id":"1","comment_id":"3","likes":"many"}\n'
    )

    follower = TableFile(lines, "csv")
    follower.finish()

    rows = list(csv.DictReader(io.StringIO(table.read_text("utf-8"), newline="")))
    assert [(row["comment_id"], row["likes"]) for row in rows] == [
        ("1", "1"),
        ("2", "2"),
        ("3", ""),
    ]
    assert rows[0]["published_at"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_table_that_is_dropped_was_never_there(tmp_path: Path, form: str) -> None:
    """The one of the run before stays."""
    lines, table = tmp_path / "comments.jsonl", tmp_path / f"comments.{form}"
    lines.write_text('{"post_id":"1","comment_id":"1"}\n')
    table.write_text("of the run before")
    follower = TableFile(lines, form)

    follower.follow()
    follower.close()
    del follower
    gc.collect()

    assert table.read_text() == "of the run before"
    assert {path.name for path in tmp_path.iterdir()} == {lines.name, table.name}


async def test_a_table_under_way_is_another_runs_until_the_folder_is_ours(tmp_path: Path) -> None:
    """A second run that is refused because of the first must not take the first one's table."""
    other = tmp_path / ".posts.csv.1234.part"
    other.write_text("of a run that is alive, or was killed")

    async with Follower(CrawlFolder(tmp_path), "csv", comments=False) as follower:
        assert other.exists()
        follower.begin()
        assert not other.exists()
