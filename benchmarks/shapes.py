"""The documented answers as types: the same fields for every contender, made by its own library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

__all__ = ["define_bodies"]


def define_bodies(define: Callable[[str, Mapping[str, Any]], Any]) -> tuple[Any, Any]:
    """(the type of a post's answer, the type of a page's), each made by `define(name, fields)`."""
    music = define("Music", {"title": str, "author": str, "original": bool})
    post = {
        "post_id": str, "url": str, "caption": str, "published_at": datetime, "cover_url": str,
        "duration": int, "views": int, "likes": int, "comments": int, "shares": int, "saves": int,
        "hashtags": list[str], "mentions": list[str], "music": music, "is_sponsored": bool,
    }  # fmt: skip
    comment: Any = define("Comment", {
        "comment_id": str, "text": str, "published_at": datetime, "likes": int, "reply_count": int,
        "parent_comment_id": str | None, "author_username": str, "author_picture": str,
    })  # fmt: skip
    meta = define("Meta", {"total": int, "next_cursor": int | None})
    return (
        define("PostBody", {"data": define("Post", post)}),
        define("PageBody", {"data": list[comment], "meta": meta}),
    )
