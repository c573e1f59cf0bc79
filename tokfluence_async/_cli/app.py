"""The commands, and help that teaches by example."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from .. import Analysis, Comment, Outcome, Post, Sandbox, TokfluenceError
from .._text import plural
from .._version import __version__
from . import crawling, serving
from .inputs import WANTED, open_inputs
from .output import Output
from .runtime import Common, Session, run

__all__ = ["app"]

T = TypeVar("T")


class Format(StrEnum):
    """How rows are written."""

    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"


class Refresh(StrEnum):
    """What a crawl has analyzed."""

    missing = "missing"
    always = "always"


# Tracebacks are plain: typer's own would print local variables, and so the token.
app = typer.Typer(
    name="tokfluence",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "TikTok posts, their comments, and live analysis, from the [bold]Tokfluence[/bold] API.\n\n"
        "The token is read from [cyan]TOKFLUENCE_TOKEN[/cyan]. To try anything without a token and without a network, "
        "add [cyan]--sandbox[/cyan].\n\n"
        "Data goes to standard output (or a folder), everything for people to standard error. "
        "Exit status: 0 all done, 1 some inputs failed, 2 wrong usage (also a missing or wrong token), "
        "3 stopped by budget or credits, 130 after Ctrl-C."
    ),
    epilog=(
        "[dim]Examples[/dim]\n\n"
        "[cyan]tokfluence post 7234567890123456789 --sandbox[/cyan]\n\n"
        "[cyan]tokfluence comments https://www.tiktok.com/@wwe/video/7234567890123456789 | jq .text[/cyan]\n\n"
        "[cyan]tokfluence crawl urls.txt -o out --comments --max-credits 5000[/cyan]"
    ),
)

_COMMON = "Options of every command"

SandboxFlag = Annotated[
    bool,
    typer.Option(
        "--sandbox", help="Use an embedded stand-in: no token, no network.", rich_help_panel=_COMMON
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        help="Where the service is. Default: TOKFLUENCE_BASE_URL, else the real one.",
        rich_help_panel=_COMMON,
    ),
]
MaxCredits = Annotated[
    int | None,
    typer.Option(
        "--max-credits",
        metavar="N",
        min=0,
        help="Spend N credits at most; then exit status 3.",
        rich_help_panel=_COMMON,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Errors only: no progress, no summary.", rich_help_panel=_COMMON
    ),
]
JsonLogs = Annotated[
    bool,
    typer.Option(
        "--json-logs",
        help="Messages and progress as JSON lines on standard error.",
        rich_help_panel=_COMMON,
    ),
]
FormatOption = Annotated[
    Format,
    typer.Option(
        "--format", help="csv is safe to open in a spreadsheet; parquet needs the extra \\[frames]."
    ),
]
TableOption = Annotated[
    Format,
    typer.Option(
        "--format",
        help="csv, parquet: also a table of the documented fields (posts.csv, comments.csv) beside the .jsonl, which stay the record. "
        "csv is safe to open in a spreadsheet; parquet needs the extra \\[frames].",
    ),
]
FileArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE|-",
        help="A URL or id per line, or - for standard input. Blank lines and # comments are skipped.",
    ),
]


def _common(
    sandbox: bool, base_url: str | None, max_credits: int | None, quiet: bool, json_logs: bool
) -> Common:
    if sandbox and base_url is not None:
        raise typer.BadParameter("--sandbox and --base-url exclude each other")
    return Common(
        sandbox=sandbox,
        base_url=base_url,
        max_credits=max_credits,
        quiet=quiet,
        json_logs=json_logs,
    )


# The file is one. Others are let through and refused by `_one_file`, which knows what to say.
_OTHERS = {"allow_extra_args": True}


def _one_file(context: typer.Context) -> None:
    if context.args:
        are = "argument" if len(context.args) == 1 else "arguments"
        context.fail(
            f"Got unexpected extra {are} ({' '.join(context.args)}). {WANTED[0].upper()}{WANTED[1:]}."
        )


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tokfluence_async {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


async def _write_outcomes(
    session: Session, outcomes: AsyncIterator[Outcome[T]], output: Output, one: str, many: str
) -> int:
    """Values to standard output as they come, errors to standard error."""
    written = 0
    async for outcome in outcomes:
        if outcome.error is not None:
            session.failures.add(outcome.input, outcome.error)
        else:
            await output.write([outcome.unwrap()])  # type: ignore[list-item]  # a Struct, whatever T is
            written += 1
    await output.close()
    return _finish(session, written, one, many)


def _finish(session: Session, written: int, one: str, many: str) -> int:
    failures = session.failures
    snapshot = session.snapshot()
    lines = [f"{plural(written, one, many)} in {session.elapsed:.1f} s.", session.bill()]
    if failures.count:
        lines.append(f"{failures.count:,} failed; see above.")
    if failures.first_unaffordable is not None:
        lines.append(f"{failures.unaffordable:,} not done. {failures.first_unaffordable}")
    session.screen.summary(
        lines,
        {
            "written": written,
            "failed": failures.count,
            "not_affordable": failures.unaffordable,
            "credits_spent": snapshot.credits_spent,
            "credits_remaining": snapshot.credits_remaining,
            "requests": snapshot.requests,
            "rate_limited": snapshot.rate_limited,
            "seconds": session.elapsed,
        },
    )
    return failures.status


@app.command(
    epilog=(
        "[dim]Examples[/dim]\n\n"
        "[cyan]tokfluence post 7234567890123456789[/cyan]\n\n"
        "[cyan]tokfluence post https://www.tiktok.com/@wwe/video/7234567890123456789 | jq .views[/cyan]"
    )
)
def post(
    posts: Annotated[list[str], typer.Argument(metavar="ID…", help="Video ids or URLs.")],
    form: FormatOption = Format.jsonl,
    sandbox: SandboxFlag = False,
    base_url: BaseUrl = None,
    max_credits: MaxCredits = None,
    quiet: Quiet = False,
    json_logs: JsonLogs = False,
) -> None:
    """Read posts from the index: [bold]1 credit[/bold] each, a miss included. Written as they
    arrive.

    The documented fields; [cyan]crawl[/cyan] keeps whatever the service sends.
    """
    common = _common(sandbox, base_url, max_credits, quiet, json_logs)

    async def main(session: Session) -> int:
        output = Output(form.value, Post)
        async with aclosing(
            session.client.posts.get_many(posts, on_progress=session.on_progress)
        ) as outcomes:
            return await _write_outcomes(session, outcomes, output, "post", "posts")

    raise typer.Exit(run(main, common, title="post"))


@app.command(
    epilog=(
        "[dim]Examples[/dim]\n\n"
        "[cyan]tokfluence comments 7234567890123456789 > comments.jsonl[/cyan]\n\n"
        "[cyan]tokfluence comments 7234567890123456789 --max-items 1000 --format csv > comments.csv[/cyan]"
    )
)
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
    sandbox: SandboxFlag = False,
    base_url: BaseUrl = None,
    max_credits: MaxCredits = None,
    quiet: Quiet = False,
    json_logs: JsonLogs = False,
) -> None:
    """Read a post's comments, in order: [bold]2 credits[/bold] per page of 200."""
    common = _common(sandbox, base_url, max_credits, quiet, json_logs)

    async def main(session: Session) -> int:
        pages = session.client.posts.comment_pages(
            post_id, cursor=cursor, max_items=max_items, prefetch=prefetch
        )
        output = Output(form.value, Comment)
        written, at = 0, cursor
        async with aclosing(pages):
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
        await output.close()
        return _finish(session, written, "comment", "comments")

    raise typer.Exit(run(main, common, title="comments", unit="comments"))


@app.command(
    context_settings=_OTHERS,
    epilog=(
        "[dim]Examples[/dim]\n\n"
        "[cyan]tokfluence analyze urls.txt --max-credits 500[/cyan]\n\n"
        "[cyan]tail -f new-urls.txt | tokfluence analyze - | jq -r .status[/cyan]"
    ),
)
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
    form: FormatOption = Format.jsonl,
    sandbox: SandboxFlag = False,
    base_url: BaseUrl = None,
    max_credits: MaxCredits = None,
    quiet: Quiet = False,
    json_logs: JsonLogs = False,
) -> None:
    """Have posts analyzed live: [bold]25 credits[/bold] per distinct post, fresh ones too. Written
    as batches finish."""
    _one_file(context)
    common = _common(sandbox, base_url, max_credits, quiet, json_logs)

    async def main(session: Session) -> int:
        session.inputs = inputs = open_inputs(file, "tokfluence analyze -")
        output = Output(form.value, Analysis)
        outcomes = session.client.posts.analyze_iter(
            inputs, force=force, batch_size=batch_size, on_progress=session.on_progress
        )
        async with aclosing(outcomes):
            return await _write_outcomes(
                session, outcomes, output, "post analyzed", "posts analyzed"
            )

    raise typer.Exit(run(main, common, title="analyze"))


@app.command(
    context_settings=_OTHERS,
    epilog=(
        "[dim]Examples[/dim]\n\n"
        "[cyan]tokfluence crawl urls.txt -o out --dry-run[/cyan]\n\n"
        "[cyan]tokfluence crawl urls.txt -o out --comments --max-credits 5000[/cyan]\n\n"
        "[cyan]zcat ids.gz | tokfluence crawl - -o out --format parquet[/cyan]\n\n"
        "Run the same command again to go on after any interruption: nothing is paid for twice."
    ),
)
def crawl(
    context: typer.Context,
    file: FileArgument,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            help="Folder for posts, comments, failures and the journal.",
        ),
    ],
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
    form: TableOption = Format.jsonl,
    sandbox: SandboxFlag = False,
    base_url: BaseUrl = None,
    max_credits: MaxCredits = None,
    quiet: Quiet = False,
    json_logs: JsonLogs = False,
) -> None:
    """Posts, and with [cyan]--comments[/cyan] their comments, into a folder: cached first,
    resumable.

    [bold]1 credit[/bold] for a post in the index, [bold]27[/bold] for one that must be analyzed,
    [bold]2[/bold] per page of 200 comments.
    """
    _one_file(context)
    common = _common(sandbox, base_url, max_credits, quiet, json_logs)
    job = crawling.Job(
        file=file,
        out=out,
        comments=comments,
        refresh=refresh.value,
        form=form.value,
        max_credits=max_credits,
        sandbox=sandbox,
        base_url=base_url,
    )
    if dry_run:
        raise typer.Exit(crawling.dry_run(job, common))
    raise typer.Exit(run(job.run, common, title="crawl", data_on_stdout=False))


@app.command(
    epilog=(
        "[dim]Example[/dim]\n\n"
        "[cyan]tokfluence sandbox --port 8080 --indexed 0.5[/cyan]\n\n"
        "In another terminal: [cyan]TOKFLUENCE_BASE_URL=… TOKFLUENCE_TOKEN=… tokfluence post 7234567890123456789[/cyan]"
    )
)
def sandbox(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 0,
    credits: Annotated[int, typer.Option(min=0, help="Credits in the wallet.")] = 1_000_000,
    indexed: Annotated[
        float, typer.Option(min=0, max=1, help="Fraction of posts that are in the index already.")
    ] = 0.7,
    seconds_per_url: Annotated[
        float, typer.Option(min=0, help="Seconds that analyzing a cold URL takes.")
    ] = 1.5,
    throttle: Annotated[
        str,
        typer.Option(
            help="How requests are counted: sliding_window, fixed_window, token_bucket, … or none."
        ),
    ] = "sliding_window",
    seed: Annotated[int, typer.Option(help="Another seed, other posts and comments.")] = 0,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing on standard error.")
    ] = False,
) -> None:
    """Serve a strict local stand-in of the API until Ctrl-C. Its URL and token are printed as a
    JSON line."""
    try:
        stand_in = Sandbox(
            host=host,
            port=port,
            credits=credits,
            indexed=indexed,
            seconds_per_url=seconds_per_url,
            throttle=None if throttle == "none" else throttle,
            seed=seed,
            visibility_delay=2.0,
            # Counters only: it may serve for days.
            record=False,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    raise typer.Exit(serving.serve(stand_in, quiet=quiet))
