"""What everybody who works for one bulk call sends with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._errors import (
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    InsufficientCreditsError,
    NotFoundError,
    PermissionDeniedError,
    TokfluenceError,
)
from .._http.call import PER_URL
from .._wire.calls import build_get_post
from .._wire.shapes import Shape
from .window import Window

if TYPE_CHECKING:
    from .._http.engine import Engine, Options

__all__ = ["Requests", "is_missing"]

# A shared budget whose server refuses the password will not be asked with more success.
_FINAL = (
    AuthenticationError,
    ConfigurationError,
    InsufficientCreditsError,
    PermissionDeniedError,
)
# Seconds for an analyze attempt, beside those for each URL, where the user set no limit.
_ANALYZE_TIMEOUT = 60.0


class Requests:
    """The client's engine, the call's options and budget, and whether the call goes on.

    Attributes:
        halt: The budget's; everybody asks it before beginning anything.
        window: How far the call may run ahead of who reads its outcomes; None if they are all
            read anyway.
    """

    def __init__(self, engine: Engine, options: Options, window: Window | None = None) -> None:
        self.engine = engine
        self.options = options
        self.budget = options.budget
        self.halt = options.budget.halt
        self.window = window

    async def read(self, post_id: str, shape: Shape[Any]) -> Any:
        """The body of `GET /v1/posts/:id`, 1 credit.

        Raises:
            TokfluenceError: The read failed. If all others would fail alike, the job is halted.
        """
        try:
            return await self.engine.perform(build_get_post(post_id), shape, self.options)
        except TokfluenceError as error:
            final = self.final(error)
            if final is not None:
                # A wallet that has no credit for a read has none for anything.
                self.halt.send_nothing(final)
            raise

    def final(self, error: TokfluenceError) -> TokfluenceError | None:
        """What every further request would end in, after one has ended in `error`; None if they may
        fare better."""
        foreign = isinstance(error, APIStatusError) and error.code is None
        if isinstance(error, _FINAL) and not foreign:
            return error
        # One refusal of something in between says nothing of the account.
        return self.engine.final_error

    def analysis_failed(self, error: TokfluenceError) -> None:
        """An analysis ended in `error`: halt the job if all others would end alike."""
        final = self.final(error)
        if final is None:
            return
        if isinstance(final, InsufficientCreditsError):
            self.halt.begin_nothing(final)  # the wallet may still hold enough for reads
        else:
            self.halt.send_nothing(final)

    def analyze_timeout(self, urls: int) -> float:
        """Seconds that an analyze attempt of `urls` has at least."""
        total = self.options.timeout.total
        return (_ANALYZE_TIMEOUT if total is None else total) + PER_URL * urls


def is_missing(error: TokfluenceError) -> bool:
    """Whether the service itself says that a post is not in the index."""
    return isinstance(error, NotFoundError) and error.is_the_services
