"""The index: which posts can be read, and when each was last analyzed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from .world import fraction_of

__all__ = ["Index"]

Indexed = float | Collection[str] | Callable[[str], bool]


class Index:
    """What `GET /v1/posts/:id` finds.

    Args:
        indexed: The posts that are there from the start: a fraction of all (chosen by their ids),
            their ids, or a function of the id. They were analyzed long ago.
    """

    def __init__(self, seed: int, indexed: Indexed) -> None:
        self._seed = seed
        self._indexed = indexed
        self._analyzed: dict[str, float] = {}
        self._visible: dict[str, float] = {}

    def put(self, post_id: str, analyzed_at: float) -> None:
        """Put a post in by hand: it can be read from now on."""
        self._analyzed[post_id] = analyzed_at
        self._visible[post_id] = -math.inf

    def analyzed(self, post_id: str, now: float, delay: float) -> None:
        """A post was analyzed now; it can be read `delay` seconds later."""
        self._analyzed[post_id] = now
        # What can be read already stays readable while it is refreshed.
        self._visible[post_id] = min(now + delay, self._visible.get(post_id, math.inf))

    def is_fresh(self, post_id: str, now: float, freshness: float) -> bool:
        at = self._analyzed.get(post_id)
        return at is not None and now - at < freshness

    def is_readable(self, post_id: str, now: float) -> bool:
        visible = self._visible.get(post_id)
        if visible is not None and visible <= now:
            return True
        indexed = self._indexed
        if isinstance(indexed, (int, float)):
            return indexed > fraction_of(self._seed, "indexed", post_id)
        if callable(indexed):
            return indexed(post_id)
        return post_id in indexed
