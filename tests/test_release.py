"""Version, changelog, documentation and metadata tell one story."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

import tokfluence_async
from tokfluence_async._client import BASE_URL

ROOT = Path(__file__).parent.parent
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
HEADS = re.findall(r"^## \[(.*?)\](?: - (\d{4}-\d\d-\d\d))?$", CHANGELOG, re.MULTILINE)
VERSION = Version(tokfluence_async.__version__)


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return found


def test_the_changelog_has_the_form_it_names() -> None:
    """Unreleased first, then releases from new to old; known sections only."""
    assert HEADS[0] == ("Unreleased", "")
    released = [Version(version) for version, _ in HEADS[1:]]
    assert released == sorted(released, reverse=True)
    sections = set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE))
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_version_is_the_changelogs() -> None:
    """As long as there is something unreleased, the version is one in the making."""
    unreleased = CHANGELOG.split("## [")[1].count("\n- ")
    newest = Version(HEADS[1][0])

    if unreleased:
        assert VERSION.is_devrelease
        assert newest < VERSION
    else:
        assert newest == VERSION


def test_the_documentation_leads_to_this_version() -> None:
    """Whoever comes from the release before finds a page with both numbers."""
    before = next(
        Version(version)
        for version, _ in HEADS[1:]
        if Version(version).release[:2] != VERSION.release[:2]
    )
    title = (ROOT / "docs" / "do" / "upgrade.md").read_text("utf-8").splitlines()[0]

    numbers = (f"{version.major}.{version.minor}" for version in (before, VERSION))
    assert title == "# From {} to {}".format(*numbers)


def test_the_metadata_is_true(project: dict[str, Any]) -> None:
    """What an index shows: Pythons, systems, licence and addresses."""
    pythons = [c.rsplit(" ", 1)[1] for c in project["classifiers"] if ":: Python :: 3." in c]
    lowest = min(pythons, key=Version)

    assert sorted(set(project["classifiers"])) == sorted(project["classifiers"])
    assert project["requires-python"] == f">={lowest}"
    assert project["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text("utf-8").startswith("MIT License")
    assert project["urls"] == {"Service": BASE_URL}


def test_every_extra_is_documented(project: dict[str, Any]) -> None:
    """A name in brackets that no page explains helps nobody."""
    pages = "".join(path.read_text("utf-8") for path in (ROOT / "docs").rglob("*.md"))

    assert {e for e in project["optional-dependencies"] if f"[{e}]" not in pages} == set()
