"""What an analysis sent, and what came of it."""

from __future__ import annotations

from typing import Any

from tokfluence_async import Sandbox

__all__ = ["ANALYZE", "GET", "batches", "statuses", "url"]

ANALYZE = "POST /v1/posts/analyze"
GET = "GET /v1/posts/:id"


def url(n: int) -> str:
    return f"https://www.tiktok.com/@wwe/video/{n}"


def batches(sandbox: Sandbox) -> list[list[str]]:
    """What each analyze request that reached the sandbox asked for."""
    return [list(entry.post_ids) for entry in sandbox.requests if entry.route == ANALYZE]


def statuses(outcomes: Any) -> list[str]:
    return [
        outcome.value.status if outcome.value is not None else type(outcome.error).__name__
        for outcome in outcomes
    ]
