"""A client of redis-py for a URL, and what its errors mean."""

from __future__ import annotations

import pytest

from tokfluence_async import ConfigurationError
from tokfluence_async._redis_py.client import connect, explain, shown
from tokfluence_async._wire.secret import Secret

exceptions = pytest.importorskip("redis").exceptions


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("redis://127.0.0.1", "redis://127.0.0.1:6379"),
        ("rediss://me:hunter2@host:6380/3?password=hunter2", "rediss://host:6380/3"),
        ("redis://:hunter2@[::1]:6380", "redis://::1:6380"),
        ("redis:///1", "redis://localhost:6379/1"),
        ("unix://me:hunter2@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("redis://:hunter2@host:port/0", "redis://"),
        ("redis://:hunter2@[host/0", "redis://"),
    ],
)
def test_a_server_is_shown_without_its_password(url: str, seen: str) -> None:
    assert shown(url) == seen


@pytest.mark.parametrize("url", ["redis://:hunter2@host:port/0", "http://me:hunter2@host"])
def test_a_url_that_cannot_be_read_is_not_shown(url: str) -> None:
    """The error of redis-py holds it."""
    with pytest.raises(ConfigurationError, match="A test cannot read its URL") as caught:
        connect(Secret(url), "A test", 1.0)

    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (exceptions.AuthenticationError("x"), "refused", "password"),
        (exceptions.ResponseError("NOAUTH Authentication required."), "refused", "password"),
        (exceptions.ResponseError("unauthenticated bulk length"), "refused", "password"),
        (exceptions.NoPermissionError("no"), "refused", "NOPERM"),
        (exceptions.BusyLoadingError("LOADING"), "loading", "loading"),
        (exceptions.TimeoutError("x"), "late", "in time"),
        (TimeoutError(), "late", "in time"),
        (exceptions.ConnectionError("redis://:hunter2@host"), "away", "cannot be reached"),
        (ConnectionResetError(), "away", "cannot be reached"),
        (exceptions.ResponseError("WRONGTYPE Operation against a key"), "foreign", "something"),
        (exceptions.ResponseError("script: OOM command not allowed"), "other", "full"),
        (exceptions.ReadOnlyError("x"), "other", "read-only"),
        (exceptions.ResponseError("MISCONF Redis is"), "other", "disk"),
        (exceptions.ResponseError("ERR one\ntwo"), "other", "answered: ERR one two"),
        (exceptions.InvalidResponse("hunter2"), "other", "was not understood (InvalidResponse)"),
        (TypeError("hunter2"), "other", "was not understood (TypeError)"),
    ],
)
def test_an_error_is_told_in_words_of_ours(error: Exception, kind: str, says: str) -> None:
    failure = explain(error)

    assert failure.kind == kind
    assert says in failure.what
    assert failure.passes == (kind in ("away", "late", "loading"))
    assert "hunter2" not in failure.what
