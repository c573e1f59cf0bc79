"""The error tree: every class pickles, says what happened, and holds the numbers a caller acts
on."""

from __future__ import annotations

import copy
import inspect
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest

import tokfluence_async
from tokfluence_async import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BudgetExceededError,
    ConfigurationError,
    DuplicateRequestError,
    InsufficientCreditsError,
    InternalServerError,
    InvalidPostError,
    JournalError,
    NotFoundError,
    PermissionDeniedError,
    PostNotReadyError,
    RateLimitError,
    TokfluenceError,
    UnprocessableEntityError,
    UpstreamError,
)
from tokfluence_async._errors import status_error

TREE: dict[type[TokfluenceError], type[Exception]] = {
    ConfigurationError: TokfluenceError,
    JournalError: ConfigurationError,
    InvalidPostError: TokfluenceError,
    BudgetExceededError: TokfluenceError,
    PostNotReadyError: TokfluenceError,
    APIError: TokfluenceError,
    APIConnectionError: APIError,
    APITimeoutError: APIConnectionError,
    APIResponseValidationError: APIError,
    APIStatusError: APIError,
    AuthenticationError: APIStatusError,
    InsufficientCreditsError: APIStatusError,
    PermissionDeniedError: APIStatusError,
    NotFoundError: APIStatusError,
    DuplicateRequestError: APIStatusError,
    UnprocessableEntityError: APIStatusError,
    RateLimitError: APIStatusError,
    UpstreamError: APIStatusError,
    InternalServerError: APIStatusError,
}

STATUSES = {
    401: AuthenticationError,
    402: InsufficientCreditsError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: DuplicateRequestError,
    422: UnprocessableEntityError,
    429: RateLimitError,
    500: InternalServerError,
    502: UpstreamError,
    503: InternalServerError,
    599: InternalServerError,
    400: APIStatusError,
    418: APIStatusError,
    302: APIStatusError,
}


def every_error() -> list[TokfluenceError]:
    errors: list[TokfluenceError] = [
        TokfluenceError("something"),
        ConfigurationError("no token"),
        JournalError("held by another process"),
        InvalidPostError("https://example.org/\ud800", "the host is example.org"),
        InvalidPostError(10**5000, "an id is a positive 64-bit number"),
        InvalidPostError(object(), "it is of type object"),
        BudgetExceededError(25, 10, 100),
        PostNotReadyError("7234567890123456789", 60.0, 5),
        APIError("odd", request_id="r", credits_remaining=5),
        APIConnectionError("lost", sent=False, request_id="r"),
        APITimeoutError("late", sent=True),
        APIResponseValidationError(
            "bad", status=200, body="<html>", malformed=True, request_id="r"
        ),
    ]
    errors += [
        status_error(status)(
            status, "a_code", "a sentence", request_id="r", credits_remaining=7, retry_after=1.5
        )
        for status in STATUSES
    ]
    for n, error in enumerate(errors):
        if isinstance(error, APIError):
            error.attempts = n + 1
    return errors


def test_the_tree_is_the_documented_one() -> None:
    """What users write `except` clauses against (`docs/look-up/errors.md`); and no class is missing
    here."""
    public = {
        value
        for name in tokfluence_async.__all__
        if inspect.isclass(value := getattr(tokfluence_async, name))
        and issubclass(value, TokfluenceError)
    }

    assert public == {*TREE, TokfluenceError}
    for cls, base in TREE.items():
        assert cls.__bases__[0] is base
    assert issubclass(InvalidPostError, ValueError)
    assert {type(error) for error in every_error()} == public


@pytest.mark.parametrize(("status", "cls"), STATUSES.items())
def test_every_documented_status_has_its_class(status: int, cls: type[APIStatusError]) -> None:
    """[public]; other 5xx are InternalServerError, what is not known the base."""
    assert status_error(status) is cls


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_pickles_with_all_it_holds(protocol: int) -> None:
    """An error that does not unpickle kills the multiprocessing worker's parent (trap 24)."""
    for error in every_error():
        for again in (
            pickle.loads(pickle.dumps(error, protocol)),
            copy.copy(error),
            copy.deepcopy(error),
        ):
            assert type(again) is type(error)
            assert str(again) == str(error)
            assert repr(again) == repr(error)
            assert again.args == error.args
            assert vars(again) == vars(error)


def test_notes_and_groups_pickle_too() -> None:
    """`raise_for_errors` in a worker: an ExceptionGroup of ours."""
    errors = every_error()
    errors[0].add_note("while testing")

    group = pickle.loads(pickle.dumps(ExceptionGroup("all", errors)))

    assert [str(error) for error in group.exceptions] == [str(error) for error in errors]
    assert group.exceptions[0].__notes__ == ["while testing"]


class OwnError(NotFoundError):
    def __init__(self, *, extra: int) -> None:
        super().__init__(404, "post_not_found", "no")
        self.extra = extra


def test_a_users_subclass_pickles_whatever_arguments_it_takes() -> None:
    """It is rebuilt without calling any constructor."""
    again = pickle.loads(pickle.dumps(OwnError(extra=5)))

    assert (type(again), again.extra, again.status) == (OwnError, 5, 404)


def fail() -> None:
    raise status_error(429)(
        429, "rate_limited", "slow down", request_id="r", credits_remaining=3, retry_after=2.0
    )


@pytest.mark.real_time
def test_an_error_crosses_processes() -> None:
    """The real thing once: out of a spawned worker, with its fields."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        future = pool.submit(fail)
        with pytest.raises(RateLimitError, match="429 rate_limited: slow down") as caught:
            future.result()

    assert (caught.value.retry_after, caught.value.credits_remaining, caught.value.request_id) == (
        2.0,
        3,
        "r",
    )


def test_a_message_says_what_happened_and_what_to_do() -> None:
    """Status, code, the service's sentence, our advice, and what support asks for."""
    error = InsufficientCreditsError(
        402, "insufficient_credits", "Out of API credits.", request_id="r-1", credits_remaining=4
    )
    error.attempts = 3

    assert str(error) == (
        "402 insufficient_credits: Out of API credits. Nothing was charged for this "
        "call. (request r-1, 4 credits left, after 3 attempts)"
    )
    assert str(APIStatusError(418)) == "418 (not the API's error body)"
    assert error.message == "Out of API credits."


def test_errors_of_money_say_the_numbers() -> None:
    """A program acts on the fields, a person on the sentence; both say the same."""
    budget, ready = BudgetExceededError(50, 10, 100), PostNotReadyError("1", 60.4, 6)

    assert (budget.needed, budget.available, budget.limit) == (50, 10, 100)
    assert all(number in str(budget) for number in ("50 credits", "10 of", "100"))
    assert (ready.post_id, ready.waited, ready.polls) == ("1", 60.4, 6)
    assert "6 reads" in str(ready)
    assert "do not analyze it again" in str(ready)


def test_one_of_a_thing_is_no_plural() -> None:
    """And large numbers are parted as everywhere."""
    one = APIStatusError(404, "post_not_found", credits_remaining=1)

    assert "1 credit left" in str(one)
    assert "1 read." in str(PostNotReadyError("1", 60.0, 1))
    assert str(BudgetExceededError(1, 0, 1)).startswith(
        "Not sent: it may cost 1 credit and 0 of the budget's 1 are left."
    )
    assert "1 of the budget's 1,000 is left" in str(BudgetExceededError(2, 1, 1000))
    assert "if 1 is to stay" in str(BudgetExceededError(2, 1, 1, floor=True))


def test_defaults_of_fields_that_an_answer_did_not_give() -> None:
    """Attributes are there in any case: handlers need no `getattr`."""
    error = APIConnectionError("lost")

    assert (error.request_id, error.credits_remaining, error.attempts, error.sent) == (
        None,
        None,
        1,
        True,
    )
    assert RateLimitError(429).retry_after is None
    assert (APIResponseValidationError("x").status, APIResponseValidationError("x").malformed) == (
        None,
        False,
    )
