"""`tokfluence merge`: the folders of a job's shards put together in one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import TokfluenceError
from .._crawl.merge import MergeReport
from .._crawl.merge import merge as merge_folders
from .._text import plural
from .inputs import UsageError, from_home
from .options import with_common_options
from .screen import open_screen
from .session import Common, Exit

__all__ = ["merge"]


@with_common_options
def merge(
    folders: Annotated[
        list[Path], typer.Argument(metavar="OUT…", help="The folders of all shards of one job.")
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="DIR", help="Folder for the merged files."),
    ],
    *,
    common: Common,
) -> None:
    """Put the shards of a crawl together: posts, comments, failures, and the tables that are
    there. Sends nothing, so what options say of the service changes nothing.

    What is missing is told, and then the exit status is 1; what is there is merged all the same.
    """
    screen = open_screen(quiet=common.quiet, as_json=common.json_logs, live=False)
    try:
        into = from_home(out)
        report = merge_folders([from_home(folder) for folder in folders], into)
    except (UsageError, TokfluenceError, ModuleNotFoundError) as error:
        screen.say(str(error), "error", error=type(error).__name__)
        raise typer.Exit(Exit.USAGE) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        screen.say(f"{where}{error.strerror or error}", "error", error=type(error).__name__)
        raise typer.Exit(Exit.USAGE) from None
    for missing in report.missing:
        screen.say(missing, "warning", missing=missing)
    screen.summary(
        [_told(report, into)],
        {name: getattr(report, name) for name in report.__struct_fields__} | {"out": str(into)},
    )
    raise typer.Exit(Exit.FAILED if report.missing else Exit.DONE)


def _told(report: MergeReport, out: Path) -> str:
    parts = [plural(report.posts, "post"), plural(report.comments, "comment")]
    if report.failed:
        parts.append(plural(report.failed, "failure"))
    if report.tables:
        parts.append(", ".join(report.tables))
    what = f"{', '.join(parts[:-1])} and {parts[-1]}"
    lead = "Merged what is there" if report.missing else "Merged"
    return f"{lead}: {what} in {out}/"
