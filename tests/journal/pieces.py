"""Posts and their analyses, as tests of journals give them."""

from __future__ import annotations

from tokfluence_async import Analysis, Outcome
from tokfluence_async._wire.ids import PostRef

ANALYZE = "POST /v1/posts/analyze"
IDS = [str(7234567890123456789 + n) for n in range(12)]


def posts(*post_ids: str) -> list[PostRef]:
    return [PostRef(post_id) for post_id in post_ids]


def analyzed(post_id: str, status: str = "analyzed") -> Outcome[Analysis]:
    return Outcome(
        input=post_id, post_id=post_id, value=Analysis(post_id=post_id, url="u", status=status)
    )
