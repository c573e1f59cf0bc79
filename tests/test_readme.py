"""The README is executed: what it shows is what happens."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tokfluence_async import Sandbox, TokfluenceClient

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
STANDALONE = [block for block in BLOCKS if "asyncio.run(" in block]


def _line_of(block: str) -> int:
    return README[: README.index(block)].count("\n") + 1


@pytest.mark.real_time
@pytest.mark.parametrize("block", STANDALONE, ids=lambda block: f"line {_line_of(block)}")
def test_whole_programs_run(block: str, tmp_path: Path) -> None:
    """As somebody pastes them into a file."""
    path = tmp_path / "program.py"
    path.write_text(block, "utf-8")

    subprocess.run([sys.executable, "-W", "error", str(path)], check=True, cwd=tmp_path, timeout=60)


async def test_the_blocks_run_one_after_another(
    sandbox: Sandbox, client: TokfluenceClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As somebody pastes them into the cells of a notebook, with `client` and `sandbox` made."""
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {
        "sandbox": sandbox,
        "client": client,
        "TokfluenceClient": TokfluenceClient,
        "Sandbox": Sandbox,
    }
    clients = [client]

    for block in BLOCKS:
        if block in STANDALONE:
            continue
        # Padded, so that a traceback names the README's own line.
        code = compile(
            "\n" * (_line_of(block) - 1) + block,
            str(ROOT / "README.md"),
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        )
        running = eval(code, scope)
        if inspect.isawaitable(running):
            await running
        made = scope["client"]
        assert isinstance(made, TokfluenceClient)
        clients.append(made)

    for made in clients:
        await made.aclose()
    assert len(BLOCKS) > len(STANDALONE) > 0
