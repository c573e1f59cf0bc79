"""`client.posts`: what a user calls. Arguments are checked here, at the call; the loops are in the
rooms below."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from ._bulk.analyze import Analyzer, check_batch_size
from ._bulk.comments import Paging, comment_pages
from ._bulk.job import Job
from ._bulk.progress import OnProgress
from ._bulk.requests import Requests
from ._bulk.resolve import Resolver, check_refresh, waiting_batches
from ._bulk.sources import Inputs, Source, count_inputs
from ._bulk.window import Window
from ._credits.budget import MaxCredits
from ._credits.estimate import Estimate, build_estimate
from ._journal.opening import JournalOrPath, enter_journal, is_there
from ._models import Analysis, AnalyzeReport, Comment, CommentPage, Outcome, Post
from ._wire.answers import check_post
from ._wire.bodies import PostBody
from ._wire.calls import build_get_post
from ._wire.ids import parse_post_id
from ._wire.shapes import Shape

if TYPE_CHECKING:
    from ._http.engine import Engine, Options

__all__ = ["Posts"]

_POST: Shape[PostBody] = Shape(PostBody)


class Posts:
    """TikTok posts: read them, stream their comments, have them analyzed. Reached as
    `client.posts`."""

    __slots__ = ("_engine", "_job", "_options")

    def __init__(self, engine: Engine, options: Options) -> None:
        self._engine = engine
        self._options = options
        self._job = partial(Job, engine, options)

    async def get(self, post: str | int | Post) -> Post:
        """Read one post from the index. Costs 1 credit, a miss included; starts no analysis.

        Args:
            post: A video id (str or int), any URL of the post, or a `Post`.
        Raises:
            InvalidPostError: `post` names no post; nothing was sent.
            NotFoundError: The post is not in the index (`code="post_not_found"`). Charged and not
                refunded; `analyze` or `resolve` brings it in.
            TokfluenceError: Whatever else went wrong, after retries; see the error tree.
        Source: the Tokfluence API page, `GET /v1/posts/:id`; refunds.
        """
        post_id = parse_post_id(post)
        body: Any = await self._engine.perform(build_get_post(post_id), _POST, self._options)
        check_post(body.data, post_id)
        return body.data  # type: ignore[no-any-return]  # a read is never `Settled`

    def get_many(
        self,
        posts: Inputs,
        *,
        max_credits: MaxCredits = None,
        on_progress: OnProgress | None = None,
    ) -> AsyncGenerator[Outcome[Post], None]:
        """Read many posts, some at once; yield an `Outcome` for each distinct one as it arrives. 1
        credit each.

        Args:
            posts: Ids and URLs, as an iterable or an async iterable; read no faster than the posts
                are fetched. Duplicates are folded by video id.
            max_credits: Credits this call may spend at most. What does not fit is not sent and
                fails with `BudgetExceededError`.
            on_progress: Called with a `Progress` at the start, a few times a second and at the end.
                What it raises ends the call.
        Raises:
            ValueError: A negative `max_credits`.

            async with contextlib.aclosing(client.posts.get_many(ids)) as outcomes:
                async for outcome in outcomes: ...

        What goes wrong with one post is its outcome's `error` and ends nothing; once the token or
        the wallet is refused (401, 402, 403), the rest fail with that error without being sent.
        Who stops early should close the generator, as above: until then it may read as many posts
        more as were yielded, or eight.
        Source: the Tokfluence API page, `GET /v1/posts/:id`.
        """
        job = self._job(posts, max_credits, None, on_progress, Window())
        reader: Resolver[Post] = Resolver(job.requests, _POST, analyze_missing=False)
        return job.stream(reader)

    def comment_pages(
        self,
        post: str | int | Post,
        *,
        cursor: int = 0,
        limit: int = 200,
        max_items: int | None = None,
        prefetch: int = 0,
    ) -> AsyncGenerator[CommentPage, None]:
        """Yield a post's comments page by page, in order, each comment once. Every page costs 2
        credits.

        Args:
            post: A video id, any URL of the post, or a `Post`.
            cursor: Comments to skip, 0 or more; a page's `next_cursor` resumes a walk.
            limit: Comments asked for per page, 1 to 200. A page may come back shorter: only a null
                `next_cursor` ends the walk.
            max_items: Comments to yield at most; None for all.
            prefetch: Pages to have under way ahead of the one that is read, 0 to 1000, still in
                order. With 0 no page is paid for before it is needed. Otherwise the number grows by
                one with every page read, so that a reader who stops early has never bought more
                pages in vain than it has read.
        Raises:
            InvalidPostError, ValueError: At the call; nothing was sent.
            NotFoundError: The post is not in the index. Charged and not refunded.
            InsufficientCreditsError: Out of credits at some page; what was yielded before it
                stands.
            APIResponseValidationError: The pages do not advance, or keep coming empty.

        Comments that arrive meanwhile shift the offsets. They make the service repeat some, which
        are left out (`CommentPage.repeated`); those put before the cursor are not part of this
        walk, and `total` grows by them.
        Source: the Tokfluence API page, `GET /v1/posts/:id/comments`; refunds.
        """
        post_id = parse_post_id(post)
        paging = Paging(cursor=cursor, limit=limit, max_items=max_items, prefetch=prefetch)
        requests = Requests(self._engine, self._options)
        return comment_pages(requests, post_id, paging)

    def comments(
        self,
        post: str | int | Post,
        *,
        cursor: int = 0,
        limit: int = 200,
        max_items: int | None = None,
        prefetch: int = 0,
    ) -> AsyncGenerator[Comment, None]:
        """Yield a post's comments in order, each once. Every page of up to `limit` costs 2 credits,
        when it is asked for.

        As `comment_pages`, which see for arguments, costs and errors; a comment at a time. To be
        able to resume, use the pages.
        """
        return _flat(
            self.comment_pages(
                post, cursor=cursor, limit=limit, max_items=max_items, prefetch=prefetch
            )
        )

    async def analyze(
        self,
        urls: Inputs,
        *,
        force: bool = False,
        batch_size: int | None = None,
        max_credits: MaxCredits = None,
        journal: JournalOrPath | None = None,
        on_progress: OnProgress | None = None,
    ) -> AnalyzeReport:
        """Have posts analyzed live. 25 credits for each distinct post, whatever comes of it
        (`fresh` ones too).

        Args:
            urls: URLs and ids, as an iterable or an async iterable. Duplicates are folded by video
                id and not sent.
            force: Skip the service's freshness window: analyze again what was analyzed lately.
            batch_size: URLs a request, 1 to 50; None lets the planner choose. The cost is the same.
            max_credits: Credits this call may spend at most. What fits is sent, the rest fails with
                `BudgetExceededError`.
            journal: A `Journal` or its path. What it says was analyzed is not sent again; what an
                earlier run left in doubt is settled first: asked about under its old request id
                and, where that proves nothing, read (1 credit a post).
            on_progress: Called with a `Progress` at the start, a few times a second and at the end.
                What it raises ends the call.
        Returns:
            A report with one outcome for each distinct input, in the order they were first seen.
            One failed batch never loses the others' outcomes.
        Raises:
            ValueError: A number out of its range; nothing was sent.
            JournalError: The journal cannot be used, or its disk is full; nothing is sent that
                cannot be written down.

        A cold URL takes the service several seconds. A batch keeps its request id over all its
        retries, so a lost answer is not paid for twice: its posts come back as `duplicate_request`.
        Source: the Tokfluence API page, `POST /v1/posts/analyze`, *Idempotency*.
        """
        job = self._job(urls, max_credits, journal, on_progress)
        return await job.report(Analyzer(job.requests, force=force, batch_size=batch_size))

    def analyze_iter(
        self,
        urls: Inputs,
        *,
        force: bool = False,
        batch_size: int | None = None,
        max_credits: MaxCredits = None,
        journal: JournalOrPath | None = None,
        on_progress: OnProgress | None = None,
    ) -> AsyncGenerator[Outcome[Analysis], None]:
        """As `analyze`, yielding each `Outcome` as its batch finishes. `urls` is read no faster
        than batches leave.

            async with contextlib.aclosing(client.posts.analyze_iter(urls)) as outcomes:
                async for outcome in outcomes: ...

        Posts that were sent and not yet yielded are never more than those that were yielded, or
        eight, or one batch of the `batch_size` asked for. So who stops early has not paid for more
        in vain. Closing the generator, as above, ends the batches in flight. What they were charged
        is spent, and their posts become readable.
        """
        job = self._job(urls, max_credits, journal, on_progress, _window(batch_size))
        return job.stream(Analyzer(job.requests, force=force, batch_size=batch_size))

    def resolve(
        self,
        urls: Inputs,
        *,
        refresh: Literal["missing", "always"] = "missing",
        force: bool = False,
        batch_size: int | None = None,
        patience: float = 60.0,
        max_credits: MaxCredits = None,
        journal: JournalOrPath | None = None,
        on_progress: OnProgress | None = None,
    ) -> AsyncGenerator[Outcome[Post], None]:
        """The cheapest way to readable posts: read (1 credit), analyze only what is missing (25),
        read that when it is visible (1).

        Args:
            urls: URLs and ids, as an iterable or an async iterable. Duplicates are folded by video
                id.
            refresh: "missing" reads first; "always" has everything analyzed.
            force: Skip the service's freshness window.
            batch_size: URLs an analyze request, 1 to 50; None lets the planner choose.
            patience: Seconds a post may take after its analysis to become readable; then its
                outcome is `PostNotReadyError`, after a handful of reads (1 credit each).
            max_credits: Credits this call may spend at most.
            journal: A `Journal` or its path. Posts whose analysis it says was paid for are only
                read (1 credit), in this run and every later one; what an earlier run left in doubt
                is settled first.
            on_progress: Called with a `Progress` at the start, a few times a second and at the end.
                What it raises ends the call.
        Raises:
            ValueError: A number out of its range, at the call; nothing was sent.

            async with contextlib.aclosing(client.posts.resolve(urls)) as outcomes:
                async for outcome in outcomes: ...

        The delay until a post is readable is not documented; it is learnt, with one post of a batch
        going ahead. Who stops early has paid for no more posts in vain than were yielded, or eight
        (see `analyze_iter`), and should close the generator, as above.
        Source: the Tokfluence API page, *Posts*.
        """
        if not patience >= 0:
            raise ValueError(f"patience must be 0 seconds or more, not {patience!r}")
        job = self._job(urls, max_credits, journal, on_progress, _window(batch_size))
        resolver: Resolver[Post] = Resolver(
            job.requests,
            _POST,
            refresh=refresh,
            force=force,
            batch_size=batch_size,
            patience=patience,
        )
        return job.stream(resolver)

    async def estimate(
        self,
        urls: Inputs,
        *,
        refresh: Literal["missing", "always"] = "missing",
        patience: float = 60.0,
        comments: bool = False,
        comments_per_post: int | None = None,
        journal: JournalOrPath | None = None,
    ) -> Estimate:
        """What `resolve`, or a `crawl`, of these inputs would cost at most and at least, and how
        long the throttle makes it take.

        Sends nothing and costs nothing.

        Args:
            urls, refresh, patience: As `resolve`.
            comments: Whether comments are to be read too, as by `crawl`.
            comments_per_post: Comments each post has at most; without it, what they cost at most is
                not known.
            journal: What it knows as done costs nothing. A path at which there is none is left
                alone.
        Raises:
            JournalError: The journal cannot be used.
            ValueError: `refresh` is neither "missing" nor "always".
        """
        check_refresh(refresh)
        source = Source(urls)
        async with AsyncExitStack() as stack:
            if journal is not None and is_there(journal):
                await source.remember(await enter_journal(stack, journal))
            counts = await count_inputs(source, comments=comments)
        throttle = self._engine.throttle
        limits = [limit for limit in (throttle.per_ip, throttle.per_key) if limit is not None]
        return build_estimate(
            **counts,
            duplicates=source.duplicates,
            refresh=refresh == "always",
            patience=patience,
            comments=comments,
            comments_per_post=comments_per_post,
            pioneers=waiting_batches(self._options.analyze_concurrency),
            pace=min(limits) / throttle.period if limits else math.inf,
        )


def _window(batch_size: int | None) -> Window:
    check_batch_size(batch_size)
    return Window(batch_size or 0)


async def _flat(pages: AsyncGenerator[CommentPage, None]) -> AsyncGenerator[Comment, None]:
    async with aclosing(pages):
        async for page in pages:
            for comment in page.items:
                yield comment
            del page  # before the next one is made
