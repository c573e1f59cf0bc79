"""Requests as values: what is sent, and where a path may lead."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import fractions
import json
import uuid
from typing import Any

import numpy as np
import pytest

from tokfluence_async._wire.calls import (
    Kind,
    build_analyze,
    build_comments,
    build_get_post,
    build_request,
)


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


class Sort(enum.Enum):
    NEWEST = "newest"
    SECOND = 2


class Text(str):
    def __str__(self) -> str:
        return "something else"


AT = dt.datetime(2026, 4, 12, 21, 0, tzinfo=dt.timezone(dt.timedelta(hours=2)))


@pytest.mark.parametrize(
    ("value", "query"),
    [
        (True, "x=true"),
        ([True, False], "x=true&x=false"),
        ([1, None, 2], "x=1&x=2"),
        ((1, 2.5), "x=1&x=2.5"),
        ({7}, "x=7"),
        ([], ""),
        ([None], ""),
        (None, ""),
        ("", "x="),
        (Sort.NEWEST, "x=newest"),
        ([Sort.SECOND, Sort.NEWEST], "x=2&x=newest"),
        (enum.StrEnum("S", {"A": "b"}).A, "x=b"),
        (enum.IntEnum("I", {"A": 7}).A, "x=7"),
        (AT, "x=2026-04-12T19%3A00%3A00Z"),
        ([dt.date(2026, 4, 12)], "x=2026-04-12"),
        (decimal.Decimal("1.50"), "x=1.50"),
        (uuid.UUID(int=5), "x=00000000-0000-0000-0000-000000000005"),
        (Text("a"), "x=a"),
        (np.str_("a"), "x=a"),
        (np.int64(7), "x=7"),
        (np.float64(1.5), "x=1.5"),
        ("so \ud83d", "x=so%20%EF%BF%BD"),
        ("\ud83d\ude02", "x=%F0%9F%98%82"),
    ],
    ids=repr,
)
def test_a_parameter_is_written_as_json_writes_it(value: object, query: str) -> None:
    """Not as Python does: `True`, `None` and `Sort.NEWEST` mean nothing to a server, and are paid
    for."""
    target = build_request("GET", "/v1/creators", {"x": value}, None).target

    assert target == ("/v1/creators?" + query if query else "/v1/creators")


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1},
        [{"a": 1}],
        [[1]],
        {"a": 1}.keys(),
        iter([1]),
        range(3),
        b"a",
        object(),
        float("nan"),
        [float("-inf")],
        decimal.Decimal("NaN"),
        dt.datetime(2026, 4, 12),
        dt.time(12),
        dt.timedelta(hours=1),
        np.array([1, 2]),
        1j,
        len,
    ],
    ids=lambda value: repr(value).partition(" object ")[0],  # no address: workers compare names
)
def test_what_no_query_holds_is_refused(value: object) -> None:
    """Before anything is sent; a dict lost its values on the way."""
    with pytest.raises(ValueError, match="'x'"):
        build_request("GET", "/v1/creators", {"x": value}, None)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.True_, r"of type numpy\.bool"),  # "of type bool; a query holds booleans" helped nobody
        (fractions.Fraction(1, 2), r"of type fractions\.Fraction;"),
        (dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=2))), "out of range in UTC"),
        (
            dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-5))),
            "out of range in UTC",
        ),
    ],
)
def test_what_a_query_cannot_hold_is_said_so_that_it_can_be_mended(
    value: object, reason: str
) -> None:
    """With the type's full name, and never by an OverflowError."""
    with pytest.raises(ValueError, match=reason):
        build_request("GET", "/v1/creators", {"x": value}, None)


@pytest.mark.parametrize("params", [[("x", 1)], "x=1", {None: 1}, {b"x": 1}, {("x",): 1}, 5])
def test_what_is_no_set_of_parameters_is_refused(params: Any) -> None:
    """With a word on what it is."""
    with pytest.raises(ValueError, match="of type"):
        build_request("GET", "/v1/creators", params, None)


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
