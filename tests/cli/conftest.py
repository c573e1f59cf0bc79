"""A command in this process, on a virtual clock, with a sandbox of its own."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

import tokfluence_async
from tokfluence_async import Sandbox
from tokfluence_async._cli import runtime
from tokfluence_async._cli.app import app
from tokfluence_async.testing import VirtualLoop

from .support import (
    Run,
)


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
