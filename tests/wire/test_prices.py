"""What a call may cost, and what an error has cost."""

from __future__ import annotations

from typing import Any

import pytest

from tokfluence_async._wire.calls import build_request


@pytest.mark.parametrize(
    ("method", "path", "body", "price"),
    [
        ("GET", "/v1/posts/1", None, 1),
        ("GET", "/v1/posts/1/comments", None, 2),
        ("POST", "/v1/posts/analyze", {"urls": ["a", "b", "c"]}, 75),
        ("GET", "/v1/creators", None, 1),
        ("GET", "/v1/creators/tkc_1", None, 1),
        ("GET", "/v1/creators/tkc_1/posts", None, 25),
        ("POST", "/v1/campaigns", {"name": "x"}, 1),
        ("POST", "/v1/campaigns", {"name": "x", "posts": [{"url": "a"}, {"url": "b"}]}, 51),
        ("GET", "/v1/campaigns/5", None, 1),
        ("GET", "/v1/campaigns/5/metrics", None, 2),
        ("GET", "/v1/campaigns/5/posts", None, 2),
        ("GET", "/v1/campaigns/5/influencers", None, 2),
        ("DELETE", "/v1/campaigns/5", None, 0),
        ("POST", "/v1/ai_search", {"query": "x"}, 25),
        ("POST", "/v1/ai_search/", {"query": "x"}, 25),
        ("GET", "/v1/not_known", None, 0),
    ],
)
def test_the_documented_prices_are_reserved(method: str, path: str, body: Any, price: int) -> None:
    """What a budget holds back before it is sent [public]; an endpoint without a known price holds
    back nothing."""
    assert build_request(method, path, None, body).price == price
