"""The code blocks of a Markdown page, run as a reader would run them.

A page is one session in one empty folder. Its Python blocks share their names, as the cells of a
notebook do, and may `await`; a block that runs a loop of its own (`asyncio.run`) is a program.
`sh` blocks are shell commands. HTML comments right before a block say more:

    <!-- prints -->           a text block: what the block before it prints. `…` stands for anything
    <!-- file: NAME -->       the block is written to that file
    <!-- exits: N -->         a shell block that ends with this status
    <!-- not run: REASON -->  only where running is impossible, and why

Commands for maintainers (`nox`, `python -m benchmarks`, `python -m pytest`) take minutes and need
the checkout. They are not run; what they name has to exist.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Block", "PageRun", "blocks_of", "check_printed"]

SHELL = ("sh", "console")
RUN = ("python", *SHELL)
_FENCE = re.compile(
    r"^(?P<notes>(?:<!--[^\n]*-->\n)*)```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_MAINTAIN = re.compile(
    r"(?:\.venv/bin/)?(?:nox\b|python -m benchmarks|(?:python -m )?pytest .*tests/)|#"
)
# How far a job is, told every few seconds where there is no terminal: a matter of the machine.
_PROGRESS = re.compile(r"^\d[\d,]* of .* gone\n", re.MULTILINE)
_NOTE = re.compile(r"<!-- (?P<name>[\w ]+?)(?:: (?P<value>.*?))? -->")


@dataclass
class Block:
    """One fenced block of a page."""

    kind: str
    text: str
    line: int
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def is_program(self) -> bool:
        return self.kind == "python" and bool(re.search(r"asyncio\.(run|Runner)\(", self.text))

    @property
    def is_for_maintainers(self) -> bool:
        lines = [line for line in self.text.splitlines() if line.strip()]
        return self.kind in SHELL and all(_MAINTAIN.match(line) for line in lines)

    @property
    def is_run(self) -> bool:
        if self.is_for_maintainers or {"not run", "file"} & self.notes.keys():
            return False
        return self.kind in RUN


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block that begins at the margin, in order."""
    text = page.read_text("utf-8")
    return [
        Block(
            kind=found["kind"],
            text=found["text"],
            line=text.count("\n", 0, found.start("text")) + 1,
            notes={n["name"]: n["value"] or "" for n in _NOTE.finditer(found["notes"])},
        )
        for found in _FENCE.finditer(text)
    ]


def check_printed(printed: str, shown: str, where: str) -> None:
    """Whether what was printed is what the page shows.

    `…` within a line stands for any text, on a line of its own for any lines.
    """
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "…" else re.escape(line).replace("…", ".*?") + r"\n"
        for line in shown.rstrip().split("\n")
    )
    seen = "".join(f"{line.rstrip()}\n" for line in printed.rstrip().split("\n"))
    assert re.fullmatch(pattern, seen), f"{where} shows\n{shown}\nbut this is printed:\n{seen}"


class PageRun:
    """A page being run: its folder, the names its Python blocks have made, what was printed."""

    def __init__(self, page: Path, folder: Path, environment: dict[str, str]) -> None:
        self.page = page
        self.folder = folder
        self.environment = environment
        self.names: dict[str, object] = {"__name__": "__main__"}
        self.printed = ""

    def where(self, block: Block) -> str:
        return f"{self.page.name}:{block.line}"

    async def run(self) -> None:
        """All blocks, one after another."""
        for block in blocks_of(self.page):
            if (name := block.notes.get("file")) is not None:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_text(block.text, "utf-8")
            if "prints" in block.notes:
                check_printed(self.printed, block.text, self.where(block))
            if not block.is_run:
                continue
            if block.kind in SHELL:
                self._shell(block)
            elif block.is_program:
                self._program(block)
            else:
                await self._cell(block)

    def _shell(self, block: Block) -> None:
        command = ["bash", "-euo", "pipefail", "-c", block.text]
        self._process(block, command, int(block.notes.get("exits", 0)))

    def _program(self, block: Block) -> None:
        path = self.folder / f"program_{block.line}.py"
        path.write_text(block.text, "utf-8")
        self._process(block, [sys.executable, "-W", "error", str(path)], 0)

    def _process(self, block: Block, command: list[str], status: int) -> None:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
            check=False,
        )
        self.printed = _PROGRESS.sub("", done.stdout)
        assert done.returncode == status, f"{self.where(block)}:\n{done.stdout}"

    async def _cell(self, block: Block) -> None:
        # Padded, so that a traceback names the page's own line.
        code = compile(
            "\n" * (block.line - 1) + block.text,
            str(self.page),
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        )
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            running = eval(code, self.names)
            if inspect.isawaitable(running):
                await running
        self.printed = printed.getvalue()
