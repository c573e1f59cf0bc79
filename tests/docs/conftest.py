"""What a reader has: an empty folder, the command, and a service that answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

# `pip install` is not run: what it would install is there already. Its extras are looked up.
_PIP = f"""#!{sys.executable}
import re, sys, tomllib
project = tomllib.load(open({str(ROOT / "pyproject.toml")!r}, "rb"))["project"]
known = set(project["optional-dependencies"])
for asked in sys.argv[1:]:
    for names in re.findall(r"(?:tokfluence_async|\\.)\\[(.*?)\\]", asked):
        if missing := set(names.split(",")) - known:
            sys.exit(f"no such extras: {{missing}}")
"""
_PYTHON = f"""#!/bin/sh
# A new virtual environment is one with the commands of this folder.
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3" && ln -s "$(dirname "$0")" "$3/bin"
elif [ "$1 $2" = "-m pip" ]; then shift 2; exec pip "$@"
else exec {sys.executable} "$@"; fi
"""


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the commands that a page may call, for the front of the path."""
    folder = tmp_path_factory.mktemp("bin")
    for name, text in {
        "tokfluence": f'#!/bin/sh\nexec {sys.executable} -m tokfluence_async "$@"\n',
        "pip": _PIP,
        "python3": _PYTHON,
        "python": _PYTHON,
        "activate": "",
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def service() -> Iterator[dict[str, str]]:
    """A sandbox in a process of its own, as environment variables for the processes of a page."""
    with subprocess.Popen(
        [sys.executable, "-m", "tokfluence_async", "sandbox", "--quiet"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield {"TOKFLUENCE_TOKEN": told["token"], "TOKFLUENCE_BASE_URL": told["url"]}
        process.terminate()


@pytest.fixture
def environment(commands: Path, service: dict[str, str]) -> dict[str, str]:
    """Of a page's processes: the commands, the service, and no terminal."""
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**service, "PATH": path, "COLUMNS": "100", "MPLBACKEND": "Agg"}
