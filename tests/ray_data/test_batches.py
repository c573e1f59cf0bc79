"""`ResolvePosts` as Ray calls it, without Ray: one batch in, one table out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from fleet.support import LedgerServer, serve_ledger

from tokfluence_async import AuthenticationError, Outcome, Post, frames
from tokfluence_async.ray import ResolvePosts

IDS = [str(7_234_567_890_123_456_000 + number) for number in range(6)]
URL = f"https://www.tiktok.com/@a/video/{IDS[0]}"

pytestmark = pytest.mark.real_time


@pytest.fixture
def ledger() -> Iterator[LedgerServer]:
    with serve_ledger(throttle=None, seconds_per_url=0, visibility_delay=0) as served:
        yield served


@pytest.fixture
def resolve(ledger: LedgerServer) -> Iterator[ResolvePosts]:
    made = ResolvePosts(token=ledger.token, base_url=ledger.url)
    yield made
    made.close()


@pytest.mark.parametrize(
    "batch",
    [
        {"url": IDS},
        {"url": pd.Series(IDS).to_numpy()},
        pd.DataFrame({"url": IDS, "text": "not these"}),
        pa.table({"text": IDS}),
        {"url": [int(post_id) for post_id in IDS]},
    ],
    ids=["lists", "numpy", "pandas", "pyarrow as of read_text", "numbers"],
)
def test_all_formats_of_ray_give_the_same_rows(resolve: ResolvePosts, batch: Any) -> None:
    """Typed as `frames` types outcomes, in the order of the rows."""
    table = resolve(batch)

    assert table.schema == frames.schema(Outcome[Post])
    assert table["post_id"].to_pylist() == IDS
    assert table["input"].to_pylist() == IDS
    assert table["error"].null_count == len(IDS)


def test_a_row_comes_back_for_each_row(resolve: ResolvePosts, ledger: LedgerServer) -> None:
    """Spellings of one post share one read; what names no post has its reason beside it."""
    table = resolve({"url": [URL, "no post", None, IDS[0], float("nan"), IDS[1]]})

    assert table["input"].to_pylist() == [URL, "no post", "None", IDS[0], "nan", IDS[1]]
    assert table["post_id"].to_pylist() == [IDS[0], None, None, IDS[0], None, IDS[1]]
    assert [error is None for error in table["error"].to_pylist()] == [1, 0, 0, 1, 0, 1]
    assert ledger.summary()["credits_spent"] == 2


def test_a_batch_of_nothing_has_the_same_columns(resolve: ResolvePosts) -> None:
    """Else the blocks of a dataset could not be put together."""
    assert resolve({"url": []}).schema == frames.schema(Outcome[Post])


def test_one_client_serves_all_batches(resolve: ResolvePosts, ledger: LedgerServer) -> None:
    """Connections are kept: each request but the first goes out on one that was used before."""
    for post_id in IDS:
        resolve({"url": [post_id]})

    carried = [entry["connection"] for entry in ledger.summary(entries=True)["entries"]]
    assert carried == list(range(len(IDS)))


def test_a_missing_column_is_told(resolve: ResolvePosts) -> None:
    """With the ones there are, and what to say instead."""
    with pytest.raises(KeyError, match=r"column=…") as caught:
        resolve({"link": IDS})

    assert "'link'" in str(caught.value)


def test_another_column_may_be_named(ledger: LedgerServer) -> None:
    made = ResolvePosts(column="link", token=ledger.token, base_url=ledger.url)
    try:
        assert made({"link": IDS, "url": ["x"] * len(IDS)})["post_id"].to_pylist() == IDS
    finally:
        made.close()


def test_what_ends_a_job_is_raised(ledger: LedgerServer) -> None:
    """A refused token concerns no single row."""
    made = ResolvePosts(token="tkf_live_" + "x" * 32, base_url=ledger.url)
    try:
        with pytest.raises(AuthenticationError):
            made({"url": IDS})
    finally:
        made.close()
