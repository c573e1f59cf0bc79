"""`tokfluence crawl`."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import tokfluence_async
from tokfluence_async import Sandbox, TokfluenceClient
from tokfluence_async._cli import crawl_job
from tokfluence_async._crawl.folder import known_as
from tokfluence_async._journal import redis_store

from .support import (
    ID,
    URLS,
    Run,
    json_file,
    json_lines,
)


def test_the_main_job_on_real_input(run: Run, sandboxes: dict[str, Any], tmp_path: Path) -> None:
    """The README's first command: every post and comment once, the two malformed lines told with
    their numbers."""
    out = tmp_path / "out"

    result = run("crawl", URLS, "-o", out, "--comments", "--sandbox")

    sandbox = sandboxes["made"]
    posts, comments = json_file(out / "posts.jsonl"), json_file(out / "comments.jsonl")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len({post["post_id"] for post in posts}) == len(posts) == 59
    assert len({comment["comment_id"] for comment in comments}) == len(comments)
    assert len(comments) == sum(sandbox.world.total_comments(post["post_id"]) for post in posts)
    assert len(json_file(out / "failures.jsonl")) == 2
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

    assert crawl_job._is_local(url) == (name == "localhost")


def test_a_crawl_stops_at_its_budget_and_goes_on(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path
) -> None:
    """Status 3; what was bought is there, and the rest is bought by the next run."""
    sandboxes["options"] = {"indexed": 1.0}

    result = run("crawl", URLS, "-o", tmp_path, "--sandbox", "--max-credits", "20")

    assert result.exit_code == 3
    assert sandboxes["made"].credits_spent == 20
    assert len(json_file(tmp_path / "posts.jsonl")) == 20
    assert "for want of credits" in result.stderr
    assert run("crawl", URLS, "-o", tmp_path, "--sandbox").exit_code == 1
    assert sandboxes["made"].credits_spent == 39
    assert len(json_file(tmp_path / "posts.jsonl")) == 59


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

    summary = next(event for event in json_lines(told[1]) if event["event"] == "summary")
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


def test_a_sandbox_knows_what_the_one_before_it_had_analyzed(run: Run, tmp_path: Path) -> None:
    """Each run brings its own; the folder's journal says what was paid for, and a service would not
    have forgotten it."""
    (tmp_path / "urls").write_text("".join(f"{n}\n" for n in range(1, 9)))
    first = run("crawl", tmp_path / "urls", "-o", tmp_path / "out", "--sandbox")

    second = run("crawl", tmp_path / "urls", "-o", tmp_path / "out", "--sandbox", "--comments")

    assert (first.exit_code, second.exit_code) == (0, 0), second.stderr
    lines = (tmp_path / "out/comments.jsonl").read_text("utf-8").splitlines()
    assert len({json.loads(line)["post_id"] for line in lines}) > 5


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_journal_in_redis_without_redis_py_leaves_no_folder(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str
) -> None:
    """The extra is easily forgotten; an empty folder would look like a crawl."""
    for name in [name for name in sys.modules if name.split(".")[0] == "redis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    journal = ["--journal", "redis://127.0.0.1:6379/0?job=a", "--format", form, "--sandbox"]

    result = run("crawl", URLS, "-o", tmp_path / "jobs" / "out", *journal)

    assert result.exit_code == 2
    assert "pip install 'tokfluence_async[redis]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not [*tmp_path.iterdir()]


def test_a_journal_in_a_redis_that_does_not_answer_leaves_no_folder(
    run: Run, sandboxes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is wrong is found before anything is made."""
    monkeypatch.setattr(redis_store, "PATIENCE", 0.5)
    journal = ["--journal", "redis://127.0.0.1:1/0?job=a", "--sandbox"]

    result = run("crawl", URLS, "-o", tmp_path / "out", *journal)

    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert sandboxes["made"].requests_received == 0
    assert not (tmp_path / "out").exists()


def test_a_tilde_that_the_shell_has_left_is_the_users_home(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--out=~/out` made a folder named `~` here."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "urls.txt").write_text("1\n")

    result = run("crawl", "~/urls.txt", "--out=~/out", "--sandbox")
    dry = run("crawl", "~/urls.txt", "--out=~/out", "--dry-run", "--sandbox")
    nobody = run("crawl", "~/urls.txt", "--out=~nobody-at-all/out", "--sandbox")

    assert result.exit_code == 0, result.stderr
    assert len(json_file(tmp_path / "out/posts.jsonl")) == 1
    assert f"written to {tmp_path}/out/" in result.stderr
    assert "1 post done in an earlier run" in dry.stderr
    assert nobody.exit_code == 2
    assert not (tmp_path / "~").exists()
