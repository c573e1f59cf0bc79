"""What a journal tells of a batch and of a post."""

from __future__ import annotations

from msgspec import Struct

from .._errors import JournalError
from .._wire.ids import PostRef

__all__ = ["DUPLICATE", "Doubt", "Entry", "TakenError"]

# The status of a post whose batch an earlier attempt had already done.
DUPLICATE = "duplicate_request"


class TakenError(JournalError):
    """A batch may not be sent: a post of it is in another batch, or has been settled; or another
    call has taken the batch over. Nothing was sent.

    Attributes:
        posts: The posts that are not free; empty where it is the batch.
    """

    posts: list[str]

    def __init__(self, posts: list[str]) -> None:
        super().__init__("Another call has taken these posts. Nothing was sent.", posts=posts)


class Doubt(Struct, frozen=True):
    """A batch that was about to be sent, of which nothing more is known.

    Attributes:
        sent_at: Time of day, in seconds since 1970, at which it was first sent.
        age: Seconds since then: how long the service has to have remembered the id.
        quiet: Seconds since it was last sent, by whichever process: how long an attempt may have
            been at work.
    """

    request_id: str
    posts: list[PostRef]
    sent_at: float
    age: float
    quiet: float


class Entry(Struct, frozen=True, gc=False):
    """What is known of a post.

    Attributes:
        status: The service's word for its analysis, or None if there was none.
        unsure: Only a 409 speaks for that analysis; reading the post will tell.
        analyzed_at: Time of day of the analysis' answer.
        written: The post is in the output of the crawl.
        cursor: Where the walk over its comments goes on.
        walked: All its comments are in the output.
    """

    status: str | None
    url: str | None
    unsure: bool
    analyzed_at: float | None
    written: bool = False
    cursor: int = 0
    walked: bool = False
