"""`crawl --format`: tables beside the lines."""

from __future__ import annotations

import csv
import re
import select
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .support import (
    ENV,
    URLS,
    Run,
    command_line,
    json_file,
)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_crawl_makes_tables(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, form: str
) -> None:
    """Beside the JSON lines, with as many rows; a second run makes them anew from all lines."""
    sandboxes["options"] = {"comments_per_post": 30}
    result = run(
        "crawl",
        URLS,
        "-o",
        tmp_path,
        "--comments",
        "--sandbox",
        "--format",
        form,
        "--max-credits",
        "300",
    )
    assert result.exit_code == 3
    run("crawl", URLS, "-o", tmp_path, "--comments", "--sandbox", "--format", form)

    for name in ("posts", "comments"):
        lines = json_file(tmp_path / f"{name}.jsonl")
        if form == "csv":
            with (tmp_path / f"{name}.csv").open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        else:
            import pyarrow.parquet as pq

            rows = pq.read_table(tmp_path / f"{name}.parquet").to_pylist()
        key = "post_id" if name == "posts" else "comment_id"
        assert [row[key] for row in rows] == [line[key] for line in lines]
        assert next(iter(rows[0])) == "post_id"
    assert not list(tmp_path.glob(".*part"))


@pytest.mark.parametrize(
    ("form", "comments", "stale"),
    [
        (
            "csv",
            True,
            "comments.parquet and posts.parquet are of an earlier run and were not updated.",
        ),
        (
            "jsonl",
            True,
            "comments.parquet and posts.parquet are of an earlier run and were not updated.",
        ),
        ("csv", False, "posts.parquet is of an earlier run and was not updated."),
        ("parquet", True, None),
    ],
)
def test_a_table_of_another_format_is_said_to_be_old(
    run: Run,
    sandboxes: dict[str, Any],
    tmp_path: Path,
    form: str,
    comments: bool,
    stale: str | None,
) -> None:
    """It looks complete and is not."""
    path, out = tmp_path / "urls.txt", tmp_path / "out"
    path.write_text("1\n2\n3\n")
    args = ["crawl", path, "-o", out, "--sandbox", *(["--comments"] if comments else [])]
    sandboxes["options"] = {"indexed": 1.0, "comments_per_post": 3}
    first = run(*args, "--format", "parquet", "--max-credits", "4")

    second = run(*args, "--format", form)

    assert "earlier run and" not in first.stderr
    told = [line for line in second.stderr.splitlines() if "not updated" in line]
    assert told == ([stale] if stale else [])
    assert run(*args, "--format", form, "--quiet").stderr == ""


def test_help_says_that_a_table_stands_beside_the_lines(run: Run) -> None:
    """Who asks for CSV would else look for the lines in it, or the other way round."""
    told = " ".join(
        re.sub(r"[│\n]", " ", run("crawl", "--help", env={"COLUMNS": "100"}).stdout).split()
    )

    assert (
        "csv, parquet: also a table of the documented fields (posts.csv, comments.csv) beside "
        "the .jsonl" in told
    )


def test_a_crawl_that_is_refused_leaves_no_table(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path
) -> None:
    """A readable file or none."""
    sandboxes["prepare"] = lambda sandbox: sandbox.revoke()

    run("crawl", URLS, "-o", tmp_path, "--sandbox", "--format", "parquet")

    assert not [path for path in tmp_path.iterdir() if "parquet" in path.name]


@pytest.mark.real_time
def test_a_killed_crawl_leaves_a_readable_table_or_none(tmp_path: Path) -> None:
    """SIGKILL, nothing can be tidied up; the run after it makes the table whole."""
    import pyarrow.parquet as pq

    command = command_line(
        "crawl", URLS, "-o", tmp_path, "--sandbox", "--format", "parquet", "--comments"
    )
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=ENV) as process:
        while not list(tmp_path.glob(".*.part")):
            assert process.poll() is None
            select.select([], [], [], 0.05)
        process.kill()
    assert not list(tmp_path.glob("*.parquet"))

    done = subprocess.run(
        command_line(*command[3:], "--max-credits", "0"),
        stderr=subprocess.DEVNULL,
        env=ENV,
        check=False,
    )

    assert done.returncode == 3
    # Of a line that the kill overtook on its way to the journal, the run after it knows nothing,
    # and takes it out.
    lines = (tmp_path / "posts.jsonl").read_text("utf-8").splitlines()
    assert pq.read_table(tmp_path / "posts.parquet").num_rows == len(lines)
    assert not list(tmp_path.glob(".*.part"))
