"""The posts and comments the sandbox serves: generated from (seed, video id), each comment
independently of the others.

Nothing is stored, so a post may have millions of comments; the same seed and id give the same bytes
in every run and on every machine. Bodies have the keys and JSON types of the documented fixtures.
Texts are what people write under videos: emoji with skin tones and joiners, right-to-left and CJK
scripts, combining marks, quotes, newlines.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from statistics import NormalDist
from typing import Any, TypeGuard

__all__ = [
    "Json",
    "World",
    "fraction_of",
    "heavy_tailed",
    "is_list",
    "is_object",
    "is_post_id",
    "post_id_of_url",
]

Json = dict[str, Any]


def is_object(value: object) -> TypeGuard[Json]:
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


_ID = re.compile(r"[0-9]{1,20}", re.ASCII)
# "1 to 50 TikTok video URLs"; the id is "the trailing number of the video's URL". A URL has a
# scheme; what has none is not a URL. Short links carry no video id and are not video URLs.
_URL = re.compile(
    r"(?i:https?://(?:[a-z0-9-]+\.)?tiktok\.com)"
    r"/(?:@[\w.\-]*/(?:video|photo)|v)/([0-9]{1,20})(?:\.html)?/?(?:[?#].*)?",
    re.ASCII,
)


def post_id_of_url(url: object) -> str | None:
    """The video id of a TikTok video URL as the API takes it, or None."""
    if not isinstance(url, str):
        return None
    match = _URL.fullmatch(url)
    return match[1] if match else None


def is_post_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=32).digest()


def fraction_of(*parts: object) -> float:
    """A number in [0, 1) that depends on `parts` alone: what is random here is the same in every
    run."""
    return int.from_bytes(_digest(*parts)[:7], "big") / (1 << 56)


def heavy_tailed(
    median: float = 2.0, *, sigma: float = 1.0, longest: float = 60.0
) -> Callable[[str], float]:
    """Seconds a cold URL takes, by post id: log-normal around `median`, cut at `longest` seconds.

    With sigma 1 one URL in forty takes seven times the median or more: it is these few that decide
    how long a batch takes. Give the result as `Sandbox(seconds_per_url=...)`.
    """
    normal = NormalDist()

    def seconds(post_id: str) -> float:
        # Never exactly 0, for which the inverse is infinite.
        u = max(fraction_of("seconds", post_id), 1e-12)
        return min(longest, median * math.exp(sigma * normal.inv_cdf(u)))

    return seconds


_USERS = (
    "wwe",
    "fan1",
    "khaby.lame",
    "zoe_lol",
    "maria_k",
    "user4829104",
    "the_real_sam",
    "x.y.z",
    "_lina_",
    "nba",
    "cookingwithhana",
    "travel.jp",
    "0xdead",
    "a",
    "o.o",
    "bts_army_2026",
)
_TEXTS = (
    "Let's go!",
    "😂😂😂",
    "first",
    "this is so good 🔥🔥",
    "👩‍👩‍👧‍👦 family goals 👍🏽",
    "🏳️‍🌈❤️‍🔥",
    "هذا رائع جدًا 😍",
    "אני לא מאמין 😭",
    "すごい！もう一回見たい",
    "太好看了吧，求教程",
    "진짜 대박ㅋㅋㅋㅋ",
    "ขอบคุณมากครับ 🙏",
    "बहुत बढ़िया भाई",
    "Zalgo t̷̛e̸x̵t̶ h̷e̷r̷e̷",
    "naïve café, déjà vu – “quoted” text…",
    'he said "no" \\o/',
    "line one\nline two\n\nline four",
    "@wwe @fan1 look at this",
    "=SUM(A1:A9)",
    "<b>not bold</b> & [bold]neither[/bold]",
    "\u200f\u202bשלום\u202c mixed \u2066direction\u2069",
    "🇧🇷🇧🇷 vamos!!! 🇧🇷",
    "e\u0301 is not é",
    "𝕗𝕒𝕟𝕔𝕪 𝓽𝓮𝔁𝓽 𒐫",
    "",
    "Who is watching this in 2026? 👇",
    "I have been waiting for somebody to explain it like this for years. Thank you for taking "
    "the time, really.",
    "где купить такую же?",
    "Ⅷ ² １２３ ½",
    "null",
)
_WORDS = (
    "match",
    "tonight",
    "summer",
    "recipe",
    "dance",
    "猫",
    "فن",
    "fyp",
    "Köln",
    "наука",
    "wrestling",
    "DIY",
    "🎬",
    "BTS",
)
_CAPTIONS = (
    "Big {} tonight",
    "wait for the {} 😳",
    "{} in 30 seconds ✨",
    "POV: {} 👨🏿‍🚀",
    "دليل {} الكامل",
    "{}を作ってみた 🍳",
    "",
    "replying to @fan1: “{}”\nfull video in bio",
)
_TAGS = (
    "wwe",
    "wrestling",
    "fyp",
    "foryou",
    "viral",
    "猫",
    "ファッション",
    "кино",
    "comedy",
    "learnontiktok",
    "فن",
    "diy",
)

_CDN = "https://p16-sign.tiktokcdn.com"
# Without a zone, as `isoformat` then leaves room for the Z; strftime takes three times as long.
_EPOCH = datetime(1970, 1, 1)
# TikTok's ids carry the second of upload in their upper 32 bits. An id that would lie outside these
# years is not a real one, and gets a date from its hash.
_FIRST, _LAST = 1_451_606_400, 1_775_000_000

# A comment every 37 seconds, and if there are millions of them, all within two years.
_SPAN = 63_000_000


def _stamp(seconds: float) -> str:
    return (_EPOCH + timedelta(seconds=int(seconds))).isoformat() + "Z"


class World:
    """What exists behind the API.

    Args:
        seed: Another seed, another world: other captions, other counts.
        comments_per_post: How many comments a post has before any are added: a number, a function
            of the id, or None for a spread from none to about 3000, most posts having few.
        nulls: The fraction of nullable fields that are null (captions, covers, durations, music,
            parents ...).
        extra_fields: Whether objects carry fields that no page documents.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        comments_per_post: int | Callable[[str], int] | None = None,
        nulls: float = 0.0,
        extra_fields: bool = False,
    ) -> None:
        self.seed = seed
        self.nulls = nulls
        self.extra_fields = extra_fields
        self._comments_per_post = comments_per_post
        self._added: dict[str, int] = {}

    def add_comments(self, post_id: str, count: int) -> None:
        """Put `count` new comments in front of the others."""
        if count < 0:
            raise ValueError("comments are added, not taken away")
        self._added[post_id] = self._added.get(post_id, 0) + count

    def _first_comments(self, post_id: str) -> int:
        if isinstance(self._comments_per_post, int):
            return self._comments_per_post
        if self._comments_per_post is not None:
            return self._comments_per_post(post_id)
        return int(math.exp(8 * fraction_of(self.seed, "comments", post_id))) - 1

    def total_comments(self, post_id: str) -> int:
        return self._first_comments(post_id) + self._added.get(post_id, 0)

    def _published(self, post_id: str, digest: bytes) -> int:
        uploaded = int(post_id) >> 32
        if _FIRST <= uploaded <= _LAST:
            return uploaded
        return _FIRST + int.from_bytes(digest[24:28], "big") % (_LAST - _FIRST)

    def post(self, post_id: str) -> Json:
        """The Post of an id, as in `fixtures/post.json`."""
        h = _digest(self.seed, "post", post_id)
        author = _USERS[h[0] % len(_USERS)]
        views = int(math.exp(h[1] / 256 * 18)) + h[2]
        hashtags = [_TAGS[(h[3] + i * 5) % len(_TAGS)] for i in range(h[4] % 5)]
        caption = _CAPTIONS[h[5] % len(_CAPTIONS)].format(_WORDS[h[6] % len(_WORDS)])
        post: Json = {
            "post_id": post_id,
            "url": f"https://www.tiktok.com/@{author}/video/{post_id}",
            "caption": " ".join([caption, *("#" + tag for tag in hashtags)]).strip(),
            "published_at": _stamp(self._published(post_id, h)),
            "cover_url": f"{_CDN}/{h[8:16].hex()}~tplv-photomode-image.jpeg",
            "duration": 1 + h[16] * h[17] // 200,
            "views": views,
            "likes": views * h[18] // 2560,
            "comments": self.total_comments(post_id),
            "shares": views * h[19] // 25600,
            "saves": views * h[20] // 25600,
            "hashtags": hashtags,
            "mentions": [_USERS[(h[21] + i) % len(_USERS)] for i in range(h[22] % 3)],
            "music": {
                "title": "original sound" if h[23] & 1 else "Café del Mar – 夜 (feat. Ñ)",
                "author": author if h[23] & 1 else "Various",
                "original": bool(h[23] & 1),
            },
            "is_sponsored": h[7] < 16,
        }
        if self.nulls:
            nullable = (
                "caption",
                "published_at",
                "cover_url",
                "duration",
                "views",
                "likes",
                "comments",
                "shares",
                "saves",
                "hashtags",
                "mentions",
                "music",
                "is_sponsored",
            )
            self._put_nulls(post, nullable, post_id)
        if self.extra_fields:
            post["region"] = "BR"
            post["ai_labels"] = [{"name": "sport", "score": 0.93}]
            if post["music"] is not None:
                post["music"]["isrc"] = None
        return post

    def comment(self, post_id: str, offset: int) -> Json:
        """The comment that `offset` others stand in front of, as in `fixtures/comments.json`."""
        return next(self.comments(post_id, [offset]))

    def comments(self, post_id: str, offsets: Iterable[int]) -> Iterator[Json]:
        """The comments at these offsets."""
        added = self._added.get(post_id, 0)
        first = self._first_comments(post_id)
        published = self._published(post_id, _digest(self.seed, "post", post_id))
        for offset in offsets:
            # The first ones are numbered from the front; those added later go on counting, the
            # newest in front.
            number = first + added - offset if offset < added else offset - added + 1
            yield self._numbered(post_id, number, first, published)

    def _numbered(self, post_id: str, number: int, first: int, published: int) -> Json:
        h = _digest(self.seed, "comment", post_id, number)
        text = _TEXTS[h[0] % len(_TEXTS)]
        if h[1] < 64:
            text = f"{text} {_TEXTS[h[2] % len(_TEXTS)]}"
        # Newest first: the first of the original ones is the newest of them, later ones are newer
        # still.
        span = min(37 * first, _SPAN)
        age = span * (first - number) // first if number <= first else span + 37 * (number - first)
        parent = None
        if h[3] < 48 and number > 1:
            parent = f"{post_id}-c-{1 + int.from_bytes(h[4:8], 'big') % (number - 1)}"
        username = (
            _USERS[h[8] % len(_USERS)] if h[8] < 128 else f"user{int.from_bytes(h[9:14], 'big')}"
        )
        comment: Json = {
            "comment_id": f"{post_id}-c-{number}",
            "text": text,
            "published_at": _stamp(published + age),
            "likes": int(math.exp(h[15] / 256 * 9)) - 1,
            "reply_count": 0 if h[16] < 200 else h[17] % 40,
            "parent_comment_id": parent,
            "author_username": username,
            "author_picture": f"{_CDN}/avatar/{h[18:24].hex()}.jpeg",
        }
        if self.nulls:
            nullable = (
                "text",
                "published_at",
                "likes",
                "reply_count",
                "author_username",
                "author_picture",
            )
            self._put_nulls(comment, nullable, f"{post_id}-{number}")
        if self.extra_fields:
            comment["is_pinned"] = number == 1
            comment["translations"] = {"en": None}
        return comment

    def _put_nulls(self, what: Json, nullable: tuple[str, ...], name: str) -> None:
        for field in nullable:
            if fraction_of(self.seed, "null", name, field) < self.nulls:
                what[field] = None
