"""One run of a command: its loop, its client or embedded sandbox, and errors turned into exit
statuses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, TextIO
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from .. import (
    APIStatusError,
    AuthenticationError,
    BudgetExceededError,
    ConfigurationError,
    InsufficientCreditsError,
    InvalidPostError,
    JournalError,
    PermissionDeniedError,
    SharedBudget,
    TokfluenceClient,
    TokfluenceError,
)
from .._http import log
from .inputs import UsageError
from .screen import Screen, open_screen
from .session import Common, Exit, Session
from .signals import stop_on_signals
from .streams import OutputFailedError, OutputGoneError

if TYPE_CHECKING:
    from .. import Sandbox

__all__ = ["run"]

Main = Callable[[Session], Awaitable[int]]


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's if it is installed (extra `fast`), else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(
    main: Main,
    common: Common,
    *,
    title: str,
    unit: str = "posts",
    data_on_stdout: bool = True,
    screen: Screen | None = None,
) -> int:
    """Run `main` with a client, and say what became of it as an exit status.

    Args:
        screen: Where messages go; None: where standard error goes.
    """
    live = not data_on_stdout or _stays_in_a_file(sys.stdout)
    if screen is None:
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


def _stays_in_a_file(stream: TextIO | None) -> bool:
    """Whether what is written there cannot come to the terminal: at the end of a pipe there may be
    `jq`, and then the terminal."""
    if stream is None:
        return True
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
            return Exit.READER_GONE
        case UsageError() | OutputFailedError() | ModuleNotFoundError(name="pyarrow"):
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
        with stop_on_signals(session, task) as heard:
            screen.start()
            watcher = asyncio.create_task(session.watch())
            try:
                status = await task
            except asyncio.CancelledError:
                if not heard:
                    raise
                status = Exit.FAILED
            except OutputFailedError as error:
                raise OutputFailedError(f"{error}. {session.bill()}") from None
            finally:
                watcher.cancel()
                screen.stop()
            return 128 + heard[0] if heard else int(status)


def _limit(common: Common) -> int | SharedBudget | None:
    """What may be spent: by this run, or by all processes that name the same budget."""
    if common.shared_budget is None:
        return common.max_credits
    if common.max_credits is None:
        raise UsageError(
            "--shared-budget needs --max-credits N: what all processes may spend together"
        )
    try:
        url = urlsplit(common.shared_budget)
    except ValueError:  # without its text, which may hold a password
        raise UsageError("--shared-budget is no URL such as redis://HOST/0?name=NAME") from None
    query = parse_qs(url.query, keep_blank_values=True)
    name = query.pop("name", [""])[-1]
    if not name:
        raise UsageError("--shared-budget needs a name, as in redis://HOST/0?name=NAME")
    address = urlunsplit(url._replace(query=urlencode(query, doseq=True)))
    return SharedBudget(address, name, common.max_credits)


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
            base_url=common.base_url, proxy=common.proxy, max_credits=_limit(common)
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
        TokfluenceClient(sandbox.token, base_url=sandbox.url, max_credits=_limit(common)) as client,
    ):
        yield client, sandbox
