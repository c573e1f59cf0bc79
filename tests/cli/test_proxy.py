"""`--proxy`, and a network that is away."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from docs.proxy import proxy

from tokfluence_async import Sandbox

from .support import ENV, ID, Run, command_line, json_file, json_lines


async def command(sandbox: Sandbox, *args: object, **env: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command_line(*args),
        env=ENV
        | {"TOKFLUENCE_TOKEN": sandbox.token, "TOKFLUENCE_BASE_URL": sandbox.url, "NO_PROXY": "*"}
        | env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.real_time
@pytest.mark.parametrize("by", ["option", "variable"])
async def test_the_command_goes_by_a_proxy_that_is_named(sandbox: Sandbox, by: str) -> None:
    """There was no way to name one."""
    async with proxy() as running:
        if by == "option":
            ended = await command(sandbox, "post", ID, "--proxy", running.url)
        else:
            ended = await command(sandbox, "post", ID, TOKFLUENCE_PROXY=running.url)

    assert ended[0] == 0, ended
    assert [post["post_id"] for post in json_lines(ended[1])] == [ID]
    assert running.carried == 1


@pytest.mark.real_time
async def test_variables_of_others_lead_the_token_nowhere(sandbox: Sandbox) -> None:
    """`HTTP_PROXY` is somebody else's word."""
    async with proxy() as running:
        ended = await command(
            sandbox, "post", ID, HTTP_PROXY=running.url, http_proxy=running.url, NO_PROXY=""
        )

    assert ended[0] == 0, ended
    assert running.carried == 0


@pytest.mark.parametrize("url", ["", "proxy:3128", "socks5://:secret@x:1", "http://", "http://[x"])
def test_a_proxy_that_is_none_is_status_2(
    run: Run, sandboxes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """One line without a password, and nothing is sent."""
    monkeypatch.setenv("TOKFLUENCE_TOKEN", "x")

    result = run("post", "1", "--base-url", "http://127.0.0.1:9", "--proxy", url)

    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "proxy" in result.stderr
    assert "secret" not in result.stderr


def test_a_failed_connection_says_a_word_of_the_proxy_variables(
    run: Run, sandboxes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything else on that machine goes by the proxy, and this does not."""
    monkeypatch.setenv("TOKFLUENCE_TOKEN", "x")
    monkeypatch.setenv("HTTPS_PROXY", "http://:secret@127.0.0.1:9")

    result = run("comments", "1", "--base-url", "http://127.0.0.1:9")

    assert result.exit_code == 1
    assert "HTTPS_PROXY is set" in result.stderr
    assert "--proxy" in result.stderr
    assert "secret" not in result.stderr


def test_an_outage_fails_no_input_and_is_told(
    run: Run, sandboxes: dict[str, Any], tmp_path: Path
) -> None:
    """Forty seconds without a network: 238 of 600 inputs failed. The progress says what is waited
    for."""
    path = tmp_path / "urls.txt"
    path.write_text("".join(f"{n}\n" for n in range(1, 601)))
    sandboxes["options"] = {"indexed": 1.0}

    def goes_away(sandbox: Sandbox) -> None:
        start = sandbox.start

        async def started() -> None:
            await start()
            asyncio.get_running_loop().call_later(10, sandbox.lose_network, 40)

        sandbox.start = started  # type: ignore[method-assign]

    sandboxes["prepare"] = goes_away

    result = run("crawl", path, "-o", tmp_path / "out", "--sandbox", "--json-logs")

    events = [json.loads(line) for line in result.stderr.splitlines()]
    progress = [event for event in events if event["event"] == "progress"]
    assert result.exit_code == 0, events[-1]
    assert len(json_file(tmp_path / "out/posts.jsonl")) == 600
    assert max(event["no_connection_for"] for event in progress) > 20
    assert progress[-1]["no_connection_for"] == 0
