"""Everything that is run on this project: `.ci/run` runs these sessions, and nothing else.

nox                 lint, types, tests on every Python found, bare
nox -s tests        the tests against the built wheel; with coverage on one Python
nox -s docs         the documentation, built strictly; its links, and the built site in a browser
nox -s release      sdist and wheel, checked and installed in an empty environment
nox -s lowest       the tests with the lowest versions that pyproject.toml permits
nox -s observers    beside OpenTelemetry, Sentry, Datadog, vcrpy and aioresponses
nox -s ray          Ray Data and task queues on this machine

Not part of CI, as they take long or need other programs:

nox -s bench        the benchmarks, side by side in one run
nox -s guard        instructions of a call against the hand-written loop's, counted by valgrind
nox -s soak         hours of virtual time under faults, and hundreds of kills
nox -s mutants      small changes to the code that a test has to notice
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.4"
# uv, if it is there, installs the same in a fraction of the time.
nox.options.default_venv_backend = "uv|venv"
nox.options.sessions = ["lint", "types", "tests", "bare"]

# Interpreters that pyenv keeps off the path are found too; what is on the path comes first.
_PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
os.environ["PATH"] += "".join(f"{os.pathsep}{path}" for path in sorted(_PYENV.glob("3.*/bin")))

_OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
_SUPPORTED = ("3.11", "3.12", "3.13", "3.14", "3.15")
_PYTHONS = [
    version for version in _SUPPORTED if version == _OWN or shutil.which(f"python{version}")
]
_COVERED = _OWN if _OWN in _PYTHONS else _PYTHONS[0]
# uvloop is installed on one Python. The others test asyncio's own loop.
_EXTRAS = ".[cli,frames,redis]"
_COVERED_EXTRAS = ".[cli,frames,redis,fast]"

# These take long and do not depend on the Python: hours of simulated throttling, hundreds of kills,
# real proxies, notebooks, terminals. They run on one Python only, and without coverage, which makes
# such computing three times as slow; `nox -s tests -- -n 2` leaves out nothing.
_ONCE = (
    "tests/adversity/test_proxies.py",
    "tests/kill",
    "tests/sandbox/test_openapi.py",
    "tests/sandbox/test_real_servers.py",
    "tests/cli/test_shared.py",
    "tests/cli/test_streams.py",
    "tests/credits/test_estimate.py",
    "tests/docs",
    "tests/fleet",
    "tests/http/test_liveness.py",
    "tests/platforms",
    "tests/test_examples.py",
    "tests/throttle/test_algorithms.py",
    "tests/throttle/test_fleet.py",
)


def _install(session: nox.Session, *packages: str, groups: str) -> None:
    """Install packages and dependency groups, in one resolution."""
    dependencies = nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), groups)
    # --no-compile: to compile all of pandas, polars and pyarrow takes half a minute each time.
    session.install("--no-compile", *packages, *dependencies)


@nox.session(python=_PYTHONS)
def tests(session: nox.Session) -> None:
    """The suite against the built wheel; on one Python whole and with coverage."""
    _install(session, _COVERED_EXTRAS if session.python == _COVERED else _EXTRAS, groups="test")
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    parallel = ["-n", "3", "--dist", "worksteal"]  # some tests wait for other processes
    coverage = ["--cov", "--cov-report=term"] if session.python == _COVERED else []
    session.run("pytest", *parallel, *coverage, *(f"--ignore={path}" for path in _ONCE))
    if session.python == _COVERED:
        session.run("pytest", *parallel, *_ONCE)


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
    """ruff's rules and format, the direction of imports, code that nobody calls."""
    _install(session, groups="lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")
    session.run("vulture")


@nox.session
def types(session: nox.Session) -> None:
    """mypy and pyright, both strict, on the package and a user's snippet; mypy on benchmarks."""
    _install(session, ".[cli,frames,redis,otel,fast]", groups="types")
    session.run("mypy")
    session.run("mypy", "--strict", "tests/typing")
    session.run("pyright")
    session.run("pyright", "tests/typing")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into `site/`, strictly; then look at it in a headless browser."""
    _install(session, ".[cli,frames,redis]", groups="docs")
    session.run("mkdocs", "build", "--strict", "--clean", env={"NO_MKDOCS_2_WARNING": "1"})
    session.run("pytest", "-m", "site", "tests/docs", *session.posargs)


@nox.session
def release(session: nox.Session) -> None:
    """sdist and wheel in `dist/`: metadata, contents, an empty environment, the README's block."""
    _install(session, ".", groups="release")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", "--quiet")
    built = sorted(str(path) for path in Path("dist").iterdir())
    session.run("twine", "check", "--strict", *built)
    session.run("check-wheel-contents", *(path for path in built if path.endswith(".whl")))
    session.run("pytest", "-m", "release", "tests/release", *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """Parts of the suite with the lowest versions that pyproject.toml permits, by uv."""
    session.install("uv")
    pins = Path(session.create_tmp()) / "lowest.txt"
    extras = [arg for name in ("cli", "frames", "redis", "otel") for arg in ("--extra", name)]
    session.run(
        *("uv", "pip", "compile", "--quiet", "--resolution", "lowest-direct"),
        *("--python", session.virtualenv.location, *extras, "pyproject.toml", "-o", str(pins)),
    )
    _install(session, ".[cli,frames,redis,otel]", "-r", str(pins), groups="test")
    # One part of the suite for each dependency: typer and rich, msgspec, aiohttp and anyio,
    # pyarrow, redis, opentelemetry. The whole is `nox -s lowest -- tests`.
    args = session.posargs or [
        *("tests/cli", "tests/wire", "tests/test_client.py", "tests/test_frames.py"),
        *("tests/crawl/test_tables.py", "tests/journal/test_protocol.py"),
        *("tests/credits", "tests/http/test_telemetry.py", "tests/throttle/test_stores.py"),
    ]
    # An old typer beside a new click uses names that click is about to drop.
    args = [*args, "-n", "3", "--dist", "worksteal", "-W", "ignore:'click:DeprecationWarning"]
    session.run("pytest", *args, *(f"--ignore={path}" for path in _ONCE))


@nox.session
def observers(session: nox.Session) -> None:
    """Telemetry, tracing and recording tools beside the client: each request is seen once."""
    _install(session, ".[cli,otel]", groups="observers")
    session.run("pytest", "tests/observers", *session.posargs)


@nox.session
def ray(session: nox.Session) -> None:
    """Ray Data with actors on this machine, streaq and taskiq; all bound to 127.0.0.1."""
    _install(session, ".[cli,ray,redis]", groups="fleet")
    session.run("pytest", "tests/ray_data", "tests/fleet/test_engines.py", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """What takes longer than CI has: the tests marked `soak`."""
    # With the engines that `nox -s ray` installs: what does not find its engine skips.
    _install(session, ".[cli,frames,redis,ray,fast]", groups="fleet")
    session.run("python", "-m", "pytest", "-m", "soak", "--timeout", "0", "-s", *session.posargs)


# The rooms in which a small mistake costs money, and the quickest tests that belong to each.
_MUTATED = {
    "_bulk/ahead.py": ["bulk/test_comments.py"],
    "_bulk/batch.py": ["bulk/test_batch.py"],
    "_bulk/comments.py": ["bulk/test_comments.py"],
    "_bulk/planner.py": ["bulk/test_plan.py", "bulk/test_planner.py"],
    "_bulk/poll.py": ["bulk/test_visibility.py", "bulk/test_resolve.py"],
    "_bulk/reader.py": ["bulk/test_reader.py", "bulk/test_sources_of_every_kind.py"],
    "_bulk/recent.py": ["bulk/test_recent.py"],
    "_bulk/visibility.py": ["bulk/test_visibility.py"],
    "_bulk/window.py": ["bulk/test_window.py"],
    "_credits/budget.py": ["credits/test_budget.py"],
    "_credits/ledger.py": ["credits/test_ledger.py"],
    "_credits/reads.py": ["bulk/test_visibility.py"],
    "_http/retry.py": ["http/test_retry.py"],
    "_throttle/pacer.py": ["throttle/test_pace.py", "throttle/test_lanes.py"],
    "_throttle/pause.py": ["throttle/test_pace.py", "http/test_long_pause.py"],
    "_throttle/schedule.py": ["throttle/test_schedule.py"],
    "_throttle/share.py": ["throttle/test_share.py", "throttle/test_pace.py"],
    "_wire/statuses.py": ["wire/test_statuses.py", "http/test_retry.py"],
}
# Of the changes that cosmic-ray knows, one or two of a kind: `<` becomes `<=` and `>=`, `+` becomes
# `-`. The `|` of types stays what it is.
_LEFT_OUT = [
    "core/ReplaceBinaryOperator_(?!Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_Mul|Pow_Mul)",
    "core/ReplaceComparisonOperator_(?!Lt_LtE|Lt_GtE|LtE_Lt|LtE_Gt|Gt_GtE|Gt_LtE|GtE_Gt|GtE_Lt)"
    "(?!Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is)",
    "core/ReplaceUnaryOperator_(?!USub_UAdd|Delete_Not)",
    "core/(RemoveDecorator|Variable)",
]


@nox.session
def mutants(session: nox.Session) -> None:
    """Small changes to the code, by cosmic-ray; `nox -s mutants -- retry pacer` for two rooms.

    Prints what no test noticed, and fails if it is more than one in ten of a room. Each change
    takes the seconds of its room's tests: all of them, two hours.
    """
    _install(session, _EXTRAS, groups="mutants")
    rooms = {Path(room).stem: room for room in _MUTATED}
    # A copy: the changes are made in the files.
    work = Path(session.create_tmp()).resolve() / "copy"
    shutil.rmtree(work, ignore_errors=True)
    for part in ("tokfluence_async", "tests", "docs"):
        shutil.copytree(part, work / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy("pyproject.toml", work)
    session.chdir(work)
    unnoticed = []
    for name in session.posargs or rooms:
        tests = " ".join(f"tests/{path}" for path in _MUTATED[rooms[name]])
        # A change that lets a test hang is noticed by its time limit.
        options = "-x -q -p no:cacheprovider --hypothesis-seed=0 --timeout=20"
        Path(f"{name}.toml").write_text(
            f"""
            [cosmic-ray]
            module-path = "tokfluence_async/{rooms[name]}"
            test-command = "python -m pytest {options} {tests}"
            timeout = 120.0
            distributor.name = "local"
            [cosmic-ray.filters.operators-filter]
            exclude-operators = {_LEFT_OUT}
            """,
            encoding="utf-8",
        )
        config, results = f"{name}.toml", f"{name}.sqlite"
        session.run("cosmic-ray", "init", config, results)
        session.run("cr-filter-operators", results, config)
        session.run("cosmic-ray", "baseline", config)
        session.run("cosmic-ray", "exec", config, results)
        session.run("cr-report", "--surviving-only", "--show-diff", results)
        lines = session.run("cosmic-ray", "dump", results, silent=True).splitlines()
        outcomes = [json.loads(line)[1]["test_outcome"] for line in lines]
        ran = [outcome for outcome in outcomes if outcome is not None]
        noticed = len(ran) - ran.count("survived")
        session.log(f"{rooms[name]}: {noticed} of {len(ran)} noticed")
        if noticed < 0.9 * len(ran):
            unnoticed.append(name)
    if unnoticed:
        session.error(f"more than one change in ten is not noticed in: {', '.join(unnoticed)}")


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks, side by side in one run; `nox -s bench -- --quick` takes minutes."""
    _install(session, ".[cli,fast]", groups="bench")
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session
def guard(session: nox.Session) -> None:
    """Instructions of one `posts.get` and one page of comments against the hand-written loop's.

    Counted by valgrind, in minutes. Without valgrind it warns and judges nothing.
    """
    _install(session, ".", groups="bench")
    session.run("python", "-m", "benchmarks.guard", *session.posargs)
