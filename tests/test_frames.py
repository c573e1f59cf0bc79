"""Frames: columns are typed from the Struct, whatever the data."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokfluence_async import (
    Analysis,
    AnalyzeReport,
    Comment,
    CommentPage,
    InvalidPostError,
    Music,
    Outcome,
    Post,
    Sandbox,
    TokfluenceClient,
    frames,
)
from tokfluence_async._crawl.tables import make_encoder

ID = "7234567890123456789"
FULL = Post(
    post_id=ID,
    caption="👩‍👩‍👧‍👦 هذا",
    published_at=dt.datetime(2026, 4, 12, 19, 0, tzinfo=dt.UTC),
    duration=28,
    views=2**53 + 1,
    hashtags=["wwe", "猫"],
    mentions=[],
    music=Music(title="original sound", original=True),
    is_sponsored=False,
)
BARE = Post(post_id="1")


def test_the_schema_is_that_of_the_struct() -> None:
    """Times, lists and nested music have real types; ids are strings."""
    schema = frames.schema(Post)

    assert schema.names == list(Post.__struct_fields__)
    assert schema.field("post_id").type == pa.string()
    assert schema.field("published_at").type == pa.timestamp("us", tz="UTC")
    assert schema.field("duration").type == pa.float64()
    assert schema.field("views").type == pa.int64()
    assert schema.field("hashtags").type == pa.list_(pa.string())
    assert schema.field("music").type == pa.struct(
        [("title", pa.string()), ("author", pa.string()), ("original", pa.bool_())]
    )
    assert schema.field("is_sponsored").type == pa.bool_()


@pytest.mark.parametrize("row_type", [Post, Comment, Analysis, Outcome[Post], Outcome[Comment]])
def test_an_empty_list_gives_the_same_schema(row_type: Any) -> None:
    """A query that finds nothing must not break what comes after it."""
    assert frames.to_arrow([], row_type).schema == frames.schema(row_type)


def test_nothing_is_guessed_from_the_data() -> None:
    """A column that happens to be null throughout keeps its type, in all three kinds of frame."""
    assert frames.to_arrow([BARE]).schema == frames.to_arrow([FULL]).schema
    assert dict(frames.to_pandas([BARE]).dtypes) == dict(frames.to_pandas([FULL, BARE]).dtypes)
    assert frames.to_polars([BARE]).schema == frames.to_polars([FULL]).schema


def test_values_survive() -> None:
    """Arrow gives back what the Structs held, 2**53 + 1 included."""
    rows = frames.to_arrow([FULL, BARE]).to_pylist()

    assert rows[0] == msgspec.structs.asdict(FULL) | {
        "music": {"title": "original sound", "author": None, "original": True},
        "duration": 28.0,
    }
    assert rows[1] == msgspec.structs.asdict(BARE)


def test_pandas_keeps_counts_whole() -> None:
    """A column of integers with one null is no column of floats."""
    frame = frames.to_pandas([FULL, BARE])

    assert frame["views"].dtype == pd.Int64Dtype()
    assert frame["views"][0] == 2**53 + 1
    assert frame["post_id"].tolist() == [ID, "1"]
    assert isinstance(frame["published_at"].dtype, pd.DatetimeTZDtype)
    assert list(frame["hashtags"][0]) == ["wwe", "猫"]


def test_polars_has_lists_and_structs() -> None:
    """And ids that are strings."""
    frame = frames.to_polars([FULL])

    assert frame.schema["hashtags"] == pl.List(pl.String)
    assert frame["music"].struct.field("title").to_list() == ["original sound"]
    assert frame["post_id"].to_list() == [ID]


def test_outcomes_keep_inputs_and_errors() -> None:
    """What failed is a row like the others, so that none is lost between the list and the frame."""
    error = InvalidPostError("x", "why")
    outcomes = [
        Outcome(input=f"https://www.tiktok.com/@a/video/{ID}", post_id=ID, value=FULL),
        Outcome[Post](input=12, post_id="12", error=error),
        Outcome[Post](input="\ud800", error=error),
    ]

    table = frames.to_arrow(outcomes)

    assert table.schema == frames.schema(Outcome[Post])
    assert table.schema.names == ["input", *Post.__struct_fields__, "error"]
    assert table.column("input").to_pylist() == [f"https://www.tiktok.com/@a/video/{ID}", "12", "?"]
    assert table.column("post_id").to_pylist() == [ID, "12", None]
    assert table.column("error").to_pylist() == [None, str(error), str(error)]
    assert table.column("music").to_pylist()[1] is None


def test_leading_failures_do_not_hide_the_type() -> None:
    """The first Outcome with a value tells, even if chunks of failures come before it."""
    failed: Outcome[Post] = Outcome(input="x", error=InvalidPostError("x", "why"))

    table = frames.to_arrow([failed] * 70_000 + [Outcome(input="y", post_id="1", value=BARE)])

    assert table.num_rows == 70_001
    assert table.schema == frames.schema(Outcome[Post])


@pytest.mark.parametrize("rows", [[], [Outcome(input="x", error=InvalidPostError("x", "why"))]])
def test_rows_that_cannot_tell_their_type_are_refused(rows: list[Any]) -> None:
    """Guessing would give another schema next time."""
    with pytest.raises(ValueError, match="give row_type"):
        frames.to_arrow(rows)


def test_reports_and_pages_tell_their_type() -> None:
    """Also when they are empty, as their type is known."""
    assert frames.to_arrow(AnalyzeReport(outcomes=[])).schema == frames.schema(Outcome[Analysis])
    empty = CommentPage(items=[], total=0, cursor=0, next_cursor=None)
    assert frames.to_arrow(empty).schema == frames.schema(Comment)


def test_mixed_rows_are_refused() -> None:
    """A frame has one kind of row; the message names the odd one."""
    with pytest.raises(TypeError, match="of type Comment, not Post"):
        frames.to_arrow([BARE, Comment(comment_id="1")])
    with pytest.raises(TypeError, match="of type Post, not Outcome"):
        frames.to_arrow([Outcome(input="1", post_id="1", value=BARE), BARE])


@pytest.mark.parametrize("row_type", [int, Outcome, dict[str, int], list[Post]])
def test_what_has_no_columns_is_refused(row_type: Any) -> None:
    """Rows are Structs, or Outcomes of them."""
    with pytest.raises(TypeError, match="has no columns"):
        frames.schema(row_type)


class Odd(msgspec.Struct):
    """A user's own Struct, with a field no column holds."""

    what: complex


class Plain(msgspec.Struct):
    """A user's own Struct."""

    name: str
    numbers: list[int] = []


def test_structs_of_the_users_own() -> None:
    """Any flat Struct will do, `client.request(response_type=...)` gives them; what does not fit is
    named."""
    assert frames.to_arrow([Plain("a", [1])]).to_pylist() == [{"name": "a", "numbers": [1]}]
    with pytest.raises(TypeError, match="field what"):
        frames.schema(Odd)


def test_integers_beyond_64_bits_become_null_and_say_so() -> None:
    """They decode well and fit no column; one senseless count must not cost the frame."""
    rows = [
        Post(post_id="1", views=2**64, likes=-(2**63)),
        Post(post_id="2", views=5, likes=2**63 - 1),
    ]

    with pytest.warns(RuntimeWarning, match="views: 1 of 2 integers"):
        table = frames.to_arrow(rows)

    assert table.column("views").to_pylist() == [None, 5]
    assert table.column("likes").to_pylist() == [-(2**63), 2**63 - 1]


def test_a_duration_beyond_floats_becomes_null() -> None:
    """As for integers."""
    with pytest.warns(RuntimeWarning, match="duration"):
        table = frames.to_arrow([Post(post_id="1", duration=2**2000), FULL])

    assert table.column("duration").to_pylist() == [None, 28.0]


@pytest.mark.sandbox(comments_per_post=450)
async def test_async_generators_are_awaited(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """`await frames.to_pandas(client.posts.comments(...))`: every comment, in order."""
    table = await frames.to_arrow(client.posts.comments(ID))
    pandas = await frames.to_pandas(client.posts.comments(ID))
    polars = await frames.to_polars(client.posts.get_many([ID, "2", "nope"]))

    assert table.column("comment_id").to_pylist() == [f"{ID}-c-{n}" for n in range(1, 451)]
    assert len(pandas) == 450
    assert polars.columns[0] == "input"
    assert polars["error"].null_count() == 2
    assert sandbox.credits_spent == 6 + 6 + 2


async def test_a_generator_that_fails_is_closed() -> None:
    """What was opened for the rows is let go of."""
    closed = []

    async def rows() -> AsyncIterator[Any]:
        try:
            yield BARE
            yield 5
        finally:
            closed.append(True)

    with pytest.raises(TypeError, match="of type int"):
        await frames.to_arrow(rows())
    assert closed == [True]


async def test_many_rows_from_an_async_iterable() -> None:
    """In chunks; an iterable without `aclose` will do."""

    class Rows:
        def __init__(self) -> None:
            self.left = 65_537

        def __aiter__(self) -> Rows:
            return self

        async def __anext__(self) -> Comment:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return Comment(comment_id=str(self.left))

    table = await frames.to_arrow(Rows())

    assert table.num_rows == 65_537
    assert table.column("comment_id").num_chunks == 2


@pytest.mark.parametrize(
    ("module", "function"),
    [("pyarrow", "to_arrow"), ("polars", "to_polars"), ("pandas", "to_pandas")],
)
def test_what_is_not_installed_is_named(
    module: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ModuleNotFoundError, match=f"Frames need {module}.*pip install"):
        getattr(frames, function)([BARE])


def test_parquet_is_readable_by_everybody(tmp_path: Path) -> None:
    """pyarrow, polars, pandas and duckdb agree on what is in it."""
    path = tmp_path / "posts.parquet"
    rows = make_encoder("parquet", Post)
    path.write_bytes(rows.encode([FULL, BARE]) + rows.end())

    arrow = pq.read_table(path)
    polars = pl.read_parquet(path)
    pandas = pd.read_parquet(path)
    duck = duckdb.sql(
        f"select post_id, views, music.title, hashtags[1], epoch_us(published_at) from '{path}'"
    ).fetchall()

    assert arrow.schema.equals(frames.schema(Post))
    assert arrow.to_pylist() == frames.to_arrow([FULL, BARE]).to_pylist()
    assert polars["hashtags"].to_list() == [["wwe", "猫"], None]
    assert pandas["post_id"].tolist() == [ID, "1"]
    assert duck[0][:4] == (ID, 2**53 + 1, "original sound", "wwe")
    assert duck[0][4] == dt.datetime(2026, 4, 12, 19, 0, tzinfo=dt.UTC).timestamp() * 1e6
