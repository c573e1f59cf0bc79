"""Canned answers in the documented shapes, from a seed. They know nothing of the package under
test."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta

__all__ = ["PAGE_SIZE", "POST_ID", "comments_data", "comments_page", "post_body", "post_id"]

POST_ID = 7234567890123456789
PAGE_SIZE = 200
_SEED = 20260412
_WORDS = [
    "love",
    "this",
    "so",
    "much",
    "😂",
    "where",
    "is",
    "it",
    "from",
    "best",
    "one",
    "yet",
    "first",
    "comment",
    "please",
    "part",
    "two",
    "the",
    "song",
    "name",
    "what",
    "a",
    "move",
    "no",
    "way",
    "crazy",
    "happy",
    "for",
    "you",
    "omg",
    "wow",
    "nice",
    "cool",
    "great",
    "day",
    "team",
    "win",
    "never",
    "give",
    "up",
    "haha",
    "same",
    "here",
    "à",
    "bientôt",
    "très",
    "bien",
]


def post_id(index: int) -> str:
    return str(POST_ID + index)


def post_body(index: int = 0) -> bytes:
    """`GET /v1/posts/:id`, about 900 bytes."""
    rng = random.Random(_SEED + index)
    name = f"creator{index}"
    return json.dumps(
        {
            "data": {
                "post_id": post_id(index),
                "url": f"https://www.tiktok.com/@{name}/video/{post_id(index)}",
                "caption": _text(rng, 18),
                "published_at": "2026-04-12T19:00:00Z",
                "cover_url": f"https://p16-sign.tiktokcdn-us.com/obj/tos-useast5-p-0068-tx/{rng.getrandbits(128):032x}",
                "duration": rng.randrange(5, 180),
                "views": rng.randrange(10_000_000),
                "likes": rng.randrange(1_000_000),
                "comments": rng.randrange(10_000),
                "shares": rng.randrange(10_000),
                "saves": rng.randrange(10_000),
                "hashtags": ["wwe", "wrestling", "fyp"],
                "mentions": [],
                "music": {"title": "original sound", "author": name, "original": True},
                "is_sponsored": False,
            }
        },
        ensure_ascii=False,
    ).encode()


def comments_data(cursor: int, by_time: bool = False) -> bytes:
    """The `data` array of one page of `PAGE_SIZE` comments, about 75 KB; their ids in no order, as
    in a list by likes, or growing."""
    rng = random.Random(_SEED + cursor)
    began = datetime(2026, 4, 12, 19, 8, 11, tzinfo=UTC)
    rows = [
        {
            "comment_id": str(7300000000000000000 + (n if by_time else n * 2654435761 % 2**32)),
            "text": _text(rng, 14),
            "published_at": (began + timedelta(seconds=n)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "likes": rng.randrange(1000),
            "reply_count": rng.randrange(10),
            "parent_comment_id": None,
            "author_username": f"fan{rng.randrange(100_000)}",
            "author_picture": f"https://p16-sign.tiktokcdn-us.com/tos-useast5-avt-0068-tx/{rng.getrandbits(128):032x}.webp",
        }
        for n in range(cursor, cursor + PAGE_SIZE)
    ]
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()


def comments_page(cursor: int, total: int, by_time: bool = False) -> bytes:
    """`GET /v1/posts/:id/comments` from `cursor`, with `PAGE_SIZE` comments."""
    reached = cursor + PAGE_SIZE
    after = b"null" if reached >= total else b"%d" % reached
    return b'{"data":%s,"meta":{"total":%d,"next_cursor":%s}}' % (
        comments_data(cursor, by_time),
        total,
        after,
    )


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(words))
