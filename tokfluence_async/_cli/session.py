"""What a command works with while it runs: options, client, counts, failures, and its exit
status."""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import TYPE_CHECKING

from msgspec import Struct

from .. import (
    AuthenticationError,
    BudgetExceededError,
    InsufficientCreditsError,
    InvalidPostError,
    PermissionDeniedError,
    Progress,
    TokfluenceClient,
    TokfluenceError,
)
from .._text import plural
from .inputs import FileLines, Inputs
from .screen import Screen
from .snapshot import Meter, Snapshot

if TYPE_CHECKING:
    from .. import Sandbox

__all__ = ["GRACE", "Common", "Exit", "Failures", "Session"]

# Seconds that what is under way gets to end after the first Ctrl-C or SIGTERM. Orchestrators kill
# after thirty by default (Kubernetes), or ten (Docker); a second signal does not wait.
GRACE = 25.0
_REFRESH = 0.25


class Exit(IntEnum):
    """Exit statuses. Beside these: 128 + n after signal n."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    STOPPED = 3
    READER_GONE = 141  # 128 + SIGPIPE, a signal that not every system knows


class Common(Struct, frozen=True, kw_only=True):
    """The options every command but `sandbox` takes."""

    sandbox: bool = False
    base_url: str | None = None
    proxy: str | None = None
    max_credits: int | None = None
    shared_budget: str | None = None
    quiet: bool = False
    json_logs: bool = False


class Failures:
    """Inputs that failed: each is told at once, and counted for the exit status.

    Raises:
        TokfluenceError: From `add`, if the token is refused: all others would fail the same way.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.count = 0
        self.unaffordable = 0
        self.first_unaffordable: TokfluenceError | None = None

    def add(self, given: object, error: TokfluenceError) -> None:
        # By the API, and not by something in between.
        if isinstance(error, (AuthenticationError, PermissionDeniedError)) and error.code:
            raise error
        if isinstance(error, (BudgetExceededError, InsufficientCreditsError)):
            # They are all alike, so they get one line at the end.
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
        self._has_shared = False
        self.progress: Progress | None = None

    @property
    def elapsed(self) -> float:
        return self._loop.time() - self._began

    @property
    def total(self) -> int | None:
        """How many there are to do, at most; None if that is not known.

        After a signal the library takes what it has read so far for the whole input. The next run
        will read the rest too, so the lines of the file count.
        """
        inputs = self.inputs
        if self._total is None and self.stopping.is_set() and isinstance(inputs, FileLines):
            return len(inputs) if inputs.shard is None else None
        return self._total

    def on_progress(self, progress: Progress) -> None:
        if not self.stopping.is_set():
            self._total = progress.total
        self.progress = progress

    def count(self, done: int, total: int | None) -> None:
        """Progress of a command that counts by itself."""
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
        throttle = self.client.throttle.statistics()
        # Before the first slot nothing is shared yet, which is no reason for an alarm.
        self._has_shared = self._has_shared or throttle.shared
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
            processes=throttle.processes if self._has_shared else None,
            sharing=throttle.shared,
            no_connection_for=usage.no_connection_for,
        )

    def bill(self) -> str:
        """What it cost, as a sentence."""
        usage = self.client.usage
        left = self.client.credits_remaining
        remaining = "" if left is None else f", {left:,} left"
        return (
            f"{plural(usage.credits_spent, 'credit')} spent{remaining}. "
            f"{plural(usage.requests, 'request')}, {usage.rate_limited:,} refused by the throttle "
            "(429)."
        )

    async def watch(self) -> None:
        while True:
            self.screen.update(self.snapshot())
            await asyncio.sleep(_REFRESH)
