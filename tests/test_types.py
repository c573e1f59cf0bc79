"""The user's snippet that mypy and pyright check (`nox -s types`) is also a program that runs."""

from __future__ import annotations

import runpy
from importlib.resources import files
from pathlib import Path

import tokfluence_async

SNIPPET = Path(__file__).parent / "typing" / "snippet.py"


async def test_the_snippet_runs(tmp_path: Path) -> None:
    """What the type checkers are shown is what happens: the whole public API, on the sandbox."""
    main = runpy.run_path(str(SNIPPET))["main"]

    await main(tmp_path)

    assert (tmp_path / "out" / "posts.jsonl").read_text().count("\n") == 1


def test_the_snippet_uses_every_public_name() -> None:
    """A name that no checker looks at may be typed as it likes."""
    text = SNIPPET.read_text()

    unused = {name for name in tokfluence_async.__all__ if name not in text}
    assert unused <= {"__version__", "show_progress", "JournalError"}


def test_the_package_says_that_it_is_typed() -> None:
    """Without the marker checkers take everything for `Any`; it has to be in the wheel."""
    assert (files("tokfluence_async") / "py.typed").is_file()
