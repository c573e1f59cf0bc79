"""What people see on standard error."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from tokfluence_async._cli.display import TerminalScreen
from tokfluence_async._cli.screen import open_screen
from tokfluence_async._cli.snapshot import Meter, Snapshot

from .support import (
    ID,
    STEERING,
    Run,
    json_lines,
    snapshot_of,
)


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

    events = json_lines(result.stderr)
    assert {event["event"] for event in events} >= {"log", "message", "summary"}
    assert [event["input"] for event in events if event.get("level") == "warning"] == ["nope"]
    summary = next(event for event in events if event["event"] == "summary")
    assert (summary["written"], summary["failed"], summary["credits_spent"]) == (1, 1, 1)
    assert sandboxes["made"].token not in result.stderr
    assert ID in next(event["message"] for event in events if event["event"] == "log")


def _draw(width: int, snapshot: Snapshot) -> list[str]:
    console = Console(
        width=width, file=io.StringIO(), force_terminal=True, color_system=None, markup=False
    )
    screen = TerminalScreen(console, live=False)
    screen.update(snapshot)
    console.print(screen.display)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_display_fits_every_terminal(width: int) -> None:
    """No line is longer than the terminal is wide, and all numbers are there where there is
    room."""
    lines = _draw(width, snapshot_of())

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
            snapshot_of(
                total=None, credits_remaining=None, permitted=None, comments=None, failed=0
            ),
        )
    )

    assert "40 posts" in text
    assert "to go" not in text
    assert "left" not in text
    assert _draw(80, snapshot_of(elapsed=4000.0))[0].count("1:06:40 gone") == 1


def test_the_display_of_one() -> None:
    """The noun goes with the number before it."""
    one = "\n".join(_draw(80, snapshot_of(done=1, total=None, comments=1, credits_spent=1)))

    for part in ("1 post ", "1 comment ", "1 credit spent"):
        assert part in one
    assert "1/1 post " in "\n".join(_draw(80, snapshot_of(done=1, total=1)))
    assert "1/3 comments" in "\n".join(_draw(80, snapshot_of(done=1, total=3, unit="comments")))


def test_credits_on_their_way_make_the_sum_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """What is left has lost the price of batches in flight already, and what is spent has not got
    it yet."""
    snapshot = snapshot_of(credits_spent=143, credits_reserved=225, credits_remaining=999_632)

    assert "143 credits spent, up to 225 on their way, 999,632 left" in "\n".join(
        _draw(200, snapshot)
    )
    assert "on their way" not in "\n".join(_draw(200, snapshot_of()))
    open_screen(quiet=False, as_json=True, live=True).update(snapshot)
    assert json.loads(capsys.readouterr().err)["credits_reserved"] == 225


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
    facts = [fact for fact, _ in snapshot_of(rate=rate, permitted=permitted, slowed=slowed).facts()]

    assert shown in facts


def test_no_time_to_go_is_guessed_from_too_little() -> None:
    """The first posts of a crawl are finished late."""
    assert snapshot_of(done=5, elapsed=9.0).eta is None
    assert snapshot_of(done=0).eta is None
    assert snapshot_of(done=100).eta is None
    assert snapshot_of(done=50, elapsed=10.0).eta == 10.0


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
        screen.update(snapshot_of(elapsed=float(second)))
    screen.stop()

    lines = capsys.readouterr().err.splitlines()
    assert 20 < len(lines) < 60
    assert lines[0].startswith(
        "40 of 100 posts, 1,234 comments, 2 failed, 500 credits spent, 9,500 left, 9.0 of 9.9 "
        "requests/s"
    )


def test_progress_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With every number a display has."""
    open_screen(quiet=False, as_json=True, live=True).update(snapshot_of())

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
    screen = TerminalScreen(console, live=True)

    screen.start()
    screen.say("\x1b]0;owned\x07 [/nope] \u202e", "warning")
    screen.stop()
    screen.summary(["\x9b2J [bold]"], {})

    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "\\u001b]0;owned\\u0007 [/nope] \\u202e" in shown
    assert "\\u009b2J [bold]" in shown
    assert "owned\x07" not in shown
