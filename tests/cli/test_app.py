"""Help, version, completion, and a missing extra."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "a miss included. Written as they arrive."),
        ([], "fresh ones too. Written as batches finish."),
        ([], "into a folder: cached first, resumable."),
        ([], "Its URL and token are printed as a JSON line."),
        (["crawl"], "27 for one that must be analyzed, 2 per page of 200 comments."),
    ],
)
def test_help_breaks_lines_where_the_terminal_does(run: Run, args: list[str], says: str) -> None:
    """Not where the source does: at a width for all of it, each paragraph is one line."""
    shown = run(*args, "--help", env={"COLUMNS": "250", "TERMINAL_WIDTH": "250"}).stdout

    assert says in shown


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


@pytest.mark.real_time
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_help_can_be_written_in_any_encoding(encoding: str) -> None:
    """What an encoding lacks is drawn in ASCII, and the frames are still frames."""
    env = ENV | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "COLUMNS": "100"}
    for command in ([], ["post"], ["comments"], ["analyze"], ["crawl"], ["merge"], ["sandbox"]):
        done = subprocess.run(
            command_line(*command, "--help"), env=env, capture_output=True, check=False
        )

        shown = done.stdout.decode(encoding)
        assert (done.returncode, done.stderr) == (0, b"")
        assert f"Usage: tokfluence {''.join(command)}" in shown
        assert "\\u" not in shown
        assert "?" not in shown.replace("HOST/0?", "")


@pytest.mark.real_time
@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_a_log_that_is_no_terminal_gets_plain_lines(name: str, tmp_path: Path) -> None:
    """It was filled with cursor movements and pictures of a display, as on CI systems that set
    this."""
    (tmp_path / "ids").write_text("1\n2\nnope\n")
    env = {key: value for key, value in ENV.items() if key != "NO_COLOR"}

    done = subprocess.run(
        command_line("crawl", tmp_path / "ids", "-o", tmp_path / "out", "--sandbox"),
        env=env | {name: "1", "TERM": "xterm-256color"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    assert done.stderr.startswith("Done: 2 posts")
