"""The three endpoints: validation, the work, and the body of the answer. By now the request was let
in and charged."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from . import answers
from .answers import Reply, encode
from .index import Index
from .ledger import ANALYZE, COMMENTS, POST, Entry, Key
from .options import Options, number_of
from .requests import problem_with
from .world import Json, World, fraction_of, is_object, is_post_id

__all__ = ["PRICES", "Endpoints"]

PRICES: Mapping[str, int] = {POST: 1, COMMENTS: 2, ANALYZE: 25}

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
# Pages of comments already encoded. A bench reads the same few over and over; a test never notices.
_PAGES_KEPT = 256


def _invalid(entry: Entry, key: Key, message: str) -> Reply:
    return answers.error(entry, key, 422, "missing_parameter", message)


def _not_found(entry: Entry, key: Key) -> Reply:
    return answers.error(entry, key, 404, "post_not_found", "This post is not in the index.")


class Endpoints:
    """What the API does, over a world and an index.

    Args:
        now: The clock.
    """

    def __init__(
        self, options: Options, world: World, index: Index, now: Callable[[], float]
    ) -> None:
        self._options = options
        self._world = world
        self._index = index
        self._now = now
        self._page = lru_cache(_PAGES_KEPT)(self._encode_page)

    def _is_readable(self, post_id: str) -> bool:
        return is_post_id(post_id) and self._index.is_readable(post_id, self._now())

    def get_post(self, entry: Entry, key: Key) -> Reply:
        post_id = entry.post_ids[0]
        if not self._is_readable(post_id):
            return _not_found(entry, key)
        entry.done = True
        return answers.reply(entry, key, 200, encode({"data": self._world.post(post_id)}))

    def get_comments(self, entry: Entry, key: Key) -> Reply:
        post_id = entry.post_ids[0]
        query = parse_qs(entry.query, keep_blank_values=True)
        # As in Rails and most others, the last one of a repeated parameter counts.
        cursor, limit = query.get("cursor", ["0"])[-1], query.get("limit", ["50"])[-1]
        if not _NUMBER.fullmatch(cursor):
            return _invalid(entry, key, "cursor is a number of comments to skip, 0 or more.")
        if not _NUMBER.fullmatch(limit) or not 1 <= int(limit) <= 200:
            return _invalid(entry, key, "limit is a number of comments, 1 to 200.")
        if not self._is_readable(post_id):
            return _not_found(entry, key)
        entry.done = True
        options = self._options
        body = self._page(
            post_id,
            int(cursor),
            min(int(limit), options.page_stride or int(limit)),
            self._world.total_comments(post_id),
            options.hidden_comments,
        )
        return answers.reply(entry, key, 200, body)

    def _encode_page(
        self, post_id: str, cursor: int, limit: int, total: int, hidden: float
    ) -> bytes:
        end = min(total, cursor + limit)
        offsets: Iterable[int] = range(cursor, end)
        if hidden:
            seed = self._world.seed
            offsets = [
                offset
                for offset in offsets
                if fraction_of(seed, "hidden", post_id, total - offset) >= hidden
            ]
        rows = list(self._world.comments(post_id, offsets))
        meta = {"total": total, "next_cursor": end if end < total else None}
        return encode({"data": rows, "meta": meta})

    async def analyze(self, entry: Entry, key: Key, parsed: object, urls: list[Any]) -> Reply:
        problem = problem_with(parsed, urls)
        if problem is not None or not is_object(parsed):
            return _invalid(entry, key, str(problem))
        force = parsed.get("force", False)
        rows: list[Json] = []
        for url, post_id in zip(urls, entry.post_ids, strict=True):
            status = await self._analyze_post(entry, post_id, force=force)
            rows.append({"url": url, "postId": post_id, "status": status})
        change = self._options.analyze_rows
        if change is not None:
            rows = change(rows)
        entry.done = True
        meta = {"submitted": len(entry.post_ids), "cost": PRICES[ANALYZE] * len(entry.post_ids)}
        return answers.reply(entry, key, 200, encode({"data": rows, "meta": meta}))

    async def _analyze_post(self, entry: Entry, post_id: str, *, force: bool) -> str:
        """What analyzing one post comes to: the status of its row."""
        options, index = self._options, self._index
        if not force and index.is_fresh(post_id, self._now(), options.freshness):
            entry.fresh.append(post_id)
            return "fresh"
        seconds = number_of(options.seconds_per_url, post_id)
        if seconds:
            await asyncio.sleep(seconds)
        special = options.analyze_status(post_id) if options.analyze_status is not None else None
        status = special or "analyzed"
        # A post that could not be analyzed does not get into the index.
        if status == "analyzed":
            index.analyzed(post_id, self._now(), number_of(options.visibility_delay, post_id))
        return status


def no_such_route(entry: Entry, key: Key) -> Reply:
    """404, or 405 where another method would do."""
    match entry.path.split("/"):
        case ["", "v1", "posts", "analyze"]:
            allow = "GET, POST"
        case ["", "v1", "posts", post_id] | ["", "v1", "posts", post_id, "comments"] if post_id:
            allow = "GET"
        case _:
            message = "There is no such endpoint in the sandbox."
            return answers.error(entry, key, 404, "not_found", message)
    headers = {"Allow": allow}
    return answers.error(entry, key, 405, "method_not_allowed", f"Only {allow}.", headers)
