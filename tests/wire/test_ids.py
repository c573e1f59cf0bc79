"""What names a post, and that nothing else ever becomes an id."""

from __future__ import annotations

import enum
import pickle
import re
import string
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokfluence_async import Analysis, InvalidPostError, Outcome, Post
from tokfluence_async._wire.ids import PostRef, parse_post, parse_post_id, plain

ID = "7234567890123456789"
CANONICAL = re.compile(r"[1-9][0-9]{0,19}")

ids = st.integers(min_value=1, max_value=2**64 - 1)
users = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=24)


@st.composite
def spellings(draw: st.DrawFn, post_id: st.SearchStrategy[int] = ids) -> tuple[str, object]:
    """(canonical id, one of the ways people write it)."""
    number = draw(post_id)
    form = draw(st.sampled_from(["int", "digits", "url", "mobile", "embed"]))
    if form == "int":
        return str(number), number
    text = str(number)
    if form in ("url", "mobile", "embed"):
        scheme = draw(st.sampled_from(["https://", "http://", "HTTPS://", "//", ""]))
        host = draw(
            st.sampled_from(
                ["www.tiktok.com", "tiktok.com", "m.tiktok.com", "WWW.TikTok.COM", "tiktok.com."]
            )
        )
        port = draw(st.sampled_from(["", ":443"])) if scheme != "http://" else ""
        if form == "url":
            kind = draw(st.sampled_from(["video", "photo", "VIDEO", "Photo"]))
            path = f"/@{draw(users)}/{kind}/{number}"
        elif form == "mobile":
            path = f"/v/{number}.html"
        else:
            path = (
                draw(
                    st.sampled_from(
                        ["/embed/", "/embed/v2/", "/embed/v3/", "/player/v1/", "/share/video/"]
                    )
                )
                + text
            )
        tail = draw(
            st.sampled_from(
                ["", "/", "?is_copy_url=1&q=a%20b", "?lang=en#top", "/?x=/video/1", "#/video/2"]
            )
        )
        text = scheme + host + port + path + tail
    return str(number), draw(st.sampled_from(["", " ", "\t", "\n"])) + text + draw(
        st.sampled_from(["", "  ", "\r\n"])
    )


@given(spellings())
def test_every_spelling_of_an_id_folds_to_it(pair: tuple[str, object]) -> None:
    """Folding decides what is billed: two spellings of one post must not be paid for twice."""
    post_id, given_as = pair

    assert parse_post_id(given_as) == post_id
    assert parse_post(given_as).post_id == post_id


@given(spellings())
def test_what_is_submitted_names_the_same_post_again(pair: tuple[str, object]) -> None:
    """The URL that goes to the service leads back to the id it was made of, and is fit for a strict
    parser."""
    url = parse_post(pair[1]).url

    assert re.fullmatch(r"https://www\.tiktok\.com/@[A-Za-z0-9._-]+/video/[1-9][0-9]{0,19}", url)
    assert parse_post_id(url) == pair[0]


tricky = st.text(
    st.one_of(
        st.sampled_from("0123456789²１٣/.%@:?#[]\\ \n\t\r\x00-_e+tiktokcomvide"), st.characters()
    )
)


@given(
    st.one_of(
        tricky,
        st.text(),
        st.builds("https://www.tiktok.com/@a/video/{}".format, tricky),
        st.builds("www.tiktok.com{}".format, tricky),
        st.integers(),
        st.integers(min_value=2**64 - 2, max_value=2**64 + 2),
        st.floats(),
        st.booleans(),
        st.none(),
        st.binary(),
        st.lists(st.integers()),
    )
)
@example("²")
@example("１２３")
@example("1_000")
@example("+1")
@example("007")
@example("0")
@example("18446744073709551616")
def test_nothing_ever_yields_an_id_that_is_not_canonical(value: object) -> None:
    """Ids are joined into paths: anything but plain digits could reach another, paid endpoint."""
    result: object
    try:
        result = parse_post_id(value)
    except InvalidPostError as error:
        result = error

    if isinstance(result, str):
        assert CANONICAL.fullmatch(result)
        assert int(result) < 2**64
    else:
        assert isinstance(result, ValueError)
        assert "is not a TikTok post" in str(result)
        assert pickle.loads(pickle.dumps(result)).args == result.args


class Markup(str):
    """As markupsafe's and lxml's: methods give the class back."""

    def strip(self, chars: str | None = None, /) -> Markup:
        return Markup(super().strip(chars))

    def __str__(self) -> str:
        return "something else"


class Number(int):
    def __str__(self) -> str:
        return "something else"

    def __index__(self) -> int:
        return Number(int.__index__(self))


class Video(enum.StrEnum):
    FIRST = ID


class Count(enum.IntEnum):
    FIRST = int(ID)


URL = f"https://www.tiktok.com/@wwe/video/{ID}"


@pytest.mark.parametrize(
    "value",
    [
        f"https://www.tiktokv.com/share/video/{ID}/",
        f"https://www.tiktokv.com/share/video/{ID}",
        f"http://tiktokv.com/share/video/{ID}/?utm=1",
        f"https://m.tiktokv.com/share/photo/{ID}/",
        f"Link: https://www.tiktokv.com/share/video/{ID}/",
        f"link:\t{URL}",
        f"Video Link: {URL}",
        f"\ufeffLink: {URL}\u200b",
        f"\ufeff{ID}",
        f"{ID}\ufeff\r\n",
        f"\u200b {ID} \u200d\u2060",
        f"\u202a{URL}\u202c",
        f"\u2066{URL}\u2069\xa0",
        f"{ID}\xad",
        f"{ID}\x00\x00",
        f"\ufeff{URL}?lang=en\u200e",
        f"{URL}%E2%80%8B",
        f"{URL}%EF%BB%BF/",
        Post(post_id=ID),
        Analysis(post_id=ID, status="analyzed"),
        np.str_(ID),
        np.str_(URL),
        np.int64(ID),
        np.uint64(ID),
        Markup(ID),
        Markup(f" {URL}"),
        Number(ID),
        Video.FIRST,
        Count.FIRST,
    ],
    ids=repr,
)
def test_what_people_have_in_hand_is_taken(value: object) -> None:
    """Links of TikTok's data export, marks that were copied along, objects of the API, and the
    texts and numbers of other libraries; what comes out is a plain text."""
    ref = parse_post(value)

    assert (ref.post_id, type(ref.post_id), type(ref.user)) == (ID, str, str)
    assert parse_post_id(value) == ID
    assert type(plain(value)) in (str, int)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("so \ud83d", "so \ufffd"),
        ("\ud83d\ude02", "\U0001f602"),
        (Markup("x\udc00"), "x\ufffd"),
        (np.str_("nothing"), "nothing"),
        (Number(7), 7),
        (True, True),
        (None, None),
        (7.5, 7.5),
        (b"7", b"7"),
    ],
)
def test_an_input_becomes_plain(value: object, shown: object) -> None:
    """What is neither a text nor a number stays what it is."""
    assert plain(value) == shown
    assert type(plain(value)) is type(shown)


REFUSED: list[tuple[object, str]] = [
    ("", "it is empty"),
    ("   \n", "it is empty"),
    ("²", "plain digits"),
    ("１", "plain digits"),
    ("٣", "plain digits"),
    ("007", "leading zero"),
    ("0", "leading zero"),
    ("-1", "plain digits"),
    ("1e9", "kept as text"),
    ("7.23E+18", "kept as text"),
    ("7,23456789012346E+18", "kept as text"),
    ("7234567890123456768.0", "kept as text"),
    ("7.23E+18;wwe", "kept as text"),
    ("7,234,567,890,123,456,789", "plain digits"),
    ("7234567890123456789,wwe,1200", "row of a CSV file"),
    ("wwe;7234567890123456789", "row of a CSV file"),
    ("wwe\t7234567890123456789", "row of a CSV file"),
    ('"7234567890123456789"', "row of a CSV file"),
    ("https://www.tiktok.com/@wwe/video/7234567890123456789,big night", "row of a CSV file"),
    ('1,"https://www.tiktok.com/@wwe/video/7234567890123456789"', "row of a CSV file"),
    ("https://www.tiktok.com/@wwe/video/7234567890123456789\tbig night", "row of a CSV file"),
    ("url,author", "plain digits"),
    ("Date: 2023-01-01 12:00:00", "a date of TikTok's data export"),
    ("7234567890\u200b123456789", "invisible character (U+200B) in the middle"),
    ("7234567890123456789\ufeff7234567890123456780", "invisible character (U+FEFF)"),
    ("\ufeff\u200b", "it is empty"),
    (f"[a video]({URL})", "other text beside the URL"),
    (f'{{"Date": "x", "Link": "{URL}"}}', "other text beside the URL"),
    (f"see {URL} please", "other text beside the URL"),
    ("Duration: 7234567890123456789", "plain digits"),
    ("https://tiktokv.com.evil.example/share/video/1", "the host is"),
    ("https://tiktokvv.com/share/video/1", "the host is"),
    ("so \ud83d", "plain digits"),
    (np.str_("nothing"), "plain digits"),
    (np.float64(7.0), "type float64, which rounds ids"),
    (np.array([1, 2]), "no single integer"),
    (np.bool_(True), "type bool"),
    (Outcome(input="1", post_id="1"), "type Outcome"),
    ("123456789012345678901", "64-bit"),
    ("18446744073709551616", "64-bit"),
    (18446744073709551616, "64-bit"),
    (0, "positive"),
    (-7, "positive"),
    (10**5000, "64-bit"),
    (-(10**5000), "positive"),
    (True, "type bool"),
    (False, "type bool"),
    (None, "type NoneType"),
    (7.0, "type float, which rounds ids"),
    (b"7234567890123456789", "type bytes"),
    (["7234567890123456789"], "type list"),
    ("x" * 5000, "longer than 4096"),
    ("9" * 5000, "longer than 4096"),
    ("../../v1/campaigns", "host"),
    ("1/comments", "host"),
    ("1/../2", "host"),
    ("1.", "host"),
    ("..", "host"),
    ("https://www.tiktok.com/@a/video/1/../../campaigns", "no /video/ or /photo/"),
    ("https://www.tiktok.com/@a/video/%2e%2e", "plain digits"),
    ("https://www.tiktok.com/@a/video/1%2Fcomments", "plain digits"),
    ("https://www.tiktok.com/@a/video/1%00", "plain digits"),
    ("https://www.tiktok.com/@a/video/²", "plain digits"),
    ("https://www.tiktok.com/@a/video/", "no /video/ or /photo/"),
    ("https://www.tiktok.com/@a", "no /video/ or /photo/"),
    ("https://www.tiktok.com/", "no /video/ or /photo/"),
    ("https://www.tiktok.com", "no /video/ or /photo/"),
    ("https://eviltiktok.com/@a/video/1", "the host is eviltiktok.com"),
    ("https://tiktok.com.evil.example/@a/video/1", "the host is"),
    ("https://evil.example/?u=https://www.tiktok.com/@a/video/1", "the host is evil.example"),
    ("https://tiktok.com@evil.example/@a/video/1", "login"),
    ("https://u:p@www.tiktok.com/@a/video/1", "login"),
    ("https://www.tiktok.com:8080/@a/video/1", "port"),
    ("https://www.tiktok.com:x/@a/video/1", "cannot be read"),
    ("https://[::1/@a/video/1", "cannot be read"),
    ("ftp://www.tiktok.com/@a/video/1", "scheme"),
    ("javascript://www.tiktok.com/@a/video/1", "scheme"),
    ("https:///@a/video/1", "missing"),
    # urlsplit takes these characters out without a word, and two ids would become one that nobody
    # gave.
    ("https://www.tiktok.com/@a/video/12\n34", "white space or a control"),
    ("https://www.tiktok.com/@a/video/12\t34", "white space or a control"),
    (
        "https://www.tiktok.com/@a/video/1?q=a\nhttps://www.tiktok.com/@b/video/2",
        "white space or a control",
    ),
    (
        "https://www.tiktok.com/@a/video/1 https://www.tiktok.com/@b/video/2",
        "white space or a control",
    ),
]


@pytest.mark.parametrize(
    ("value", "reason"), REFUSED, ids=[f"{n}-{why}" for n, (_, why) in enumerate(REFUSED)]
)
def test_refusals_say_why_and_what_is_accepted(value: object, reason: str) -> None:
    """Whoever reads the failures of a list of a million has only this line."""
    with pytest.raises(InvalidPostError) as caught:
        parse_post_id(value)

    assert reason in caught.value.reason
    assert "https://www.tiktok.com/@user/video/7234567890123456789" in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "url",
    [
        "https://vm.tiktok.com/ZMabcdefg/",
        "vt.tiktok.com/ZSabc",
        "https://www.tiktok.com/t/ZTabc/",
        "https://VM.TIKTOK.COM./ZMabc",
        "m.tiktok.com/T/ZTabc",
    ],
)
def test_short_links_are_refused_with_their_reason(url: str) -> None:
    """They carry no id, so they cannot be folded: one post could be billed under two links."""
    with pytest.raises(InvalidPostError, match="short links carry no id"):
        parse_post_id(url)


def test_the_error_names_the_input_as_it_was_given() -> None:
    """It is looked up in the user's file, white space and all; long ones are cut."""
    for given_as, named in (
        (" nonsense ", " nonsense "),
        (0, 0),
        ("y" * 300, "y" * 200 + "…"),
        (None, "None"),
        (10**5000, "an integer of 16610 bits"),
    ):
        with pytest.raises(InvalidPostError) as caught:
            parse_post_id(given_as)
        assert caught.value.input == named
        assert repr(named) in str(caught.value)


class Awkward:
    """As an array of several numbers: it has `__index__`, and the call of it fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __index__(self) -> int:
        raise self.error

    def __repr__(self) -> str:
        raise self.error


@pytest.mark.parametrize("error", [TypeError("only integer scalar arrays"), RuntimeError("no")])
def test_an_object_that_fails_by_itself_is_refused_like_any_other(error: Exception) -> None:
    """Inside a bulk call it must be one failed outcome, not the end of the job."""
    with pytest.raises(InvalidPostError, match="Awkward"):
        parse_post_id(Awkward(error))


class Integer:
    """As numpy's integers and other people's: not an `int`, but as good as one."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def test_integers_of_other_libraries_are_ids() -> None:
    """Ids read from a data frame are numpy's."""
    assert parse_post_id(Integer(7234567890123456789)) == ID
    with pytest.raises(InvalidPostError):
        parse_post_id(Integer(2**64))


def test_numpy_integers_are_ids() -> None:
    """Where numpy is installed; uint64 holds every id, int64 the usual ones."""
    numpy: Any = pytest.importorskip("numpy")
    assert parse_post_id(numpy.uint64(2**64 - 1)) == str(2**64 - 1)
    assert parse_post_id(numpy.int64(int(ID))) == ID
    for value in (numpy.float64(7.0), numpy.bool_(True), numpy.array([1, 2])):
        with pytest.raises(InvalidPostError):
            parse_post_id(value)


@pytest.mark.parametrize(
    ("given_as", "user"),
    [
        ("https://www.tiktok.com/@wwe/video/1?lang=de", "@wwe"),
        ("https://www.tiktok.com/@wwe/video/1?q=two words", "@wwe"),
        ("https://www.tiktok.com/@A.b_c-9/photo/1", "@A.b_c-9"),
        ("https://www.tiktok.com/@%77we/video/1", "@wwe"),
        ("https://www.tiktok.com/@/video/1", "@_"),
        ("https://www.tiktok.com/@a%2F..%2Fb/video/1", "@_"),
        ("https://www.tiktok.com/@a b/video/1".replace(" ", "%20"), "@_"),
        ("https://www.tiktok.com/video/1", "@_"),
        ("https://m.tiktok.com/v/1.html", "@_"),
        ("1", "@_"),
        (1, "@_"),
    ],
)
def test_the_user_of_a_url_is_kept_if_it_is_one(given_as: object, user: str) -> None:
    """It goes into the URL that is submitted, so nothing but a user's name may pass."""
    assert parse_post(given_as) == PostRef("1", user)
