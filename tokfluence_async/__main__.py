"""`python -m tokfluence_async`, and the `tokfluence` command."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, or say in one line how to install what it needs."""
    try:
        _run()
    except KeyboardInterrupt:  # while the rooms are imported, before anything was sent
        sys.exit(130)


def _run() -> None:
    from ._cli.streams import checked_text, prepare_streams

    prepare_streams()
    try:
        from ._cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        needs = (
            f"The command line needs {error.name}, which is not installed: "
            "pip install 'tokfluence_async[cli]' (or from a checkout: pip install '.[cli]')"
        )
        if "--help" in sys.argv:
            print(needs)
            return
        print(needs, file=sys.stderr)
        sys.exit(2)
    with checked_text():
        app(prog_name="tokfluence")


if __name__ == "__main__":
    main()
