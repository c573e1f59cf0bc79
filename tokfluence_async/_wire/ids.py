"""What names a post: a video id or a URL in, the id out, or `InvalidPostError`.

Everything that joins an id into a URL, folds duplicates or keys a journal takes its ids from here.
An id is ASCII digits and nothing else: `str.isdigit()` also accepts `²` and `１`, and an unchecked
id that is joined into a path lets `../../v1/campaigns` or `1/comments` reach another paid endpoint.

Source: the Tokfluence API page: "`:id` is the TikTok video ID, the trailing number of the video's
URL".
"""

from __future__ import annotations

import re
from contextlib import suppress
from numbers import Integral
from operator import index
from typing import NamedTuple, SupportsIndex, cast
from urllib.parse import unquote, urlsplit

from .._errors import InvalidPostError
from .._models import Analysis, Post

__all__ = ["PostRef", "bare", "parse_post", "parse_post_id", "plain", "signed"]

# Ids are 64-bit numbers; twenty digits is what 2**64 needs. A leading zero would give one post two
# spellings.
_ID = re.compile(r"[1-9][0-9]{0,19}\Z")
_MAX_ID = 2**64 - 1
# The usual ids, in 0.3 µs, and what TikTok's own links look like, without a query: 1 µs; taking a
# URL to pieces takes 13. Nineteen digits are below 2**64.
_USUAL_ID = re.compile(r"[1-9][0-9]{0,18}\Z")
_USUAL = re.compile(
    r"https://www\.tiktok\.com/(@[A-Za-z0-9._-]{1,64})/(?:video|photo)/([1-9][0-9]{0,18})\Z"
)
# tiktokv.com is the host of the links in TikTok's own data export.
_HOST = re.compile(r"(?:[a-z0-9-]+\.)*tiktokv?\.com\.?\Z")
_USER = re.compile(r"@[A-Za-z0-9._-]{1,64}\Z")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# 7.23E+18, 7,23E+18 and 7234567890123456768.0: what went through a float.
_ROUNDED = re.compile(r"[0-9]+(?:\.[0-9]+|(?:[.,][0-9]+)?[eE]\+?[0-9]{1,3})\Z")
_FIELDS = 20
# What `urlsplit` takes out without a word, and what parts two URLs on one line; only in a query are
# blanks usual.
_BLANK = re.compile(r"[^?#]*\s|.*[\x00-\x1f\x7f]", re.DOTALL)
# `Link: https://…`, as TikTok's data export writes it, and other labels before a URL.
_LABEL = re.compile(r"[A-Za-z][A-Za-z ]{0,30}:\s+(?=https?://)", re.IGNORECASE)
_URL = re.compile(r"https?://[^\s\"'<>(),;{}\[\]]+")
_DATE = re.compile(r"(?:date|time)\s*:", re.IGNORECASE)
# White space, and what is drawn as nothing: zero-width marks, byte order marks, marks of direction,
# variation selectors, tags. People copy them along, and files that were put together have them.
_INVISIBLE_RANGES = (
    *((0x00, 0x20), (0x7F, 0xA0), (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160)),
    *((0x1680, 0x1680), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2000, 0x200F), (0x2028, 0x202F)),
    *((0x205F, 0x206F), (0x3000, 0x3000), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF)),
    *((0xFFA0, 0xFFA0), (0xFFF9, 0xFFFB), (0xE0000, 0xE007F)),
)
_INVISIBLE = "".join(chr(code) for low, high in _INVISIBLE_RANGES for code in range(low, high + 1))
_MARKS = "".join(mark for mark in _INVISIBLE if mark > "\xa0")
_INVISIBLE_INSIDE = re.compile(
    "[" + "".join(f"{chr(low)}-{chr(high)}" for low, high in _INVISIBLE_RANGES[2:]) + "]"
)
_SHORT_HOSTS = frozenset({"vm.tiktok.com", "vt.tiktok.com"})
_KINDS = frozenset({"video", "photo"})


class PostRef(NamedTuple):
    """A post as it was named: its id, and the user part of its URL (`@wwe`; `@_` where none was
    given)."""

    post_id: str
    user: str = "@_"

    @property
    def url(self) -> str:
        """The URL to submit for analysis: https, `www.`, the user as given, no query.

        Always in the `/video/` form: it is the one documented, TikTok redirects it to `/photo/`
        where that applies, and one URL the service takes no liking to would fail a batch of fifty.
        The user's name is not part of a post's identity (TikTok redirects any name to the owner's),
        so a bare id gets a placeholder.
        """
        return f"https://www.tiktok.com/{self.user}/video/{self.post_id}"


def signed(post_id: int | str | None) -> int:
    """A post's id as SQLite's integers can hold it: they are signed, so ids of 2**63 and more are
    moved below zero."""
    number = int(post_id or 0)
    return number - 2**64 if number >= 2**63 else number


def plain(value: object) -> object:
    """An input as a plain `str` or `int`, if it is a kind of one; else as it is.

    numpy, lxml, BeautifulSoup, Jinja and enums have subclasses of `str` and `int`, which SQLite and
    msgspec refuse. A lone surrogate, which UTF-8 cannot hold, becomes U+FFFD. An object of ours
    that has a post's id stands for it.
    """
    kind = type(value)  # as a mock says that it is of another class
    if kind is int or kind is bool:
        return value
    if issubclass(kind, str):
        text = str.__str__(cast("str", value))
        return text if text.isascii() else _encodable(text)
    if issubclass(kind, int):
        return int.__int__(cast("int", value))
    if issubclass(kind, (Post, Analysis)):
        return plain(cast("Post", value).post_id)
    if issubclass(kind, Integral):  # numpy's
        with suppress(Exception):  # an odd number costs itself: it is refused later
            return int(cast("int", value))
    return value


def _encodable(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def bare(text: str) -> str:
    """`text` without white space and invisible characters around it."""
    return text.strip(_INVISIBLE)


def parse_post_id(value: object) -> str:
    """The video id named by an id (str or int), by a URL of a post, or by a `Post`.

    Raises:
        InvalidPostError: It names no post; the message says why and what is accepted.
    """
    return value if type(value) is str and _USUAL_ID.match(value) else parse_post(value).post_id


def parse_post(value: object) -> PostRef:
    """As `parse_post_id`, and keeps the user's name, which a URL to be analyzed may as well
    carry."""
    if type(value) is str and _USUAL_ID.match(value):
        return PostRef(value)
    given = plain(value)
    if not isinstance(given, str):
        return PostRef(str(_index(given)))
    usual = _USUAL.match(given)
    if usual is not None:
        return PostRef(usual[2], usual[1])
    text = bare(given)
    if not text:
        raise InvalidPostError(given, "it is empty")
    if len(text) > 4096:
        raise InvalidPostError(given, "it is longer than 4096 characters")
    label = _LABEL.match(text)
    if label is not None:
        text = text[label.end() :]
    try:
        return _parse_text(text, given)
    except InvalidPostError:
        likeness = _likeness(text)
        if likeness is None:
            raise
        raise InvalidPostError(given, likeness) from None


def _parse_text(text: str, given: str) -> PostRef:
    if "/" not in text and "." not in text:
        return PostRef(_check_id(text, given))
    return _parse_url(text, given)


def _likeness(text: str) -> str | None:
    """What a text that names no post looks like, where that says more than the rule it breaks."""
    hidden = _INVISIBLE_INSIDE.search(text)
    if hidden is not None:
        return f"there is an invisible character (U+{ord(hidden[0]):04X}) in the middle of it"
    if _DATE.match(text):
        return (
            "it looks like a date of TikTok's data export; the lines that begin with Link: name "
            "the posts"
        )
    # Only the first few: a line may be thousands of separators.
    fields = [text, *(field for mark in "\t;," for field in text.split(mark, _FIELDS)[:_FIELDS])]
    if any(_ROUNDED.match(field) for field in fields):
        return (
            "it looks like a number that a spreadsheet has rounded, and its last digits are lost: "
            "ids have to be kept as text"
        )
    for field in fields:
        inner = field.strip(" \"'")
        # Ids have nineteen digits. What is much shorter may be any number, or an id that was cut.
        if inner != text and len(_id_in(inner)) >= 15:
            return (
                "it looks like a row of a CSV file; give the column of the ids or URLs alone, one "
                "a line"
            )
    urls = _URL.findall(text)
    if len(urls) == 1 and urls[0] != text and len(_id_in(urls[0])) >= 15:
        return "there is other text beside the URL; give the URL alone"
    return None


def _id_in(text: str) -> str:
    with suppress(InvalidPostError):
        return _parse_text(text, text).post_id
    return ""


def _index(value: object) -> int:
    if not isinstance(value, SupportsIndex) or isinstance(value, bool):
        rounded = (
            ", which rounds ids: they have to be kept as text" if isinstance(value, float) else ""
        )
        raise InvalidPostError(value, f"it is of type {type(value).__name__}{rounded}")
    try:
        number = int(index(value))
    except Exception:  # an array of several numbers, for one: it costs this input alone
        raise InvalidPostError(
            value, f"it is of type {type(value).__name__}, and no single integer"
        ) from None
    if not 0 < number <= _MAX_ID:
        raise InvalidPostError(value, "an id is a positive 64-bit number")
    return number


def _check_id(text: str, given: object) -> str:
    if not _ID.match(text) or int(text) > _MAX_ID:
        raise InvalidPostError(
            given, "an id is a 64-bit number in plain digits without a leading zero"
        )
    return text


def _parse_url(text: str, given: str) -> PostRef:
    if _BLANK.match(text):
        raise InvalidPostError(
            given, "there is white space or a control character in it; give one URL at a time"
        )
    if text.startswith("//"):
        text = "https:" + text
    elif not _SCHEME.match(text):
        text = "https://" + text
    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").lower()
        userinfo, port = "@" in parts.netloc, parts.port
    except ValueError as error:
        raise InvalidPostError(given, f"the URL cannot be read ({error})") from None
    if parts.scheme.lower() not in ("http", "https"):
        raise InvalidPostError(given, f"the scheme is {parts.scheme}, not http or https")
    if userinfo or port not in (None, 80, 443):
        raise InvalidPostError(given, "the URL carries a login or a port")
    if not _HOST.match(host):
        raise InvalidPostError(given, f"the host is {host or 'missing'}, not tiktok.com")
    # Marks that were copied along are percent-encoded by then.
    segments = [unquote(part).strip(_MARKS) for part in parts.path.split("/") if part]
    if host.rstrip(".") in _SHORT_HOSTS or (segments and segments[0].lower() == "t"):
        raise InvalidPostError(
            given,
            "short links carry no id, so they cannot be folded, read or kept from being billed "
            "twice; open the link once and use the URL it leads to",
        )
    return _parse_path(segments, given)


def _parse_path(segments: list[str], given: str) -> PostRef:
    lowered = [segment.lower() for segment in segments]
    match lowered:
        # /@user/video/ID and /@user/photo/ID; also /video/ID, /share/video/ID and /embed/v2/ID,
        # which players use.
        case [*_, kind, last] if kind in _KINDS:
            post_id = last
        case ["v", last]:  # m.tiktok.com/v/ID.html
            post_id = last.removesuffix(".html")
        case (
            ["embed", last] | ["embed", "v2", last] | ["embed", "v3", last] | ["player", "v1", last]
        ):
            post_id = last
        case _:
            raise InvalidPostError(
                given, "the URL has no /video/ or /photo/ followed by the post's number at its end"
            )
    user = segments[0] if _USER.match(segments[0]) else "@_"
    return PostRef(_check_id(post_id, given), user)
