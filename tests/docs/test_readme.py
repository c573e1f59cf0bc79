"""What the README promises beside its blocks, which test_blocks runs."""

from __future__ import annotations

import re

import pytest

from .blocks import blocks_of
from .conftest import ROOT

README = ROOT / "README.md"
WRITTEN = [README, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"))]


def test_the_readme_is_short() -> None:
    """A newcomer reads it in five minutes."""
    assert len(README.read_text("utf-8").splitlines()) <= 150


def test_the_two_commands_are_there() -> None:
    """`.ci/run` reads the second of them from here."""
    commands = {b.notes["command"]: b.text for b in blocks_of(README) if "command" in b.notes}

    assert sorted(commands) == ["crawl", "tests"]
    assert all(command.count("\n") == 1 for command in commands.values())
    assert "--sandbox" in commands["crawl"]
    assert "nox -s tests" in commands["tests"]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_links_into_the_checkout_lead_somewhere(page: object) -> None:
    """Files that are named exist; addresses outside are well formed."""
    text = (ROOT / str(page)).read_text("utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)

    for target in targets:
        if target.startswith("https://"):
            continue
        assert (ROOT / target.partition("#")[0]).exists(), target


def test_rooms_that_contributors_are_sent_to_exist() -> None:
    """A map with wrong names leads astray."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = set(re.findall(r"`((?:[\w.]+/)*[\w.]+\.(?:py|md|toml))`", text))

    assert len(named) > 10
    missing = {
        name
        for name in named
        if not (ROOT / name).exists() and not (ROOT / "tokfluence_async" / name).exists()
    }
    assert missing == set()
