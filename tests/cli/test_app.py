"""Help, version, completion, and a missing extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tokfluence_async
from tokfluence_async.__main__ import main

from .support import (
    ENV,
    Run,
    command_line,
)


def test_a_command_line_without_its_extra_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From an index, and from a checkout, which is what there is as long as it is on none."""
    for module in [name for name in sys.modules if name.startswith("tokfluence_async._cli")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr(tokfluence_async, "_cli")
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.setattr(sys, "argv", ["tokfluence", "post", "1"])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "The command line needs typer, which is not installed: pip install 'tokfluence_async[cli]' "
        "(or from a checkout: pip install '.[cli]')\n"
    )


def test_help_and_version(run: Run) -> None:
    """Help teaches by example, for every command."""
    assert tokfluence_async.__version__ in run("--version").stdout
    for command in ("post", "comments", "analyze", "crawl", "sandbox"):
        shown = run(command, "--help")
        assert shown.exit_code == 0
        assert f"tokfluence {command}" in shown.stdout
        assert "Example" in shown.stdout


@pytest.mark.real_time
def test_importing_the_package_loads_nothing_of_this() -> None:
    """An application pays for what it uses."""
    program = (
        "import sys, tokfluence_async; tokfluence_async.TokfluenceClient('x'); "
        "print({'typer', 'rich', 'pyarrow', 'pandas', 'IPython', 'aiohttp.web', "
        "'tokfluence_async._http.log'} & set(sys.modules))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], env=ENV, capture_output=True, text=True, check=True
    )

    assert done.stdout == "set()\n"


@pytest.mark.real_time
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(shell: str) -> None:
    """`tokfluence --install-completion` puts this where the shell reads it."""
    env = ENV | {"_TOKFLUENCE_COMPLETE": f"source_{shell}"}

    done = subprocess.run(command_line(), env=env, capture_output=True, text=True, check=False)

    assert "tokfluence" in done.stdout
    assert "_TOKFLUENCE_COMPLETE" in done.stdout
