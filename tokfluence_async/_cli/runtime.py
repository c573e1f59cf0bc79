"""One run of a command: its loop, its client or embedded sandbox, signals, and errors turned into
exit statuses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import stat
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TextIO

from msgspec import Struct

from .. import (
    APIStatusError,
    AuthenticationError,
    BudgetExceededError,
    ConfigurationError,
    InsufficientCreditsError,
    InvalidPostError,
    JournalError,
    PermissionDeniedError,
    Progress,
    TokfluenceClient,
    TokfluenceError,
)
from .._http import log
from .._platform import STOP_SIGNALS, hear_signals
from .._text import plural
from .inputs import FileLines, Inputs, UsageError
from .output import OutputGoneError
from .screen import Meter, Screen, Snapshot, open_screen

if TYPE_CHECKING:
    from .. import Sandbox

__all__ = ["GRACE", "Common", "Exit", "Failures", "Session", "run"]

# Seconds that what is under way gets to end after the first Ctrl-C or SIGTERM. Orchestrators kill
# after thirty by default (Kubernetes), or ten (Docker); a second signal does not wait.
GRACE = 25.0
_REFRESH = 0.25


class Exit(IntEnum):
    """Exit statuses. Beside these: 128 + n after signal n, and 141 when the reader of standard
    output went away."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    STOPPED = 3


class Common(Struct, frozen=True, kw_only=True):
    """The options every command but `sandbox` takes."""

    sandbox: bool = False
    base_url: str | None = None
    max_credits: int | None = None
    quiet: bool = False
    json_logs: bool = False


class Failures:
    """What went wrong with single inputs: told as it happens, counted for the exit status.

    Raises:
        TokfluenceError: From `add`, where going on is of no use: the token is refused.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.count = 0
        self.unaffordable = 0
        self.first_unaffordable: TokfluenceError | None = None

    def add(self, given: object, error: TokfluenceError) -> None:
        if isinstance(error, (AuthenticationError, PermissionDeniedError)):
            raise error
        if isinstance(error, (BudgetExceededError, InsufficientCreditsError)):
            # One line for all of them, at the end: they differ in nothing.
            self.unaffordable += 1
            self.first_unaffordable = self.first_unaffordable or error
            return
        self.count += 1
        reason = error.reason if isinstance(error, InvalidPostError) else str(error)
        self._screen.say(
            f"failed: {given}: {reason}", "warning", input=str(given), error=type(error).__name__
        )

    @property
    def status(self) -> Exit:
        return Exit.STOPPED if self.unaffordable else Exit.FAILED if self.count else Exit.DONE


class Session:
    """What a command works with.

    Attributes:
        client: Points at the service, or at the embedded sandbox.
        sandbox: The embedded one, if there is one.
        screen: Where messages go.
        stopping: Set by the first Ctrl-C or SIGTERM.
        inputs: What the command reads from, to be ended by the first Ctrl-C or SIGTERM.
        progress: How far it is, as last told.
    """

    def __init__(
        self,
        client: TokfluenceClient,
        sandbox: Sandbox | None,
        screen: Screen,
        title: str,
        unit: str,
    ) -> None:
        self.client = client
        self.sandbox = sandbox
        self.screen = screen
        self.failures = Failures(screen)
        self.stopping = asyncio.Event()
        self.inputs: Inputs | None = None
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._meter = Meter()
        self._title = title
        self._unit = unit
        self._total: int | None = None
        self.progress: Progress | None = None

    @property
    def elapsed(self) -> float:
        return self._loop.time() - self._began

    @property
    def total(self) -> int | None:
        """How many there are to do, at most; None where that is not known.

        A signal ends the input, and to the library what was taken of it until then is all. To
        whoever runs the command again it is not.
        """
        if self._total is None and self.stopping.is_set() and isinstance(self.inputs, FileLines):
            return len(self.inputs)
        return self._total

    def on_progress(self, progress: Progress) -> None:
        if not self.stopping.is_set():
            self._total = progress.total
        self.progress = progress

    def count(self, done: int, total: int | None) -> None:
        """As `on_progress`, where a command counts for itself."""
        self._total = total
        self.progress = Progress(
            done=done,
            failed=0,
            total=total,
            credits_spent=0,
            credits_remaining=None,
            elapsed=self.elapsed,
        )

    def snapshot(self) -> Snapshot:
        usage = self.client.usage
        progress = self.progress
        not_affordable = progress.not_affordable if progress else 0
        return Snapshot(
            title=self._title,
            unit=self._unit,
            done=progress.done - not_affordable if progress else 0,
            total=self.total,
            failed=progress.failed - not_affordable if progress else 0,
            not_affordable=not_affordable,
            comments=progress.comments if progress and self._title == "crawl" else None,
            credits_spent=usage.credits_spent,
            credits_reserved=usage.credits_reserved,
            credits_remaining=self.client.credits_remaining,
            elapsed=self.elapsed,
            requests=usage.requests,
            rate=self._meter.rate(self.elapsed, usage.requests),
            permitted=usage.pace,
            rate_limited=usage.rate_limited,
            slowed=usage.slowed,
        )

    def bill(self) -> str:
        """What it cost, as a sentence."""
        usage = self.client.usage
        left = self.client.credits_remaining
        remaining = "" if left is None else f", {left:,} left"
        return (
            f"{plural(usage.credits_spent, 'credit')} spent{remaining}. "
            f"{plural(usage.requests, 'request')}, {usage.rate_limited:,} refused by the throttle (429)."
        )

    async def watch(self) -> None:
        while True:
            self.screen.update(self.snapshot())
            await asyncio.sleep(_REFRESH)


Main = Callable[[Session], Awaitable[int]]


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's if it is installed (extra `fast`), else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(
    main: Main, common: Common, *, title: str, unit: str = "posts", data_on_stdout: bool = True
) -> int:
    """Run `main` with a client, and say what became of it as an exit status."""
    live = not data_on_stdout or _stays_in_a_file(sys.stdout)
    screen = open_screen(quiet=common.quiet, as_json=common.json_logs, live=live)
    try:
        # Without a handler of ours, logging's last resort would print warnings as they are, between
        # JSON lines too.
        wanted = os.environ.get("TOKFLUENCE_LOG")
        log.configure(wanted or "warning", as_json=common.json_logs)
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(_session(main, common, screen, title, unit))
    except BaseExceptionGroup as group:
        return _explain(group, screen)
    except Exception as error:
        return _explain(error, screen)
    finally:
        log.reset()


def _stays_in_a_file(stream: TextIO) -> bool:
    """Whether what is written there cannot come to the terminal: at the end of a pipe there may be
    `jq`, and then the terminal."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):  # no file at all
        return False
    return stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not stream.isatty())


def _explain(error: BaseException, screen: Screen) -> int:
    """Errors that end a run: one clear line each, and the exit status. What is not expected keeps
    its traceback."""
    match error:
        case BaseExceptionGroup() if len(error.exceptions) == 1:
            return _explain(error.exceptions[0], screen)
        case OutputGoneError():
            return 141  # 128 + SIGPIPE, a signal that not every system knows
        case UsageError() | ModuleNotFoundError(name="pyarrow"):
            screen.say(str(error), "error")
            return Exit.USAGE
        case (
            ConfigurationError() | JournalError() | AuthenticationError() | PermissionDeniedError()
        ):
            screen.say(str(error), "error", error=type(error).__name__)
            return Exit.USAGE
        case InvalidPostError():
            screen.say(str(error), "error", error=type(error).__name__)
            return Exit.FAILED
        case BudgetExceededError() | InsufficientCreditsError():
            screen.say(str(error), "error", error=type(error).__name__)
            return Exit.STOPPED
        case TokfluenceError():
            code = error.code if isinstance(error, APIStatusError) else None
            screen.say(str(error), "error", error=type(error).__name__, code=code)
            return Exit.FAILED
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            screen.say(f"{where}{error.strerror or error}", "error", error=type(error).__name__)
            return Exit.USAGE
        case _:
            raise error


async def _session(main: Main, common: Common, screen: Screen, title: str, unit: str) -> int:
    async with _open_client(common, indexed=1.0 if title in ("post", "comments") else 0.7) as (
        client,
        sandbox,
    ):
        session = Session(client, sandbox, screen, title, unit)
        task = asyncio.ensure_future(main(session))
        with _signals(session, task) as heard:
            screen.start()
            watcher = asyncio.create_task(session.watch())
            try:
                status = await task
            except asyncio.CancelledError:
                if not heard:
                    raise
                status = Exit.FAILED
            finally:
                watcher.cancel()
                screen.stop()
            return 128 + heard[0] if heard else int(status)


@contextlib.asynccontextmanager
async def _open_client(
    common: Common, indexed: float
) -> AsyncGenerator[tuple[TokfluenceClient, Sandbox | None]]:
    if not common.sandbox:
        if not os.environ.get("TOKFLUENCE_TOKEN", "").strip():
            raise ConfigurationError(
                "No API token: set TOKFLUENCE_TOKEN, or add --sandbox to try it without one."
            )
        async with TokfluenceClient(
            base_url=common.base_url, max_credits=common.max_credits
        ) as client:
            yield client, None
        return
    from .. import Sandbox

    # A pleasant world to try things in: what is only read is there, of what may be analyzed a part
    # is not and takes a second or two each, and the throttle is the service's. Without a record, as
    # a long crawl must not fill the memory with it.
    async with (
        Sandbox(
            indexed=indexed, seconds_per_url=1.5, visibility_delay=2.0, latency=0.05, record=False
        ) as sandbox,
        TokfluenceClient(
            sandbox.token, base_url=sandbox.url, max_credits=common.max_credits
        ) as client,
    ):
        yield client, sandbox


@contextlib.contextmanager
def _signals(session: Session, task: asyncio.Future[Any]) -> Any:
    """The first signal to stop ends the input and lets what is under way finish; the second
    cancels; the third leaves."""
    loop = asyncio.get_running_loop()
    heard: list[signal.Signals] = []
    timers: list[asyncio.TimerHandle] = []

    def hear(which: signal.Signals) -> None:
        heard.append(which)
        if not os.environ.get("TOKFLUENCE_LOG"):
            # What follows has been announced; the library's own words on it would only say it
            # again.
            logging.getLogger("tokfluence_async").setLevel(logging.CRITICAL)
        if len(heard) == 1 and session.inputs is not None:
            session.screen.say(
                f"Stopping: what is under way gets {GRACE:.0f} s to finish. Once more to stop at once.",
                "warning",
            )
            session.stopping.set()
            session.inputs.stop()
            # A little later than a crawl's own end, which puts its files in order.
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
