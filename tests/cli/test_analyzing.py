"""`tokfluence analyze`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tokfluence_async._sandbox.ledger import ANALYZE

from .support import (
    Run,
    json_lines,
)


def test_analyze_reads_a_file_and_skips_comments(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path
) -> None:
    """Blank lines, `#` comments, a byte order mark and Windows line ends are what files have."""
    path = tmp_path / "urls.txt"
    path.write_bytes(b"\xef\xbb\xbf1\r\n\r\n# no\r\n  # neither\r\n 2 \r\n1\r\n3")

    result = run("analyze", path, "--sandbox", "--batch-size", "2")

    assert result.exit_code == 0
    assert {row["postId"] for row in json_lines(result.stdout)} == {"1", "2", "3"}
    assert sandboxes["made"].times_charged(to=ANALYZE) == {"1": 1, "2": 1, "3": 1}


def test_analyze_reads_standard_input(run: Run, sandboxes: dict[str, Any]) -> None:
    """`-` is standard input."""
    result = run("analyze", "-", "--sandbox", input="1\nnope\n2")

    assert result.exit_code == 1
    assert {row["postId"] for row in json_lines(result.stdout)} == {"1", "2"}


def test_standard_input_that_is_not_text_is_status_2(run: Run, sandboxes: dict[str, Any]) -> None:
    """What came before it stands."""
    result = run("analyze", "-", "--sandbox", input=b"1\n\xff")

    assert result.exit_code == 2
    assert "standard input is not UTF-8 text" in result.stderr


def test_a_journal_bills_nothing_twice(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was no `--journal` here: the second run paid for all of it again. A `~` that the shell
    has left is the user's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "urls.txt"
    path.write_text("1\n2\n3\n4\n")
    args = ["analyze", path, "--sandbox", "--batch-size", "1", "--journal=~/paid.sqlite"]
    first = run(*args, "--max-credits", "50")
    paid = Counter(sandboxes["made"].times_charged(to=ANALYZE))

    second = run(*args)

    paid += Counter(sandboxes["made"].times_charged(to=ANALYZE))
    assert (first.exit_code, second.exit_code) == (3, 0), second.stderr
    assert paid == {"1": 1, "2": 1, "3": 1, "4": 1}
    assert len(json_lines(first.stdout)) == 2
    assert {row["postId"] for row in json_lines(second.stdout)} == set(paid)
    assert (tmp_path / "paid.sqlite").exists()


@pytest.mark.parametrize("journal", ["", ".", "missing/paid.sqlite"])
def test_a_journal_that_cannot_be_is_status_2(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, journal: str
) -> None:
    """One line, and nothing is sent."""
    path = tmp_path / "urls.txt"
    path.write_text("1\n")

    result = run("analyze", path, "--sandbox", "--journal", journal and tmp_path / journal)

    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "cannot be opened" in result.stderr
    assert sandboxes["made"].requests_received == 0
