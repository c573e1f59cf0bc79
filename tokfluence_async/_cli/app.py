"""The `tokfluence` command: its help, and in which room each of its commands is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from .._version import __version__
from . import analyzing, crawling, merging, reading, serving
from .options import (
    examples,
)
from .sharding import ShardedCommand

__all__ = ["app"]

_ID = "7234567890123456789"

# Tracebacks are plain: typer's own would print local variables, and so the token.
app = typer.Typer(
    name="tokfluence",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "TikTok posts, their comments, and live analysis, from the [bold]Tokfluence[/bold] API.\n\n"
        "The token is read from [cyan]TOKFLUENCE_TOKEN[/cyan]. To try anything without a token "
        "and without a network, "
        "add [cyan]--sandbox[/cyan].\n\n"
        "Data goes to standard output (or a folder), everything for people to standard error. "
        "Exit status: 0 all done, 1 some inputs failed, 2 wrong usage (also a missing or wrong "
        "token), "
        "3 stopped by budget or credits, 128 + n after signal n (129 SIGHUP, 130 Ctrl-C, "
        "143 SIGTERM)."
    ),
    epilog=examples(
        f"tokfluence post {_ID} --sandbox",
        f"tokfluence comments https://www.tiktok.com/@wwe/video/{_ID} | jq .text",
        "tokfluence crawl urls.txt -o out --comments --max-credits 5000",
    ),
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


# The file is one. Others are let through and refused by `one_file`, which knows what to say.
_OTHERS = {"allow_extra_args": True}


def _add(command: Callable[..., None], **options: Any) -> None:
    """Add a command. Its docstring is its help, with the lines of a paragraph joined: typer would
    break them where the source does."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    app.command(help=text, **options)(command)


_add(
    reading.post,
    epilog=examples(
        f"tokfluence post {_ID}",
        f"tokfluence post https://www.tiktok.com/@wwe/video/{_ID} | jq .views",
    ),
)
_add(
    reading.comments,
    epilog=examples(
        f"tokfluence comments {_ID} > comments.jsonl",
        f"tokfluence comments {_ID} --max-items 1000 --format csv > comments.csv",
    ),
)
_add(
    analyzing.analyze,
    context_settings=_OTHERS,
    epilog=examples(
        "tokfluence analyze urls.txt --max-credits 500",
        "tail -f new-urls.txt | tokfluence analyze - | jq -r .status",
    ),
)
_add(
    crawling.crawl,
    cls=ShardedCommand,
    context_settings=_OTHERS,
    epilog=examples(
        "tokfluence crawl urls.txt -o out --dry-run",
        "tokfluence crawl urls.txt -o out --comments --max-credits 5000",
        "zcat ids.gz | tokfluence crawl - -o out --format parquet",
        "seq 0 3 | xargs -P 4 -I@ tokfluence crawl urls.txt -o out/@-of-4 --shard @/4",
    )
    + "\n\nRun the same command again to go on after any interruption: nothing is paid for twice.",
)
_add(
    merging.merge,
    epilog=examples("tokfluence merge out/*-of-4 -o merged", title="Example"),
)
_add(
    serving.sandbox,
    epilog=examples("tokfluence sandbox --port 8080 --indexed 0.5", title="Example")
    + "\n\nIn another terminal: "
    f"[cyan]TOKFLUENCE_BASE_URL=… TOKFLUENCE_TOKEN=… tokfluence post {_ID}[/cyan]",
)
