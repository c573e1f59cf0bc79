"""What several processes of the command share: a limit of credits, a journal, the throttle."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_server import DURABLE, RedisServer, require_redis, running

from tokfluence_async import Sandbox

from .support import ENV, Run, command_line, json_file, json_lines

pytestmark = pytest.mark.real_time

IDS = [f"72345678901234500{n:02}" for n in range(40)]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    pytest.importorskip("redis")
    require_redis()
    with running(*DURABLE, folder=tmp_path) as server:
        yield server


async def at_once(sandbox: Sandbox, *commands: list[Any]) -> list[tuple[int, bytes, str]]:
    """Run commands at the same time: status, standard output, standard error of each."""
    env = ENV | {"TOKFLUENCE_TOKEN": sandbox.token, "TOKFLUENCE_BASE_URL": sandbox.url}
    pipe = asyncio.subprocess.PIPE
    started = [
        await asyncio.create_subprocess_exec(
            *command_line(*command), env=env, stdout=pipe, stderr=pipe
        )
        for command in commands
    ]
    ended = []
    for process in started:
        out, err = await asyncio.wait_for(process.communicate(), 90)
        assert process.returncode is not None
        ended.append((process.returncode, out, err.decode()))
    return ended


async def test_one_limit_for_all_processes(sandbox: Sandbox, redis: RedisServer) -> None:
    """Each stops with status 3, as its list is longer than the limit; together they have not spent
    more."""
    budget = ["--max-credits", "15", "--shared-budget", f"{redis.url}?name=spring"]

    ended = await at_once(sandbox, ["post", *IDS[:20], *budget], ["post", *IDS[20:], *budget])

    rows = [row["post_id"] for _, out, _ in ended for row in json_lines(out.decode())]
    assert [status for status, _, _ in ended] == [3, 3], ended
    assert 10 < len(rows) == sandbox.credits_spent <= 15


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://127.0.0.1:1/0", "needs a name"),
        ("redis://:secret@127.0.0.1:1/0?name=", "needs a name"),
        ("redis://:secret@[127.0.0.1/0?name=x", "is no URL"),
        ("http://:secret@127.0.0.1:1/0?name=x", "its scheme is http"),
        ("redis://:secret@127.0.0.1:1/0?name=a%0Ab", "A shared budget is named by"),
    ],
)
def test_a_shared_budget_that_is_none_is_status_2(run: Run, url: str, says: str) -> None:
    """One line without the password, and nothing is sent."""
    result = run("post", "1", "--sandbox", "--max-credits", "5", "--shared-budget", url)

    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert says in result.stderr
    assert "secret" not in result.stderr


def test_a_shared_budget_has_a_limit(run: Run) -> None:
    """Without one nobody knows what may be spent."""
    result = run("post", "1", "--sandbox", "--shared-budget", "redis://127.0.0.1:1/0?name=x")

    assert result.exit_code == 2
    assert result.stderr.startswith("--shared-budget needs --max-credits N")


async def test_processes_with_one_journal_bill_nothing_twice(
    sandbox: Sandbox, redis: RedisServer, tmp_path: Path
) -> None:
    """Two lists that overlap, at the same time, by `redis://…?job=NAME`: each post is paid for
    once, and every row of both lists is written."""
    (tmp_path / "one").write_text("\n".join(IDS[:30]))
    (tmp_path / "two").write_text("\n".join(IDS[10:]))
    journal = ["--journal", f"{redis.url}?job=spring"]

    ended = await at_once(
        sandbox, ["analyze", tmp_path / "one", *journal], ["analyze", tmp_path / "two", *journal]
    )

    assert [status for status, _, _ in ended] == [0, 0], ended
    rows = [{row["postId"] for row in json_lines(out.decode())} for _, out, _ in ended]
    assert rows == [set(IDS[:30]), set(IDS[10:])]
    assert sandbox.times_charged(to="POST /v1/posts/analyze") == dict.fromkeys(IDS, 1)


@pytest.mark.sandbox(indexed=0.5, visibility_delay=0.1)
async def test_a_crawl_takes_a_journal_that_is_shared(
    sandbox: Sandbox, redis: RedisServer, tmp_path: Path
) -> None:
    """And a second run of it sends nothing."""
    (tmp_path / "ids").write_text("\n".join(IDS))
    command = ["crawl", tmp_path / "ids", "-o", tmp_path / "out", "--journal"]
    command.append(f"{redis.url}?job=spring")

    [first] = await at_once(sandbox, command)
    before = sandbox.requests_received
    [second] = await at_once(sandbox, command)

    assert (first[0], second[0]) == (0, 0), (first, second)
    posts = [post["post_id"] for post in json_file(tmp_path / "out/posts.jsonl")]
    assert sorted(posts) == IDS
    assert sandbox.requests_received == before
    assert not sandbox.billed_twice()


@pytest.mark.parametrize("command", ["analyze", "crawl"])
@pytest.mark.parametrize(
    "journal",
    [
        "redis://:secret@127.0.0.1:1/0",
        "redis://:secret@127.0.0.1:1/0?job=",
        "redis://:secret@127.0.0.1:1/0?job=a%0Ab",
        "http://:secret@127.0.0.1:1/0?job=x",
    ],
)
def test_a_shared_journal_that_is_none_is_status_2(
    run: Run, tmp_path: Path, command: str, journal: str
) -> None:
    """One line without the password, and nothing is sent."""
    (tmp_path / "ids").write_text("1\n")
    out = ["-o", tmp_path / "out"] if command == "crawl" else []

    result = run(command, tmp_path / "ids", *out, "--sandbox", "--journal", journal)

    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "secret" not in result.stderr
