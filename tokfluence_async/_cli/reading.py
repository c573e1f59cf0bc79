"""`tokfluence post` and `tokfluence comments`: what is in the index, to standard output."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

import typer

from .. import Comment, Post, TokfluenceError
from .options import (
    ByteOrderMark,
    Format,
    FormatOption,
    with_common_options,
)
from .output import Output
from .results import finish, write_outcomes
from .runtime import run
from .session import Common, Session

__all__ = ["comments", "post"]


@with_common_options
def post(
    posts: Annotated[list[str], typer.Argument(metavar="ID…", help="Video ids or URLs.")],
    form: FormatOption = Format.jsonl,
    bom: ByteOrderMark = False,
    *,
    common: Common,
) -> None:
    """Read posts from the index: [bold]1 credit[/bold] each, a miss included. Written as they
    arrive.

    The documented fields; [cyan]crawl[/cyan] keeps whatever the service sends.
    """

    async def main(session: Session) -> int:
        output = Output(form.value, Post, mark=bom)
        async with aclosing(
            session.client.posts.get_many(posts, on_progress=session.on_progress)
        ) as outcomes:
            return await write_outcomes(session, outcomes, output, "post", "posts")

    raise typer.Exit(run(main, common, title="post"))


@with_common_options
def comments(
    post_id: Annotated[str, typer.Argument(metavar="ID", help="A video id or URL.")],
    cursor: Annotated[
        int, typer.Option(min=0, help="Comments to skip, to go on where an earlier run ended.")
    ] = 0,
    max_items: Annotated[
        int | None, typer.Option("--max-items", min=0, help="Comments to read at most.")
    ] = None,
    prefetch: Annotated[
        int,
        typer.Option(
            min=0,
            max=1000,
            help="Pages to fetch ahead: faster; a reader who stops early pays for some.",
        ),
    ] = 0,
    form: FormatOption = Format.jsonl,
    bom: ByteOrderMark = False,
    *,
    common: Common,
) -> None:
    """Read a post's comments, in order: [bold]2 credits[/bold] per page of 200."""

    async def main(session: Session) -> int:
        pages = session.client.posts.comment_pages(
            post_id, cursor=cursor, max_items=max_items, prefetch=prefetch
        )
        written, at = 0, cursor
        async with aclosing(pages), Output(form.value, Comment, mark=bom) as output:
            try:
                async for page in pages:
                    await output.write(page.items)
                    written += len(page)
                    at = page.next_cursor if page.next_cursor is not None else at
                    session.count(written, page.total if max_items is None else max_items)
            except TokfluenceError as error:
                session.failures.add(post_id, error)
                if written:
                    session.screen.say(
                        f"What was written stands; go on with --cursor {at}.", "warning", cursor=at
                    )
        return finish(session, written, "comment", "comments")

    raise typer.Exit(run(main, common, title="comments", unit="comments"))
