"""Windows by simulation: everything runs where the calls are missing that Windows lacks.

Not on Windows itself: `windows.py` says what the simulation plays, and what it cannot.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
POST_ID = "7234567890123456789"
IDS = [str(7_234_567_890_123_456_000 + number) for number in range(12)]

pytestmark = pytest.mark.real_time


def command(*args: str) -> list[str]:
    simulated = [str(HERE / "windows.py"), *args]
    return [sys.executable, "-W", "error", "-X", "warn_default_encoding", *simulated]


def environment(folder: Path) -> dict[str, str]:
    # Standard streams have the code page of the system, as where nothing is set.
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONUTF8"},
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "PYTHONIOENCODING": "cp1252",
        "HOME": str(folder),
    }


def run(folder: Path, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*args),
        cwd=folder,
        env=environment(folder),
        input=stdin,
        capture_output=True,
        encoding="cp1252",
        errors="replace",
        timeout=100,
    )


def test_the_whole_story(tmp_path: Path) -> None:
    """Client, bulk calls, journal and crawl, with paths that have drive letters."""
    done = run(tmp_path, str(HERE / "story.py"))

    assert (done.returncode, done.stderr) == (0, "")
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["post"] == IDS[0]
    assert told["read_comments"] == 30
    assert told["analyzed"] == 12
    assert told["again"] == [12, 0]
    assert [told["own"], told["resolved"], told["read"]] == [3, 12, 12]
    assert told["posts"] == [8, 4, 8]
    assert [told["comments"], told["billed"]] == [12 * 30, 4 * (1 + 2)]
    assert [told["lines"], told["returns"]] == [12, 0]
    assert {"posts.jsonl", "comments.jsonl", "failures.jsonl", "journal.sqlite"} <= set(
        told["files"]
    )
    assert told["shared"] == [12, True]
    # By the two journals that know nothing of each other.
    assert told["twice"] == IDS[:3]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        r"C:\jobs\posts.sqlite",
        r"C:\out",
        r"C:\run\throttle",
        r"D:\jobs\own.sqlite",
    ]


def test_names_of_files_are_names_on_windows(tmp_path: Path) -> None:
    """No colon, no question mark, no two that differ by case alone."""
    inputs = tmp_path / "urls.txt"
    inputs.write_text(POST_ID + "\n", "utf-8")
    done = run(
        tmp_path,
        "tokfluence_async",
        *("crawl", "urls.txt", "-o", "out", "--sandbox", "--comments", "--format", "csv"),
    )

    names = [path.name for path in (tmp_path / "out").iterdir()]
    assert done.returncode == 0, done.stderr
    assert not [name for name in names if re.search(r'[<>:"/\\|?*\x00-\x1f]|[. ]$', name)]
    assert len({name.lower() for name in names}) == len(names)


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (("--help",), "crawl"),
        (("crawl", "--help"), "--comments"),
        (("post", POST_ID, "--sandbox"), POST_ID),
        (("comments", POST_ID, "--sandbox", "--max-items", "5"), "comment_id"),
        (("analyze", "-", "--sandbox"), '"status":"'),
        (("crawl", "-", "-o", r"C:\out", "--sandbox", "--comments"), ""),
        (("crawl", "-", "-o", r"C:\out", "--sandbox", "--dry-run"), ""),
    ],
)
def test_commands(tmp_path: Path, args: tuple[str, ...], found: str) -> None:
    """Each does what it does elsewhere; standard output is of the system's own code page."""
    done = run(tmp_path, "tokfluence_async", *args, stdin=POST_ID + "\n")

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert found in done.stdout


def test_a_file_is_found_by_its_drive(tmp_path: Path) -> None:
    """`C:` is no scheme of a URL."""
    (tmp_path / r"C:\lists\urls.txt").write_text(POST_ID + "\n", "utf-8")

    found = run(tmp_path, "tokfluence_async", "analyze", r"C:\lists\urls.txt", "--sandbox")
    missing = run(tmp_path, "tokfluence_async", "analyze", r"C:\lists\no.txt", "--sandbox")

    assert (found.returncode, POST_ID in found.stdout) == (0, True)
    assert missing.returncode == 2
    assert "URL" not in missing.stderr.replace("tokfluence", "")


def test_ctrl_c_ends_what_is_served(tmp_path: Path) -> None:
    """The loop takes no handlers there; the process's own wakes it."""
    with subprocess.Popen(
        command("tokfluence_async", "sandbox"),
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["url"].startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 0, errors
    assert b"0 requests" in errors
