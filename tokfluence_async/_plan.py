"""How a job is cut into batches, and how answers are matched to inputs. No await, no clock.

Batches of 50, as everyone cuts them, leave one worker busy for minutes when the others are done, and keep fifty URLs
in doubt when one answer is lost. *Guided* cutting sends large batches first and smaller ones towards the end:

    size = ceil(left / (1.5 * concurrency)), from 1 to 50

and no batch is expected to take longer than a minute, by the seconds per URL seen so far (the first ones are cut to 10,
when nothing has been seen). Measured against a lower bound it stays within 1.25 where 50s reach 8
(shared/performance.md, *Analyze*). The price is the same whatever the cut.

Source: api/tokfluence-api.md, `POST /v1/posts/analyze` [seed].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ._errors import InvalidPostError
from ._ids import PostRef, parse_post_id
from ._models import Analysis
from ._wire import MAX_BATCH, AnalyzeRow

__all__ = ["Planner", "match_rows"]

_FACTOR = 1.5
_FIRST = 10
_EXPECTED_SECONDS = 60.0


class Planner:
    """Chooses the size of the next batch.

    Args:
        concurrency: Batches in flight at once.
        batch_size: A fixed size, or None to choose.
    """

    def __init__(self, concurrency: int, batch_size: int | None = None) -> None:
        self._concurrency = concurrency
        self._fixed = batch_size
        self._urls = 0
        self._seconds = 0.0

    def next_size(self, left: int | None) -> int:
        """URLs for the next batch, 1 to 50.

        Args:
            left: URLs that have not been sent, or None if that is not known (a source that has not ended).
        """
        if self._fixed is not None:
            return self._fixed
        size = MAX_BATCH if left is None else math.ceil(left / (_FACTOR * self._concurrency))
        most = MAX_BATCH if self._urls else _FIRST
        if self._seconds > 0:
            most = min(most, int(_EXPECTED_SECONDS * self._urls / self._seconds))
        return max(1, min(size, most, MAX_BATCH))

    def expected(self, urls: int) -> float:
        """Seconds a batch of `urls` is expected to take; 0.0 as long as nothing has been seen."""
        return self._seconds / self._urls * urls if self._urls else 0.0

    def observe(self, urls: int, seconds: float) -> None:
        """A batch of `urls` was answered after `seconds`."""
        self._urls += urls
        self._seconds += seconds


def match_rows(refs: Sequence[PostRef], rows: Sequence[AnalyzeRow]) -> dict[str, Analysis]:
    """The rows of an answer by the video ids that were asked for, whatever order or spelling they came back in.

    A row is known by its `postId`, or else by the id in its URL; rows of posts nobody asked for and second rows of one
    post are left out. What is missing from the result was left out by the service.
    """
    asked = {ref.post_id for ref in refs}
    found: dict[str, Analysis] = {}
    for row in rows:
        for name in (row.post_id, row.url):
            try:
                post_id = parse_post_id(name)
            except InvalidPostError:
                continue
            if post_id in asked and post_id not in found:
                found[post_id] = Analysis(post_id=post_id, url=row.url, status=row.status or "")
                break
    return found
