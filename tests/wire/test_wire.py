"""Requests as values, and whatever comes back to a Struct or one of our errors."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
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
from tokfluence_async._wire import checks as _checks
from tokfluence_async._wire import shapes as _shapes
from tokfluence_async._wire.answers import Answer, charge_of, parse_answer, parse_error
from tokfluence_async._wire.bodies import AnalyzeBody, CommentsBody, PostBody, RawPostBody
from tokfluence_async._wire.calls import (
    Kind,
    build_analyze,
    build_comments,
    build_get_post,
    build_request,
)
from tokfluence_async._wire.checks import check_nesting, check_text
from tokfluence_async._wire.prices import is_charged
from tokfluence_async._wire.secret import Secret
from tokfluence_async._wire.shapes import Shape

TOKEN = Secret("tkf_live_abcdEFGHijklMNOPqrstUVWXyz012345")
POST: Shape[PostBody] = Shape(PostBody)
COMMENTS: Shape[CommentsBody] = Shape(CommentsBody)
ANALYZE: Shape[AnalyzeBody] = Shape(AnalyzeBody)


def answer(body: bytes | str | dict[str, Any], status: int = 200, **fields: Any) -> Answer:
    raw = (
        body
        if isinstance(body, bytes)
        else (body if isinstance(body, str) else json.dumps(body)).encode()
    )
    return Answer(status, raw, "req-1", 77, **fields)


# --- what is sent ---------------------------------------------------------------------------------


def test_the_three_documented_requests() -> None:
    """Spelled as on the API page; `force` only where it is meant."""
    get = build_get_post("7234567890123456789")
    page = build_comments("1", 400, 200)
    analyze = build_analyze(
        ["https://www.tiktok.com/@a/video/1", "https://www.tiktok.com/@b/video/2"], False
    )
    forced = build_analyze(["https://www.tiktok.com/@a/video/1"], True)

    assert (get.method, get.target, get.kind, get.price, get.body) == (
        "GET",
        "/v1/posts/7234567890123456789",
        Kind.READ,
        1,
        None,
    )
    assert (page.target, page.kind, page.price) == (
        "/v1/posts/1/comments?cursor=400&limit=200",
        Kind.READ,
        2,
    )
    assert (analyze.method, analyze.target, analyze.kind) == (
        "POST",
        "/v1/posts/analyze",
        Kind.WRITE,
    )
    assert (analyze.price, analyze.units) == (50, 2)
    assert json.loads(analyze.body or b"") == {
        "urls": ["https://www.tiktok.com/@a/video/1", "https://www.tiktok.com/@b/video/2"]
    }
    assert json.loads(forced.body or b"") == {
        "urls": ["https://www.tiktok.com/@a/video/1"],
        "force": True,
    }


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example/v1/posts/1",
        "//evil.example/v1/posts/1",
        "http:/v1/posts/1",
        "posts/1",
        "/posts/1",
        "v1/posts/1",
        "/v1",
        "/v10/posts",
        "",
        "/v1/../admin",
        "/v1/posts/..",
        "/v1/posts/./1",
        "/v1/posts/%2e%2e/campaigns",
        "/v1/posts/%2E%2E/campaigns",
        "/v1/posts/.%2e/campaigns",
        "/v1/posts/%2e%2e%2fcampaigns",
        "/v1/posts/%2e%2e%5ccampaigns",
        "/v1/posts/..;/campaigns",
        "/v1/posts/..;x=1/campaigns",
        "/v1/posts/%2e%2e%3b/campaigns",
        "/v1//posts/1",
        "/v1/posts//comments",
        "/v1/posts/1?cursor=0",
        "/v1/posts/1#top",
        "/v1/posts/1 ",
        "/v1/posts/\r\nX-Evil: 1",
        "/v1/posts/1\n",
        "/v1/posts/é",
        "/v1/posts/²",
        "/v1/posts/%",
        "/v1/posts/%zz",
        "/v1/posts/\\..\\campaigns",
        "/v1/posts/@evil.example:80@x/..",
    ],
)
def test_a_path_that_could_lead_elsewhere_is_refused(path: str) -> None:
    """The token goes to the configured origin, and a request to the endpoint it names, after any
    normalisation too."""
    with pytest.raises(ValueError, match="path"):
        build_request("GET", path, None, None)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/ai_search",
        "/v1/creators/tkc_0123456789abcdef/posts",
        "/v1/creators/a%2Fb",
        "/v1/creators/@user.name",
        "/v1/campaigns/",
        "/v1/x/...",
        "/v1/x/a..b;v=1",
    ],
)
def test_plain_paths_pass_as_they_are(path: str) -> None:
    """What was quoted stays quoted, once."""
    assert build_request("GET", path, None, None).target == path


def test_methods_and_queries() -> None:
    """Upper case on the wire; lists repeat, None is left out, booleans are JSON's, text is
    quoted."""
    call = build_request(
        "get",
        "/v1/creators",
        {"q": "a b&c=d/é", "page": 2, "tags": ["x", "y"], "no": None, "new": True},
        None,
    )

    assert call.method == "GET"
    assert call.target == "/v1/creators?q=a%20b%26c%3Dd%2F%C3%A9&page=2&tags=x&tags=y&new=true"
    assert build_request("GET", "/v1/creators", {}, None).target == "/v1/creators"
    for method in ("TRACE", "CONNECT", "GET /v1/x HTTP/1.1\r\n", ""):
        with pytest.raises(ValueError, match="method"):
            build_request(method, "/v1/creators", None, None)


@pytest.mark.parametrize(
    ("method", "path", "body", "price"),
    [
        ("GET", "/v1/posts/1", None, 1),
        ("GET", "/v1/posts/1/comments", None, 2),
        ("POST", "/v1/posts/analyze", {"urls": ["a", "b", "c"]}, 75),
        ("GET", "/v1/creators", None, 1),
        ("GET", "/v1/creators/tkc_1", None, 1),
        ("GET", "/v1/creators/tkc_1/posts", None, 25),
        ("POST", "/v1/campaigns", {"name": "x"}, 1),
        ("POST", "/v1/campaigns", {"name": "x", "posts": [{"url": "a"}, {"url": "b"}]}, 51),
        ("GET", "/v1/campaigns/5", None, 1),
        ("GET", "/v1/campaigns/5/metrics", None, 2),
        ("GET", "/v1/campaigns/5/posts", None, 2),
        ("GET", "/v1/campaigns/5/influencers", None, 2),
        ("DELETE", "/v1/campaigns/5", None, 0),
        ("POST", "/v1/ai_search", {"query": "x"}, 25),
        ("POST", "/v1/ai_search/", {"query": "x"}, 25),
        ("GET", "/v1/not_known", None, 0),
    ],
)
def test_the_documented_prices_are_reserved(method: str, path: str, body: Any, price: int) -> None:
    """What a budget holds back before it is sent [public]; an endpoint without a known price holds
    back nothing."""
    assert build_request(method, path, None, body).price == price


def test_a_get_is_a_read_and_everything_else_keeps_its_request_id() -> None:
    """Only a read may be repeated under a new id without being done twice."""
    kinds = {
        method: build_request(method, "/v1/x", None, None).kind
        for method in ("GET", "POST", "PUT", "DELETE")
    }

    assert kinds == {"GET": Kind.READ, "POST": Kind.WRITE, "PUT": Kind.WRITE, "DELETE": Kind.WRITE}


def test_an_analyze_call_by_hand_gets_its_time() -> None:
    """Its limit grows with the batch whichever door it leaves by."""
    assert build_request("POST", "/v1/posts/analyze", None, {"urls": ["a", "b"]}).units == 2


def test_routes_for_counting_name_no_ids() -> None:
    """Logs count endpoints, not posts."""
    assert build_comments("7234567890123456789", 0, 50).route == "GET /v1/posts/:id/comments"
    assert (
        build_request("GET", "/v1/creators/tkc_0123456789abcdef", {"a": 1}, None).route
        == "GET /v1/creators/:id"
    )


# --- what comes back ------------------------------------------------------------------------------


BROKEN: Mapping[str, tuple[bytes, bool]] = {
    "empty": (b"", True),
    "html": (b"<html><body>Bad Gateway</body></html>", True),
    "cut": (b'{"data": {"post_id": "723456', True),
    "cut after a comma": (b'{"data": {"post_id": "1"},', True),
    "not utf-8": (b'{"data": {"post_id": "\xff\xfe"}}', True),
    "lone surrogate": (b'{"data": {"post_id": "\\ud800"}}', True),
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
    if name not in ("lone surrogate", "nested and cut"):
        assert error.malformed is malformed


@given(st.binary(max_size=60), st.sampled_from([200, 201, 299, 302, 404, 500, 502]))
def test_no_bytes_escape_the_error_tree(body: bytes, status: int) -> None:
    """Whatever a proxy sends, the error is one of ours."""
    try:
        parse_answer(answer(body, status), POST)
    except (APIResponseValidationError, APIStatusError) as error:
        assert error.request_id == "req-1"  # noqa: PT017 - either outcome is fine, another exception is not


SMALL_STACK = """
    import threading, sys
    from typing import Any
    import msgspec
    from tokfluence_async._errors import TokfluenceError
    from tokfluence_async._wire.answers import *
    from tokfluence_async._wire.bodies import *
    from tokfluence_async._wire.calls import *
    from tokfluence_async._wire.shapes import *

    def bodies():
        for depth in (64, 254, 255, 256, 257, 400, 5_000):
            for left in (b"[", b'{"a":', b'{"data":', b'{"error":', b'{"meta":'):
                right = b"]" if left == b"[" else b"}"
                nested = left * depth + b"{}" + right * depth
                yield nested
                yield b'{"data": ' + nested + b"}"
                yield b'{"data": {"post_id": "1", "new": ' + nested + b"}}"
                dated = b'{"data": {"post_id": "1", "published_at": "2026-01-01T00:00:00", "new": '
                yield dated + nested + b"}}"
                yield b'{"data": [' + nested + b'], "meta": {"next_cursor": null}}'
                yield b'{"error": {"code": "x", "message": ' + nested + b"}}"
                yield nested[: len(nested) // 2]

    TYPES = (PostBody, CommentsBody, AnalyzeBody, RawPostBody, RawCommentsBody,
             dict, list, msgspec.Raw, Any)
    SHAPES = [Shape(each) for each in TYPES]
    CALL = build_analyze(["x"], False)
    done = []

    def work():
        for body in bodies():
            parse_error(Answer(500, body, "r"))
            answer = Answer(200, body, "r")
            for shape in SHAPES:
                try:
                    parse_answer(answer, shape)
                except TokfluenceError:
                    pass
            charge_of(answer, CALL)
        done.append(True)

    threading.stack_size(128 * 1024)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    print("alive" if done else "raised")
"""


def test_no_depth_of_nesting_kills_a_thread_with_a_small_stack() -> None:
    """msgspec recurses on the C stack: without the guard this is a segmentation fault, not an
    exception (trap 26).

    A thread of 128 KiB (what musl gives one); bodies of answers and of errors; typed, untyped, raw
    and skipped over.
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SMALL_STACK)], capture_output=True, text=True
    )

    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "alive", "")


def test_many_brackets_are_not_depth() -> None:
    """A page full of brackets in its texts, or of many small objects, is an ordinary page."""
    texts = json.dumps(
        {
            "data": [{"comment_id": str(n), "text": "[{" * 50 + '\\"' * 3} for n in range(200)],
            "meta": {"next_cursor": None},
        }
    )
    flat = json.dumps([[[]], {"a": {}}] * 5000)

    check_nesting(texts.encode())
    check_nesting(flat.encode())
    assert len(parse_answer(answer(texts), COMMENTS).data) == 200
    assert parse_answer(answer(flat), Shape[list[Any]](list)) == json.loads(flat)


def test_long_texts_full_of_commas_are_a_page() -> None:
    """The largest page there can be: 200 comments, each of as many characters as TikTok takes and
    more, all of them commas or brackets."""
    data = [{"comment_id": str(n), "text": ",[{" * 150 + "\u0000" * 500} for n in range(200)]
    body = json.dumps({"data": data, "meta": {"total": 200, "next_cursor": None}})

    assert len(body) > 500_000
    assert len(parse_answer(answer(body), COMMENTS).data) == 200


@given(
    st.recursive(
        st.text('[]{}"\\a'),
        lambda inner: st.lists(inner) | st.dictionaries(st.text('[]{}"\\'), inner),
    )
)
def test_the_nesting_guard_lets_every_shallow_document_pass(value: Any) -> None:
    """Brackets, quotes and backslashes in texts do not confuse it."""
    padded = [value] + [[] for _ in range(600)]

    check_nesting(json.dumps(padded).encode())


@pytest.mark.parametrize("place", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"]
)
def test_a_raw_body_is_utf_8_to_its_end(
    place: int, bad: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Characters of four bytes across the pieces it is looked at in pass; half of one, at any
    place, does not."""
    monkeypatch.setattr(_checks, "_PIECE", 16_384)  # of a megabyte they are
    good = ("x" * place + "\U0001f600" * 20_000).encode()
    body = b'{"data": "' + good + b'"}'

    assert (
        bytes(parse_answer(answer(body), Shape[RawPostBody](RawPostBody)).data)
        == b'"' + good + b'"'
    )
    for at in (0, place, 16_380 + place, 16_384 + place, len(good)):
        cut = at - (at - place) % 4 if at > place else at
        with pytest.raises(APIResponseValidationError, match="UTF-8"):
            parse_answer(
                answer(b'{"data": "' + good[:cut] + bad + good[cut:] + b'"}'),
                Shape[RawPostBody](RawPostBody),
            )


@given(st.binary(max_size=40), st.integers(_checks._PIECE - 24, _checks._PIECE + 6))
@settings(max_examples=50)
def test_a_raw_body_passes_if_and_only_if_python_can_decode_it(tail: bytes, ahead: int) -> None:
    """Whatever stands at the seam of two pieces."""
    body = b"\xc3\xa9" * (ahead // 2) + b" " * (ahead % 2) + tail
    try:
        body.decode()
        fine = True
    except UnicodeDecodeError:
        fine = False

    try:
        check_text(body)
        found = True
    except UnicodeDecodeError:
        found = False

    assert found is fine


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


def test_a_secret_shows_its_display_prefix_at_most() -> None:
    """And it is the token all the same, where it has to be."""
    assert repr(TOKEN) == "'tkf_live_abcd…'"
    assert repr(Secret("another-token-form-of-41-characters-xxxxxx")) == "'…'"
    assert repr(Secret("tkf_live_short")) == "'…'"
    assert TOKEN.reveal() == "tkf_live_abcdEFGHijklMNOPqrstUVWXyz012345"
    assert type(TOKEN.reveal()) is str


# --- what it cost ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "charged"),
    [
        (401, "unauthorized", False),
        (402, "insufficient_credits", False),
        (403, "plan_required", True),
        (404, "post_not_found", True),
        (409, "duplicate_request", False),
        (422, "missing_parameter", True),
        (429, "rate_limited", False),
        (500, "internal_error", True),
        (502, "upstream_error", False),
        (502, None, True),
        (503, None, True),
        (302, None, False),
    ],
)
def test_what_an_error_cost(status: int, code: str | None, charged: bool) -> None:
    """As the page says [public]; where it says nothing, the charge is taken as made, so a budget is
    never overrun."""
    assert is_charged(status, code) is charged


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


def test_an_odd_field_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """Read leniently, but not in silence; and a crawl may meet it a million times."""
    _shapes._told.clear()
    shape: Shape[PostBody] = Shape(PostBody)

    posts = [shape.decode(b'{"data": {"post_id": "1", "views": "many"}}').data for _ in range(3)]

    assert [post.views for post in posts] == [None] * 3
    [record] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "$.data.views" in record.getMessage()
