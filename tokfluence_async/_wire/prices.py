"""What a call costs in credits.

Source: the Tokfluence API page, *Credits*.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

__all__ = [
    "ANALYZE_PRICE",
    "COMMENT_PAGE_PRICE",
    "POST_PRICE",
    "length_of",
    "price_of",
]

POST_PRICE = 1  # [seed]
COMMENT_PAGE_PRICE = 2  # [seed]
ANALYZE_PRICE = 25  # for each URL [seed]

# The endpoints whose price is known [public, seed]: method, path, credits, and the list in the body
# that is charged by its length.
_PRICES: tuple[tuple[str, re.Pattern[str], int, str | None], ...] = tuple(
    (method, re.compile(pattern + r"/?\Z"), price, per)
    for method, pattern, price, per in (
        ("GET", r"/v1/posts/[^/]+", POST_PRICE, None),
        ("GET", r"/v1/posts/[^/]+/comments", COMMENT_PAGE_PRICE, None),
        ("POST", r"/v1/posts/analyze", 0, "urls"),
        ("GET", r"/v1/creators/[^/]+", 1, None),
        ("GET", r"/v1/creators/[^/]+/posts", 25, None),
        ("GET", r"/v1/creators", 1, None),
        ("POST", r"/v1/campaigns", 1, "posts"),
        ("GET", r"/v1/campaigns/[^/]+", 1, None),
        ("GET", r"/v1/campaigns/[^/]+/(?:metrics|posts|influencers)", 2, None),
        ("DELETE", r"/v1/campaigns/[^/]+", 0, None),
        ("POST", r"/v1/ai_search", 25, None),
    )
)


def price_of(method: str, path: str, json: Any) -> int:
    """The most a call can cost; 0 where no price is known."""
    for known, pattern, price, per in _PRICES:
        if method == known and pattern.match(path):
            return price + (ANALYZE_PRICE * length_of(json, per) if per else 0)
    return 0


def length_of(json: Any, name: str) -> int:
    """How long the list `name` of a request's body is; 0 where there is none."""
    items = cast("Mapping[str, Any]", json).get(name) if isinstance(json, Mapping) else None
    return len(cast("list[Any]", items)) if isinstance(items, (list, tuple)) else 0
