"""What a job would cost at most and at least, and how long the throttle makes it take: arithmetic,
nothing is sent.

Source: the Tokfluence API page, *Credits*, *Throttles*.
"""

from __future__ import annotations

import math

from msgspec import Struct

from .._text import Card, span
from .._wire.calls import MAX_LIMIT
from .._wire.prices import ANALYZE_PRICE, COMMENT_PAGE_PRICE, POST_PRICE
from .reads import count_early_reads

__all__ = ["Estimate", "build_estimate"]


class Estimate(Struct, frozen=True, kw_only=True):
    """What `posts.resolve` or `crawl` would cost. It holds as long as no answer is lost and no read
    fails.

    Attributes:
        posts: Distinct posts among the inputs.
        duplicates: Inputs that name a post named before.
        malformed: Inputs that name none; they cost nothing.
        done: Posts that the journal knows as done; they cost nothing.
        credits_at_least: Every post is in the index, or was paid for.
        credits_at_most: No post is, and those that are read first after their analysis are read too
            early each time; None if comments are wanted and how many there are is not known.
        comment_pages_at_least: Pages of comments among that, one for each post whose comments are
            wanted; 2 credits each.
        requests_at_least, requests_at_most: Requests the throttle has to let go, analyses one URL
            each at most.
        seconds_at_least, seconds_at_most: What the throttle needs for them, beside the service's
            own time; 0.0 without one.
    """

    posts: int
    duplicates: int
    malformed: int
    done: int
    credits_at_least: int
    credits_at_most: int | None
    comment_pages_at_least: int
    requests_at_least: int
    requests_at_most: int | None
    seconds_at_least: float
    seconds_at_most: float | None

    def _repr_html_(self) -> str:
        return Card(
            "Estimate",
            about=["nothing was sent"],
            facts=[
                ("posts", self.posts),
                ("done earlier", self.done),
                ("duplicates", self.duplicates),
                ("malformed", self.malformed),
                ("credits", span(self.credits_at_least, self.credits_at_most)),
                ("requests", span(self.requests_at_least, self.requests_at_most)),
                ("seconds", span(self.seconds_at_least, self.seconds_at_most, ",.0f")),
            ],
        ).html()


def build_estimate(
    *,
    new: int,
    unread: int = 0,
    unwalked: int = 0,
    done: int = 0,
    duplicates: int = 0,
    malformed: int = 0,
    refresh: bool = False,
    patience: float = 60.0,
    comments: bool = False,
    comments_per_post: int | None = None,
    pioneers: int = 1,
    pace: float = math.inf,
) -> Estimate:
    """The estimate for so many posts of each kind.

    Args:
        new: Posts of which nothing is known.
        unread: Posts whose analysis was paid for.
        unwalked: Posts that are written, and whose comments are not.
        refresh: All are analyzed, in the index or not.
        comments_per_post: Comments each post has at most.
        pioneers: Batches that may be waited for at once before the visibility delay is known.
        pace: Requests a second.
    """
    early = count_early_reads(patience)
    walks = new + unread + unwalked if comments else 0
    reads = new + unread
    least = reads * POST_PRICE + walks * COMMENT_PAGE_PRICE
    most_reads = reads + (0 if refresh else new) + early * min(new, pioneers)
    if refresh:
        least += new * ANALYZE_PRICE
    pages: int | None = 0
    if comments:
        pages = (
            None
            if comments_per_post is None
            else walks * max(1, math.ceil(comments_per_post / MAX_LIMIT))
        )
    requests_least = reads + walks + (math.ceil(new / 50) if refresh else 0)
    requests_most = None if pages is None else most_reads + new + pages
    return Estimate(
        posts=new + unread + unwalked + done,
        duplicates=duplicates,
        malformed=malformed,
        done=done,
        credits_at_least=least,
        credits_at_most=None
        if pages is None
        else new * ANALYZE_PRICE + most_reads * POST_PRICE + pages * COMMENT_PAGE_PRICE,
        comment_pages_at_least=walks,
        requests_at_least=requests_least,
        requests_at_most=requests_most,
        seconds_at_least=requests_least / pace,
        seconds_at_most=None if requests_most is None else requests_most / pace,
    )
