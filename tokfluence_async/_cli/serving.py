"""`tokfluence sandbox`: the stand-in, served until a signal."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Annotated

import typer

from .. import Sandbox
from .._platform import STOP_SIGNALS, hear_signals
from .._text import plural
from . import streams
from .runtime import new_loop
from .screen import open_screen
from .session import Exit

__all__ = ["sandbox"]


def _serve(sandbox: Sandbox, *, quiet: bool) -> int:
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
            if sys.stdout is not None:
                where = json.dumps({"url": sandbox.url, "token": sandbox.token})
                streams.write(f"{where}\n".encode())
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
            f"{plural(sandbox.requests_received, 'request')}, "
            f"{plural(sandbox.credits_spent, 'credit')} charged."
        )
        return Exit.DONE

    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(main())
    except streams.OutputGoneError:
        return Exit.READER_GONE
    except streams.OutputFailedError as error:
        screen.say(str(error), "error")
        return Exit.USAGE


def sandbox(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 0,
    credits: Annotated[int, typer.Option(min=0, help="Credits in the wallet.")] = 1_000_000,
    indexed: Annotated[
        float, typer.Option(min=0, max=1, help="Fraction of posts that are in the index already.")
    ] = 0.7,
    seconds_per_url: Annotated[
        float, typer.Option(min=0, help="Seconds that analyzing a cold URL takes.")
    ] = 1.5,
    throttle: Annotated[
        str,
        typer.Option(
            help="How requests are counted: sliding_window, fixed_window, token_bucket, … or none."
        ),
    ] = "sliding_window",
    seed: Annotated[int, typer.Option(help="Another seed, other posts and comments.")] = 0,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing on standard error.")
    ] = False,
) -> None:
    """Serve a strict local stand-in of the API until Ctrl-C. Its URL and token are printed as a
    JSON line."""
    try:
        stand_in = Sandbox(
            host=host,
            port=port,
            credits=credits,
            indexed=indexed,
            seconds_per_url=seconds_per_url,
            throttle=None if throttle == "none" else throttle,
            seed=seed,
            visibility_delay=2.0,
            # Counters only: it may serve for days.
            record=False,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    raise typer.Exit(_serve(stand_in, quiet=quiet))
