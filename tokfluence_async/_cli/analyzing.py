"""`tokfluence analyze`: live analysis of a list of posts, to standard output."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

import typer

from .. import Analysis
from .inputs import open_inputs
from .options import (
    ByteOrderMark,
    FileArgument,
    Format,
    FormatOption,
    JournalOption,
    one_file,
    with_common_options,
)
from .output import Output
from .results import write_outcomes
from .runtime import run
from .session import Common, Session

__all__ = ["analyze"]


@with_common_options
def analyze(
    context: typer.Context,
    file: FileArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Analyze again what was analyzed lately.")
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", min=1, max=50, help="URLs per request. Default: chosen for you."
        ),
    ] = None,
    journal: JournalOption = None,
    form: FormatOption = Format.jsonl,
    bom: ByteOrderMark = False,
    *,
    common: Common,
) -> None:
    """Have posts analyzed live: [bold]25 credits[/bold] per distinct post, fresh ones too. Written
    as batches finish."""
    one_file(context)

    async def main(session: Session) -> int:
        session.inputs = inputs = open_inputs(file, "tokfluence analyze -")
        output = Output(form.value, Analysis, mark=bom)
        outcomes = session.client.posts.analyze_iter(
            inputs,
            force=force,
            batch_size=batch_size,
            journal=journal,
            on_progress=session.on_progress,
        )
        async with aclosing(outcomes):
            return await write_outcomes(
                session, outcomes, output, "post analyzed", "posts analyzed"
            )

    raise typer.Exit(run(main, common, title="analyze"))
