"""Whatever comes back becomes a value or one of our errors, and shows no token."""

from __future__ import annotations

import json
import pickle
import traceback
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfluence_async import (
    APIResponseValidationError,
    APIStatusError,
    Comment,
    InternalServerError,
    NotFoundError,
    RateLimitError,
    UpstreamError,
)
from tokfluence_async._errors import status_error
from tokfluence_async._wire.answers import Answer, charge_of, parse_answer, parse_error
from tokfluence_async._wire.bodies import PostBody
from tokfluence_async._wire.calls import build_analyze, build_get_post, build_request
from tokfluence_async._wire.secret import Secret
from tokfluence_async._wire.shapes import Shape

TOKEN = Secret("tkf_live_abcdEFGHijklMNOPqrstUVWXyz012345")
POST: Shape[PostBody] = Shape(PostBody)


def answer(body: bytes | str | dict[str, Any], status: int = 200, **fields: Any) -> Answer:
    raw = (
        body
        if isinstance(body, bytes)
        else (body if isinstance(body, str) else json.dumps(body)).encode()
    )
    return Answer(status, raw, "req-1", 77, **fields)


BROKEN: Mapping[str, tuple[bytes, bool]] = {
    "empty": (b"", True),
    "html": (b"<html><body>Bad Gateway</body></html>", True),
    "cut": (b'{"data": {"post_id": "723456', True),
    "cut after a comma": (b'{"data": {"post_id": "1"},', True),
    "not utf-8": (b'{"data": {"post_id": "\xff\xfe"}}', True),
    "two documents": (b'{"data": {"post_id": "1"}}{}', True),
    "null": (b"null", False),
    "a list": (b"[]", False),
    "no data": (b'{"post": {}}', False),
    "no id": (b'{"data": {"url": "x"}}', False),
    "id of another type": (b'{"data": {"post_id": 5}}', False),
    "id of another type beside a field of another type": (
        b'{"data": {"post_id": 5, "views": "12"}}',
        False,
    ),
    "a field of another type and not utf-8": (
        b'{"data": {"post_id": "1", "views": "12", "url": "\xff"}}',
        True,
    ),
    "an error's body": (b'{"error": {"code": "x", "message": "y"}}', False),
    "nested deeply": (b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", False),
    "nested and cut": (b'{"data": ' + b'{"a":' * 100_000, False),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_body_that_is_not_what_was_promised_is_our_error(name: str) -> None:
    """msgspec leaves by four doors (trap 27), and a user catches one class; the facts of the answer
    come with it."""
    body, malformed = BROKEN[name]

    with pytest.raises(APIResponseValidationError) as caught:
        parse_answer(answer(body), POST)

    error = caught.value
    assert (error.status, error.request_id, error.credits_remaining) == (200, "req-1", 77)
    assert len(error.body) <= 200
    assert "It was probably charged" in str(error)
    if name != "nested and cut":
        assert error.malformed is malformed


@given(st.binary(max_size=60), st.sampled_from([200, 201, 299, 302, 404, 500, 502]))
def test_no_bytes_escape_the_error_tree(body: bytes, status: int) -> None:
    """Whatever a proxy sends, the error is one of ours."""
    try:
        parse_answer(answer(body, status), POST)
    except (APIResponseValidationError, APIStatusError) as error:
        assert error.request_id == "req-1"  # noqa: PT017 - either outcome is fine, another exception is not


def test_answers_without_content_are_null() -> None:
    """A DELETE may well answer 204; taken for a lost answer it would be sent again, for a 409."""
    empty = Answer(204, b"", "req-1")

    assert parse_answer(empty, Shape[Any](Any)) is None
    assert parse_answer(empty, Shape[msgspec.Raw](msgspec.Raw)) == msgspec.Raw(b"null")
    with pytest.raises(APIResponseValidationError) as caught:
        parse_answer(empty, POST)
    assert not caught.value.malformed


def test_a_response_type_gets_the_whole_body(documented: Mapping[str, Any]) -> None:
    """`meta` is of interest in endpoints whose schemas are not known: nothing is unwrapped."""
    body = json.dumps(documented["comments"]).encode()

    class Page(msgspec.Struct):
        data: list[Comment]
        meta: dict[str, int | None]

    assert parse_answer(answer(body), Shape[dict[str, Any]](dict)) == documented["comments"]
    assert bytes(parse_answer(answer(body), Shape[msgspec.Raw](msgspec.Raw))) == body
    assert parse_answer(answer(body), Shape[Any](Any)) == documented["comments"]
    assert parse_answer(answer(body), Shape[Page](Page)).meta == {"total": 1900, "next_cursor": 20}


# --- errors ---------------------------------------------------------------------------------------


def test_the_documented_error_body_is_read(documented: Mapping[str, Any]) -> None:
    """`code` is stable and for programs, `message` for people."""
    error = parse_error(answer(documented["error"], 402))

    assert (error.status, error.code) == (402, "insufficient_credits")
    assert error.message == documented["error"]["error"]["message"]
    assert (error.request_id, error.credits_remaining) == ("req-1", 77)
    assert "402 insufficient_credits: Out of API credits" in str(error)
    assert "request req-1" in str(error)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            b"<html>502 Bad Gateway</html>",
            "answered by something in between: '<html>502 Bad Gateway</html>'",
        ),
        (b"", "an empty body"),
        (b'{"error": "no"}', "answered by something in between"),
        (b'{"error": {"code": "upst', "answered by something in between"),
        (b"[" * 100_000, "answered by something in between"),
        (b"\xff\xfe", "answered by something in between"),
        (b"\x1b[31mred", r"'\x1b[31mred'"),
    ],
)
def test_a_proxys_error_has_no_code(body: bytes, told: str) -> None:
    """An error that is not the service's must not be taken for its word: `code` is None, and the
    text says so."""
    error = parse_error(answer(body, 502))

    assert isinstance(error, UpstreamError)
    assert error.code is None
    assert told in str(error)
    assert "not the API's error body" in str(error)


@pytest.mark.parametrize(
    "body", ['{"error": {}}', '{"error": {"code": null, "message": null}}', '{"error": {"new": 1}}']
)
def test_an_error_body_may_lack_everything(body: str) -> None:
    """Leniency: the status is what counts."""
    error = parse_error(answer(body, 404))

    assert isinstance(error, NotFoundError)
    assert (error.code, error.message) == (None, "")


def test_a_redirect_is_an_error_that_says_so() -> None:
    """Following it could take the token to another host (trap 8)."""
    error = parse_error(answer("", 302))

    assert type(error) is APIStatusError
    assert "a redirect, which is never followed" in str(error)


@pytest.mark.parametrize("code", range(400, 600))
def test_every_status_has_a_class(code: int) -> None:
    """The documented ones their own, other 5xx InternalServerError, the rest the base."""
    cls = status_error(code)

    assert issubclass(cls, APIStatusError)
    assert (cls is InternalServerError) is (code >= 500 and code != 502)
    assert isinstance(parse_error(answer("", code)), cls)


def test_retry_after_is_on_the_error() -> None:
    """The number the caller acts on."""
    error = parse_error(answer("", 429, retry_after=7.5))

    assert isinstance(error, RateLimitError)
    assert error.retry_after == 7.5


# --- the token ------------------------------------------------------------------------------------


def echo(position: int, form: str) -> bytes:
    return form.format("x" * position, TOKEN.reveal()).encode()


FORMS = (
    "<pre>{}Authorization: Bearer {}</pre>",
    '{{"error": {{"code": "{}", "message": "you sent {}"}}}}',
    '{{"error": {{"code": "you{}sent {}", "message": "x"}}}}',
    '{{"data": "{}", "seen": "{}"}}',
    "{}{} \xff",
    " " * 600 + "{}" + " " * 150 + "{}",
)


@pytest.mark.parametrize("status", [200, 302, 401, 500, 502])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("position", [0, 120, 140, 150, 160, 170, 180, 190, 199, 300, 770, 790])
def test_a_token_that_is_echoed_is_shown_nowhere(status: int, form: str, position: int) -> None:
    """Proxies print what they were sent. Not in the message, the fields, a pickle, or a traceback
    with locals; nor the better part of it, where an excerpt was cut in its middle."""
    got = answer(echo(position, form), status)

    with pytest.raises((APIResponseValidationError, APIStatusError)) as caught:
        parse_answer(got, POST, secret=TOKEN)

    shown = "\n".join(
        [
            str(caught.value),
            repr(caught.value),
            repr(vars(caught.value)),
            pickle.dumps(caught.value).decode("latin-1"),
            "".join(
                traceback.TracebackException.from_exception(
                    caught.value, capture_locals=True
                ).format()
            ),
            repr(got),
        ]
    )
    # The first 13 characters are the key's display prefix, the only part that may ever be shown
    # [public].
    assert TOKEN.reveal()[:14] not in shown
    assert TOKEN.reveal()[13:20] not in shown


# --- what it cost ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "charge"),
    [
        ('{"data": [], "meta": {"submitted": 2, "cost": 50}}', 50),
        ('{"data": [], "meta": {"submitted": 2, "cost": 0}}', 0),
        ('{"data": [], "meta": {"submitted": 2}}', 75),
        ('{"data": [], "meta": {"cost": null}}', 75),
        ('{"data": [], "meta": {"cost": 75}}', 75),
        ('{"data": [], "meta": {"cost": 76}}', 75),
        ('{"data": [], "meta": {"cost": "50"}}', 50),
        ('{"data": [], "meta": {"cost": 50.0}}', 50),
        ('{"data": [], "meta": {"cost": 1000000000}}', 75),
        ('{"data": [], "meta": {"cost": ' + "9" * 4000 + "}}", 75),
        ('{"data": [], "meta": {"cost": -5}}', 75),
        ('{"data": [], "meta": {"cost": "free"}}', 75),
        ('{"data": [], "meta": null}', 75),
        ('{"data": []}', 75),
        ("<html>", 75),
    ],
)
def test_a_write_costs_what_the_service_says_else_its_price(body: str, charge: int) -> None:
    """`meta.cost` is the service's own figure, but more than a call can cost is none: believed, it
    would end the budget."""
    call = build_analyze(["a", "b", "c"], False)

    assert charge_of(answer(body), call) == charge
    assert charge_of(answer(body), build_get_post("1")) == 1


@pytest.mark.parametrize(
    ("cost", "charge"), [(0, 0), (1, 1), (1250, 1250), (10_000, 10_000), (10_001, 0), (10**9, 0)]
)
def test_where_no_price_is_known_the_services_figure_is_believed_within_reason(
    cost: int, charge: int
) -> None:
    """Endpoints come that the page does not know; the dearest documented call costs 1,251."""
    call = build_request("POST", "/v1/not_known", None, {})

    assert charge_of(answer({"meta": {"cost": cost}}), call) == charge


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"error": {"code": "rate_limited", "message": "m"}}, 429, "rate_limited"),
        ("<html>busy</html>", 503, None),
        ("", 503, None),
    ],
)
def test_only_the_services_own_refusal_has_a_code(
    body: str | dict[str, Any], status: int, code: str | None
) -> None:
    """A row of the statuses with a code is the service's word; a proxy's page has none."""
    assert parse_error(answer(body, status)).code == code
