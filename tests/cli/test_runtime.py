"""How a run ends, and with which status."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

import tokfluence_async
from tokfluence_async._cli import runtime
from tokfluence_async._cli.session import Common, Session
from tokfluence_async.testing import VirtualLoop

from .support import (
    Run,
    json_lines,
)


def test_the_budget_stops_a_command(run: Run, sandboxes: dict[str, Any]) -> None:
    """Status 3, and not a credit more."""
    result = run("post", "1", "2", "3", "--sandbox", "--max-credits", "2")

    assert result.exit_code == 3
    assert len(json_lines(result.stdout)) == 2
    assert sandboxes["made"].credits_spent == 2
    assert "1 not done" in result.stderr


def test_an_empty_wallet_stops_a_command(run: Run, sandboxes: dict[str, Any]) -> None:
    """As with the budget; the service says it."""
    sandboxes["options"] = {"credits": 0}

    result = run("post", "1", "--sandbox")

    assert result.exit_code == 3
    assert "insufficient_credits" in result.stderr


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

    async def main(_: Session) -> int:
        raise error

    monkeypatch.setattr(runtime, "new_loop", VirtualLoop)

    assert runtime.run(main, Common(sandbox=True), title="post") == status

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert says in lines[0]


def test_what_nobody_expected_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a bug, and has to be found."""

    async def main(_: Session) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(runtime, "new_loop", VirtualLoop)

    with pytest.raises(ZeroDivisionError):
        runtime.run(main, Common(sandbox=True), title="post")


def test_uvloop_is_used_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra `fast` is all it takes."""
    uvloop = pytest.importorskip("uvloop")
    for expected in (uvloop.Loop, asyncio.SelectorEventLoop):
        loop = runtime.new_loop()
        loop.close()
        assert isinstance(loop, expected)
        monkeypatch.setitem(sys.modules, "uvloop", None)
