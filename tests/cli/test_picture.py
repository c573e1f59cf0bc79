"""The picture in the README is what the command shows."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tokfluence_async._cli import runtime
from tokfluence_async.testing import VirtualLoop

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "_tools" / "picture.py"


def words(path: Path) -> set[str]:
    """What is written in a picture, but for times and what hangs on them."""
    text = path.read_text("utf-8").replace("&#160;", " ")
    told = (
        "59 posts and 15,093 comments",
        "8 duplicates left out",
        "line 83:",
        "/61 posts",
        " gone",
    )
    return {word for word in told if word in text}


@pytest.mark.skipif(not SCRIPT.exists(), reason="the documentation is not here")
def test_the_picture_is_what_the_command_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made by a script from a real run, and asks no other host for a font."""
    spec = importlib.util.spec_from_file_location("picture", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(runtime, "new_loop", VirtualLoop)

    status = script.draw(tmp_path / "now.svg")

    assert status == 1
    assert words(tmp_path / "now.svg") == words(script.PICTURE)
    assert len(words(script.PICTURE)) == 5
    shown = script.PICTURE.read_text("utf-8")
    assert script.COMMAND in shown.replace("&#160;", " ")
    assert "url(" not in shown.replace("url(#tokfluence", "")
