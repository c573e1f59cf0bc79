"""Request ids: never twice, whoever asks, and nothing a header could not carry."""

from __future__ import annotations

import os
import threading
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfluence_async._wire.request_ids import check_request_id, next_request_id


def test_ids_are_unique_over_threads() -> None:
    """One repeated id is a 409, and a paid answer lost."""
    made: list[list[str]] = [[] for _ in range(4)]

    def make(into: list[str]) -> None:
        into.extend(next_request_id() for _ in range(20_000))

    threads = [threading.Thread(target=make, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({one for each in made for one in each}) == 80_000


def test_an_id_is_a_version_4_uuid() -> None:
    """What the service recommends, in the usual spelling."""
    made = next_request_id()

    assert str(UUID(made)) == made
    assert UUID(made).version == 4


def test_the_counter_wraps_within_its_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed at the end of the range must not make an id of 37 characters."""
    monkeypatch.setattr("tokfluence_async._wire.request_ids._counter", iter([2**48 - 1, 2**48]))

    last, first = next_request_id(), next_request_id()

    assert last.endswith("-ffffffffffff")
    assert first.endswith("-000000000000")


@pytest.mark.real_time
# Threads that other tests left are no harm to a child that only counts.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_counts_from_elsewhere() -> None:
    """Parent and child would otherwise give the same ids in the same order."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, "\n".join(next_request_id() for _ in range(100)).encode())
        os._exit(0)
    mine = {next_request_id() for _ in range(100)}
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        theirs = set(pipe.read().split())

    assert len(theirs) == 100
    assert not mine & theirs


@given(st.text())
def test_only_header_safe_ids_are_taken(text: str) -> None:
    """A line break in a header is a second header."""
    try:
        taken = check_request_id(text)
    except ValueError:
        taken = None

    safe = 1 <= len(text) <= 128 and all(c.isascii() and (c.isalnum() or c in "._-") for c in text)
    assert taken == (text if safe else None)


@pytest.mark.parametrize("text", ["", "a\n", "a\r\nX: y", "a b", "ä", "a" * 129, "²"])
def test_these_ids_are_refused(text: str) -> None:
    """Spelled out."""
    with pytest.raises(ValueError, match="request id"):
        check_request_id(text)


def test_these_ids_are_taken() -> None:
    """Ours, and a user's own."""
    assert check_request_id("a" * 128) == "a" * 128
    assert check_request_id(next_request_id())
