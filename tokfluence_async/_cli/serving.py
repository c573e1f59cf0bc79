"""`tokfluence sandbox`: the stand-in, served until a signal."""

from __future__ import annotations

import asyncio
import json

import typer

from .. import Sandbox
from .._platform import STOP_SIGNALS, hear_signals
from .._text import plural
from .runtime import Exit, new_loop
from .screen import open_screen

__all__ = ["serve"]


def serve(sandbox: Sandbox, *, quiet: bool) -> int:
    """Serve until Ctrl-C or SIGTERM. The URL and token go to standard output as a JSON line once it
    accepts connections."""
    screen = open_screen(quiet=quiet, as_json=False, live=False)

    async def main() -> int:
        stop = asyncio.Event()
        with hear_signals(STOP_SIGNALS, lambda _: stop.set()):
            return await serve_until(stop)

    async def serve_until(stop: asyncio.Event) -> int:
        try:
            await sandbox.start()
            # The documentation's own examples are there whatever fraction of the others is.
            for documented in ("7234567890123456789", "7234567890987654321"):
                sandbox.index(documented)
        except OSError as error:
            screen.say(
                f"cannot listen on {sandbox.host} port {sandbox.port}: {error.strerror or error}",
                "error",
            )
            return Exit.USAGE
        try:
            typer.echo(json.dumps({"url": sandbox.url, "token": sandbox.token}))
            screen.say(
                f"Serving a stand-in of the Tokfluence API at {sandbox.url}; Ctrl-C ends it."
            )
            screen.say("In another terminal:")
            screen.say(
                f"  export TOKFLUENCE_BASE_URL={sandbox.url} TOKFLUENCE_TOKEN={sandbox.token}"
            )
            await stop.wait()
        finally:
            await sandbox.aclose()
        screen.say(
            f"{plural(sandbox.requests_received, 'request')}, {plural(sandbox.credits_spent, 'credit')} charged."
        )
        return Exit.DONE

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())
