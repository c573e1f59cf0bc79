"""The documented bodies in, the same bodies out; and everything the page does not promise may be
missing."""

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
from tokfluence_async._wire.bodies import AnalyzeBody, CommentsBody, PostBody, RawCommentsBody
from tokfluence_async._wire.shapes import Shape

SHAPES: Mapping[str, type] = {"post": PostBody, "comments": CommentsBody, "analyze": AnalyzeBody}


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("name", SHAPES)
def test_the_documented_bodies_survive_decoding_and_encoding(
    name: str, documented: Mapping[str, Any]
) -> None:
    """No field is renamed, dropped or changed: byte-equal after normalisation."""
    body = (Path(__file__).parent / "fixtures" / f"{name}.json").read_bytes()

    again = msgspec.json.encode(Shape[Any](SHAPES[name]).decode(body))

    assert canonical(json.loads(again)) == canonical(documented[name])


def test_the_documented_post_has_these_values(documented: Mapping[str, Any]) -> None:
    """Spelled out once, so that a change of a Struct and of its encoder cannot cancel out."""
    post = decode_post(documented["post"]["data"])

    assert post.post_id == "7234567890123456789"
    assert post.published_at == datetime(2026, 4, 12, 19, 0, tzinfo=UTC)
    assert (post.duration, post.views, post.hashtags, post.mentions) == (
        28,
        1240000,
        ["wwe", "wrestling"],
        [],
    )
    assert post.music is not None
    assert (post.music.title, post.music.original, post.is_sponsored) == (
        "original sound",
        True,
        False,
    )


def decode_post(data: Any) -> Post:
    return Shape[PostBody](PostBody).decode(json.dumps({"data": data}).encode()).data


def decode_comment(data: Any) -> Comment:
    body = {"data": [data], "meta": {"total": 1, "next_cursor": None}}
    return Shape[CommentsBody](CommentsBody).decode(json.dumps(body).encode()).data[0]


@pytest.mark.parametrize("name", [f for f in Post.__struct_fields__ if f != "post_id"])
@pytest.mark.parametrize("how", ["null", "missing"])
def test_a_post_may_lack_any_field_but_its_id(
    name: str, how: str, documented: Mapping[str, Any]
) -> None:
    """The page promises no value; a post without a caption must not be an outage. None is "not
    said", never zero."""
    data = dict(documented["post"]["data"])
    if how == "null":
        data[name] = None
    else:
        data.pop(name, None)

    post = decode_post(data)

    assert getattr(post, name) is None
    assert post.post_id == data["post_id"]


@pytest.mark.parametrize("name", [f for f in Comment.__struct_fields__ if f != "comment_id"])
@pytest.mark.parametrize("how", ["null", "missing"])
def test_a_comment_may_lack_any_field_but_its_id(
    name: str, how: str, documented: Mapping[str, Any]
) -> None:
    """As posts: a deleted author or an unknown time of day ends no walk."""
    data = dict(documented["comments"]["data"][0])
    if how == "null":
        data[name] = None
    else:
        data.pop(name, None)

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
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
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
    page = {
        "data": [{"comment_id": "1-c-1", **data}],
        "meta": {"total": 1, "next_cursor": None, **meta},
        **top,
    }
    rows = {
        "data": [{"url": "u", "postId": "1", "status": "x", **data}],
        "meta": {"cost": 25, **meta},
        **top,
    }

    assert (
        Shape[PostBody](PostBody).decode(json.dumps({"data": post, **top}).encode()).data.post_id
        == "1"
    )
    assert (
        Shape[CommentsBody](CommentsBody).decode(json.dumps(page).encode()).data[0].comment_id
        == "1-c-1"
    )
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
        (
            "2026-04-12T21:00:00+02:00",
            datetime(2026, 4, 12, 21, tzinfo=timezone(timedelta(hours=2))),
        ),
        ("2026-04-12t19:00:00z", datetime(2026, 4, 12, 19, tzinfo=UTC)),
    ],
)
def test_times_are_aware_however_they_are_written(text: str, at: datetime) -> None:
    """An aware and a naive time cannot be compared; sorting a mixed list would raise in the user's
    code."""
    for found in (
        decode_post({"post_id": "1", "published_at": text}).published_at,
        decode_comment({"comment_id": "c", "published_at": text}).published_at,
    ):
        assert found == at
        assert found is not None
        assert found.tzinfo is not None


def test_one_time_without_a_zone_changes_nothing_else() -> None:
    """The slow path decodes the whole page again; the other comments come out as they would
    have."""
    odd = {"comment_id": "1", "published_at": "2026-01-01T00:00:00", "text": "published_at"}
    usual = {"comment_id": "2", "published_at": "2026-01-01T00:00:00+01:00", "likes": 2**70}
    body = json.dumps({"data": [odd, usual], "meta": {"total": 2, "next_cursor": 2**62}}).encode()

    page = Shape[CommentsBody](CommentsBody).decode(body)

    assert [c.comment_id for c in page.data] == ["1", "2"]
    assert page.data[0].text == "published_at"
    assert page.data[1].likes == 2**70
    assert page.meta.next_cursor == 2**62


def test_numbers_of_any_size_and_fractional_durations() -> None:
    """A counter beyond 64 bits is strange but no reason to lose the post; a duration of 27.5 s is
    likely."""
    post = decode_post({"post_id": "1", "views": 2**80, "duration": 27.5, "likes": 0})

    assert (post.views, post.duration, post.likes) == (2**80, 27.5, 0)
    assert decode_post({"post_id": "1", "duration": 28}).duration == 28


SAID: list[tuple[str, str, Any]] = [
    ("views", '"12"', 12),
    ("views", '" 12 "', 12),
    ("views", "12.0", 12),
    ("views", '"12.0"', 12),
    ("views", "1.24e6", 1_240_000),
    ("views", '"-1"', -1),
    ("views", "12.5", None),
    ("views", '"12.5"', None),
    ("views", '"many"', None),
    ("views", '"1,240"', None),
    ("views", '"0x10"', None),
    ("views", '"\u0663"', None),
    ("views", "true", None),
    ("views", '"true"', None),
    ("views", '"null"', None),
    ("views", "[12]", None),
    ("views", '{"count": 12}', None),
    ("views", "1e999", None),
    ("views", "9" * 5000, None),
    ("views", '"' + "9" * 5000 + '"', None),
    ("views", "1" + "0" * 400 + ".0", None),
    ("duration", '"28"', 28),
    ("duration", '"27.5"', 27.5),
    ("duration", '"nan"', None),
    ("duration", '"0:28"', None),
    ("caption", "7", "7"),
    ("caption", "12345678901234567890123", "12345678901234567890123"),
    ("caption", "false", None),
    ("caption", '["a"]', None),
    ("is_sponsored", "1", True),
    ("is_sponsored", "0", False),
    ("is_sponsored", '"true"', True),
    ("is_sponsored", '"0"', False),
    ("is_sponsored", '"no"', None),
    ("is_sponsored", "2", None),
    ("published_at", '"yesterday"', None),
    ("published_at", '"2026-02-31T25:00:00"', None),
    ("published_at", "1776020400", None),  # seconds, or milliseconds, since whenever: nobody says
    ("hashtags", '"wwe"', None),
    ("hashtags", '["wwe", null]', None),
    ("music", '"original sound"', None),
    ("music", "[]", None),
]


@pytest.mark.parametrize(("name", "text", "value"), SAID)
def test_a_value_of_another_type_is_what_it_plainly_says_or_nothing(
    name: str, text: str, value: Any
) -> None:
    """The page shows a value of each field and promises no type; the post is paid for, whatever one
    of them is."""
    body = f'{{"data": {{"post_id": "1", "{name}": {text}, "url": "u", "{name}_": {text}}}}}'

    post = Shape[PostBody](PostBody).decode(body.encode()).data

    assert getattr(post, name) == value
    assert type(getattr(post, name)) is type(value)
    assert (post.post_id, post.url) == ("1", "u")


def test_an_odd_field_deep_inside_costs_itself() -> None:
    """A sound whose title is a number is a sound still."""
    music = decode_post(
        {"post_id": "1", "music": {"title": 1989, "author": ["x"], "original": "false"}}
    ).music

    assert music is not None
    assert (music.title, music.author, music.original) == ("1989", None, False)


WHOLE_POST = {
    "post_id": "1", "url": "u", "caption": "c", "published_at": "2026-04-12T19:00:00Z",
    "cover_url": "v", "duration": 28, "views": 1, "likes": 2, "comments": 3, "shares": 4,
    "saves": 5, "hashtags": ["a"], "mentions": [], "is_sponsored": False,
    "music": {"title": "t", "author": "a", "original": True},
}  # fmt: skip
WHOLE_COMMENT = {
    "comment_id": "c", "text": "t", "published_at": "2026-04-12T19:00:00Z", "likes": 1,
    "reply_count": 2, "parent_comment_id": "p", "author_username": "a", "author_picture": "v",
}  # fmt: skip


def test_the_whole_objects_are_whole() -> None:
    """A field that is added is tried with odd values, too."""
    assert WHOLE_POST.keys() == set(Post.__struct_fields__)
    assert WHOLE_COMMENT.keys() == set(Comment.__struct_fields__)


@given(st.sampled_from(sorted(WHOLE_POST.keys() - {"post_id"})), junk)
def test_any_value_of_any_field_of_a_post_leaves_the_others(name: str, value: Any) -> None:
    """Whatever the service comes to send there."""
    post = decode_post(WHOLE_POST | {name: value})

    usual = decode_post(WHOLE_POST)
    assert [
        f for f in Post.__struct_fields__ if getattr(post, f) != getattr(usual, f) and f != name
    ] == []
    msgspec.convert(msgspec.to_builtins(post), Post)  # and what is there has its type


@given(st.sampled_from(sorted(WHOLE_COMMENT.keys() - {"comment_id"})), junk)
def test_any_value_of_any_field_of_a_comment_leaves_the_page(name: str, value: Any) -> None:
    """One comment of two hundred must not end a walk."""
    data = [WHOLE_COMMENT, WHOLE_COMMENT | {name: value}, WHOLE_COMMENT]
    body = json.dumps({"data": data, "meta": {"total": value, "next_cursor": 3}}).encode()

    page = Shape[CommentsBody](CommentsBody).decode(body)

    usual = decode_comment(WHOLE_COMMENT)
    assert (page.data[0], page.data[2], page.meta.next_cursor) == (usual, usual, 3)
    assert [
        f
        for f in Comment.__struct_fields__
        if getattr(page.data[1], f) != getattr(usual, f) and f != name
    ] == []
    msgspec.convert(msgspec.to_builtins(page), CommentsBody)


@given(
    st.sampled_from(["1e999", "9" * 5000, "-1e999", "[1e999]"]),
    st.sampled_from(["url", "postId", "status"]),
)
def test_a_number_that_no_decoder_takes_costs_no_batch(text: str, name: str) -> None:
    """The rows of an analyze answer have no types at all, but 25 credits each; a row that is none
    is nobody's."""
    rows = f'{{"{name}": {text}}}, {text}, {{"url": "u", "postId": "2", "status": "fresh"}}'

    body = Shape[AnalyzeBody](AnalyzeBody).decode(
        f'{{"data": [{rows}], "meta": {{"cost": {text}}}}}'.encode()
    )

    assert msgspec.to_builtins(body.data[2]) == {"url": "u", "postId": "2", "status": "fresh"}
    assert len(body.data) == 3


@pytest.mark.parametrize(("text", "cursor"), [('"20"', 20), ("20.0", 20), ("null", None)])
def test_a_next_cursor_that_says_a_number_is_one(text: str, cursor: int | None) -> None:
    """Bytes of the comments included, where they are passed on as they came."""
    comment = b'{"comment_id":"c",  "likes":"x"}'
    body = b'{"data": [' + comment + b'], "meta": {"next_cursor": ' + text.encode() + b"}}"

    assert Shape[CommentsBody](CommentsBody).decode(body).meta.next_cursor == cursor
    raw = Shape[RawCommentsBody](RawCommentsBody).decode(body)
    assert raw.meta.next_cursor == cursor
    assert [bytes(item) for item in raw.data] == [comment]


@pytest.mark.parametrize("text", ['"null"', '""', "true", "20.5", '"next"', "[20]", "1e999", "{}"])
def test_a_next_cursor_that_says_nothing_is_refused(text: str) -> None:
    """Taken for null it would end the walk, and lose comments without a word."""
    body = b'{"data": [], "meta": {"total": "3", "next_cursor": ' + text.encode() + b"}}"

    with pytest.raises(msgspec.ValidationError, match=r"next_cursor|out of range"):
        Shape[CommentsBody](CommentsBody).decode(body)


@pytest.mark.parametrize("wrong", [5, None, ["1"], {}, True])
def test_an_id_is_never_made_up(wrong: Any) -> None:
    """An object is kept under it."""
    with pytest.raises(msgspec.ValidationError, match="post_id"):
        decode_post({"post_id": wrong, "views": "12"})
    with pytest.raises(msgspec.ValidationError, match="comment_id"):
        decode_comment({"comment_id": wrong, "likes": "12"})


def test_a_type_of_the_callers_own_is_taken_at_its_word() -> None:
    """Who asks for an int in a type of their own wants an error where there is none; our objects
    inside it are ours."""

    class Page(msgspec.Struct, forbid_unknown_fields=True):
        data: list[Comment]
        total: int | None = None

    good = Shape[Page](Page).decode(b'{"data": [{"comment_id": "1", "likes": "5"}], "total": 1}')

    assert good.data[0].likes == 5
    for body in (
        b'{"data": [], "total": "1"}',
        b'{"data": [{"comment_id": "1", "likes": "5"}], "new": 1}',
    ):
        with pytest.raises(msgspec.ValidationError):
            Shape[Page](Page).decode(body)


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
    page = CommentPage(
        items=[Comment(comment_id="1"), Comment(comment_id="2")], total=9, cursor=0, next_cursor=2
    )

    assert [c.comment_id for c in page] == ["1", "2"]
    assert len(page) == 2


def test_an_outcome_unwraps_to_its_value_or_its_error() -> None:
    """And `ok` says which; a value of None is a value."""
    good: Outcome[int] = Outcome(input="x", post_id="1", value=5)
    bad: Outcome[int] = Outcome(
        input="x", post_id="1", error=NotFoundError(404, "post_not_found", "no")
    )
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
        Outcome(
            input=str(n),
            post_id=str(n),
            value=None if error else Analysis(post_id=str(n)),
            error=error,
        )
        for n, error in enumerate(errors, 1)
    ]
    return AnalyzeReport(outcomes=outcomes, duplicates=1, credits_spent=50)


def test_a_report_splits_into_succeeded_and_failed() -> None:
    """Both are lists, in order; iterating and counting the report is iterating and counting its
    outcomes."""
    error = NotFoundError(404, "post_not_found", "no")
    mixed = report(None, error, None)

    assert [o.post_id for o in mixed] == ["1", "2", "3"]
    assert len(mixed) == 3
    assert [o.post_id for o in mixed.succeeded] == ["1", "3"]
    assert [o.post_id for o in mixed.failed] == ["2"]


def test_raise_for_errors_raises_all_of_them_and_keeps_the_report() -> None:
    """One exception that tells every failure, and through `report` still holds what succeeded (trap
    19)."""
    first, second = (
        NotFoundError(404, "post_not_found", "no"),
        APIResponseValidationError("left out"),
    )
    mixed = report(first, None, second)

    report(None, None).raise_for_errors()
    with pytest.raises(ExceptionGroup, match="2 of 3 posts were not analyzed") as caught:
        mixed.raise_for_errors()

    assert caught.value.exceptions == (first, second)
    assert caught.value.report is mixed  # type: ignore[attr-defined]
    assert caught.value.subgroup(NotFoundError) is not None
