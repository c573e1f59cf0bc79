"""What the documentation has a page for."""

from __future__ import annotations

import re

import pytest

import tokfluence_async
from tokfluence_async import TokfluenceError

from .conftest import ROOT

DOCS = ROOT / "docs"
LOOK_UP = "".join(path.read_text("utf-8") for path in (DOCS / "look-up").glob("*.md"))


@pytest.mark.parametrize(
    "task",
    [
        "application",
        "notebook",
        "million",
        "budget",
        "several-processes",
        "several-machines",
        "shared",
        "ray",
        "own-tests",
        "telemetry",
        "proxy",
        "upgrade",
    ],
)
def test_every_task_has_a_page_that_is_linked(task: str) -> None:
    """From the list of tasks, and in the navigation."""
    assert (DOCS / "do" / f"{task}.md").is_file()
    assert f"({task}.md)" in (DOCS / "do" / "index.md").read_text("utf-8")
    assert f"do/{task}.md" in (ROOT / "mkdocs.yml").read_text("utf-8")


def test_every_public_name_can_be_looked_up() -> None:
    """By its docstring on a page, or in the table and tree of errors."""
    missing = {
        name
        for name in tokfluence_async.__all__
        if not re.search(rf"^::: tokfluence_async(\.\w+)*\.{name}$", LOOK_UP, re.MULTILINE)
    }
    errors = {
        name
        for name in missing
        if isinstance(value := getattr(tokfluence_async, name), type)
        and issubclass(value, TokfluenceError | RuntimeError)
    }

    assert missing - errors == {"__version__"}


def test_every_variable_of_the_environment_is_documented() -> None:
    """A variable that only the code knows surprises somebody."""
    page = (DOCS / "look-up" / "environment.md").read_text("utf-8")
    used = {
        name
        for path in (ROOT / "tokfluence_async").rglob("*.py")
        for name in re.findall(r"\bTOKFLUENCE_[A-Z_]+\b", path.read_text("utf-8"))
    }

    assert used
    assert {name for name in used if f"`{name}`" not in page} == set()


def test_pages_name_nothing_that_a_reader_does_not_have() -> None:
    """Marks and papers of the workshop."""
    for path in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        text = path.read_text("utf-8")
        for word in ("[public]", "[seed]", "shared/", "tokfluence-api.md", "style.md", "traps.md"):
            assert word not in text, (path.name, word)
