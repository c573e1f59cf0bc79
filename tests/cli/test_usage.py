"""Wrong usage: status 2, one clear line, nothing sent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from .support import (
    ID,
    URL,
    URLS,
    Run,
)


def test_a_missing_token_is_status_2_and_one_line(run: Run, tmp_path: Path) -> None:
    """Nothing is made, nothing is sent, and the variable is named."""
    for args in (["post", "1"], ["crawl", URLS, "-o", tmp_path / "out"], ["analyze", URLS]):
        result = run(*args)

        assert result.exit_code == 2
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1
        assert "TOKFLUENCE_TOKEN" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("token", [None, "", "  "])
def test_a_missing_token_is_told_in_the_commands_words(
    run: Run, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who types a command has no `TokfluenceClient(token=...)` to give it to."""
    if token is not None:
        monkeypatch.setenv("TOKFLUENCE_TOKEN", token)

    told = run("post", "1").stderr

    assert told == "No API token: set TOKFLUENCE_TOKEN, or add --sandbox to try it without one.\n"


def test_a_wrong_token_is_status_2_and_leaves_nothing(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with an empty journal would look like a crawl that was begun."""
    sandboxes["prepare"] = lambda sandbox: sandbox.revoke()

    for args in (
        ["post", "1", "2"],
        ["comments", "1"],
        ["analyze", URLS],
        ["crawl", URLS, "-o", tmp_path / "out"],
    ):
        result = run(*args, "--sandbox", "-q")

        assert result.exit_code == 2
        assert result.stdout == ""
        assert "401 unauthorized" in result.stderr.splitlines()[-1]
        assert sandboxes["made"].credits_spent == 0
    assert not (tmp_path / "out").exists()


def test_a_refused_account_leaves_a_folder_that_was_there(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path
) -> None:
    """Only what the run itself has made is taken back."""
    sandboxes["prepare"] = lambda sandbox: sandbox.revoke()
    (tmp_path / "mine").write_text("kept")

    assert run("crawl", URLS, "-o", tmp_path, "--sandbox").exit_code == 2

    assert (tmp_path / "mine").read_text() == "kept"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"1\n\xff\xfe\n", "not UTF-8 text (near line 2)"),
        (b"1\n" * 118 + b"1\0\n", "a NUL byte near line 119"),
        (b"1\n\x00\n", "not text"),
        (b"x" * 200_000, "no end"),
    ],
)
def test_a_file_that_is_no_list_is_status_2(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, content: bytes | None, says: str
) -> None:
    """One clear line, before anything is made or sent."""
    path = tmp_path / "urls.txt"
    if content is not None:
        path.write_bytes(content)

    for args in (["crawl", path, "-o", tmp_path / "out"], ["analyze", path]):
        result = run(*args, "--sandbox")

        assert result.exit_code == 2
        assert says in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert sandboxes["made"].requests_received == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (ID, f"that is a post's id: `echo {ID} | tokfluence {{again}}`, or `tokfluence post {ID}`"),
        (
            URL,
            f"that is a post's URL: `echo '{URL}' | tokfluence {{again}}`, or `tokfluence post "
            f"'{URL}'`",
        ),
        (
            "https://vm.tiktok.com/x",
            "that is a URL; a file with a URL or id per line is wanted, or - for standard input",
        ),
    ],
)
def test_a_post_in_the_files_place_is_told_where_it_goes(
    run: Run, tmp_path: Path, given: str, says: str
) -> None:
    """It is the first thing a newcomer types; the line can be copied."""
    out = tmp_path / "an out"
    crawl = run("crawl", given, "-o", out, "--sandbox")
    dry = run("crawl", given, "-o", out, "--dry-run")
    analyze = run("analyze", given, "--sandbox")

    assert [crawl.exit_code, dry.exit_code, analyze.exit_code] == [2, 2, 2]
    for told, again in (
        (crawl, f"crawl - -o '{out}'"),
        (dry, f"crawl - -o '{out}'"),
        (analyze, "analyze -"),
    ):
        assert told.stderr == f"{given}: No such file or directory; {says.format(again=again)}\n"


@pytest.mark.parametrize("command", [["crawl", "-o", "out"], ["analyze"]])
def test_two_files_are_told_what_is_wanted(run: Run, command: list[str]) -> None:
    """They are URLs more often than files."""
    result = run(*command, URL, URL, "3")

    told = " ".join(result.stderr.replace("│", " ").split())
    assert result.exit_code == 2
    assert "Got unexpected extra arguments" in told
    assert "A file with a URL or id per line is wanted, or - for standard input." in told
    assert "Got unexpected extra argument (" in run(*command, "1", "2").stderr


def test_a_folder_as_input_or_a_file_as_output_is_status_2(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path
) -> None:
    """Both are typing errors that are easily made."""
    (tmp_path / "file").write_text("")

    as_input = run("crawl", tmp_path, "-o", tmp_path / "out", "--sandbox")
    as_output = run("crawl", URLS, "-o", tmp_path / "file", "--sandbox")
    below = run("crawl", URLS, "-o", tmp_path / "file" / "out", "--sandbox")
    nul = run("crawl", "a\0b", "-o", tmp_path / "out", "--sandbox")

    assert [as_input.exit_code, as_output.exit_code, below.exit_code, nul.exit_code] == [2, 2, 2, 2]
    assert "is a folder" in as_input.stderr
    assert "is a file" in as_output.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "args",
    [
        ["post", "1", "--sandbox", "--base-url", "http://x"],
        ["nope"],
        ["[/nope]"],
        ["post"],
        ["post", "1", "--max-credits", "-1"],
        ["analyze", "-", "--batch-size", "51"],
        ["comments", "1", "--cursor", "-1"],
        ["sandbox", "--throttle", "nonsense"],
        ["crawl", "-"],
    ],
)
def test_wrong_usage_is_status_2(run: Run, args: list[str]) -> None:
    """Markup in an argument is shown, not obeyed."""
    result = run(*args)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr


def test_parquet_without_its_extra_is_status_2(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that installs it, before anything is made or sent."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    for args in (["post", "1"], ["crawl", URLS, "-o", tmp_path / "out"]):
        result = run(*args, "--sandbox", "--format", "parquet")

        assert result.exit_code == 2
        assert (
            "pip install 'tokfluence_async[frames]' (or from a checkout: pip install '.[frames]')"
            in result.stderr
        )
        assert sandboxes["made"].requests_received == 0
    assert not (tmp_path / "out").exists()


def test_a_log_level_that_is_none_is_status_2(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names those that are."""
    monkeypatch.setenv("TOKFLUENCE_LOG", "verbose")

    result = run("post", "1", "--sandbox")

    assert result.exit_code == 2
    assert "debug, info" in result.stderr
