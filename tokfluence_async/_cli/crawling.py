"""`tokfluence crawl`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .crawl_job import Job
from .dry_run import dry_run as run_dry
from .inputs import UsageError, from_home
from .options import (
    ByteOrderMark,
    FileArgument,
    Format,
    JournalOption,
    Refresh,
    ShardOption,
    TableOption,
    one_file,
    with_common_options,
)
from .runtime import run
from .screen import open_screen
from .session import Common, Exit
from .sharding import read_shard

__all__ = ["crawl"]


OutOption = Annotated[
    Path,
    typer.Option(
        "-o", "--out", metavar="DIR", help="Folder for posts, comments, failures and the journal."
    ),
]


@with_common_options
def crawl(
    context: typer.Context,
    file: FileArgument,
    out: OutOption,
    comments: Annotated[
        bool, typer.Option("--comments", help="Read the comments of every post, too.")
    ] = False,
    refresh: Annotated[
        Refresh,
        typer.Option(
            help="missing: analyze only what is not in the index. always: analyze everything."
        ),
    ] = Refresh.missing,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what it would cost and how long it would take; send nothing."
        ),
    ] = False,
    shard: ShardOption = None,
    journal: JournalOption = None,
    form: TableOption = Format.jsonl,
    bom: ByteOrderMark = False,
    *,
    common: Common,
) -> None:
    """Posts, and with [cyan]--comments[/cyan] their comments, into a folder: cached first,
    resumable.

    [bold]1 credit[/bold] for a post in the index, [bold]27[/bold] for one that must be analyzed,
    [bold]2[/bold] per page of 200 comments.
    """
    try:
        out, part = from_home(out), read_shard(shard)
    except UsageError as error:
        open_screen(quiet=common.quiet, as_json=common.json_logs, live=False).say(
            str(error), "error"
        )
        raise typer.Exit(Exit.USAGE) from None
    one_file(context)
    job = Job(
        file=file,
        out=out,
        comments=comments,
        refresh=refresh.value,
        form=form.value,
        mark=bom,
        shard=part,
        journal=journal,
        common=common,
    )
    if dry_run:
        raise typer.Exit(run_dry(job))
    raise typer.Exit(run(job.run, common, title="crawl", data_on_stdout=False))
