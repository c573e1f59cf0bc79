"""Whether a job goes on. One object for everybody who works for it, so that they cannot disagree.

A job ends early in two steps. *Begin nothing*: inputs that were not sent get the error, and what is
under way goes on. *Send nothing*: requests that wait in line for a slot end with it as well.
"""

from __future__ import annotations

import logging

from .._errors import TokfluenceError

__all__ = ["Halt"]

logger = logging.getLogger("tokfluence_async")


class Halt:
    """Why a job begins nothing more, if it does not.

    Attributes:
        error: What every input gets that was not begun; None while the job goes on.
        sends: Whether what was begun may still be sent.
    """

    def __init__(self) -> None:
        self.error: TokfluenceError | None = None
        self.sends = True

    def begin_nothing(self, error: TokfluenceError) -> None:
        """Whatever was not begun gets `error`; the first one stays."""
        if self.error is None:
            logger.warning("nothing more is sent: %s", error)
            self.error = error

    def send_nothing(self, error: TokfluenceError) -> None:
        """As `begin_nothing`; and what was begun is not sent any more either."""
        self.begin_nothing(error)
        self.sends = False

    def check(self) -> None:
        """Raise the error if nothing may be sent any more."""
        if not self.sends and self.error is not None:
            raise self.error.with_traceback(None)
