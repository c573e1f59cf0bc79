"""The service's objects, as it sends them.

A field is required only where an answer without it would be of no use (an object's own id, a page's
`next_cursor`). Everything else may be missing or null: None means "the service did not say", never
zero or empty. A value of another type is read as what it plainly says (`"12"` and `12.0` are 12, a
time without a zone is UTC), else it is None (`_wire/repair.py`). Unknown fields are skipped, but
`crawl` writes them, as it writes the bytes that came.

A field that is added to `Post` or `Comment` here is decoded, and is in frames, tables and cards
without any other change.

The Structs are frozen and not tracked by the garbage collector. They hold no cycles, and with a
million of them alive, walking them costs more than decoding did.

Source: the Tokfluence API page, *Posts*, and its examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Generic, TypeVar

from msgspec import Meta, Struct, field

from ._errors import TokfluenceError
from ._text import Card, Table, facts_of, plural

__all__ = [
    "Analysis",
    "AnalyzeReport",
    "Comment",
    "CommentPage",
    "CrawlReport",
    "Music",
    "Outcome",
    "Post",
    "Progress",
    "Timeout",
    "Usage",
]

T = TypeVar("T")

Aware = Annotated[datetime, Meta(tz=True)]


class Music(Struct, frozen=True, gc=False, kw_only=True):
    """The sound a post uses. `original` is True if it was recorded for the post."""

    title: str | None = None
    author: str | None = None
    original: bool | None = None


class Post(Struct, frozen=True, gc=False, kw_only=True):
    """A TikTok post in the index, from `GET /v1/posts/:id`. None means that the service did not
    say.

    Attributes:
        post_id: The video id, the trailing number of its URL. A string: nineteen digits do not
            survive a float.
        published_at: Always aware; a time that comes without a zone is taken as UTC.
        duration: Seconds.
        comments: How many there are, as TikTok counts them; `posts.comments` streams them.
    """

    post_id: str
    url: str | None = None
    caption: str | None = None
    published_at: Aware | None = None
    cover_url: str | None = None
    duration: int | float | None = None
    views: int | None = None
    likes: int | None = None
    comments: int | None = None
    shares: int | None = None
    saves: int | None = None
    hashtags: list[str] | None = None
    mentions: list[str] | None = None
    music: Music | None = None
    is_sponsored: bool | None = None

    def _repr_html_(self) -> str:
        music, length = self.music, self.duration
        return Card(
            f"Post {self.post_id}",
            self.url,
            about=[
                self.published_at,
                f"{length:g} s" if length is not None and abs(length) < 1e9 else None,
                "sponsored" if self.is_sponsored else None,
            ],
            text=self.caption,
            facts=facts_of(self, but=_NOT_FACTS),
            notes=[
                ["#" + tag for tag in self.hashtags or ()],
                ["@" + name for name in self.mentions or ()],
                f"♪ {music.title or '–'}, {music.author or '–'}" if music else None,
            ],
        ).html()


# Fields that a post's card shows elsewhere than among its facts, or leaves out. A field that is not
# named here is shown.
_NOT_FACTS = (
    "post_id",
    "url",
    "caption",
    "published_at",
    "cover_url",
    "duration",
    "hashtags",
    "mentions",
    "music",
    "is_sponsored",
)


class Comment(Struct, frozen=True, gc=False, kw_only=True):
    """A comment or a reply, from `GET /v1/posts/:id/comments`.

    Attributes:
        published_at: Always aware; a time that comes without a zone is taken as UTC.
        parent_comment_id: The comment this one replies to, or None.
    """

    comment_id: str
    text: str | None = None
    published_at: Aware | None = None
    likes: int | None = None
    reply_count: int | None = None
    parent_comment_id: str | None = None
    author_username: str | None = None
    author_picture: str | None = None


class Analysis(Struct, frozen=True, gc=False, kw_only=True):
    """What the service said of one URL of an analyze batch.

    Attributes:
        url: The URL as the service gives it back, which may be spelled otherwise than the input.
        post_id: The video id (`postId` on the wire, in this one place).
        status: The service's word. `analyzed` and `fresh` are documented, others may exist and pass
            through. `duplicate_request` is ours: an earlier attempt under the same request id had
            done the batch, so it was not charged again, and the post is to be read with
            `posts.get`.
    """

    post_id: str = field(name="postId")
    url: str | None = None
    status: str = ""


class CommentPage(Struct, frozen=True, kw_only=True):
    """One page of a post's comments; 2 credits.

    Attributes:
        items: The comments of this page that no earlier page of the same walk has given.
        total: Comments the post has, as far as this page or one before it said; it may grow from
            page to page.
        cursor: Comments skipped before this page.
        next_cursor: Where the next page begins; None at the end. Passing it as `cursor` resumes the
            walk.
        repeated: Comments left out of `items` because an earlier page had them: comments that
            arrived meanwhile shifted the offsets.
    """

    items: list[Comment]
    total: int | None
    cursor: int
    next_cursor: int | None
    repeated: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Comment]:
        return iter(self.items)

    def _repr_html_(self) -> str:
        end = self.next_cursor
        of = "" if self.total is None else f" of {self.total:,}"
        names = [*_COMMENT_HEADS, *(n for n in Comment.__struct_fields__ if n not in _NOT_COLUMNS)]
        return Card(
            f"{plural(len(self.items), 'comment')}{of}",
            about=[
                f"from cursor {self.cursor:,}",
                "the last page" if end is None else f"the next at cursor {end:,}",
                f"{plural(self.repeated, 'repeated one')} left out" if self.repeated else None,
            ],
            tables=[
                Table(
                    [_COMMENT_HEADS.get(name, name.replace("_", " ")) for name in names],
                    [[_comment_cell(comment, name) for name in names] for comment in self.items],
                )
            ],
        ).html()


_COMMENT_HEADS = {
    "published_at": "when",
    "author_username": "who",
    "text": "text",
    "likes": "likes",
    "reply_count": "replies",
}
_NOT_COLUMNS = (*_COMMENT_HEADS, "comment_id", "parent_comment_id", "author_picture")


def _comment_cell(comment: Comment, name: str) -> object:
    value = getattr(comment, name)
    return f"↳ {value or ''}" if name == "text" and comment.parent_comment_id else value


class Outcome(Struct, Generic[T], frozen=True, kw_only=True):
    """What became of one input of a bulk call: a value or an error, never an exception that ends
    the others.

    Attributes:
        input: The first spelling under which this post was given.
        post_id: The video id, or None if the input names none.
        value: What the service answered, or None.
        error: Why there is no value, or None.
    """

    input: object
    post_id: str | None = None
    value: T | None = None
    error: TokfluenceError | None = None

    @property
    def ok(self) -> bool:
        """True if the service answered for this input; what it said is in `value`."""
        return self.error is None

    def unwrap(self) -> T:
        """The value, or raise the error."""
        if self.error is not None:
            raise self.error
        # A value of None is as good as any other: only `error` tells the two apart.
        return self.value  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    def _repr_html_(self) -> str:
        about = None if self.post_id in (None, self.input) else f"post {self.post_id}"
        if self.error is None:
            return Card(str(self.input), about=[about], inner=self.value).html()
        kind = type(self.error).__name__
        return Card(str(self.input), about=[about, kind], text=str(self.error)).html()


class AnalyzeReport(Struct, frozen=True, kw_only=True):
    """What `posts.analyze` did. Iterating it iterates `outcomes`.

    Attributes:
        outcomes: One per distinct post, in the order they were first seen; malformed inputs stand
            where they stood.
        duplicates: Inputs that named a post seen before; they were not sent and not charged.
        credits_spent: Credits charged for this call. A charge that is not known (a lost answer) is
            counted as spent.
    """

    outcomes: list[Outcome[Analysis]]
    duplicates: int = 0
    credits_spent: int = 0

    @property
    def succeeded(self) -> list[Outcome[Analysis]]:
        """The outcomes the service answered for."""
        return [outcome for outcome in self.outcomes if outcome.ok]

    @property
    def failed(self) -> list[Outcome[Analysis]]:
        """The outcomes that hold an error."""
        return [outcome for outcome in self.outcomes if not outcome.ok]

    def raise_for_errors(self) -> None:
        """Raise an `ExceptionGroup` of every failed outcome's error; its `report` attribute is this
        report."""
        errors = [outcome.error for outcome in self.outcomes if outcome.error is not None]
        if errors:
            were = "was" if len(errors) == 1 else "were"
            group = ExceptionGroup(
                f"{len(errors):,} of {plural(len(self.outcomes), 'post')} {were} not analyzed",
                errors,
            )
            group.report = self  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
            raise group

    def __iter__(self) -> Iterator[Outcome[Analysis]]:
        return iter(self.outcomes)

    def __len__(self) -> int:
        return len(self.outcomes)

    def _repr_html_(self) -> str:
        failed = self.failed
        statuses = Counter(outcome.unwrap().status for outcome in self.succeeded)
        return Card(
            plural(len(self.outcomes), "post"),
            facts=[
                *((status or "no status", count) for status, count in statuses.most_common(10)),
                ("failed", len(failed)),
                ("duplicates folded", self.duplicates),
                ("credits spent", self.credits_spent),
            ],
            tables=[
                Table(
                    ("failed", "error", ""),
                    [(each.input, type(each.error).__name__, each.error) for each in failed],
                )
            ],
        ).html()


class Progress(Struct, frozen=True, kw_only=True):
    """How far a bulk call is; given to `on_progress` a few times a second and once at the end.

    Attributes:
        done: Inputs that have an outcome, failed ones included.
        failed: How many of `done` failed.
        total: Distinct inputs, or None as long as the source has not ended and its length is not
            known.
        credits_spent: Credits charged for this call so far.
        credits_remaining: The wallet, as the service last said; None before the first answer.
        elapsed: Seconds since the call began.
        comments: Comments written so far (`crawl` only).
        not_affordable: How many of `failed` are not done for want of credits: held back by a budget
            (`BudgetExceededError`), or refused by an empty wallet (`InsufficientCreditsError`).
    """

    done: int
    failed: int
    total: int | None
    credits_spent: int
    credits_remaining: int | None
    elapsed: float
    comments: int = 0
    not_affordable: int = 0

    def _repr_html_(self) -> str:
        facts: list[tuple[str, object]] = [
            ("done", f"{self.done:,}" + ("" if self.total is None else f" of {self.total:,}")),
            ("failed", self.failed),
            ("credits spent", self.credits_spent),
            ("seconds", f"{self.elapsed:,.0f}"),
        ]
        if self.comments:
            facts.insert(2, ("comments", self.comments))
        if self.credits_remaining is not None:
            facts.insert(-1, ("left", self.credits_remaining))
        return Card(progress=(self.done, self.total), facts=facts).html()


class CrawlReport(Struct, frozen=True, kw_only=True):
    """What one run of `crawl` did.

    Attributes:
        posts: Posts written by this run.
        comments: Comments written by this run.
        failed: Inputs that failed, malformed ones included.
        skipped: Inputs that an earlier run had finished; nothing was sent for them.
        duplicates: Inputs that named a post seen before in this run.
        credits_spent: Credits charged in this run. A charge that is not known is counted as spent.
        seconds: How long the run took.
        stopped_by: None if everything was tried; `"budget"` (max_credits), `"credits"` (the wallet
            is empty) or `"signal"`.
    """

    posts: int = 0
    comments: int = 0
    failed: int = 0
    skipped: int = 0
    duplicates: int = 0
    credits_spent: int = 0
    seconds: float = 0.0
    stopped_by: str | None = None

    def _repr_html_(self) -> str:
        ended = f"stopped by {self.stopped_by}" if self.stopped_by else "everything was tried"
        return Card(
            "Crawl",
            about=[ended],
            facts=[
                ("posts", self.posts),
                ("comments", self.comments),
                ("failed", self.failed),
                ("done earlier", self.skipped),
                ("duplicates", self.duplicates),
                ("credits spent", self.credits_spent),
                ("seconds", f"{self.seconds:,.1f}"),
            ],
        ).html()


class Usage(Struct, frozen=True, kw_only=True):
    """What this client (and its `with_options` copies) has done so far.

    Attributes:
        requests: Requests that went out on the wire, repeats included.
        retries: How many of them were repeats.
        throttled_seconds: Time calls spent waiting for a slot, summed over calls.
        rate_limited: Answers with status 429.
        credits_spent: Credits charged. A charge that is not known (a lost answer, a 500) is counted
            as spent until it is shown not to be.
        bytes_received: Bytes of response bodies, after decompression.
        pace: Requests per second the throttle permits now, or None if it is switched off.
        slowed: Whether the pace is below the limits because 429s came although our own limits held:
            somebody shares the budget, or it has become smaller.
        credits_reserved: Credits set aside for calls under way or about to go. The service may have
            charged them already; they move to `credits_spent` with the answer, or are given back.
        no_connection_for: Seconds since which no connection could be made, and jobs wait; 0.0 while
            one can.
    """

    requests: int = 0
    retries: int = 0
    throttled_seconds: float = 0.0
    rate_limited: int = 0
    credits_spent: int = 0
    bytes_received: int = 0
    pace: float | None = None
    slowed: bool = False
    credits_reserved: int = 0
    no_connection_for: float = 0.0

    def _repr_html_(self) -> str:
        pace = "not limited" if self.pace is None else f"{self.pace:.1f}/s"
        return Card(
            "Usage",
            facts=[
                ("requests", self.requests),
                ("retries", self.retries),
                ("429", self.rate_limited),
                ("waited for slots", f"{self.throttled_seconds:,.1f} s"),
                ("pace", pace + (", slowed down" if self.slowed else "")),
                ("credits spent", self.credits_spent),
                ("received", f"{self.bytes_received / 1e6:,.1f} MB"),
            ],
        ).html()


class Timeout(Struct, frozen=True):
    """Time limits of one attempt (one HTTP exchange), in seconds. None switches a limit off.

    Waiting for a slot of the throttle or for a free place under the concurrency limit does not
    count. A whole call, retries included, is bounded by the caller with `asyncio.timeout`.

    Attributes:
        connect: To a usable connection: name, TCP and TLS.
        read: To the head of the answer, and then without a byte of its body arriving. For analyze,
            `total` takes its place, as the service is silent while it works.
        total: From the moment the request may leave to the last byte of the answer. An analyze
            attempt gets an allowance per URL on top, as a cold URL takes several seconds.
    """

    connect: float | None = 10.0
    read: float | None = 30.0
    total: float | None = 60.0
