"""The sdist and wheel in `dist/`, as somebody gets them. Run by `nox -s release`."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DIST = ROOT / "dist"

pytestmark = [pytest.mark.release, pytest.mark.real_time, pytest.mark.timeout(600)]


def run(*command: str | Path, cwd: Path) -> str:
    """In an environment without this checkout."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel() -> Path:
    (found,) = DIST.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def sdist() -> Path:
    (found,) = DIST.glob("*.tar.gz")
    return found


def contents(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as opened:
        return {name: hashlib.sha256(opened.read(name)).hexdigest() for name in opened.namelist()}


def test_the_wheel_is_for_every_system(wheel: Path) -> None:
    """Pure Python: no compiled file, no tag of a platform."""
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in contents(wheel) if name.endswith((".so", ".pyd", ".c"))]


def test_the_wheel_holds_the_package_and_its_licence(wheel: Path) -> None:
    """Type marker and licence text are in; tests, documentation and tools are not."""
    names = contents(wheel).keys()

    assert "tokfluence_async/py.typed" in names
    assert any(re.fullmatch(r"tokfluence_async-.*\.dist-info/licenses/LICENSE", n) for n in names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tokfluence_async"}


def test_the_sdist_holds_what_it_takes_to_work_on_it(sdist: Path) -> None:
    """Tests, documentation, benchmarks, changelog; nothing that was built or left over."""
    with tarfile.open(sdist) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}

    for wanted in ("LICENSE", "CHANGELOG.md", "noxfile.py", "mkdocs.yml", "tests/conftest.py",
                   "docs/index.md", "docs/_tools/hooks.py", "benchmarks/run.py"):  # fmt: skip
        assert wanted in names
    assert not [n for n in names if re.search(r"__pycache__|\.pyc$|^(site|out|dist|\.nox)/", n)]


def test_a_build_from_the_sdist_gives_the_same_wheel(
    sdist: Path, wheel: Path, tmp_path: Path
) -> None:
    """File by file; what is in the sdist is enough."""
    with tarfile.open(sdist) as opened:
        opened.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()

    run(sys.executable, "-m", "build", "--wheel", "-o", tmp_path / "again", source, cwd=tmp_path)

    (again,) = (tmp_path / "again").glob("*.whl")
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)


def test_the_readmes_program_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """The wheel and its four dependencies, and nothing else."""
    run(sys.executable, "-m", "venv", "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", wheel, cwd=tmp_path)
    readme = (ROOT / "README.md").read_text("utf-8")
    found = re.search(r"^```python\n(import asyncio\n.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    shown = re.search(r"<!-- prints -->\n```text\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert found is not None
    assert shown is not None

    printed = run(python, "-W", "error", "-c", found[1], cwd=tmp_path)

    assert printed == shown[1]
    told = run(python, "-m", "tokfluence_async", "--help", cwd=tmp_path)
    assert "tokfluence_async[cli]" in told


def test_the_readmes_first_command_runs(tmp_path: Path, sdist: Path) -> None:
    """Word for word, in a new checkout: virtual environment, installation and crawl."""
    with tarfile.open(sdist) as opened:
        opened.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    readme = (ROOT / "README.md").read_text("utf-8")
    found = re.search(
        r"<!-- command: crawl -->.*?```sh\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL
    )
    assert found is not None

    # Two lines of the list are malformed: the exit status is 1.
    run("bash", "-c", f"{found[1].strip()} || [ $? = 1 ]", cwd=source)

    assert (source / "out" / "posts.jsonl").read_text("utf-8").count("\n") == 59
    assert (source / "out" / "comments.jsonl").read_text("utf-8").count("\n") == 15_093
