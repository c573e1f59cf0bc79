"""One logger, switched on by a variable; never a token, never a byte that steers a terminal."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from tokfluence_async import ConfigurationError, Sandbox, TokfluenceClient
from tokfluence_async._http import log as _log


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("TOKFLUENCE_LOG", raising=False)
    _log.reset()
    yield
    _log.reset()


LOGGER = logging.getLogger("tokfluence_async")


async def test_debug_prints_every_request(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its id, status, wait and credits; the token is not in it."""
    monkeypatch.setenv("TOKFLUENCE_LOG", "debug")

    async with TokfluenceClient(sandbox.token, base_url=sandbox.url) as client:
        await client.posts.get("1")

    (line,) = capsys.readouterr().err.splitlines()
    assert "DEBUG" in line
    assert "GET /v1/posts/1 -> 200, price 1" in line
    assert sandbox.requests[0].request_id in line
    assert "credits left" in line
    assert sandbox.token not in line


async def test_without_the_variable_nothing_is_printed(
    client: TokfluenceClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library leaves a program's logging alone."""
    await client.posts.get("1")

    assert capsys.readouterr().err == ""
    assert LOGGER.handlers == []
    assert LOGGER.propagate


def test_an_unknown_level_is_told_and_taken_as_info(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A typing error in a variable is no reason not to start."""
    monkeypatch.setenv("TOKFLUENCE_LOG", "verbose")

    TokfluenceClient("x")
    TokfluenceClient("x")

    assert capsys.readouterr().err.count("must be one of") == 1
    assert LOGGER.level == logging.INFO
    with pytest.raises(ConfigurationError, match="debug, info"):
        _log.configure("verbose")


def test_what_looks_like_a_token_is_masked(capsys: pytest.CaptureFixture[str]) -> None:
    """The first 13 characters are the only part that may ever be shown."""
    token = "tkf_live_" + "abcd" * 8
    for as_json in (False, True):
        _log.configure("info", as_json=as_json)
        LOGGER.info("sent %s", token)
        try:
            raise ValueError(token)
        except ValueError:
            LOGGER.exception("failed")

    shown = capsys.readouterr().err
    assert token not in shown
    assert shown.count("tkf_live_abcd") >= 4


def test_a_line_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The service's texts cannot forge a line of the log, nor steer the terminal it is read in."""
    _log.configure("info")
    _log.configure("info")
    LOGGER.info("it said: %s", "a\nb\x1b[2J")

    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("it said: a b\\u001b[2J")


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """For programs."""
    _log.configure("WARNING", as_json=True)
    LOGGER.info("not this")
    LOGGER.warning("a\nb")

    event = json.loads(capsys.readouterr().err)
    assert (event["level"], event["message"]) == ("warning", "a\nb")


@pytest.mark.parametrize("as_json", [False, True])
def test_no_character_of_a_log_steers_a_terminal(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log is read in one, the one for programs too."""
    steering = "".join(map(chr, [*range(32), *range(127, 160), 0x2028, 0x202E, 0x2066]))
    _log.configure("info", as_json=as_json)

    LOGGER.info("%s", steering)

    assert set(capsys.readouterr().err) & set(steering) == {"\n"}


def test_the_handler_keeps_following_standard_error() -> None:
    """A display that takes its place gets the lines, too; nobody can nail it to one stream."""
    with pytest.raises(AttributeError, match=r"follows sys\.stderr"):
        _log.configure().setStream(None)  # type: ignore[attr-defined]
