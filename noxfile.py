"""Everything that is run on this project: `nox` runs what CI runs.

nox                 lint, types, tests on every Python found, bare
nox -s tests        the tests; with coverage (at least 95 % of lines and branches) on the Python
that nox runs on nox -s bench        the benchmarks (not part of CI) nox -s guard
instructions of a call against the hand-written loop's, by valgrind (not part of CI; warns without
it)
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.4"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "tests", "bare"]

# Interpreters that pyenv keeps off the path are found too; what is on the path comes first.
_PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
os.environ["PATH"] += "".join(f"{os.pathsep}{path}" for path in sorted(_PYENV.glob("3.*/bin")))

_OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
# 3.14 is tested where it can be run, and declared in pyproject.toml once it has been.
_SUPPORTED = ("3.11", "3.12", "3.13")
_PYTHONS = [
    version for version in _SUPPORTED if version == _OWN or shutil.which(f"python{version}")
]
_COVERED = _OWN if _OWN in _PYTHONS else _PYTHONS[0]
# The command runs on uvloop where that is installed: so on one Python, and on asyncio's own loop on
# the others.
_EXTRAS = ".[cli,frames]"
_COVERED_EXTRAS = ".[cli,frames,fast]"


# What takes long and does not depend on the Python: hours of throttling simulated, hundreds of
# kills, real proxies, notebooks. Left out on all but one Python, so that the whole takes less than
# ten minutes; `nox -s tests -- -n 2` leaves out nothing.
_ONCE = (
    "tests/adversity/test_proxies.py",
    "tests/kill",
    "tests/sandbox/test_openapi.py",
    "tests/sandbox/test_real_servers.py",
    "tests/credits/test_estimate.py",
    "tests/test_examples.py",
    "tests/throttle/test_algorithms.py",
)


def _install(session: nox.Session, *packages: str, groups: str) -> None:
    # What is imported is compiled then; to compile all of pandas, polars and pyarrow beforehand
    # takes half a minute each time.
    dependencies = nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), groups)
    session.install("--no-compile", *packages, *dependencies)


@nox.session(python=_PYTHONS)
def tests(session: nox.Session) -> None:
    """The suite against the built wheel, not the checkout.

    Whole, and with coverage, on one Python; on 3.12 through aiohttp's session, the way that is
    taken with versions of aiohttp the short one was not tested with.
    """
    _install(session, _COVERED_EXTRAS if session.python == _COVERED else _EXTRAS, groups="test")
    args = list(session.posargs)
    if not args:
        args = ["-n", "3", "--dist", "worksteal"]  # some wait for other processes
        if session.python == _COVERED:
            args += ["--cov", "--cov-report=term"]
        else:
            args += [f"--ignore={path}" for path in _ONCE]
        if session.python == "3.12":
            # The command takes its own way through a client it makes itself; the other Pythons test
            # it.
            args += [
                "--through-session",
                "--ignore=tests/http/test_direct.py",
                "--ignore=tests/cli/test_cli.py",
            ]
    session.run("pytest", *args)


@nox.session
def bare(session: nox.Session) -> None:
    """Without extras: the package imports, and the command says what it needs."""
    session.install(".")
    session.run(
        "python",
        "-W",
        "error",
        "-c",
        "import tokfluence_async as t; t.TokfluenceClient('x'); t.Sandbox()",
    )
    session.run("python", "-m", "tokfluence_async", "--help")


@nox.session
def lint(session: nox.Session) -> None:
    """ruff: rules and format."""
    _install(session, groups="lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy and pyright, both strict, on the package and on a user's snippet; mypy on the
    benchmarks, too."""
    _install(session, ".[cli,frames,fast]", groups="types")
    session.run("mypy")
    session.run("mypy", "--strict", "tests/typing")
    session.run("pyright")
    session.run("pyright", "tests/typing")


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks, side by side in one run. Takes minutes; `nox -s bench -- --quick` takes
    less."""
    _install(session, ".[cli,fast]", groups="bench")
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session
def guard(session: nox.Session) -> None:
    """Instructions of one `posts.get` and one page of comments against the hand-written loop's,
    counted by valgrind; minutes.

    Without valgrind it warns and judges nothing.
    """
    _install(session, ".", groups="bench")
    session.run("python", "-m", "benchmarks.guard", *session.posargs)
