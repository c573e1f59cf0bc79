"""The options that commands share, and what their values are checked for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, get_type_hints

import typer

from .inputs import WANTED
from .session import Common

__all__ = [
    "BaseUrl",
    "ByteOrderMark",
    "FileArgument",
    "Format",
    "FormatOption",
    "JournalOption",
    "JsonLogs",
    "MaxCredits",
    "Quiet",
    "Refresh",
    "SandboxFlag",
    "ShardOption",
    "SharedBudgetUrl",
    "TableOption",
    "examples",
    "one_file",
    "with_common_options",
]


class Format(StrEnum):
    """How rows are written."""

    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"


class Refresh(StrEnum):
    """What a crawl has analyzed."""

    missing = "missing"
    always = "always"


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
SharedBudgetUrl = Annotated[
    str | None,
    typer.Option(
        "--shared-budget",
        metavar="URL",
        envvar="TOKFLUENCE_SHARED_BUDGET",
        help="Let --max-credits be one limit of all processes that give the same "
        "redis://HOST/0?name=NAME (extra \\[redis]).",
        rich_help_panel=_COMMON,
    ),
]
Proxy = Annotated[
    str | None,
    typer.Option(
        "--proxy",
        metavar="URL",
        envvar="TOKFLUENCE_PROXY",
        help="Connect by an HTTP proxy, http://HOST:PORT. HTTPS_PROXY and its like are not read.",
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
_CSV = "csv: no cell is a formula; for Excel add --bom, and import ids as text, as it rounds them."
FormatOption = Annotated[
    Format, typer.Option("--format", help=f"{_CSV} parquet: needs the extra \\[frames].")
]
ByteOrderMark = Annotated[
    bool,
    typer.Option(
        "--bom", help="Begin CSV with a byte order mark: Excel takes it for another encoding else."
    ),
]
TableOption = Annotated[
    Format,
    typer.Option(
        "--format",
        help="csv, parquet: also a table of the documented fields (posts.csv, comments.csv) beside "
        f"the .jsonl, which stay the record. {_CSV} parquet: needs the extra \\[frames].",
    ),
]
JournalOption = Annotated[
    str | None,
    typer.Option(
        "--journal",
        metavar="FILE",
        help="Record of what was sent and paid for: the same command again bills nothing twice. "
        "A file, or redis://HOST/0?job=NAME for several processes (extra \\[redis]).",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="[I/N]",
        help="Work only shard I of N (0/4 to 3/4), one of several processes; each with a folder of "
        "its own, merge puts them together. Alone it reads JOB_COMPLETION_INDEX and "
        "TOKFLUENCE_SHARDS.",
    ),
]
FileArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE|-",
        help="A URL or id per line, or - for standard input. Blank lines and # comments are "
        "skipped.",
    ),
]


_COMMON_OPTIONS: dict[str, tuple[Any, Any]] = {
    "sandbox": (SandboxFlag, False),
    "base_url": (BaseUrl, None),
    "proxy": (Proxy, None),
    "max_credits": (MaxCredits, None),
    "shared_budget": (SharedBudgetUrl, None),
    "quiet": (Quiet, False),
    "json_logs": (JsonLogs, False),
}


def with_common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every command to `command`, which gets them as its argument `common`.

    typer reads options from a function's signature, so the signature is what is changed.
    """

    @functools.wraps(command)
    def with_common(**given: Any) -> None:
        common = Common(**{name: given.pop(name) for name in _COMMON_OPTIONS})
        if common.sandbox and common.base_url is not None:
            raise typer.BadParameter("--sandbox and --base-url exclude each other")
        command(common=common, **given)

    hints = get_type_hints(command, include_extras=True)
    signature = inspect.signature(command)
    own = [
        each.replace(annotation=hints[name])
        for name, each in signature.parameters.items()
        if name != "common"
    ]
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )
        for name, (annotation, default) in _COMMON_OPTIONS.items()
    ]
    with_common.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    with_common.__annotations__ = {each.name: each.annotation for each in [*own, *added]}
    return with_common


def one_file(context: typer.Context) -> None:
    """Refuse what follows FILE, and say what is wanted. The command lets it through to here by
    `allow_extra_args`: click would only count it."""
    if context.args:
        are = "argument" if len(context.args) == 1 else "arguments"
        context.fail(
            f"Got unexpected extra {are} ({' '.join(context.args)}). "
            f"{WANTED[0].upper()}{WANTED[1:]}."
        )


def examples(*lines: str, title: str = "Examples") -> str:
    """The end of a command's help: command lines that can be copied."""
    return "\n\n".join([f"[dim]{title}[/dim]", *(f"[cyan]{line}[/cyan]" for line in lines)])
