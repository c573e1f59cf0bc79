"""`crawl --shard` and `merge`: one job by several processes."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tokfluence_async import Sandbox

from .support import ENV, Run, command_line, json_file

IDS = [f"72345678901234500{n:02}" for n in range(30)]


@pytest.fixture
def urls(tmp_path: Path) -> Path:
    """Thirty posts, one of them twice, and a line that names none."""
    path = tmp_path / "urls.txt"
    path.write_text("\n".join([*IDS, IDS[3], "nope"]))
    return path


def post_ids(folder: Path) -> list[str]:
    return [post["post_id"] for post in json_file(folder / "posts.jsonl")]


@pytest.mark.parametrize("spelling", ["--shard {}/{}", "--shard={}/{}", "--shard"])
def test_each_post_falls_to_one_shard_and_a_merge_has_them_all(
    run: Run,
    sandboxes: dict[str, Any],
    urls: Path,
    tmp_path: Path,
    spelling: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seven processes of one job, by an argument or as a Kubernetes indexed Job starts them."""
    folders = [tmp_path / f"{n}-of-7" for n in range(7)]
    statuses, charged = [], Counter[str]()
    monkeypatch.setenv("TOKFLUENCE_SHARDS", "7")
    for n, folder in enumerate(folders):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(n))
        shard = spelling.format(n, 7).split()
        result = run("crawl", *shard, urls, "-o", folder, "--sandbox", "--format", "csv")
        statuses.append(result.exit_code)
        charged += Counter(sandboxes["made"].times_charged(to="POST /v1/posts/analyze"))
        assert ("nope" in result.stderr) == (n == 0)

    merged = run("merge", *folders, "-o", tmp_path / "merged")

    assert statuses == [1, 0, 0, 0, 0, 0, 0]  # the malformed line is the first shard's
    assert max(charged.values()) == 1
    assert merged.exit_code == 0, merged.stderr
    assert merged.stdout == ""
    assert "Merged: 30 posts" in merged.stderr
    assert sorted(post_ids(tmp_path / "merged")) == IDS
    with (tmp_path / "merged/posts.csv").open(newline="", encoding="utf-8") as file:
        assert sorted(row["post_id"] for row in csv.DictReader(file)) == IDS
    assert len(json_file(tmp_path / "merged/failures.jsonl")) == 1


def test_a_merge_says_what_is_missing(
    run: Run, sandboxes: dict[str, Any], urls: Path, tmp_path: Path
) -> None:
    """What is there is merged all the same, with status 1."""
    folders = [tmp_path / str(n) for n in range(3)]
    run("crawl", urls, "-o", folders[0], "--shard", "0/3", "--sandbox")
    run("crawl", urls, "-o", folders[1], "--shard", "1/3", "--sandbox", "--max-credits", "3")

    result = run("merge", folders[0], folders[1], "-o", tmp_path / "merged")
    told = run(
        "merge", folders[0], folders[1], "-o", tmp_path / "merged", "--json-logs", "--sandbox"
    )

    assert (result.exit_code, told.exit_code) == (1, 1)
    assert "Shard 2/3 was not given." in result.stderr
    assert "Shard 1/3" in result.stderr
    assert "Merged what is there" in result.stderr
    there = post_ids(folders[0]) + post_ids(folders[1])
    assert sorted(post_ids(tmp_path / "merged")) == sorted(there)
    summary = json.loads(told.stderr.splitlines()[-1])
    assert (summary["posts"], len(summary["missing"])) == (len(there), 2)


def test_a_merge_of_what_cannot_be_merged_is_status_2(
    run: Run, sandboxes: dict[str, Any], urls: Path, tmp_path: Path
) -> None:
    """One line, and nothing is written."""
    zero, one, whole = tmp_path / "zero", tmp_path / "one", tmp_path / "whole"
    run("crawl", urls, "-o", zero, "--shard", "0/2", "--sandbox")
    run("crawl", urls, "-o", one, "--shard", "1/3", "--sandbox")
    run("crawl", urls, "-o", whole, "--sandbox")

    for folders, out in [
        ((zero, zero), "merged"),
        ((zero, one), "merged"),
        ((whole,), "merged"),
        ((tmp_path / "missing",), "merged"),
        ((zero,), "one"),
    ]:
        result = run("merge", *folders, "-o", tmp_path / out)

        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
        assert "Nothing was written" in result.stderr
    assert not (tmp_path / "merged").exists()
    assert run("merge", "-o", tmp_path / "merged").exit_code == 2


@pytest.mark.parametrize(
    "shard", ["0/0", "3/3", "-1/3", "1", "", "a/b", "1/2/3", "١/٣", "0/3\n", "1.0/3"]
)
def test_a_shard_that_is_none_is_status_2(run: Run, urls: Path, tmp_path: Path, shard: str) -> None:
    """One line, and no folder is made."""
    for dry in ([], ["--dry-run"]):
        result = run("crawl", urls, "-o", tmp_path / "out", f"--shard={shard}", "--sandbox", *dry)

        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
        assert "is no shard: I/N is wanted" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shard", ["3", "abc", "1-3", ""])
def test_a_word_that_is_no_shard_is_told_as_the_value_it_was_meant_as(
    run: Run, urls: Path, tmp_path: Path, shard: str
) -> None:
    """`--shard` may stand alone, so the word counts as a second file, of which nobody thinks."""
    out = ["-o", tmp_path / "out", "--sandbox"]
    spelled = run("crawl", urls, f"--shard={shard}", *out)

    for args in ([urls, "--shard", shard], ["--shard", shard, urls]):
        result = run("crawl", *args, *out)

        assert result.exit_code == 2
        assert result.stderr == spelled.stderr
        assert result.stderr.startswith(f"--shard {shard!r} is no shard: I/N is wanted")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("index", "shards", "says"),
    [
        (None, "3", "JOB_COMPLETION_INDEX is not set"),
        ("0", None, "TOKFLUENCE_SHARDS is not set"),
        ("3", "3", "--shard '3/3' from JOB_COMPLETION_INDEX and TOKFLUENCE_SHARDS is no shard"),
        ("x", "3", "is no shard"),
    ],
)
def test_an_environment_that_names_no_shard_is_status_2(
    run: Run,
    urls: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    index: str | None,
    shards: str | None,
    says: str,
) -> None:
    """A job that was set up by halves must not crawl everything in each process."""
    for name, value in (("JOB_COMPLETION_INDEX", index), ("TOKFLUENCE_SHARDS", shards)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)

    result = run("crawl", urls, "-o", tmp_path / "out", "--shard", "--sandbox")

    assert result.exit_code == 2
    assert says in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_shard_is_status_2(
    run: Run, sandboxes: dict[str, Any], urls: Path, tmp_path: Path
) -> None:
    """Also with another number of shards, and without shards; nothing is sent."""
    out = tmp_path / "out"
    assert run("crawl", urls, "-o", out, "--shard", "1/3", "--sandbox").exit_code == 0

    for shard in (["--shard", "0/3"], ["--shard", "1/4"], []):
        result = run("crawl", urls, "-o", out, "--sandbox", *shard)

        assert result.exit_code == 2
        assert "holds shard 1/3" in result.stderr
        assert sandboxes["made"].requests_received == 0
    again = run("crawl", urls, "-o", out, "--shard", "1/3", "--sandbox")
    assert again.exit_code == 0
    assert sandboxes["made"].requests_received == 0


def test_a_dry_run_of_a_shard_counts_its_own(run: Run, urls: Path, tmp_path: Path) -> None:
    """Together they are the job."""
    posts = 0
    for n in range(3):
        result = run(
            *("crawl", urls, "-o", tmp_path / "out", "--shard", f"{n}/3"),
            *("--dry-run", "--json-logs"),
        )
        summary = json.loads(result.stderr)
        posts += summary["posts"]
        assert result.exit_code == (0 if n else 1)
        assert 0 < summary["posts"] < 30
        assert summary["malformed"] == (0 if n else 1)
    assert posts == 30


@pytest.mark.real_time
@pytest.mark.sandbox(indexed=0.5, seconds_per_url=0.05, visibility_delay=0.1)
async def test_killed_processes_of_xargs_are_started_again_with_the_same_line(
    sandbox: Sandbox, urls: Path, tmp_path: Path
) -> None:
    """`xargs -P`, SIGKILL in the middle, the same line again, merge: each post once, none billed
    twice."""
    program = " ".join(command_line("crawl", urls, "-o"))
    line = f"seq 0 2 | xargs -P 3 -I@ {program} {tmp_path}/out/@-of-3 --shard @/3 --quiet"
    env = ENV | {"TOKFLUENCE_TOKEN": sandbox.token, "TOKFLUENCE_BASE_URL": sandbox.url}
    first = await asyncio.create_subprocess_shell(line, env=env, start_new_session=True)
    async with asyncio.timeout(60):
        while sandbox.credits_spent < 60:  # noqa: ASYNC110  # in other processes
            await asyncio.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    await first.wait()

    again = await asyncio.create_subprocess_shell(line, env=env)
    await asyncio.wait_for(again.wait(), 100)
    merged = await asyncio.to_thread(
        subprocess.run,
        f"{' '.join(command_line('merge'))} {tmp_path}/out/*-of-3 -o {tmp_path}/merged",
        shell=True,
        env=ENV,
        capture_output=True,
        check=False,
    )

    assert merged.returncode == 0, merged.stderr
    assert sorted(post_ids(tmp_path / "merged")) == IDS
    assert not sandbox.billed_twice()
