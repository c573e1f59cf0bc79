"""Journals of every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tokfluence_async import SQLiteJournal

if TYPE_CHECKING:
    from shared_store import Store


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that `RedisJournal` reaches whatever its URL."""
    pytest.importorskip("fakeredis", reason="fakeredis is not installed")
    pytest.importorskip("lupa", reason="lupa, which runs the store's scripts, is not installed")
    from shared_store import install

    return install(monkeypatch)


@pytest.fixture(params=["sqlite", "redis"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    """Makes a journal over the same record, as a later run does."""
    if request.param == "sqlite":
        return lambda: SQLiteJournal(tmp_path / "journal.sqlite")
    return request.getfixturevalue("store").journal  # type: ignore[no-any-return]
