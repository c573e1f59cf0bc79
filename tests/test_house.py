"""The shape of the package, so that the next reader finds a rule in a minute.

What a public tool can hold is not here: ruff holds columns, statements and branches, import-linter
the direction of imports, vulture what nobody calls (`nox -s lint`).
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tokfluence_async"
ROOMS = sorted(PACKAGE.rglob("*.py"))
WINGS = sorted(path.parent for path in PACKAGE.glob("_*/__init__.py"))

# About 500 and about 60: a little over is no second idea.
MOST_LINES = 520
MOST_LINES_OF_A_FUNCTION = 66
MOST_LINES_OF_A_HEAD = 16

# What the heads of wings name in backticks beside rooms.
NO_ROOMS = {"TOKFLUENCE_LOG", "_bulk", "tokfluence"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def functions() -> Iterator[tuple[str, Function]]:
    for path in ROOMS:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, Function):
                yield f"{name_of(path)}:{node.lineno} {node.name}", node


def lines_of(function: Function) -> int:
    """From its first statement to its last, without signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]


def test_no_room_is_too_large() -> None:
    """What does not fit on ten screens holds two ideas."""
    lines = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in ROOMS}

    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_no_function_is_too_long() -> None:
    """A function is read in one go, or not at all."""
    assert {
        name: lines
        for name, function in functions()
        if (lines := lines_of(function)) > MOST_LINES_OF_A_FUNCTION
    } == {}


def test_heads_are_short() -> None:
    """A module says what it promises, relies on, and what is hard; arguments are in docs/design.

    Tables and drawings do not count, nor do the pages that people read (`frames`, `testing`)."""
    heads = {name_of(path): ast.get_docstring(ast.parse(path.read_text("utf-8"))) for path in ROOMS}
    private = {name: head or "" for name, head in heads.items() if name.startswith("_")}

    assert {name for name, head in heads.items() if not head} == set()
    assert {
        name: lines
        for name, head in private.items()
        if (lines := sum(line[:1].strip() != "" for line in head.splitlines()))
        > MOST_LINES_OF_A_HEAD
    } == {}


def test_few_modules_stand_beside_the_wings() -> None:
    """A dozen: the door, the ground, and what people import by name."""
    beside = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py", "__main__.py"}

    assert len(beside) <= 12, sorted(beside)


@pytest.mark.parametrize("wing", WINGS, ids=lambda wing: wing.name)
def test_a_wing_says_what_it_is_for(wing: Path) -> None:
    """What it is for, what it does not know, which room to read first; rooms are imported by their
    own names, so the wing itself defines nothing."""
    tree = ast.parse((wing / "__init__.py").read_text("utf-8"))
    head = ast.get_docstring(tree) or ""

    assert len(head.splitlines()) >= 3
    assert re.search(r"\b[Kk]nows?\b", head)
    assert re.search(r"\b[Rr]ead\b", head)
    named = set(re.findall(r"`(\w+)`", head))
    rooms = {path.stem for path in wing.glob("*.py")}
    assert named & rooms, "no room is named"
    assert named - rooms - NO_ROOMS == set(), "no such room"
    elsewhere = re.findall(r"`(_\w+\.\w+)`", head)
    missing = {
        name
        for name in elsewhere
        if not PACKAGE.joinpath(*name.split(".")).with_suffix(".py").exists()
    }
    assert missing == set(), "no such room in that wing"


def test_tests_mirror_the_wings() -> None:
    """A reader of a wing finds its tests by its name."""
    folders = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("test_*.py"))}

    assert {wing.name.removeprefix("_") for wing in WINGS} <= folders


# --- the tools that hold the rest -----------------------------------------------------------------


def configuration() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_pre_commit_runs_what_lint_runs() -> None:
    """One list of checks, in two files."""
    session = re.search(
        r"\ndef lint\(.*?\n\n\n", (ROOT / "noxfile.py").read_text("utf-8"), re.DOTALL
    )
    hooks = re.findall(
        r"entry: (.*)", (ROOT / ".pre-commit-config.yaml").read_text("utf-8"), re.MULTILINE
    )
    assert session is not None
    runs = [
        " ".join(re.findall(r'"([^"]+)"', line))
        for line in session[0].splitlines()
        if "session.run(" in line
    ]

    assert hooks == runs


def test_every_column_is_held() -> None:
    """No file is exempt from the line length."""
    ruff = configuration()["tool"]["ruff"]

    assert ruff["line-length"] == 100
    exempt = {*ruff["lint"]["ignore"]}.union(*ruff["lint"]["per-file-ignores"].values())
    assert "E501" not in exempt


def test_the_classifiers_name_what_is_tested() -> None:
    """A Python that is declared is one that nox runs, and the other way round."""
    declared = {
        version
        for each in configuration()["project"]["classifiers"]
        if (version := each.removeprefix("Programming Language :: Python :: ")) != each
        and re.fullmatch(r"3\.\d+", version)
    }
    supported = re.search(r"^_SUPPORTED = (.*)$", (ROOT / "noxfile.py").read_text(), re.MULTILINE)

    assert supported is not None
    assert declared == set(ast.literal_eval(supported[1]))
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in declared
