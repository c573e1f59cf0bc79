"""The command line: what goes where, what it costs, how it ends."""

from __future__ import annotations

import asyncio
import csv
import gc
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

import tokfluence_async
from tokfluence_async import Comment, Progress, Sandbox, TokfluenceClient
from tokfluence_async.__main__ import main
from tokfluence_async._cli import app, crawling, runtime
from tokfluence_async._cli.following import CommentLine, _Table
from tokfluence_async._cli.inputs import FileLines, StreamLines, UsageError, open_inputs
from tokfluence_async._cli.output import Output
from tokfluence_async._cli.screen import Meter, Snapshot, _Rich, open_screen
from tokfluence_async._crawl.folder import known_as
from tokfluence_async._crawl.tables import defuse, open_writer
from tokfluence_async._sandbox import ANALYZE, COMMENTS, POST
from tokfluence_async.testing import VirtualLoop

ID = "7234567890123456789"
URLS = Path(__file__).parent.parent.parent / "examples" / "urls.txt"
Run = Callable[..., Result]


@pytest.fixture
def sandboxes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The embedded sandbox of a command: `options` go to it, `made` is it. The command runs on a
    virtual clock."""
    held: dict[str, Any] = {"options": {}, "prepare": None}

    def make(**options: Any) -> Sandbox:
        sandbox = held["made"] = Sandbox(**{**options, "record": True, **held["options"]})
        if held["prepare"]:
            held["prepare"](sandbox)
        return sandbox

    monkeypatch.setattr(tokfluence_async, "Sandbox", make)
    monkeypatch.setattr(runtime, "new_loop", VirtualLoop)
    return held


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("TOKFLUENCE_TOKEN", raising=False)
    monkeypatch.delenv("TOKFLUENCE_BASE_URL", raising=False)
    monkeypatch.delenv("TOKFLUENCE_LOG", raising=False)
    return lambda *args, **options: CliRunner().invoke(
        app, [str(arg) for arg in args], catch_exceptions=False, **options
    )


def _lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def _file(path: Path) -> list[Any]:
    return _lines(path.read_text("utf-8"))


# --- post -----------------------------------------------------------------------------------------


def test_posts_are_json_lines_on_standard_output(run: Run, sandboxes: dict[str, Any]) -> None:
    """Programs read standard output: nothing but data may be there."""
    result = run("post", ID, f"https://m.tiktok.com/v/{ID}.html", "2", "--sandbox")

    assert result.exit_code == 0
    assert sorted(post["post_id"] for post in _lines(result.stdout)) == ["2", ID]
    assert sandboxes["made"].times(to=POST)
    assert sandboxes["made"].credits_spent == 2
    assert "2 credits spent" in result.stderr


def test_a_failed_input_is_told_and_the_others_are_written(
    run: Run, sandboxes: dict[str, Any]
) -> None:
    """Status 1 says that something is missing from the data."""
    sandboxes["options"] = {"indexed": {ID}}

    result = run("post", ID, "2", "[/nope]", "--sandbox")

    assert result.exit_code == 1
    assert [post["post_id"] for post in _lines(result.stdout)] == [ID]
    assert "failed: 2: 404 post_not_found" in result.stderr
    assert "failed: [/nope]:" in result.stderr
    assert sandboxes["made"].credits_spent == 2


def test_the_budget_stops_a_command(run: Run, sandboxes: dict[str, Any]) -> None:
    """Status 3, and not a credit more."""
    result = run("post", "1", "2", "3", "--sandbox", "--max-credits", "2")

    assert result.exit_code == 3
    assert len(_lines(result.stdout)) == 2
    assert sandboxes["made"].credits_spent == 2
    assert "1 not done" in result.stderr


def test_an_empty_wallet_stops_a_command(run: Run, sandboxes: dict[str, Any]) -> None:
    """As with the budget; the service says it."""
    sandboxes["options"] = {"credits": 0}

    result = run("post", "1", "--sandbox")

    assert result.exit_code == 3
    assert "insufficient_credits" in result.stderr


def test_quiet_keeps_errors_only(run: Run, sandboxes: dict[str, Any]) -> None:
    """A cron job mails what is on standard error."""
    assert run("post", ID, "--sandbox", "--quiet").stderr == ""
    assert "failed: nope" in run("post", "nope", "--sandbox", "--quiet").stderr


def test_json_logs_are_json_lines(
    run: Run, sandboxes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of standard error, the library's own log included, is for programs then; no token is in
    it."""
    monkeypatch.setenv("TOKFLUENCE_LOG", "debug")

    result = run("post", ID, "nope", "--sandbox", "--json-logs")

    events = _lines(result.stderr)
    assert {event["event"] for event in events} >= {"log", "message", "summary"}
    assert [event["input"] for event in events if event.get("level") == "warning"] == ["nope"]
    summary = next(event for event in events if event["event"] == "summary")
    assert (summary["written"], summary["failed"], summary["credits_spent"]) == (1, 1, 1)
    assert sandboxes["made"].token not in result.stderr
    assert ID in next(event["message"] for event in events if event["event"] == "log")


# --- wrong usage ----------------------------------------------------------------------------------


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


URL = f"https://www.tiktok.com/@wwe/video/{ID}?lang=en&x=1"


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


def test_a_command_line_without_its_extra_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From an index, and from a checkout, which is what there is as long as it is on none."""
    for module in [name for name in sys.modules if name.startswith("tokfluence_async._cli")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr(tokfluence_async, "_cli")
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.setattr(sys, "argv", ["tokfluence", "post", "1"])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "The command line needs typer, which is not installed: pip install 'tokfluence_async[cli]' "
        "(or from a checkout: pip install '.[cli]')\n"
    )


def test_a_log_level_that_is_none_is_status_2(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names those that are."""
    monkeypatch.setenv("TOKFLUENCE_LOG", "verbose")

    result = run("post", "1", "--sandbox")

    assert result.exit_code == 2
    assert "debug, info" in result.stderr


def test_help_and_version(run: Run) -> None:
    """Help teaches by example, for every command."""
    assert tokfluence_async.__version__ in run("--version").stdout
    for command in ("post", "comments", "analyze", "crawl", "sandbox"):
        shown = run(command, "--help")
        assert shown.exit_code == 0
        assert f"tokfluence {command}" in shown.stdout
        assert "Example" in shown.stdout


# --- comments -------------------------------------------------------------------------------------


def test_comments_come_in_order(run: Run, sandboxes: dict[str, Any]) -> None:
    """Two credits a page of 200."""
    sandboxes["options"] = {"comments_per_post": 450}

    result = run("comments", ID, "--sandbox")

    assert [c["comment_id"] for c in _lines(result.stdout)] == [
        f"{ID}-c-{n}" for n in range(1, 451)
    ]
    assert result.exit_code == 0
    assert sandboxes["made"].credits_spent == 6


def test_max_items_and_cursor_bound_what_is_bought(run: Run, sandboxes: dict[str, Any]) -> None:
    """A look at a few comments costs a page, not a post's worth."""
    sandboxes["options"] = {"comments_per_post": 5000}

    result = run("comments", ID, "--sandbox", "--max-items", "10", "--cursor", "200")

    assert [c["comment_id"] for c in _lines(result.stdout)] == [
        f"{ID}-c-{n}" for n in range(201, 211)
    ]
    assert sandboxes["made"].times(to=COMMENTS)
    assert sandboxes["made"].credits_spent == 2


def test_comments_that_end_early_say_how_to_go_on(run: Run, sandboxes: dict[str, Any]) -> None:
    """What was paid for stands on standard output; the rest is one option away."""
    sandboxes["options"] = {"comments_per_post": 1000}

    result = run("comments", ID, "--sandbox", "--max-credits", "4")

    assert result.exit_code == 3
    assert len(_lines(result.stdout)) == 400
    assert "--cursor 400" in result.stderr


def test_comments_of_an_unknown_post(run: Run, sandboxes: dict[str, Any]) -> None:
    """Status 1 and the service's word."""
    sandboxes["options"] = {"indexed": 0.0}

    result = run("comments", "1", "--sandbox")
    malformed = run("comments", "nope", "--sandbox")

    assert (result.exit_code, malformed.exit_code) == (1, 1)
    assert "post_not_found" in result.stderr
    assert "'nope' is not a TikTok post" in malformed.stderr


# --- analyze --------------------------------------------------------------------------------------


def test_analyze_reads_a_file_and_skips_comments(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path
) -> None:
    """Blank lines, `#` comments, a byte order mark and Windows line ends are what files have."""
    path = tmp_path / "urls.txt"
    path.write_bytes(b"\xef\xbb\xbf1\r\n\r\n# no\r\n  # neither\r\n 2 \r\n1\r\n3")

    result = run("analyze", path, "--sandbox", "--batch-size", "2")

    assert result.exit_code == 0
    assert {row["postId"] for row in _lines(result.stdout)} == {"1", "2", "3"}
    assert sandboxes["made"].times_charged(to=ANALYZE) == {"1": 1, "2": 1, "3": 1}


def test_analyze_reads_standard_input(run: Run, sandboxes: dict[str, Any]) -> None:
    """`-` is standard input."""
    result = run("analyze", "-", "--sandbox", input="1\nnope\n2")

    assert result.exit_code == 1
    assert {row["postId"] for row in _lines(result.stdout)} == {"1", "2"}


def test_standard_input_that_is_not_text_is_status_2(run: Run, sandboxes: dict[str, Any]) -> None:
    """What came before it stands."""
    result = run("analyze", "-", "--sandbox", input=b"1\n\xff")

    assert result.exit_code == 2
    assert "standard input is not UTF-8 text" in result.stderr


# --- crawl ----------------------------------------------------------------------------------------


def test_the_main_job_on_real_input(run: Run, sandboxes: dict[str, Any], tmp_path: Path) -> None:
    """The README's first command: every post and comment once, the two malformed lines told with
    their numbers."""
    out = tmp_path / "out"

    result = run("crawl", URLS, "-o", out, "--comments", "--sandbox")

    sandbox = sandboxes["made"]
    posts, comments = _file(out / "posts.jsonl"), _file(out / "comments.jsonl")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len({post["post_id"] for post in posts}) == len(posts) == 59
    assert len({comment["comment_id"] for comment in comments}) == len(comments)
    assert len(comments) == sum(sandbox.world.total_comments(post["post_id"]) for post in posts)
    assert len(_file(out / "failures.jsonl")) == 2
    assert not sandbox.billed_twice()
    assert sandbox.rate_limited == 0
    numbers = [
        n
        for n, line in enumerate(URLS.read_text().splitlines(), 1)
        if "vm.tiktok" in line or line.endswith("@wwe")
    ]
    for number in numbers:
        assert f"line {number}: " in result.stderr
    assert f"{sandbox.credits_spent:,} credits spent" in result.stderr
    assert "8 duplicates" in result.stderr


def test_a_second_run_sends_nothing(run: Run, sandboxes: dict[str, Any], tmp_path: Path) -> None:
    """The same command goes on where it ended; here at the end."""
    run("crawl", URLS, "-o", tmp_path, "--sandbox")
    before = (tmp_path / "posts.jsonl").read_bytes()

    result = run("crawl", URLS, "-o", tmp_path, "--sandbox")

    assert result.exit_code == 1
    assert sandboxes["made"].requests_received == 0
    assert (tmp_path / "posts.jsonl").read_bytes() == before
    assert "59 posts done in an earlier run" in result.stderr


def test_made_up_posts_are_not_mixed_with_real_ones(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first thing people do is to try it with --sandbox, and then to leave that word out."""
    path, made_up, real = tmp_path / "urls.txt", tmp_path / "made up", tmp_path / "real"
    path.write_text("1\n")
    assert run("crawl", path, "-o", made_up, "--sandbox").exit_code == 0
    monkeypatch.setenv("TOKFLUENCE_TOKEN", "x")
    monkeypatch.setenv("TOKFLUENCE_BASE_URL", "http://service.invalid")

    mixed = run("crawl", path, "-o", made_up)
    real.mkdir()
    (real / "journal.sqlite").write_bytes(b"")
    other = run("crawl", path, "-o", real, "--sandbox")

    assert (mixed.exit_code, other.exit_code) == (2, 2)
    assert "holds a crawl of the sandbox" in mixed.stderr
    assert "holds a crawl of the service" in other.stderr
    assert run("crawl", path, "-o", made_up, "--sandbox").exit_code == 0


def test_a_folder_of_a_sandbox_elsewhere_is_one_of_the_sandbox(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is served, or that a program has crawled: the folder says so, whoever made it."""
    path, out = tmp_path / "urls.txt", tmp_path / "out"
    path.write_text("1\n")

    async def by_hand() -> None:
        async with (
            Sandbox() as sandbox,
            TokfluenceClient(sandbox.token, base_url=sandbox.url) as client,
        ):
            await tokfluence_async.crawl(client, ["1"], out)

    asyncio.run(by_hand())
    monkeypatch.setenv("TOKFLUENCE_TOKEN", "x")

    mixed = run("crawl", path, "-o", out, "--base-url", "http://service.invalid")

    assert mixed.exit_code == 2
    assert "holds a crawl of the sandbox" in mixed.stderr
    assert run("crawl", path, "-o", out, "--sandbox").exit_code == 0
    (out / ".origin").write_text("http://service.invalid\n")
    assert "holds a crawl of the service" in run("crawl", path, "-o", out, "--sandbox").stderr


def test_a_sandbox_that_is_served_goes_on_where_an_embedded_one_ended(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All addresses of this machine count as one, for the command as for the library; and one file
    says so, not two."""
    path, out = tmp_path / "urls.txt", tmp_path / "out"
    path.write_text("1\n")
    assert run("crawl", path, "-o", out, "--sandbox").exit_code == 0
    monkeypatch.setenv("TOKFLUENCE_TOKEN", "x")
    monkeypatch.setenv("TOKFLUENCE_BASE_URL", "http://127.0.0.1:9")

    served = run("crawl", path, "-o", out)

    assert served.exit_code == 0
    assert "1 post done in an earlier run" in served.stderr
    assert not (out / ".sandbox").exists()
    assert (out / ".origin").exists()


def test_the_mark_that_earlier_versions_left_is_still_read(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their sandbox's folders have no other."""
    path, out = tmp_path / "urls.txt", tmp_path / "out"
    path.write_text("1\n")
    run("crawl", path, "-o", out, "--sandbox")
    (out / ".origin").rename(out / ".sandbox")
    monkeypatch.setenv("TOKFLUENCE_TOKEN", "x")

    assert "holds a crawl of the sandbox" in run("crawl", path, "-o", out).stderr
    assert run("crawl", path, "-o", out, "--sandbox").exit_code == 0


def test_a_mark_beside_an_empty_journal_refuses_nobody(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the library: nothing is there that could be mixed."""
    path, out = tmp_path / "urls.txt", tmp_path / "out"
    path.write_text("1\n")
    sandboxes["options"] = {"credits": 0}
    assert run("crawl", path, "-o", out, "--sandbox").exit_code == 3
    (out / ".origin").write_text("http://service.invalid\n")
    sandboxes["options"] = {}

    assert run("crawl", path, "-o", out, "--sandbox").exit_code == 0


@pytest.mark.parametrize(
    "url", [
        "http://127.0.0.1:4711", "http://127.1.2.3", "http://[::1]:4711", "http://LOCALHOST:1/base",
        "http://api.localhost", "http://10.0.0.1:8080", "https://127.0.0.1.example",
        "https://notlocalhost", None,
    ],
)  # fmt: skip
async def test_the_command_and_the_library_agree_on_what_is_this_machine(url: str | None) -> None:
    """The one refuses in better words what the other would refuse."""
    async with TokfluenceClient("x", base_url=url) as client:
        name = known_as(client._engine.origin)

    assert crawling._is_local(url) == (name == "localhost")


def test_a_crawl_stops_at_its_budget_and_goes_on(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path
) -> None:
    """Status 3; what was bought is there, and the rest is bought by the next run."""
    sandboxes["options"] = {"indexed": 1.0}

    result = run("crawl", URLS, "-o", tmp_path, "--sandbox", "--max-credits", "20")

    assert result.exit_code == 3
    assert sandboxes["made"].credits_spent == 20
    assert len(_file(tmp_path / "posts.jsonl")) == 20
    assert "for want of credits" in result.stderr
    assert run("crawl", URLS, "-o", tmp_path, "--sandbox").exit_code == 1
    assert sandboxes["made"].credits_spent == 39
    assert len(_file(tmp_path / "posts.jsonl")) == 59


def test_the_summary_of_a_crawl_without_credits_adds_up(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path
) -> None:
    """Written, finished, to go: each post is once in the sum of the last two, in this run and in
    the next."""
    path = tmp_path / "urls.txt"
    path.write_text("nope\n1\n" + "".join(f"{n}\n" for n in range(1, 21)))
    args = ["crawl", path, "-o", tmp_path / "out", "--sandbox", "--comments", "--max-credits", "31"]
    sandboxes["options"] = {"indexed": 1.0, "comments_per_post": 5}

    told = [run(*args, *more).stderr for more in ([], ["--json-logs"], [])]

    summary = next(event for event in _lines(told[1]) if event["event"] == "summary")
    first = re.search(
        r"(\d+) posts? finished with all their comments, (\d+) to go for want of credits\.", told[0]
    )
    assert first is not None
    assert int(first[1]) + int(first[2]) == 20
    assert summary["finished"] + summary["to_go"] + summary["skipped"] == 20
    assert summary["skipped"] == int(first[1])
    assert summary["not_affordable"] == summary["to_go"]
    assert "to go" not in told[2]
    assert "not finished" not in "".join(told)


def test_a_crawl_tells_what_failed(run: Run, sandboxes: dict[str, Any], tmp_path: Path) -> None:
    """The first few with the service's word, however many there are."""
    sandboxes["options"] = {
        "indexed": 0.0,
        "analyze_status": lambda _: "removed",
        "visibility_delay": 1e9,
    }
    path = tmp_path / "urls.txt"
    path.write_text("".join(f"{n}\n" for n in range(1, 16)) + "nope\n" * 12)

    result = run("crawl", path, "-o", tmp_path / "out", "--sandbox")

    assert result.exit_code == 1
    assert "15 posts failed" in result.stderr
    assert "and 5 more" in result.stderr  # 15 posts, of which ten are shown
    assert "12 lines" in result.stderr
    assert "and 2 more" in result.stderr


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


def test_one_of_a_thing_is_no_plural(run: Run, sandboxes: dict[str, Any], tmp_path: Path) -> None:
    """In summaries, bills and estimates."""
    (tmp_path / "one").write_text(f"{ID}\n")
    sandboxes["options"] = {"comments_per_post": 1}

    told = [
        run("post", ID, "--sandbox"),
        run("comments", ID, "--sandbox", "--max-credits", "2"),
        run("comments", ID, "--sandbox", "--max-credits", "1"),
        run("crawl", tmp_path / "one", "-o", tmp_path / "out", "--refresh", "always", "--dry-run"),
        run("crawl", tmp_path / "one", "-o", tmp_path / "out", "--sandbox"),
        run(
            "crawl",
            tmp_path / "one",
            "-o",
            tmp_path / "out",
            "--sandbox",
            "--dry-run",
            "--comments",
        ),
    ]

    text = "\n".join(result.stderr for result in told)
    for part in (
        "1 post in",
        "1 credit spent",
        "1 request,",
        "1 comment in",
        "1 of the budget's 1 is left",
    ):
        assert part in text
    assert (
        re.findall(r"(?<![\d,.])1 (?:credits|posts|comments|requests|lines|duplicates)", text) == []
    )


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


def test_a_sandbox_knows_what_the_one_before_it_had_analyzed(run: Run, tmp_path: Path) -> None:
    """Each run brings its own; the folder's journal says what was paid for, and a service would not
    have forgotten it."""
    (tmp_path / "urls").write_text("".join(f"{n}\n" for n in range(1, 9)))
    first = run("crawl", tmp_path / "urls", "-o", tmp_path / "out", "--sandbox")

    second = run("crawl", tmp_path / "urls", "-o", tmp_path / "out", "--sandbox", "--comments")

    assert (first.exit_code, second.exit_code) == (0, 0), second.stderr
    lines = (tmp_path / "out/comments.jsonl").read_text("utf-8").splitlines()
    assert len({json.loads(line)["post_id"] for line in lines}) > 5


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
        lines = _file(tmp_path / f"{name}.jsonl")
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


# --- formats on standard output -------------------------------------------------------------------


def test_csv_on_standard_output_is_safe_for_spreadsheets(
    run: Run, sandboxes: dict[str, Any]
) -> None:
    """The sandbox's people write formulas, too."""
    sandboxes["options"] = {"comments_per_post": 400}

    result = run("comments", ID, "--sandbox", "--format", "csv")

    rows = list(csv.DictReader(io.StringIO(result.stdout_bytes.decode(), newline="")))
    assert len(rows) == 400
    assert any(row["text"].startswith("'=SUM") for row in rows)
    assert not any(row["text"].lstrip(" ").startswith(("=", "+", "-", "@")) for row in rows)


def test_parquet_on_standard_output(run: Run, sandboxes: dict[str, Any]) -> None:
    """A pipe takes it: nothing is written out of order."""
    import pyarrow.parquet as pq

    result = run("post", ID, "--sandbox", "--format", "parquet")

    assert pq.read_table(io.BytesIO(result.stdout_bytes)).column("post_id").to_pylist() == [ID]


def test_parquet_is_written_in_row_groups() -> None:
    """Memory holds one of them, whatever the length of the file."""
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    writer = open_writer("parquet", Comment, sink)
    written = []
    for start in range(0, 50_000, 10_000):
        writer.write([Comment(comment_id=str(n), likes=n) for n in range(start, start + 10_000)])
        written.append(sink.tell())
    writer.close()

    file = pq.ParquetFile(sink)
    assert file.metadata.num_rows == 50_000
    assert file.metadata.num_row_groups == 3
    assert written[1] > written[0]  # the first group was written before the others came


_MEASURE = """
import resource, sys
from pathlib import Path
from tokfluence_async._cli.following import CommentLine, _Table

lines, count = Path(sys.argv[1]), int(sys.argv[2])
with lines.open("w") as file:
    for n in range(count):
        file.write('{"post_id":"1","comment_id":"%d","text":"%s"}\\n' % (n, "x" * 100))
_Table(lines, lines.with_suffix(".parquet"), "parquet", CommentLine).finish()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.real_time
def test_the_memory_of_a_table_does_not_grow_with_it(tmp_path: Path) -> None:
    """Five times the comments, the same megabytes (a million more took 12 MB more)."""

    def megabytes(count: int) -> int:
        command = [sys.executable, "-c", _MEASURE, str(tmp_path / f"{count}.jsonl"), str(count)]
        env = {name: value for name, value in _ENV.items() if not name.startswith("COV")}
        return int(
            subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
        )

    assert megabytes(250_000) - megabytes(50_000) < 40


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1", "  =1", "＝1", "\n=1"])
def test_formulas_are_defused(text: str) -> None:
    """Each of these starts a formula in some spreadsheet."""
    assert defuse(text) == "'" + text


def test_csv_spreads_music_and_keeps_numbers() -> None:
    """A negative number is a number; a list is JSON; null is an empty cell."""
    from tokfluence_async import Music, Post

    sink = io.BytesIO()
    writer = open_writer("csv", Post, sink)
    writer.write(
        [
            Post(
                post_id="1", likes=-3, hashtags=["a", "=b"], music=Music(title="=x", original=True)
            ),
            Post(post_id="2"),
        ]
    )
    writer.close()

    first, second = csv.DictReader(io.StringIO(sink.getvalue().decode()))
    assert (first["likes"], first["hashtags"]) == ("-3", '["a","=b"]')
    assert (first["music.title"], first["music.original"]) == ("'=x", "true")
    assert (second["music.title"], second["likes"]) == ("", "")


# --- signals --------------------------------------------------------------------------------------


def _signalling(times: int, which: signal.Signals = signal.SIGINT) -> Callable[[str], float]:
    """Seconds a URL takes; the first one that is analyzed has the signal sent so many times."""
    sent = []

    def seconds(_: str) -> float:
        while len(sent) < times:
            sent.append(os.kill(os.getpid(), which))
        return 1.0

    return seconds


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_what_is_under_way_is_finished_after_a_signal(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, which: signal.Signals
) -> None:
    """It has been paid for. Nothing new is begun, and every row that was charged is written."""
    sandboxes["options"] = {"seconds_per_url": _signalling(1, which), "indexed": 0.0}
    path = tmp_path / "urls.txt"
    path.write_text("".join(f"{n}\n" for n in range(1, 2001)))

    result = run("analyze", path, "--sandbox", "--batch-size", "1")

    sandbox = sandboxes["made"]
    assert result.exit_code == 128 + which
    assert {row["postId"] for row in _lines(result.stdout)} == set(
        sandbox.times_charged(to=ANALYZE)
    )
    assert 0 < sandbox.credits_spent < 2000 * 25
    assert result.stderr.count("Stopping") == 1


def test_a_crawl_that_is_stopped_goes_on_later(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path
) -> None:
    """Between the two runs nothing is lost and nothing is paid twice."""
    sandboxes["options"] = {"seconds_per_url": _signalling(1), "indexed": 0.5}
    stopped = run("crawl", URLS, "-o", tmp_path, "--sandbox", "--format", "csv")
    first = sandboxes["made"]

    sandboxes["options"] = {"indexed": lambda post_id: first.is_indexed(post_id)}
    done = run("crawl", URLS, "-o", tmp_path, "--sandbox", "--format", "csv")

    assert (stopped.exit_code, done.exit_code) == (130, 1)
    assert "Stopped by a signal" in stopped.stderr
    assert len({post["post_id"] for post in _file(tmp_path / "posts.jsonl")}) == 59
    charged = Counter(first.times_charged(to=ANALYZE)) + Counter(
        sandboxes["made"].times_charged(to=ANALYZE)
    )
    assert max(charged.values()) == 1
    assert len((tmp_path / "posts.csv").read_text("utf-8").splitlines()) > 59


def test_after_a_signal_the_total_is_still_that_of_the_file(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the input was cut off is not where the job ends."""
    shown: list[Snapshot] = []
    monkeypatch.setattr(
        "tokfluence_async._cli.screen._Plain.update", lambda _, snapshot: shown.append(snapshot)
    )
    sandboxes["options"] = {"seconds_per_url": _signalling(1), "indexed": 0.0}
    path = tmp_path / "urls.txt"
    path.write_text("".join(f"{n}\n" for n in range(1, 3001)))

    result = run("crawl", path, "-o", tmp_path / "out", "--sandbox")

    assert result.exit_code == 130
    written = len(_file(tmp_path / "out" / "posts.jsonl"))
    assert 0 < written < 3000
    assert f"At most {3000 - written:,} posts to go." in result.stderr
    assert {snapshot.total for snapshot in shown} == {None, 3000}


async def test_the_total_of_a_stopped_command(
    sandbox: Sandbox, client: TokfluenceClient, tmp_path: Path
) -> None:
    """The last that was known before; of a file its lines, of a stream nothing."""
    (tmp_path / "urls").write_text("1\n2\n")
    known, stream, file = _session(client), _session(client), _session(client)
    known.on_progress(_progress(total=3000))
    stream.inputs, file.inputs = StreamLines("standard input"), FileLines(tmp_path / "urls")

    for session in (known, stream, file):
        session.stopping.set()
        session.on_progress(_progress(total=102))

    assert [session.total for session in (known, stream, file)] == [3000, None, 2]
    assert known.snapshot().total == 3000


def test_a_second_signal_does_not_wait(run: Run, sandboxes: dict[str, Any], tmp_path: Path) -> None:
    """Who presses twice means it."""
    path = tmp_path / "urls.txt"
    path.write_text("1\n2\n")
    began: list[float] = []

    def seconds(_: str) -> float:
        began.append(0.0)
        os.kill(os.getpid(), signal.SIGINT)
        asyncio.get_running_loop().call_later(1.0, os.kill, os.getpid(), signal.SIGINT)
        return 1000.0

    sandboxes["options"] = {"seconds_per_url": seconds, "indexed": 0.0}

    result = run("analyze", path, "--sandbox", "--batch-size", "2")

    assert result.exit_code == 130
    assert result.stdout == ""


def test_a_third_signal_leaves_at_once(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where a cancelled task would not end."""
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)

    def seconds(_: str) -> float:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            loop.call_soon(os.kill, os.getpid(), signal.SIGTERM)
        return 1000.0

    sandboxes["options"] = {"seconds_per_url": seconds, "indexed": 0.0}

    run("analyze", "-", "--sandbox", input="1\n")

    assert left == [143]


def test_a_read_is_given_up_at_the_first_signal(run: Run, sandboxes: dict[str, Any]) -> None:
    """There is nothing that would be lost: what was written stands."""

    def latency() -> float:
        os.kill(os.getpid(), signal.SIGINT)
        return 20.0

    sandboxes["options"] = {"latency": latency}

    result = run("post", ID, "--sandbox")

    assert result.exit_code == 130
    assert result.stdout == ""
    assert "Stopped; what was written stands" in result.stderr


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (tokfluence_async.APITimeoutError("no answer in 60 s"), 1, "no answer"),
        (
            ExceptionGroup("", [tokfluence_async.NotFoundError(404, "post_not_found", "gone")]),
            1,
            "gone",
        ),
        (OSError(28, "No space left on device", "/out/x"), 2, "/out/x: No space left on device"),
        (tokfluence_async.BudgetExceededError(1, 0, 5), 3, "max_credits"),
        (
            tokfluence_async.PermissionDeniedError(403, "plan_required", "no plan"),
            2,
            "plan_required",
        ),
    ],
)
def test_errors_that_end_a_run_are_one_line(
    error: BaseException,
    status: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And an exit status; a traceback would be of use to nobody."""

    async def main(_: runtime.Session) -> int:
        raise error

    monkeypatch.setattr(runtime, "new_loop", VirtualLoop)

    assert runtime.run(main, runtime.Common(sandbox=True), title="post") == status

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert says in lines[0]


def test_what_nobody_expected_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a bug, and has to be found."""

    async def main(_: runtime.Session) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(runtime, "new_loop", VirtualLoop)

    with pytest.raises(ZeroDivisionError):
        runtime.run(main, runtime.Common(sandbox=True), title="post")


def test_uvloop_is_used_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra `fast` is all it takes."""
    uvloop = pytest.importorskip("uvloop")
    for expected in (uvloop.Loop, asyncio.SelectorEventLoop):
        loop = runtime.new_loop()
        loop.close()
        assert isinstance(loop, expected)
        monkeypatch.setitem(sys.modules, "uvloop", None)


class _Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("form", ["jsonl", "csv"])
async def test_data_is_escaped_on_a_terminal(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As text and as CSV."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", _Terminal(raw))
    output = Output(form, Comment)

    await output.write([Comment(comment_id="1", text="\x1b[2J\x9b2J")])
    await output.close()

    shown = raw.getvalue().decode()
    assert "\\u001b[2J\\u009b2J" in shown
    assert not set(shown) & {"\x1b", "\x9b"}


# Whatever Unicode says steers: control characters, line and paragraph separators, and what reorders
# the text after it.
STEERING = "".join(
    character
    for character in map(chr, range(sys.maxunicode + 1))
    if unicodedata.category(character) in ("Cc", "Zl", "Zp")
    or unicodedata.bidirectional(character)
    in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
async def test_no_character_that_steers_reaches_a_terminal_and_every_one_a_pipe(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """U+009B begins a sequence as ESC [ does; each of the 76 is tried. Only a row's line break is
    left, and a tab in CSV."""
    comment = Comment(comment_id="1", text=f"x{STEERING}\u200f\U0001f469\u200d\U0001f680")
    written: list[str] = []
    for kind in (_Terminal, io.TextIOWrapper):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", kind(raw))
        output = Output(form, Comment)
        await output.write([comment])
        await output.close()
        written.append(raw.getvalue().decode())

    shown, piped = written
    assert len(STEERING) == 65 + 2 + 9
    assert set(shown) & set(STEERING) == ({"\n"} if form == "jsonl" else {"\n", "\t"})
    assert (
        "\u200f\U0001f469\u200d\U0001f680" in shown
    )  # a direction mark, and what an astronaut is made of
    if form == "jsonl":
        assert json.loads(piped)["text"] == json.loads(shown)["text"] == comment.text
        assert set(STEERING[32:]) <= set(piped)
    else:
        [row] = csv.DictReader(io.StringIO(piped, newline=""))
        assert row["text"] == comment.text


def test_parquet_is_refused_by_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be noise; the message says what to do."""
    monkeypatch.setattr(sys, "stdout", _Terminal(io.BytesIO()))

    with pytest.raises(UsageError, match="not for a terminal"):
        Output("parquet", Comment)


# --- tables that follow ---------------------------------------------------------------------------


def test_a_table_follows_lines_as_they_are_completed(tmp_path: Path) -> None:
    """A line under way is left for the next look; lines longer than a chunk are taken whole."""
    lines, table = tmp_path / "comments.jsonl", tmp_path / "comments.csv"
    follower = _Table(lines, table, "csv", CommentLine)
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

    follower = _Table(lines, table, "csv", CommentLine)
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
    follower = _Table(lines, table, form, CommentLine)

    follower.follow()
    follower.drop()
    del follower
    gc.collect()

    assert table.read_text() == "of the run before"
    assert {path.name for path in tmp_path.iterdir()} == {lines.name, table.name}


@pytest.mark.real_time
def test_a_killed_crawl_leaves_a_readable_table_or_none(tmp_path: Path) -> None:
    """SIGKILL, nothing can be tidied up; the run after it makes the table whole."""
    import pyarrow.parquet as pq

    command = _command(
        "crawl", URLS, "-o", tmp_path, "--sandbox", "--format", "parquet", "--comments"
    )
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=_ENV) as process:
        while not list(tmp_path.glob(".*.part")):
            assert process.poll() is None
            select.select([], [], [], 0.05)
        process.kill()
    assert not list(tmp_path.glob("*.parquet"))

    done = subprocess.run(
        _command(*command[3:], "--max-credits", "0"),
        stderr=subprocess.DEVNULL,
        env=_ENV,
        check=False,
    )

    assert done.returncode == 3
    # Of a line that the kill overtook on its way to the journal, the run after it knows nothing,
    # and takes it out.
    lines = (tmp_path / "posts.jsonl").read_text("utf-8").splitlines()
    assert pq.read_table(tmp_path / "posts.parquet").num_rows == len(lines)
    assert not list(tmp_path.glob(".*.part"))


# --- inputs ---------------------------------------------------------------------------------------


def test_a_file_knows_its_length_and_its_malformed_lines(tmp_path: Path) -> None:
    """For the progress, and for who has to mend them."""
    path = tmp_path / "urls.txt"
    path.write_text("1\n\nnope\n# x\n2")

    inputs = open_inputs(str(path), "tokfluence crawl -")

    assert isinstance(inputs, FileLines)
    assert len(inputs) == 3
    assert list(inputs) == ["1", "nope", "2"]
    assert [(bad.line, bad.text) for bad in inputs.malformed] == [(3, "nope")]


def test_a_spreadsheets_lines_are_told_what_they_are(run: Run, tmp_path: Path) -> None:
    """They are what goes wrong most often, and what is to be done differs."""
    (tmp_path / "export.csv").write_text(f"7.23E+18\n{ID},wwe\n")

    told = run("crawl", tmp_path / "export.csv", "-o", tmp_path / "out", "--dry-run").stderr

    assert "it looks like a number that a spreadsheet has rounded" in told
    assert "it looks like a row of a CSV file" in told


def test_a_stopped_input_ends(tmp_path: Path) -> None:
    """After Ctrl-C nothing new is begun."""
    path = tmp_path / "urls.txt"
    path.write_text("1\n2\n3\n")
    inputs = open_inputs(str(path), "tokfluence crawl -")
    assert isinstance(inputs, FileLines)
    read: Iterator[str] = iter(inputs)

    first = next(read)
    inputs.stop()

    assert (first, list(read)) == ("1", [])


@pytest.mark.real_time
async def test_a_named_pipe_is_read_as_it_arrives(tmp_path: Path) -> None:
    """`tokfluence crawl <(zcat ids.gz)`: it has no length, and can be read once."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    inputs = open_inputs(str(path), "tokfluence crawl -")
    assert isinstance(inputs, StreamLines)
    read = aiter(inputs)
    opened = asyncio.ensure_future(anext(read))
    writer = await asyncio.to_thread(os.open, path, os.O_WRONLY)

    os.write(writer, b"1\n# no\n")
    first = await opened
    os.write(writer, b"nope\n2")
    second = await anext(read)
    os.close(writer)
    rest = [line async for line in read]

    assert (first, second, rest) == ("1", "nope", ["2"])
    assert [(bad.line, bad.text) for bad in inputs.malformed] == [(3, "nope")]


@pytest.mark.real_time
async def test_a_pipe_that_is_stopped_ends_without_another_line(tmp_path: Path) -> None:
    """Ctrl-C must not wait for somebody to write."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    inputs = open_inputs(str(path), "tokfluence crawl -")
    assert isinstance(inputs, StreamLines)
    read = aiter(inputs)
    waiting = asyncio.ensure_future(anext(read, "ended"))
    writer = await asyncio.to_thread(os.open, path, os.O_WRONLY)

    inputs.stop()

    assert await waiting == "ended"
    os.close(writer)


@pytest.mark.real_time
async def test_a_stream_that_breaks_is_wrong_usage(tmp_path: Path) -> None:
    """Told with the system's own words; a folder stands in for a failing disk here."""
    with pytest.raises(UsageError, match="Is a directory"):
        [line async for line in StreamLines("input", tmp_path)]


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told with the system's own words."""
    path = tmp_path / "urls.txt"
    path.write_text("1")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)

    with pytest.raises(UsageError, match="Permission denied"):
        open_inputs(str(path), "tokfluence crawl -")


# --- the screen -----------------------------------------------------------------------------------


def _snapshot(**changes: Any) -> Snapshot:
    values: dict[str, Any] = {
        "title": "crawl", "done": 40, "total": 100, "failed": 2, "comments": 1234,
        "credits_spent": 500, "credits_remaining": 9500, "elapsed": 20.0, "requests": 180,
        "rate": 9.0, "permitted": 9.9, "rate_limited": 1,
    }  # fmt: skip
    return Snapshot(**{**values, **changes})


def _draw(width: int, snapshot: Snapshot) -> list[str]:
    console = Console(
        width=width, file=io.StringIO(), force_terminal=True, color_system=None, markup=False
    )
    screen = _Rich(console, live=False)
    screen.update(snapshot)
    console.print(screen._display)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_display_fits_every_terminal(width: int) -> None:
    """No line is longer than the terminal is wide, and all numbers are there where there is
    room."""
    lines = _draw(width, _snapshot())

    assert max(map(len, lines)) <= width
    if width >= 80:
        text = "\n".join(lines)
        for number in (
            "40/100",
            "1,234 comments",
            "2 failed",
            "500 credits spent",
            "9,500 left",
            "9.0 of 9.9",
            "1 x 429",
        ):
            assert number in text
        assert "0:30 to go" in text
        assert len(lines) == (3 if width == 80 else 2)


def test_the_display_without_an_end_or_a_wallet() -> None:
    """Standard input has no length, and before the first answer nothing is known of credits."""
    text = "\n".join(
        _draw(
            80,
            _snapshot(total=None, credits_remaining=None, permitted=None, comments=None, failed=0),
        )
    )

    assert "40 posts" in text
    assert "to go" not in text
    assert "left" not in text
    assert _draw(80, _snapshot(elapsed=4000.0))[0].count("1:06:40 gone") == 1


def test_the_display_of_one() -> None:
    """The noun goes with the number before it."""
    one = "\n".join(_draw(80, _snapshot(done=1, total=None, comments=1, credits_spent=1)))

    for part in ("1 post ", "1 comment ", "1 credit spent"):
        assert part in one
    assert "1/1 post " in "\n".join(_draw(80, _snapshot(done=1, total=1)))
    assert "1/3 comments" in "\n".join(_draw(80, _snapshot(done=1, total=3, unit="comments")))


def test_credits_on_their_way_make_the_sum_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """What is left has lost the price of batches in flight already, and what is spent has not got
    it yet."""
    snapshot = _snapshot(credits_spent=143, credits_reserved=225, credits_remaining=999_632)

    assert "143 credits spent, up to 225 on their way, 999,632 left" in "\n".join(
        _draw(200, snapshot)
    )
    assert "on their way" not in "\n".join(_draw(200, _snapshot()))
    open_screen(quiet=False, as_json=True, live=True).update(snapshot)
    assert json.loads(capsys.readouterr().err)["credits_reserved"] == 225


def _session(client: TokfluenceClient) -> runtime.Session:
    return runtime.Session(
        client, None, open_screen(quiet=True, as_json=False, live=False), "crawl", "posts"
    )


def _progress(**changes: Any) -> Progress:
    values: dict[str, Any] = {
        "done": 40,
        "failed": 0,
        "total": 61,
        "credits_spent": 0,
        "credits_remaining": None,
    }
    return Progress(**{**values, "elapsed": 1.0, **changes})


async def test_what_was_not_sent_has_not_failed(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """A budget that is used up is no failure of forty posts."""
    session = _session(client)
    session.on_progress(_progress(failed=41, done=41, not_affordable=40))

    snapshot = session.snapshot()

    assert snapshot.counted(" of ") == "1 of 61 posts"
    told = [fact for fact, _ in snapshot.facts()]
    assert "1 failed" in told
    assert "40 not sent for want of credits" in told
    assert _snapshot(not_affordable=1).eta is None


async def test_progress_counts_what_no_credits_were_left_for(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Of a budget as of an empty wallet; a failure of another kind is not among them."""
    seen: list[Progress] = []

    await client.posts.analyze(
        ["1", "2", "3", "nope"], max_credits=50, batch_size=1, on_progress=seen.append
    )

    assert (seen[-1].done, seen[-1].failed, seen[-1].not_affordable) == (4, 2, 1)


async def test_a_session_knows_what_is_on_its_way(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """It asks the client, as any program may."""
    session = _session(client)
    client._options.budget.reserve(75)

    assert session.snapshot().credits_reserved == 75


@pytest.mark.parametrize(
    ("rate", "permitted", "slowed", "shown"),
    [
        (9.0, 9.9, False, "9.0 of 9.9 requests/s"),
        (9.94, 9.9, False, "9.9 of 9.9 requests/s"),
        (10.4, 9.9, False, "10.4 requests/s in a burst, 9.9 in the long run"),
        (10.4, 4.9, True, "10.4 requests/s, slowed to 4.9"),
        (10.4, None, False, "10.4 requests/s"),
    ],
)
def test_a_burst_is_called_one(
    rate: float, permitted: float | None, slowed: bool, shown: str
) -> None:
    """More than is permitted would look like a limit that does not work."""
    facts = [fact for fact, _ in _snapshot(rate=rate, permitted=permitted, slowed=slowed).facts()]

    assert shown in facts


def test_no_time_to_go_is_guessed_from_too_little() -> None:
    """The first posts of a crawl are finished late."""
    assert _snapshot(done=5, elapsed=9.0).eta is None
    assert _snapshot(done=0).eta is None
    assert _snapshot(done=100).eta is None
    assert _snapshot(done=50, elapsed=10.0).eta == 10.0


def test_the_rate_is_that_of_the_last_seconds() -> None:
    """A crawl of days must show what happens now."""
    meter = Meter()

    assert meter.rate(0.0, 0) == 0.0
    for second in range(1, 101):
        rate = meter.rate(float(second), 100 * min(second, 50))
    assert rate == 0.0


def test_plain_lines_become_rare(capsys: pytest.CaptureFixture[str]) -> None:
    """A job of days does not fill its log."""
    screen = open_screen(quiet=False, as_json=False, live=True)
    screen.start()
    for second in range(3600):
        screen.update(_snapshot(elapsed=float(second)))
    screen.stop()

    lines = capsys.readouterr().err.splitlines()
    assert 20 < len(lines) < 60
    assert lines[0].startswith(
        "40 of 100 posts, 1,234 comments, 2 failed, 500 credits spent, 9,500 left, 9.0 of 9.9 "
        "requests/s"
    )


def test_progress_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With every number a display has."""
    open_screen(quiet=False, as_json=True, live=True).update(_snapshot())

    event = json.loads(capsys.readouterr().err)
    assert event["event"] == "progress"
    assert (event["done"], event["rate"], event["permitted"], event["eta"]) == (40, 9.0, 9.9, 30.0)


def test_json_on_standard_error_holds_no_character_that_steers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`--json-logs` is read by people as well."""
    open_screen(quiet=False, as_json=True, live=False).say(STEERING, "warning")

    shown = capsys.readouterr().err
    assert set(shown) & set(STEERING) == {"\n"}
    assert json.loads(shown)["message"] == STEERING


def test_nothing_reaches_a_terminal_that_would_steer_it() -> None:
    """Comments are written by strangers; rich prints ESC as it is, and reads `[/nope]` as
    markup."""
    console = Console(
        width=80, file=io.StringIO(), force_terminal=True, color_system=None, markup=False
    )
    screen = _Rich(console, live=True)

    screen.start()
    screen.say("\x1b]0;owned\x07 [/nope] \u202e", "warning")
    screen.stop()
    screen.summary(["\x9b2J [bold]"], {})

    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "\\u001b]0;owned\\u0007 [/nope] \\u202e" in shown
    assert "\\u009b2J [bold]" in shown
    assert "owned\x07" not in shown


# --- the real command -----------------------------------------------------------------------------


def _command(*args: object) -> list[str]:
    return [sys.executable, "-m", "tokfluence_async", *map(str, args)]


_ENV = {name: value for name, value in os.environ.items() if not name.startswith("TOKFLUENCE")} | {
    "NO_COLOR": "1"
}


@pytest.mark.real_time
def test_a_reader_who_leaves_ends_the_command_quietly() -> None:
    """`tokfluence … | head` is the most usual thing to do; the status is that of every tool killed
    by SIGPIPE."""
    world = Sandbox().world
    popular = next(
        str(n) for n in range(1, 1000) if world.total_comments(str(n)) > 2500
    )  # far more than a pipe holds
    with subprocess.Popen(
        _command("comments", popular, "--sandbox", "-q"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_ENV,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()

    assert errors == b""
    assert process.returncode == 141


@pytest.mark.real_time
def test_lines_are_worked_as_they_arrive() -> None:
    """`tail -f | tokfluence analyze -`: the first answer comes while the input is still open."""
    with subprocess.Popen(
        _command("analyze", "-", "--sandbox"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_ENV,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"1\n")
        process.stdin.flush()
        first = process.stdout.readline()
        process.stdin.write(b"2")
        process.stdin.close()
        rest = process.stdout.read()

    assert json.loads(first)["postId"] == "1"
    assert json.loads(rest)["postId"] == "2"
    assert process.returncode == 0


@pytest.mark.real_time
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_input_and_what_is_paid_for_is_written(which: signal.Signals) -> None:
    """What is under way when Ctrl-C comes has been paid for."""
    with subprocess.Popen(
        _command("analyze", "-", "--sandbox"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_ENV,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"1\n")
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(which)
        errors = process.stderr.read().decode()

    assert process.returncode == 128 + which
    assert "Stopping" in errors
    assert "1 post analyzed" in errors


@pytest.mark.real_time
def test_a_terminal_gets_escaped_data_and_a_pipe_the_text_itself() -> None:
    """The data is the same JSON; a terminal is only not told what to do by it."""
    body = json.dumps(
        {"data": {"post_id": "1", "caption": "\x9b2J\u202e"}}, ensure_ascii=False
    ).encode()
    answered = threading.Event()
    piped, shown = _with_canned_answer(body, answered)

    assert "\x9b2J\u202e" in piped
    assert "\x9b" not in shown
    assert "\\u009b2J\\u202e" in shown
    assert json.loads(shown.strip())["caption"] == json.loads(piped)["caption"]


def _with_canned_answer(body: bytes, answered: threading.Event) -> tuple[str, str]:
    """The output of `tokfluence post 1` to a pipe and to a terminal, from a server that answers
    `body`."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            answered.set()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        env = _ENV | {
            "TOKFLUENCE_TOKEN": "x",
            "TOKFLUENCE_BASE_URL": f"http://127.0.0.1:{server.server_port}",
        }
        command = _command("post", "1", "--quiet")
        piped = subprocess.run(command, env=env, capture_output=True, check=True).stdout.decode()
        ours, theirs = pty.openpty()
        with subprocess.Popen(command, env=env, stdout=theirs) as process:
            os.close(theirs)
            shown = _read_all(ours)
        assert process.returncode == 0
        return piped, shown
    finally:
        server.shutdown()
        server.server_close()


def _read_all(descriptor: int) -> str:
    data = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and select.select([descriptor], [], [], 60)[0]:
        try:
            piece = os.read(descriptor, 65_536)
        except OSError:  # Linux's way of saying that the other end of a terminal is closed
            break
        if not piece:
            break
        data += piece
    os.close(descriptor)
    return data.decode()


@pytest.mark.real_time
def test_the_sandbox_is_served_and_the_commands_find_it() -> None:
    """Two terminals: the stand-in in one, the command in the other."""
    with subprocess.Popen(
        _command("sandbox"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_ENV
    ) as server:
        assert server.stdout is not None
        where = json.loads(server.stdout.readline())
        env = _ENV | {"TOKFLUENCE_TOKEN": where["token"], "TOKFLUENCE_BASE_URL": where["url"]}
        result = subprocess.run(_command("post", ID), env=env, capture_output=True, check=False)
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate()

    assert (result.returncode, server.returncode) == (0, 0)
    assert msgspec.json.decode(result.stdout)["post_id"] == ID
    assert b"1 request, 1 credit charged" in errors


@pytest.mark.real_time
def test_importing_the_package_loads_nothing_of_this() -> None:
    """An application pays for what it uses."""
    program = (
        "import sys, tokfluence_async; tokfluence_async.TokfluenceClient('x'); "
        "print({'typer', 'rich', 'pyarrow', 'pandas', 'IPython', 'aiohttp.web', "
        "'tokfluence_async._http.log'} & set(sys.modules))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], env=_ENV, capture_output=True, text=True, check=True
    )

    assert done.stdout == "set()\n"


@pytest.mark.real_time
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(shell: str) -> None:
    """`tokfluence --install-completion` puts this where the shell reads it."""
    env = _ENV | {"_TOKFLUENCE_COMPLETE": f"source_{shell}"}

    done = subprocess.run(_command(), env=env, capture_output=True, text=True, check=False)

    assert "tokfluence" in done.stdout
    assert "_TOKFLUENCE_COMPLETE" in done.stdout


@pytest.mark.real_time
def test_a_port_that_is_taken_is_status_2(run: Run) -> None:
    """One line, not a traceback."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        result = run("sandbox", "--port", taken.getsockname()[1])

    assert result.exit_code == 2
    assert "cannot listen" in result.stderr
