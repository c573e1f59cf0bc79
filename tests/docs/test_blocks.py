"""The documentation is executed: what it shows is what happens."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tokfluence_async import Sandbox

from .blocks import PageRun, blocks_of, check_printed
from .conftest import ROOT
from .proxy import proxy

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = [page for page in PAGES if any(block.is_run for block in blocks_of(page))]
# Whole seconds in other processes, and nothing that depends on a clock.
pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.relative_to(ROOT).as_posix())
async def test_a_page_does_what_it_shows(
    page: Path,
    sandbox: Sandbox,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every block in order, in an empty folder with the checkout's examples in it."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("TOKFLUENCE_TOKEN", sandbox.token)
    monkeypatch.setenv("TOKFLUENCE_BASE_URL", sandbox.url)

    async with proxy() as carrier:
        monkeypatch.setenv("CORPORATE_PROXY", carrier.url)

        await PageRun(page, tmp_path, environment).run()

    assert bool(carrier.carried) == ("CORPORATE_PROXY" in page.read_text("utf-8"))


def test_what_is_not_run_has_a_reason() -> None:
    """And is the exception: it needs another machine, a browser, or an account."""
    blocks = [(page, block) for page in PAGES for block in blocks_of(page)]
    not_run = [(page.name, block.line, block.notes["not run"]) for page, block in blocks
               if "not run" in block.notes]  # fmt: skip
    ran = Counter(block.kind for _, block in blocks if block.is_run)

    assert all(len(reason) > 10 for _, _, reason in not_run)
    assert len(not_run) < sum(ran.values()) / 4
    assert ran["python"] > 20
    assert ran["sh"] + ran["console"] >= 10


def test_what_maintainers_are_told_to_run_exists() -> None:
    """Sessions of nox, benchmarks, and files of tests."""
    sessions = set(
        re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    )
    commands = "".join(
        block.text for page in PAGES for block in blocks_of(page) if block.is_for_maintainers
    )

    for named in re.findall(r"nox -s ([\w ]+)", commands):
        assert {name.partition("-")[0] for name in named.split()} <= sessions
    for module in re.findall(r"-m benchmarks\.(\w+)", commands):
        assert (ROOT / "benchmarks" / f"{module}.py").is_file(), module
    for path in re.findall(r"\btests/[\w/.]+", commands):
        assert (ROOT / path).exists(), path


def test_a_wrong_page_is_found() -> None:
    """The comparison itself: `…` stands for anything, nothing else does."""
    check_printed("a\nb 12 s\nc\n", "a\nb … s\nc\n", "here")
    check_printed("a\nb\nc\nd\n", "a\n…\nd\n", "here")
    with pytest.raises(AssertionError, match="here shows"):
        check_printed("a\nb\n", "a\nc\n", "here")
    with pytest.raises(AssertionError):
        check_printed("a.b\n", "axb\n", "here")
