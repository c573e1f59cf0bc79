"""Importing the package loads nothing it does not need, and the public names are what is
promised."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import pytest

import tokfluence_async
import tokfluence_async.frames
import tokfluence_async.ray
import tokfluence_async.testing
from tokfluence_async._journal.redis_store import connect
from tokfluence_async._posts import Posts
from tokfluence_async._wire.secret import Secret


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


def test_what_needs_redis_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same words, whatever is shared, and before anything is sent."""
    for name in [*sys.modules]:
        if name.partition(".")[0] == "redis":
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "redis", None)
    url = "redis://127.0.0.1:1/0"
    makers = {
        "A shared throttle": lambda: tokfluence_async.Throttle(shared=url),
        "A shared budget": lambda: tokfluence_async.SharedBudget(url, "spring", 100),
        "A journal in Redis": lambda: connect(Secret(url)),
    }
    for what, make in makers.items():
        with pytest.raises(tokfluence_async.ConfigurationError) as caught:
            make()

        assert str(caught.value) == (
            f"{what} needs redis-py, which is not installed: pip install 'tokfluence_async[redis]' "
            "(or from a checkout: pip install '.[redis]'). Nothing was sent."
        )


# --- the public surface ---------------------------------------------------------------------------

# What programs may rely on. A name that goes is a change of the public surface.
CONTRACT = [
    "TokfluenceClient",
    "Outcome",
    "Analysis",
    "AnalyzeReport",
    "Throttle",
    "SharedBudget",
    "Journal",
    "SQLiteJournal",
    "RedisJournal",
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
    "ClosedError",
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
        (
            tokfluence_async.Throttle,
            {"per_ip": 600, "per_key": 1200, "period": 60.0, "shared": None, "ip": "default"},
        ),
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
                "shard": None,
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
    """Names and defaults are what programs are written against."""
    found = parameters(function)

    assert {name: found.get(name, "missing") for name in promised} == promised


def documented() -> Iterator[tuple[str, Any]]:
    for module in (
        tokfluence_async,
        tokfluence_async.frames,
        tokfluence_async.ray,
        tokfluence_async.testing,
    ):
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
