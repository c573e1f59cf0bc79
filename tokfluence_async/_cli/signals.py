"""What Ctrl-C, SIGTERM and SIGHUP do to a run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from typing import Any

from .._platform import STOP_SIGNALS, hear_signals
from .session import GRACE, Session

__all__ = ["stop_on_signals"]


@contextlib.contextmanager
def stop_on_signals(session: Session, task: asyncio.Future[Any]) -> Any:
    """The first signal to stop ends the input and lets what is under way finish; the second
    cancels; the third leaves."""
    loop = asyncio.get_running_loop()
    heard: list[signal.Signals] = []
    timers: list[asyncio.TimerHandle] = []

    def hear(which: signal.Signals) -> None:
        heard.append(which)
        if not os.environ.get("TOKFLUENCE_LOG"):
            # The message below announces the stop; the library's warnings would repeat it.
            logging.getLogger("tokfluence_async").setLevel(logging.CRITICAL)
        if len(heard) == 1 and session.inputs is not None:
            session.screen.say(
                f"Stopping: what is under way gets {GRACE:.0f} s to finish. Once more to stop at "
                "once.",
                "warning",
            )
            session.stopping.set()
            session.inputs.stop()
            # A crawl ends by itself after GRACE and then completes its files.
            timers.append(loop.call_later(GRACE + 3, task.cancel))
        elif len(heard) == 1:
            session.screen.say("Stopped; what was written stands.", "warning")
            task.cancel()
        elif len(heard) == 2:
            task.cancel()
        else:
            os._exit(128 + which)

    with hear_signals(STOP_SIGNALS, hear):
        try:
            yield heard
        finally:
            for timer in timers:
                timer.cancel()
