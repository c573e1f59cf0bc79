"""`crawl --dry-run`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .support import (
    URLS,
    Run,
)


def test_a_dry_run_sends_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    """It needs no token, and says what it would cost at least and at most."""
    result = run(
        "crawl", URLS, "-o", tmp_path / "out", "--comments", "--dry-run", "--max-credits", "100"
    )
    always = run(
        "crawl", URLS, "-o", tmp_path / "out", "--dry-run", "--refresh", "always", "--json-logs"
    )
    arriving = run("crawl", "-", "-o", tmp_path / "out", "--dry-run", input="1\n2\n1\n")

    assert result.exit_code == 1  # the two malformed lines
    assert "59 distinct posts in 69 lines" in result.stderr
    assert (
        "59 credits at least, if all of them are in the index already; 1,947 at most"
        in result.stderr
    )
    assert "line 83: https://vm.tiktok.com/" in result.stderr
    assert "--max-credits 100: perhaps not all of it" in result.stderr
    assert json.loads(always.stderr)["credits_at_least"] == 59 * 26
    assert arriving.exit_code == 0
    assert "2 distinct posts in 3 lines" in arriving.stderr
    assert not (tmp_path / "out").exists()
    assert run("crawl", "nope.txt", "-o", tmp_path / "out", "--dry-run").exit_code == 2
    (tmp_path / "file").write_text("")
    assert run("crawl", URLS, "-o", tmp_path / "file", "--dry-run").exit_code == 2


def test_a_dry_run_knows_what_an_earlier_run_has_done(run: Run, tmp_path: Path) -> None:
    """And counts it once."""
    (tmp_path / "urls").write_text("1\n2\n3\n")
    run("crawl", tmp_path / "urls", "-o", tmp_path / "out", "--sandbox")

    done = run("crawl", tmp_path / "urls", "-o", tmp_path / "out", "--sandbox", "--dry-run")
    more = run(
        "crawl", tmp_path / "urls", "-o", tmp_path / "out", "--sandbox", "--dry-run", "--comments"
    )

    assert "3 posts done in an earlier run" in done.stderr
    assert "Posts: 0 credits." in done.stderr
    assert "Posts: 0 credits." in more.stderr
    assert "at least 6 credits" in more.stderr


def test_a_dry_run_into_a_folder_of_the_other_world_says_that_the_run_will_want_another(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends nothing, so there is nothing to refuse; what that folder's journal holds as done is
    not done there."""
    path, out = tmp_path / "urls", tmp_path / "out"
    path.write_text("1\n2\n3\n")
    run("crawl", path, "-o", out, "--sandbox")
    before = sorted(out.iterdir())

    dry = run("crawl", path, "-o", out, "--dry-run")
    quiet = run("crawl", path, "-o", out, "--dry-run", "--quiet")
    (out / ".origin").write_text("http://service.invalid\n")
    other_way = run("crawl", path, "-o", out, "--dry-run", "--sandbox")
    monkeypatch.setenv("TOKFLUENCE_TOKEN", "x")
    (out / ".origin").write_text("localhost\n")
    real = run("crawl", path, "-o", out)

    assert (dry.exit_code, other_way.exit_code, real.exit_code) == (0, 0, 2)
    assert (
        f"{out} holds a crawl of the sandbox: the real run will want another folder." in dry.stderr
    )
    assert "the real run will want another folder" in quiet.stderr
    assert (
        f"{out} holds a crawl of the service: the real run will want another folder."
        in other_way.stderr
    )
    assert "done in an earlier run" not in dry.stderr
    assert "3 credits at least" in dry.stderr
    assert sorted(out.iterdir()) == before
    assert f"or delete the folder {out}" in real.stderr
