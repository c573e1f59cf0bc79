"""Draw what `tokfluence crawl` shows, from a real run against the sandbox: docs/crawl.svg.

    python docs/_tools/picture.py

Needs the extra `[cli]`; takes half a minute. The picture is rich's own export of a terminal: the
command line, the display when half of the posts are done, and the summary.
"""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tokfluence_async._cli.crawl_job import Job
from tokfluence_async._cli.display import TerminalScreen
from tokfluence_async._cli.runtime import run
from tokfluence_async._cli.session import Common
from tokfluence_async._cli.snapshot import Snapshot

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "crawl.svg"
COMMAND = "tokfluence crawl examples/urls.txt --comments --sandbox -o out"
WIDTH = 92


class PicturedScreen(TerminalScreen):
    """A terminal that keeps one moment of the display, which a real one would redraw."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, live=False)
        self._drawn = False

    def update(self, snapshot: Snapshot) -> None:
        super().update(snapshot)
        if not self._drawn and snapshot.total and 2 * snapshot.done >= snapshot.total:
            self._drawn = True
            self._console.print(self.display)
            self._console.print()


def draw(path: Path) -> int:
    """Run the command, write the picture, and return the command's exit status."""
    console = Console(
        record=True, file=io.StringIO(), force_terminal=True, width=WIDTH, markup=False,
        color_system="truecolor", highlight=False, legacy_windows=False,
    )  # fmt: skip
    console.print(Text.assemble(("$ ", "bold green"), COMMAND))
    path = path.absolute()
    # In a folder of its own, where the paths that are printed are those of the command line.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("examples").symlink_to(ROOT / "examples")
        job = Job(
            file="examples/urls.txt", out=Path("out"), comments=True, refresh="missing",
            form="jsonl", common=Common(sandbox=True),
        )  # fmt: skip
        status = run(job.run, job.common, title="crawl", screen=PicturedScreen(console))
        picture = console.export_svg(title="tokfluence", unique_id="tokfluence")
    # The reader's own fonts: a picture in a README must not ask other hosts for any.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    path.write_text(picture, "utf-8", newline="\n")
    return status


if __name__ == "__main__":
    print(f"{PICTURE.relative_to(ROOT)}: the command ended with status {draw(PICTURE)}")
