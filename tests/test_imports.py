"""The picture of the rooms: an import only points down it, and importing the package loads nothing
it does not need."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import tokfluence_async
import tokfluence_async.frames
import tokfluence_async.testing
from tokfluence_async._posts import Posts

PACKAGE = Path(tokfluence_async.__file__).parent

# From the ground up. A module imports from its own floor and from those below.
FLOORS: tuple[tuple[str, frozenset[str]], ...] = (
    ("ground", frozenset(["_version", "_secret", "_terminal", "_words", "_errors", "_models"])),
    (
        "core",
        frozenset(
            [
                "_ids",
                "_mend",
                "_wire",
                "_plan",
                "_retry",
                "_batch",
                "_pace",
                "_budget",
                "_ledger",
                "_estimate",
                "_visibility",
                "_request_id",
                "_lines",
                "_recent",
                "_stranger",
            ]
        ),
    ),
    (
        "edges",
        frozenset(
            [
                "_throttle",
                "_failures",
                "_direct",
                "_transport",
                "_journal",
                "_sources",
                "_progress",
                "_log",
            ]
        ),
    ),
    (
        "drivers",
        frozenset(
            [
                "_places",
                "_engine",
                "_stream",
                "_analyze",
                "_comments",
                "_resolve",
                "_posts",
                "_crawl",
            ]
        ),
    ),
    ("door", frozenset(["_client", "__init__"])),
    ("people", frozenset(["_cli", "_formats", "_notebook", "frames", "__main__"])),
)
FLOOR = {module: number for number, (_, modules) in enumerate(FLOORS) for module in modules}
BESIDE = frozenset({"_sandbox", "testing"})
# Loaded when a notebook shows an object, and never before: `_repr_html_` is where people look.
LAZY_UPWARDS = {("_models", "_notebook"), ("_estimate", "_notebook"), ("_ledger", "_notebook")}

# What the core may not know: clocks, loops, sockets, files.
WORLDLY = frozenset(
    [
        "asyncio",
        "anyio",
        "aiohttp",
        "aiolimiter",
        "time",
        "socket",
        "ssl",
        "sqlite3",
        "selectors",
        "subprocess",
        "pathlib",
    ]
)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms() -> Iterator[tuple[str, Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield room_of(path), path, ast.parse(path.read_text())


def imports(tree: ast.Module, path: Path) -> Iterator[tuple[str, bool]]:
    """(what, when the module is loaded) for each import that is ever executed; a sibling is
    `.name`."""
    package = ("tokfluence_async", *path.relative_to(PACKAGE).parent.parts)

    def walk(node: ast.AST, at_load: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            full = (*base, *(node.module or "").split(".")) if node.module else base
            if full[0] != "tokfluence_async":
                yield full[0], at_load
            elif len(full) > 1:
                yield f".{full[1]}", at_load
            else:
                for alias in node.names:
                    beside = (PACKAGE / f"{alias.name}.py").exists() or (
                        PACKAGE / alias.name
                    ).is_dir()
                    yield f".{alias.name if beside else '__init__'}", at_load
        inside = at_load and not isinstance(
            node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        )
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    yield from walk(tree, True)


def test_every_module_has_a_room() -> None:
    """A new one is put into the picture above before anything imports it."""
    assert {room for room, _, _ in rooms()} - set(FLOOR) - BESIDE == set()


def test_imports_only_point_down() -> None:
    """style.md, *The rooms*: what is below can be read, tested and trusted without what is
    above."""
    upwards = {
        f"{room} -> {what[1:]}"
        for room, path, tree in rooms()
        if room in FLOOR
        for what, _ in imports(tree, path)
        if what.startswith(".")
        and what[1:] in FLOOR
        and FLOOR[what[1:]] > FLOOR[room]
        and (room, what[1:]) not in LAZY_UPWARDS
    }

    assert upwards == set()


def test_no_imports_go_round_in_circles() -> None:
    """On one floor, too."""
    below: dict[str, set[str]] = {}
    for room, path, tree in rooms():
        found = (
            what[1:] for what, at_load in imports(tree, path) if at_load and what.startswith(".")
        )
        below.setdefault(room, set()).update(name for name in found if name != room)

    done: set[str] = set()

    def visit(room: str, on_the_way: tuple[str, ...]) -> None:
        assert room not in on_the_way, " -> ".join((*on_the_way, room))
        if room not in done:
            for other in below.get(room, ()):
                visit(other, (*on_the_way, room))
            done.add(room)

    for room in below:
        visit(room, ())


def test_the_core_knows_no_clock_no_loop_and_no_files() -> None:
    """Values in, values out: no `await`, and nothing that could wait or read."""
    pure = FLOORS[0][1] | FLOORS[1][1]
    for room, path, tree in rooms():
        if room in pure:
            known = {what for what, _ in imports(tree, path)}
            waits = [
                n
                for n in ast.walk(tree)
                if isinstance(n, (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor))
            ]
            assert known & WORLDLY == set(), room
            assert waits == [], room


def test_drivers_compare_no_status_codes() -> None:
    """A driver that compares one has taken a line from wire or retry (style.md)."""
    for room in ("_analyze", "_comments", "_resolve", "_crawl", "_posts", "_stream"):
        tree = ast.parse((PACKAGE / f"{room}.py").read_text())
        compared = [
            constant.value
            for compare in ast.walk(tree)
            if isinstance(compare, ast.Compare) and ".status" in ast.unparse(compare)
            for constant in ast.walk(compare)
            if isinstance(constant, ast.Constant) and isinstance(constant.value, int)
        ]
        assert compared == [], room


def test_the_sandbox_shares_no_code_with_the_client() -> None:
    """A shared codec would share its mistakes; they meet over loopback only, and neither way
    round."""
    for room, path, tree in rooms():
        ours = {what for what, _ in imports(tree, path) if what.startswith(".")}
        if room == "_sandbox":
            assert ours <= {"._sandbox", "._version"}, path
        elif room in FLOOR and FLOOR[room] < FLOOR["_cli"] and room != "__init__":
            assert "._sandbox" not in ours, path


def test_people_import_what_users_import() -> None:
    """The command line is the first user of the public API: of the rooms below it takes only names
    without I/O."""
    allowed = {
        ".__init__",
        "._cli",
        "._ids",
        "._errors",
        "._terminal",
        "._words",
        "._version",
        "._log",
        "._formats",
        ".frames",
    }
    for room, path, tree in rooms():
        if room == "_cli":
            assert {what for what, _ in imports(tree, path) if what.startswith(".")} <= allowed, (
                path
            )


def loaded_by(code: str) -> set[str]:
    # What is there before is not ours: coverage, where it measures subprocesses too, brings asyncio
    # and sqlite3.
    script = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=quiet
    )
    return set(done.stdout.split())


HEAVY = {
    "aiohttp",
    "anyio",
    "aiolimiter",
    "typer",
    "rich",
    "sqlite3",
    "aiohttp.web",
    "redis",
    "pandas",
    "polars",
    "pyarrow",
}


def test_importing_the_package_loads_next_to_nothing() -> None:
    """Names arrive when they are first asked for."""
    assert not loaded_by("import tokfluence_async") & {*HEAVY, "msgspec", "asyncio"}


def test_models_and_errors_load_no_network() -> None:
    """A worker that only unpickles results needs none."""
    assert not loaded_by("from tokfluence_async import Post, NotFoundError, Outcome") & HEAVY


def test_a_client_loads_no_server_no_screen_and_no_frames() -> None:
    """`Sandbox` brings `aiohttp.web`, the command line typer and rich; a program that has neither
    does not pay."""
    code = "import tokfluence_async as t\nt.TokfluenceClient('x', base_url='http://127.0.0.1:1')"

    assert not loaded_by(code) & (HEAVY - {"anyio", "sqlite3", "aiolimiter"})


# --- the public surface ---------------------------------------------------------------------------

# design.md, *Public surface* and *Errors*.
CONTRACT = [
    "TokfluenceClient",
    "Outcome",
    "Analysis",
    "AnalyzeReport",
    "Throttle",
    "Journal",
    "crawl",
    "CrawlReport",
    "Sandbox",
    "Timeout",
    "Usage",
    "Progress",
    "Post",
    "Comment",
    "CommentPage",
    "TokfluenceError",
    "ConfigurationError",
    "InvalidPostError",
    "BudgetExceededError",
    "PostNotReadyError",
    "APIError",
    "APIConnectionError",
    "APITimeoutError",
    "APIResponseValidationError",
    "APIStatusError",
    "AuthenticationError",
    "InsufficientCreditsError",
    "PermissionDeniedError",
    "NotFoundError",
    "DuplicateRequestError",
    "UnprocessableEntityError",
    "RateLimitError",
    "UpstreamError",
    "InternalServerError",
]


def test_the_contracts_names_are_public() -> None:
    """What users, notebooks and other tests are written against."""
    assert set(CONTRACT) <= set(tokfluence_async.__all__)


def test_everything_public_is_there() -> None:
    """And nothing private is advertised."""
    assert sorted(set(tokfluence_async.__all__)) == sorted(tokfluence_async.__all__)
    assert dir(tokfluence_async) == sorted(tokfluence_async.__all__)
    for name in tokfluence_async.__all__:
        assert getattr(tokfluence_async, name) is not None
        assert name == "__version__" or not name.startswith("_")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tokfluence_async.nonsense


def parameters(function: Any) -> dict[str, Any]:
    signature = inspect.signature(function)
    return {name: p.default for name, p in signature.parameters.items() if name != "self"}


NO_DEFAULT = inspect.Parameter.empty


@pytest.mark.parametrize(
    ("function", "promised"),
    [
        (Posts.get, {"post": NO_DEFAULT}),
        (
            Posts.comments,
            {"post": NO_DEFAULT, "cursor": 0, "limit": 200, "max_items": None, "prefetch": 0},
        ),
        (
            Posts.comment_pages,
            {"post": NO_DEFAULT, "cursor": 0, "limit": 200, "max_items": None, "prefetch": 0},
        ),
        (
            Posts.analyze,
            {
                "urls": NO_DEFAULT,
                "force": False,
                "batch_size": None,
                "max_credits": None,
                "journal": None,
                "on_progress": None,
            },
        ),
        (Posts.analyze_iter, {"urls": NO_DEFAULT, "journal": None}),
        (
            Posts.resolve,
            {"urls": NO_DEFAULT, "refresh": "missing", "journal": None, "patience": 60.0},
        ),
        (
            tokfluence_async.TokfluenceClient,
            {
                "token": None,
                "base_url": None,
                "throttle": None,
                "max_credits": None,
                "session": None,
            },
        ),
        (tokfluence_async.Throttle, {"per_ip": 600, "per_key": 1200, "period": 60.0}),
        (
            tokfluence_async.crawl,
            {
                "client": NO_DEFAULT,
                "urls": NO_DEFAULT,
                "out": NO_DEFAULT,
                "comments": False,
                "journal": None,
                "refresh": "missing",
                "max_credits": None,
                "on_progress": None,
            },
        ),
        (
            tokfluence_async.TokfluenceClient.request,
            {
                "method": NO_DEFAULT,
                "path": NO_DEFAULT,
                "params": None,
                "json": None,
                "response_type": None,
            },
        ),
    ],
    ids=lambda value: getattr(value, "__qualname__", None),
)
def test_the_promised_parameters_have_the_promised_defaults(
    function: Any, promised: dict[str, Any]
) -> None:
    """design.md, *Public surface*: names and defaults are what programs are written against."""
    found = parameters(function)

    assert {name: found.get(name, "missing") for name in promised} == promised


def documented() -> Iterator[tuple[str, Any]]:
    for module in (tokfluence_async, tokfluence_async.testing, tokfluence_async.frames):
        yield module.__name__, module
        for name in module.__all__:
            value = getattr(module, name)
            if not inspect.isclass(value) and not isinstance(value, FunctionType):
                continue
            yield name, value
            for method, member in vars(value).items() if inspect.isclass(value) else ():
                if not method.startswith("_") and isinstance(
                    member, (FunctionType, property, classmethod)
                ):
                    yield f"{name}.{method}", member
    for method, member in vars(Posts).items():
        if not method.startswith("_") and isinstance(member, FunctionType):
            yield f"Posts.{method}", member


def test_everything_public_says_what_it_promises() -> None:
    """Docstrings are the reference: a public name without one is not documented at all."""
    assert [name for name, value in documented() if not (value.__doc__ or "").strip()] == []


def test_nothing_public_refers_to_what_a_reader_does_not_have() -> None:
    """Who has the package has no file of ours that is not in it, and marks that nobody explains say
    nothing."""
    ours = ("[public]", "[seed]", "shared/", "tokfluence-api.md", "design.md", "style.md")
    found = {name for name, value in documented() for word in ours if word in value.__doc__}

    assert found == set()
