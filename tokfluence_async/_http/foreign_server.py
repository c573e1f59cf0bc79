"""Who answers: the API, or a web server that a wrong `base_url` leads to. Values in, values out.

One such answer says nothing, as a proxy in front of the API may give it. But where none has ever
been the API's, a million inputs would be asked about one after the other, ten a second, each answer
taken for a failure of its own. And a firewall may begin to refuse a client in the middle of a job.
"""

from __future__ import annotations

from .._errors import (
    APIError,
    APIResponseValidationError,
    APIStatusError,
    AuthenticationError,
    InsufficientCreditsError,
    PermissionDeniedError,
)
from .._wire.statuses import meaning_of

__all__ = ["ForeignServer"]

# Answers in a row that were not the API's: any, before the API has ever answered; then refusals.
_ENOUGH = 10
_REFUSALS = (AuthenticationError, InsufficientCreditsError, PermissionDeniedError)


class ForeignServer:
    """Listens to the answers of a client.

    Attributes:
        error: What the rest of a job ends in: the last of those answers, with what to do about it.
            None as long as it may well be the API that answers, and again once it does.
    """

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._count = 0
        self._known = False
        self.error: APIError | None = None

    def spoke(self, error: APIError | None) -> None:
        """An answer came: `error` is what was made of it, None if it was what was asked for."""
        if error is None or (isinstance(error, APIStatusError) and error.code is not None):
            self._known, self._count, self.error = True, 0, None
        elif self.error is None and self._counts(error):
            self._count += 1
            if self._count >= _ENOUGH:
                self.error = self._made_of(error)

    def _counts(self, error: APIError) -> bool:
        # Behind a proxy that knows the API's address, only a refusal may be meant for this client.
        return isinstance(error, _REFUSALS) if self._known else _is_strange(error)

    def _made_of(self, error: APIError) -> APIError:
        if self._known:
            advice = (
                f"The last {self._count} refusals came from something between this client and the "
                "Tokfluence API, such as a firewall. Nothing more is sent."
            )
        else:
            advice = (
                f"None of the {self._count} answers so far came from the Tokfluence API: check the "
                f"address {self._base_url} (base_url, or TOKFLUENCE_BASE_URL). Nothing more is "
                "sent."
            )
        if isinstance(error, APIStatusError):
            # Without the page, which each of those before has told.
            told = type(error)(error.status)
            told.advice = advice
            return told
        return APIResponseValidationError(f"{error} {advice}", malformed=True)


def _is_strange(error: APIError) -> bool:
    if isinstance(error, APIStatusError):
        return not meaning_of(error.status, error.code).passes  # what a busy proxy says, passes
    return isinstance(error, APIResponseValidationError) and error.malformed
