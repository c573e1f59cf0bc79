"""Who answers: the API, or a web server that a wrong `base_url` leads to. Values in, values out.

One such answer says nothing, as a proxy in front of the API may give it. But where none has ever
been the API's, a million inputs would be asked about one after the other, ten a second, each answer
taken for a failure of its own.
"""

from __future__ import annotations

from .._errors import APIError, APIResponseValidationError, APIStatusError
from .._wire.statuses import meaning_of

__all__ = ["ForeignServer"]

# Answers in a row, from the first, that were not the API's.
_ENOUGH = 10


class ForeignServer:
    """Listens to all answers of a client until one is the API's.

    Attributes:
        known: One of the answers was the API's: there is nothing more to find out.
        error: What the rest of a job ends in: the last of those answers, with what to do about it.
            None as long as it may well be the API that answers.
    """

    __slots__ = ("_base_url", "_count", "error", "known")

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._count = 0
        self.known = False
        self.error: APIError | None = None

    def spoke(self, error: APIError | None) -> None:
        """An answer came: `error` is what was made of it, None if it was what was asked for."""
        if self.known or self.error is not None:
            return
        if error is None or (isinstance(error, APIStatusError) and error.code is not None):
            self.known = True
        elif _is_strange(error):
            self._count += 1
            if self._count >= _ENOUGH:
                self.error = self._made_of(error)

    def _made_of(self, error: APIError) -> APIError:
        advice = (
            f"None of the {self._count} answers so far came from the Tokfluence API: check the "
            f"address {self._base_url} (base_url, or "
            "TOKFLUENCE_BASE_URL). Nothing more is sent."
        )
        if isinstance(error, APIStatusError):
            told = type(error)(
                error.status
            )  # without the page, which each of those before has told
            told.advice = advice
            return told
        return APIResponseValidationError(f"{error} {advice}", malformed=True)


def _is_strange(error: APIError) -> bool:
    if isinstance(error, APIStatusError):
        return not meaning_of(error.status, error.code).passes  # what a busy proxy says, passes
    return isinstance(error, APIResponseValidationError) and error.malformed
