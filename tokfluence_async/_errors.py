"""The error tree. Every error says what happened, what it cost where that is known, and what to do.

The fields say again, for programs, what the message says for people. No error holds a live
response, a request or a token. So all of them pickle (a multiprocessing worker can raise them), and
none can leak a secret into a log.

Source: the Tokfluence API page, *Errors*.
"""

from __future__ import annotations

from typing import Any

from ._text import plural

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "BudgetExceededError",
    "ConfigurationError",
    "DuplicateRequestError",
    "InsufficientCreditsError",
    "InternalServerError",
    "InvalidPostError",
    "JournalError",
    "NotFoundError",
    "PermissionDeniedError",
    "PostNotReadyError",
    "RateLimitError",
    "TokfluenceError",
    "UnprocessableEntityError",
    "UpstreamError",
    "show_input",
    "status_error",
]


class ClosedError(RuntimeError):
    """The client was closed, before a call or while it ran. This is a mistake of the program and no
    answer of the service. So it is no `TokfluenceError`, and ends a bulk call instead of becoming
    an outcome."""

    def __init__(
        self, message: str = "This client is closed; make a new one, or close it later."
    ) -> None:
        super().__init__(message)


class TokfluenceError(Exception):
    """The base of every error this package raises on purpose, but for `ClosedError` and the
    `ValueError` of a wrong argument.

    `str(error)` is a sentence; the attributes listed by each class carry the same facts.
    """

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.__dict__.update(fields)

    def __reduce__(self) -> tuple[Any, ...]:
        # Rebuilt without calling any constructor, so that a subclass may take what arguments it
        # likes.
        return _bare, (type(self), self.args), self.__dict__.copy()


def _bare(cls: type[TokfluenceError], args: tuple[Any, ...]) -> TokfluenceError:
    return cls.__new__(cls, *args)


class ConfigurationError(TokfluenceError):
    """The client cannot be used as it was set up: a token or base URL is missing or malformed.
    Nothing was sent."""


class WrongTypeError(ConfigurationError, ValueError):
    """An argument of another type than it has. A `ValueError` as well, which is what these were
    before."""


class JournalError(ConfigurationError):
    """A journal, or an output file beside it, cannot be used: it is held by another process,
    damaged, of a newer version, or its disk is full. What was recorded before stands, and a run
    that goes on with the same journal pays nothing twice."""


class InvalidPostError(TokfluenceError, ValueError):
    """What was given names no TikTok post. Nothing was sent and nothing was charged.

    Attributes:
        input: What was given: a text (cut after 200 characters) or a number as it is, of anything
            else its `repr`.
        reason: Why it was refused.
    """

    input: object
    reason: str

    def __init__(self, input: object, reason: str) -> None:
        shown = show_input(input)
        super().__init__(
            f"{shown!r} is not a TikTok post: {reason}. Accepted are a video id of 1 to 20 digits, "
            "and URLs such as https://www.tiktok.com/@user/video/7234567890123456789.",
            input=shown,
            reason=reason,
        )


def show_input(value: object, longest: int = 200) -> int | str:
    """An input as an error holds it: small, picklable and printable, whatever it was."""
    # Python refuses to print an int of thousands of digits.
    if isinstance(value, int):
        return value if value.bit_length() <= 128 else f"an integer of {value.bit_length()} bits"
    try:
        text = value if isinstance(value, str) else repr(value)
        return text if len(text) <= longest else text[:longest] + "…"
    except Exception:  # a `repr` that fails must not end a job of a million other inputs
        return f"<{type(value).__name__}>"


def check_count(name: str, value: int, low: int = 1) -> int:
    """The argument `name`, if it is an integer of `low` or more.

    Raises:
        WrongTypeError, ValueError: It is none, or a smaller one.
    """
    what = f"{name} must be an integer of {low} or more, not {value!r}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise WrongTypeError(f"{what}.")
    if value < low:
        raise ValueError(what)
    return value


class BudgetExceededError(TokfluenceError):
    """Sending this could have spent more than `max_credits` allows, so it was not sent. Nothing was
    charged for it.

    Attributes:
        needed: Credits this would have reserved.
        available: Credits that were left in the budget.
        limit: The budget's `max_credits`; with `floor`, its `keep_credits`.
        floor: Whether it was the wallet's floor that had to be kept.
        why: What kept a shared budget from being asked, or None.
    """

    needed: int
    available: int
    limit: int
    floor: bool
    why: str | None

    def __init__(
        self,
        needed: int,
        available: int,
        limit: int,
        *,
        floor: bool = False,
        why: str | None = None,
    ) -> None:
        left = max(available, 0)
        if why is not None:
            message = f"the shared budget cannot be asked, so nothing new is spent ({why})."
        elif floor:
            to_stay = f"{limit:,} {'is' if limit == 1 else 'are'} to stay in the wallet"
            message = (
                f"it may cost {plural(needed, 'credit')} and {left:,} may be spent if {to_stay}. "
                "Lower keep_credits to go on."
            )
        else:
            message = (
                f"it may cost {plural(needed, 'credit')} and {left:,} of the budget's {limit:,} "
                f"{'is' if left == 1 else 'are'} left. Raise max_credits to go on."
            )
        super().__init__(
            f"Not sent: {message}",
            needed=needed,
            available=available,
            limit=limit,
            floor=floor,
            why=why,
        )


class PostNotReadyError(TokfluenceError):
    """The post was analyzed and paid for, but could not be read within the time given. Read it
    later for 1 credit.

    Attributes:
        post_id: The post.
        waited: Seconds since its analysis was answered.
        polls: Reads that came back 404; each was charged 1 credit.
    """

    post_id: str
    waited: float
    polls: int

    def __init__(self, post_id: str, waited: float, polls: int) -> None:
        super().__init__(
            f"Post {post_id} was analyzed but is not readable after {waited:.0f} s and "
            f"{plural(polls, 'read')}. It is paid for: read it later with posts.get (1 credit), do "
            "not analyze it again.",
            post_id=post_id,
            waited=waited,
            polls=polls,
        )


class APIError(TokfluenceError):
    """Something went wrong between this client and the service.

    Attributes:
        request_id: The `X-Request-Id` of the last attempt, or None if nothing was sent.
        credits_remaining: What the service said was left in the wallet with this answer, or None.
        attempts: HTTP exchanges made for the call, this one included.
    """

    request_id: str | None = None
    credits_remaining: int | None = None
    attempts: int = 1


class APIConnectionError(APIError):
    """No complete answer arrived: connecting failed, or the connection broke.

    Attributes:
        sent: Whether the request may have reached the service (and so may have been charged). A
            read is repeated under a new request id; a batch under its own, so that it is never done
            twice.
    """

    sent: bool = True


class APITimeoutError(APIConnectionError):
    """No complete answer arrived in time. What takes longer needs a higher `timeout=` of the
    client; see `Timeout` for the limits, and `APIConnectionError.sent`."""


class APIResponseValidationError(APIError):
    """A body that is not what the API promises: not JSON, cut short, too large, nested too deeply,
    or of another shape.

    Attributes:
        status: The HTTP status it came with, or None where no single answer is to blame (a page
            cursor that does not advance, for instance).
        body: The first 200 characters of the body, for a human eye.
        malformed: True if the body was not even JSON, which a proxy's page or a cut answer is;
            False if it was JSON of another shape, which repeating does not cure.
    """

    status: int | None = None
    body: str = ""
    malformed: bool = False


class APIStatusError(APIError):
    """The service (or a proxy in front of it) answered with an error status.

    Attributes:
        status: The HTTP status.
        code: The service's stable word for it (`post_not_found`, ...); None if the body was not the
            service's, as with a proxy's HTML page.
        message: The service's sentence, for people; it may change.
        request_id: The request's `X-Request-Id`.
        credits_remaining: `X-Credits-Remaining` of this answer, or None.
    """

    status: int
    code: str | None

    advice = ""

    def __init__(
        self,
        status: int,
        code: str | None = None,
        message: str = "",
        *,
        request_id: str | None = None,
        credits_remaining: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(
            message,
            status=status,
            code=code,
            request_id=request_id,
            credits_remaining=credits_remaining,
            retry_after=retry_after,
        )

    def __str__(self) -> str:
        facts = [f"request {self.request_id}"] if self.request_id else []
        # With a token it does not know, the service says 0 credits, which is nobody's balance.
        if self.credits_remaining is not None and self.status != 401:
            facts.append(f"{plural(self.credits_remaining, 'credit')} left")
        if self.attempts > 1:
            facts.append(f"after {self.attempts} attempts")
        head = (
            f"{self.status} {self.code}"
            if self.code
            else f"{self.status} (not the API's error body)"
        )
        text = f"{head}: {self.message}" if self.message else head
        if self.advice:
            text = f"{text.rstrip('. ')}. {self.advice}"
        return f"{text} ({', '.join(facts)})" if facts else text


class AuthenticationError(APIStatusError):
    """401: the token is missing, malformed or revoked. A revoked key fails on the very next
    request."""

    advice = "Check the token (TOKFLUENCE_TOKEN)."


class InsufficientCreditsError(APIStatusError):
    """402: the wallet holds too few credits. The work was not started and nothing was charged."""

    advice = "Nothing was charged for this call."


class PermissionDeniedError(APIStatusError):
    """403: `plan_required`, `account_banned` or `forbidden`."""


class NotFoundError(APIStatusError):
    """404: `post_not_found` and its like. The look-up is charged and not refunded."""

    @property
    def is_the_services(self) -> bool:
        """Whether the service itself says so. Somebody else's 404 (a proxy's, or a wrong
        `base_url`'s) has no `code`, and says nothing of what is in the index."""
        return self.code is not None


class DuplicateRequestError(APIStatusError):
    """409: this request id was already processed. It was not done or charged again, and its answer
    is not replayed."""


class UnprocessableEntityError(APIStatusError):
    """422: a parameter is missing or invalid. Not refunded."""


class RateLimitError(APIStatusError):
    """429: throttled, and retries or patience ran out. Not charged.

    Attributes:
        retry_after: Seconds the service asked to wait, or None if it did not say.
    """

    retry_after: float | None = None

    advice = "Another program may share this IP or key; the client slows down by itself."


class UpstreamError(APIStatusError):
    """502. With `code="upstream_error"` the TikTok pipeline is unreachable and the charge is
    refunded; without a code a proxy answered, and whether the work was done is not known."""


class InternalServerError(APIStatusError):
    """Any other 5xx. For the service's own 500, whether it was charged is not documented."""


_BY_STATUS: dict[int, type[APIStatusError]] = {
    401: AuthenticationError,
    402: InsufficientCreditsError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: DuplicateRequestError,
    422: UnprocessableEntityError,
    429: RateLimitError,
    502: UpstreamError,
}


def status_error(status: int) -> type[APIStatusError]:
    """The class for an HTTP status: the documented ones have their own, other 5xx are
    `InternalServerError`."""
    return _BY_STATUS.get(status, InternalServerError if status >= 500 else APIStatusError)
