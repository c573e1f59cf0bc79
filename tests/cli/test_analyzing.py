"""`tokfluence analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
