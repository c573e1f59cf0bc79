"""The documented bodies in, the same bodies out; and everything the page does not promise may be missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfluence_async import (
    Analysis,
    AnalyzeReport,
    APIResponseValidationError,
    Comment,
    CommentPage,
    NotFoundError,
    Outcome,
    Post,
    TokfluenceError,
)
from tokfluence_async._wire import AnalyzeBody, CommentsBody, PostBody, Shape

SHAPES: Mapping[str, type] = {"post": PostBody, "comments": CommentsBody, "analyze": AnalyzeBody}


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("name", SHAPES)
def test_the_documented_bodies_survive_decoding_and_encoding(name: str, documented: Mapping[str, Any]) -> None:
    """No field is renamed, dropped or changed: byte-equal after normalisation."""
    body = (Path(__file__).parent / "fixtures" / f"{name}.json").read_bytes()

    again = msgspec.json.encode(Shape[Any](SHAPES[name]).decode(body))

    assert canonical(json.loads(again)) == canonical(documented[name])


def test_the_documented_post_has_these_values(documented: Mapping[str, Any]) -> None:
    """Spelled out once, so that a change of a Struct and of its encoder cannot cancel out."""
    post = decode_post(documented["post"]["data"])

    assert post.post_id == "7234567890123456789"
    assert post.published_at == datetime(2026, 4, 12, 19, 0, tzinfo=UTC)
    assert (post.duration, post.views, post.hashtags, post.mentions) == (28, 1240000, ["wwe", "wrestling"], [])
    assert post.music is not None
    assert (post.music.title, post.music.original, post.is_sponsored) == ("original sound", True, False)


def decode_post(data: Any) -> Post:
    return Shape[PostBody](PostBody).decode(json.dumps({"data": data}).encode()).data


def decode_comment(data: Any) -> Comment:
    body = {"data": [data], "meta": {"total": 1, "next_cursor": None}}
    return Shape[CommentsBody](CommentsBody).decode(json.dumps(body).encode()).data[0]


@pytest.mark.parametrize("name", [f for f in Post.__struct_fields__ if f != "post_id"])
@pytest.mark.parametrize("how", ["null", "missing"])
def test_a_post_may_lack_any_field_but_its_id(name: str, how: str, documented: Mapping[str, Any]) -> None:
    """The page promises no value; a post without a caption must not be an outage. None is "not said", never zero."""
    data = dict(documented["post"]["data"])
    if how == "null":
        data[name] = None
    else:
        del data[name]

    post = decode_post(data)

    assert getattr(post, name) is None
    assert post.post_id == data["post_id"]


@pytest.mark.parametrize("name", [f for f in Comment.__struct_fields__ if f != "comment_id"])
@pytest.mark.parametrize("how", ["null", "missing"])
def test_a_comment_may_lack_any_field_but_its_id(name: str, how: str, documented: Mapping[str, Any]) -> None:
    """As posts: a deleted author or an unknown time of day ends no walk."""
    data = dict(documented["comments"]["data"][0])
    if how == "null":
        data[name] = None
    else:
        del data[name]

    assert getattr(decode_comment(data), name) is None


@pytest.mark.parametrize("name", ["title", "author", "original"])
def test_music_may_lack_any_field(name: str, documented: Mapping[str, Any]) -> None:
    """A sound of unknown origin."""
    data = json.loads(json.dumps(documented["post"]["data"]))
    del data["music"][name]

    music = decode_post(data).music

    assert music is not None
    assert getattr(music, name) is None


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
unknown = st.dictionaries(st.text(min_size=1).map("new_{}".format), junk, min_size=1, max_size=4)


@given(unknown, unknown, unknown, unknown)
def test_unknown_fields_never_fail(
    top: dict[str, Any], data: dict[str, Any], deep: dict[str, Any], meta: dict[str, Any]
) -> None:
    """A new field on the server must not be an outage here, wherever it stands."""
    post = {"post_id": "1", "music": {"title": "t", **deep}, **data}
    page = {"data": [{"comment_id": "1-c-1", **data}], "meta": {"total": 1, "next_cursor": None, **meta}, **top}
    rows = {"data": [{"url": "u", "postId": "1", "status": "x", **data}], "meta": {"cost": 25, **meta}, **top}

    assert Shape[PostBody](PostBody).decode(json.dumps({"data": post, **top}).encode()).data.post_id == "1"
    assert Shape[CommentsBody](CommentsBody).decode(json.dumps(page).encode()).data[0].comment_id == "1-c-1"
    assert Shape[AnalyzeBody](AnalyzeBody).decode(json.dumps(rows).encode()).data[0].status == "x"


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-04-12T19:00:00Z", datetime(2026, 4, 12, 19, tzinfo=UTC)),
        ("2026-04-12T19:00:00", datetime(2026, 4, 12, 19, tzinfo=UTC)),
        ("2026-04-12 19:00:00", datetime(2026, 4, 12, 19, tzinfo=UTC)),
        ("2026-04-12T19:00:00.5", datetime(2026, 4, 12, 19, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-04-12T19:00:00.123456Z", datetime(2026, 4, 12, 19, 0, 0, 123_456, tzinfo=UTC)),
        ("2026-04-12T19:00:00.123456789Z", datetime(2026, 4, 12, 19, 0, 0, 123_457, tzinfo=UTC)),
        ("2026-04-12T21:00:00+02:00", datetime(2026, 4, 12, 21, tzinfo=timezone(timedelta(hours=2)))),
        ("2026-04-12t19:00:00z", datetime(2026, 4, 12, 19, tzinfo=UTC)),
    ],
)
def test_times_are_aware_however_they_are_written(text: str, at: datetime) -> None:
    """An aware and a naive time cannot be compared; sorting a mixed list would raise in the user's code."""
    for found in (
        decode_post({"post_id": "1", "published_at": text}).published_at,
        decode_comment({"comment_id": "c", "published_at": text}).published_at,
    ):
        assert found == at
        assert found is not None
        assert found.tzinfo is not None


def test_one_time_without_a_zone_changes_nothing_else() -> None:
    """The slow path decodes the whole page again; the other comments come out as they would have."""
    odd = {"comment_id": "1", "published_at": "2026-01-01T00:00:00", "text": "published_at"}
    usual = {"comment_id": "2", "published_at": "2026-01-01T00:00:00+01:00", "likes": 2**70}
    body = json.dumps({"data": [odd, usual], "meta": {"total": 2, "next_cursor": 2**62}}).encode()

    page = Shape[CommentsBody](CommentsBody).decode(body)

    assert [c.comment_id for c in page.data] == ["1", "2"]
    assert page.data[0].text == "published_at"
    assert page.data[1].likes == 2**70
    assert page.meta.next_cursor == 2**62


def test_numbers_of_any_size_and_fractional_durations() -> None:
    """A counter beyond 64 bits is strange but no reason to lose the post; a duration of 27.5 s is likely."""
    post = decode_post({"post_id": "1", "views": 2**80, "duration": 27.5, "likes": 0})

    assert (post.views, post.duration, post.likes) == (2**80, 27.5, 0)
    assert decode_post({"post_id": "1", "duration": 28}).duration == 28


def test_a_page_without_a_next_cursor_is_refused() -> None:
    """It alone ends a walk: a missing one taken for null would silently lose comments."""
    with pytest.raises(msgspec.ValidationError, match="next_cursor"):
        Shape[CommentsBody](CommentsBody).decode(b'{"data": [], "meta": {"total": 3}}')


def test_structs_are_values() -> None:
    """Equal by content, frozen, and shown with their fields."""
    one, same = Comment(comment_id="1", text="hi"), Comment(comment_id="1", text="hi")

    assert one == same
    assert "text='hi'" in repr(one)
    with pytest.raises(AttributeError):
        one.text = "no"  # type: ignore[misc]


def test_a_page_is_a_collection_of_its_items() -> None:
    """`for comment in page`, `len(page)`."""
    page = CommentPage(items=[Comment(comment_id="1"), Comment(comment_id="2")], total=9, cursor=0, next_cursor=2)

    assert [c.comment_id for c in page] == ["1", "2"]
    assert len(page) == 2


def test_an_outcome_unwraps_to_its_value_or_its_error() -> None:
    """And `ok` says which; a value of None is a value."""
    good: Outcome[int] = Outcome(input="x", post_id="1", value=5)
    bad: Outcome[int] = Outcome(input="x", post_id="1", error=NotFoundError(404, "post_not_found", "no"))
    empty: Outcome[None] = Outcome(input="x", value=None)

    assert good.ok
    assert good.unwrap() == 5
    assert not bad.ok
    with pytest.raises(NotFoundError):
        bad.unwrap()
    assert empty.ok
    empty.unwrap()


def report(*errors: TokfluenceError | None) -> AnalyzeReport:
    outcomes: list[Outcome[Analysis]] = [
        Outcome(input=str(n), post_id=str(n), value=None if error else Analysis(post_id=str(n)), error=error)
        for n, error in enumerate(errors, 1)
    ]
    return AnalyzeReport(outcomes=outcomes, duplicates=1, credits_spent=50)


def test_a_report_splits_into_succeeded_and_failed() -> None:
    """Both are lists, in order; iterating and counting the report is iterating and counting its outcomes."""
    error = NotFoundError(404, "post_not_found", "no")
    mixed = report(None, error, None)

    assert [o.post_id for o in mixed] == ["1", "2", "3"]
    assert len(mixed) == 3
    assert [o.post_id for o in mixed.succeeded] == ["1", "3"]
    assert [o.post_id for o in mixed.failed] == ["2"]


def test_raise_for_errors_raises_all_of_them_and_keeps_the_report() -> None:
    """One exception that tells every failure, and through `report` still holds what succeeded (trap 19)."""
    first, second = NotFoundError(404, "post_not_found", "no"), APIResponseValidationError("left out")
    mixed = report(first, None, second)

    report(None, None).raise_for_errors()
    with pytest.raises(ExceptionGroup, match="2 of 3 posts were not analyzed") as caught:
        mixed.raise_for_errors()

    assert caught.value.exceptions == (first, second)
    assert caught.value.report is mixed  # type: ignore[attr-defined]
    assert caught.value.subgroup(NotFoundError) is not None
