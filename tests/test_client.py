"""The door: what it takes, what it refuses at once, what its copies share, and any other
endpoint."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import pickle
import pydoc
import re
from typing import Any

import aiohttp
import msgspec
import pytest
from aioresponses import aioresponses

from tokfluence_async import (
    APIResponseValidationError,
    BudgetExceededError,
    ConfigurationError,
    DuplicateRequestError,
    Sandbox,
    Throttle,
    Timeout,
    TokfluenceClient,
)
from tokfluence_async._posts import Posts

TOKEN = "tkf_live_" + "a" * 32
GET = "GET /v1/posts/:id"
SEARCH = "POST /v1/ai_search"


# --- what it is given -----------------------------------------------------------------------------


def test_a_missing_token_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thing everybody meets; it says what to set, and how to try without."""
    monkeypatch.delenv("TOKFLUENCE_TOKEN", raising=False)

    for token in (None, "", "   "):
        with pytest.raises(ConfigurationError, match="TOKFLUENCE_TOKEN"):
            TokfluenceClient(token)


@pytest.mark.parametrize(
    "token", ["abc\n", "abc def", "abc\r\nX-Evil: 1", "tökén", "abc\x00", "x" * 2000]
)
def test_a_token_no_header_can_carry_is_refused(token: str) -> None:
    """And not shown, as the rest of it may be right."""
    with pytest.raises(ConfigurationError, match="no header can carry") as caught:
        TokfluenceClient(token)

    assert token not in str(caught.value)


def test_any_header_safe_text_is_a_token() -> None:
    """The service knows its tokens, not we."""
    for token in ("x", "sandbox-token", TOKEN, "a/b+c=="):
        TokfluenceClient(token)


async def test_token_and_base_url_come_from_the_environment(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As documented; an argument wins over the environment."""
    monkeypatch.setenv("TOKFLUENCE_TOKEN", sandbox.token)
    monkeypatch.setenv("TOKFLUENCE_BASE_URL", sandbox.url)

    async with TokfluenceClient() as client:
        await client.posts.get(1)
    monkeypatch.setenv("TOKFLUENCE_TOKEN", "wrong")
    async with TokfluenceClient(sandbox.token) as client:
        await client.posts.get(1)

    assert len(sandbox.times(status=200)) == 2


@pytest.mark.parametrize(
    "url",
    [
        "developers.tokfluence.com",
        "ftp://developers.tokfluence.com",
        "https://",
        "https://user:pw@developers.tokfluence.com",
        "https://developers.tokfluence.com?x=1",
        "https://developers.tokfluence.com#x",
        "https://developers.tokfluence.com/v1",
        "https://developers.tokfluence.com/v1/",
        "https://developers.tokfluence.com:port",
        "https://[::1",
        "https://a..b",
        "https://.",
        "https://developers.tok\u200bfluence.com",
        f"https://{'a' * 64}.com",
        "https://\ud83d.com",
    ],
)
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    """At once, and not as a puzzling connection error later."""
    with pytest.raises(ConfigurationError, match="base URL"):
        TokfluenceClient(TOKEN, base_url=url)


async def test_a_base_url_may_have_a_path_and_a_slash(sandbox: Sandbox) -> None:
    """Behind a gateway; every request goes below it."""
    async with TokfluenceClient(sandbox.token, base_url=sandbox.url + "/", max_retries=0) as client:
        await client.posts.get(1)
    assert [entry.path for entry in sandbox.requests] == ["/v1/posts/1"]


async def test_requests_go_below_the_base_urls_path(canned: aioresponses) -> None:
    """Behind a gateway; nothing is cut from it and nothing doubled."""
    canned.get("https://gate.example/api/v1/posts/1", body='{"data": {"post_id": "1"}}')

    async with TokfluenceClient(
        TOKEN, base_url="https://gate.example/api/", max_retries=0
    ) as client:
        assert (await client.posts.get(1)).post_id == "1"


@pytest.mark.parametrize(
    "options",
    [
        {"max_concurrency": 0},
        {"max_concurrency": -1},
        {"max_concurrency": True},
        {"max_concurrency": 1.5},
        {"analyze_concurrency": 0},
        {"max_retries": -1},
        {"max_credits": -1},
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": Timeout(connect=0.0)},
        {"timeout": Timeout(read=-1.0)},
        {"max_body": 0},
    ],
)
def test_numbers_out_of_range_are_refused_at_the_call(options: dict[str, Any]) -> None:
    """By the constructor and, where it takes them, by `with_options`."""
    name = next(iter(options))

    with pytest.raises(ValueError, match=name):
        TokfluenceClient(TOKEN, **options)
    if name != "max_body":
        with pytest.raises(ValueError, match=name):
            TokfluenceClient(TOKEN).with_options(**options)


def test_the_help_of_a_client_shows_all_it_has() -> None:
    """Where a newcomer looks first; `posts` is most of it."""
    text = pydoc.plain(pydoc.render_doc(TokfluenceClient))

    for name in (
        "posts",
        "credits_remaining",
        "ledger",
        "usage",
        "request",
        "with_options",
        "aclose",
    ):
        assert re.search(rf"^ \|  (async )?{name}\b", text, re.MULTILINE), name
    methods = {
        name for name, value in vars(Posts).items() if not name.startswith("_") and callable(value)
    }
    assert methods <= set(re.findall(r"`(\w+)`", TokfluenceClient.posts.__doc__ or ""))


def test_a_client_shows_no_token() -> None:
    """In a notebook its `repr` is what is printed."""
    client = TokfluenceClient(
        "tkf_live_abcdEFGHijklMNOPqrstUVWXyz012345", base_url="https://example.org:443/x"
    )

    assert repr(client) == "<TokfluenceClient of https://example.org, key 'tkf_live_abcd…'>"


# --- what it counts -------------------------------------------------------------------------------


async def test_counts_equal_the_ledger(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """What we say was spent is what the service charged, over reads, misses, pages, batches,
    refusals and refunds."""
    assert client.credits_remaining is None
    sandbox.rate_limit(to=GET, times=1)
    sandbox.upstream_error(to="POST /v1/posts/analyze", times=1)

    await client.posts.get(1)
    async for _ in client.posts.comments(1, max_items=50):
        pass
    await client.posts.analyze([1, 2, 3], batch_size=3)

    usage = client.usage
    assert usage.credits_spent == sandbox.credits_spent == 1 + 2 + 75
    assert usage.requests == sandbox.requests_received == 5
    assert usage.retries == 2
    assert usage.rate_limited == sandbox.rate_limited == 1
    assert usage.bytes_received > 0
    assert usage.throttled_seconds > 0
    assert usage.pace == pytest.approx(10, rel=0.1)
    assert client.credits_remaining == sandbox.credits


async def test_the_wallet_is_the_newest_by_sending(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The answer to an older request arrives last, with a larger number: it must not win (trap
    18)."""
    sandbox.stall(10.0, to=GET, where=lambda entry: entry.path.endswith("/1"))
    before = sandbox.credits

    slow = asyncio.create_task(client.posts.get(1))
    await asyncio.sleep(1)
    await client.posts.get(2)
    assert client.credits_remaining == before - 2
    await slow

    assert client.credits_remaining == before - 2


@pytest.mark.sandbox(credits=30)
async def test_an_unknown_charge_counts_as_spent(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A lost answer may have been charged; a budget must not be overrun by what is not known."""
    careful = client.with_options(max_credits=3, max_retries=0)
    sandbox.drop_answer(to=GET, times=1)

    with pytest.raises(Exception, match="The connection broke"):
        await careful.posts.get(1)

    assert careful.usage.credits_spent == sandbox.credits_spent == 1


# --- copies ---------------------------------------------------------------------------------------


async def test_a_copy_shares_connections_counts_and_budget(sandbox: Sandbox) -> None:
    """`with_options` is cheap; closing a copy leaves the parent's connections open (trap 5)."""
    async with TokfluenceClient(sandbox.token, base_url=sandbox.url, max_credits=4) as client:
        async with client.with_options(max_retries=0, timeout=5.0, max_concurrency=1) as copy:
            await copy.posts.get(1)
        await client.posts.get(2)
        small = client.with_options(max_credits=1)
        await small.posts.get(3)
        with pytest.raises(BudgetExceededError) as own:
            await small.posts.get(4)
        await client.posts.get(5)
        with pytest.raises(BudgetExceededError) as shared:
            await copy.posts.get(6)

        assert (own.value.limit, shared.value.limit) == (1, 4)
        assert small.usage.credits_spent == 1
        assert client.usage.credits_spent == copy.usage.credits_spent == sandbox.credits_spent == 4
        assert client.usage.requests == 4
        assert [entry.connection for entry in sandbox.requests] == [
            0,
            1,
            2,
            3,
        ]  # each but the first on a used one


async def test_copies_with_another_token_have_another_wallet(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Credits belong to a key."""
    other = "tkf_live_" + "z" * 32
    sandbox.add_key(other, credits=50)

    await client.posts.get(1)
    copy = client.with_options(token=other)
    assert copy.credits_remaining is None
    await copy.posts.get(1)

    assert copy.credits_remaining == 49
    assert client.credits_remaining == sandbox.credits


# --- any other endpoint ---------------------------------------------------------------------------


class Interpreted(msgspec.Struct):
    data: list[dict[str, Any]]
    meta: dict[str, Any]


ANSWER = {"data": [{"id": "tkc_0123456789abcdef"}], "meta": {"total_matches": 1, "cost": 25}}


async def test_any_endpoint_with_a_type_of_the_callers_choice(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Through the same auth, throttle and decoding; the whole body, `meta` too."""
    sandbox.answer(json.dumps(ANSWER), to=SEARCH, times=None)
    query = {"query": "wrestling", "max_results": 5}

    plain = await client.request("POST", "/v1/ai_search", json=query)
    typed = await client.request("POST", "/v1/ai_search", json=query, response_type=Interpreted)
    raw = await client.request("post", "/v1/ai_search", json=query, response_type=msgspec.Raw)
    mapping = await client.request(
        "POST", "/v1/ai_search", json=query, response_type=dict[str, Any]
    )

    assert plain == mapping == ANSWER
    assert typed.meta["total_matches"] == 1
    assert json.loads(bytes(raw)) == ANSWER
    assert len({entry.request_id for entry in sandbox.requests}) == 4
    assert all(entry.headers["content-type"] == "application/json" for entry in sandbox.requests)
    assert all(
        entry.headers["authorization"] == f"Bearer {sandbox.token}" for entry in sandbox.requests
    )
    assert client.usage.credits_spent == 100


async def test_documented_endpoints_by_hand(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """With a query; the body is the documented one."""
    page = await client.request(
        "GET", "/v1/posts/1/comments", params={"cursor": 0, "limit": 7}, response_type=dict
    )

    assert set(page) == {"data", "meta"}
    assert len(page["data"]) <= 7
    assert "limit=7" in str(sandbox.requests[0].query)


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example/v1/x",
        "//evil.example/v1/x",
        "/v1/../x",
        "/v1/%2e%2e/x",
        "/x",
        "v1/x",
        "/v1/x?y=1",
    ],
)
async def test_a_path_that_leads_elsewhere_is_refused(
    sandbox: Sandbox, client: TokfluenceClient, path: str
) -> None:
    """The token goes to the configured origin and nowhere else."""
    with pytest.raises(ValueError, match="path"):
        await client.request("GET", path)

    assert sandbox.requests_received == 0


async def test_a_write_keeps_its_id_and_is_not_replayed(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A lost answer, then 409: it was done once, and the error says so."""
    sandbox.answer(
        status=500, body='{"error": {"code": "internal_error", "message": "x"}}', to=SEARCH, times=1
    )
    sandbox.answer(
        status=409,
        body='{"error": {"code": "duplicate_request", "message": "x"}}',
        to=SEARCH,
        times=1,
    )

    with pytest.raises(DuplicateRequestError, match="was done; its answer is not replayed"):
        await client.request("POST", "/v1/ai_search", json={"query": "x"})

    assert len({entry.request_id for entry in sandbox.requests}) == 1
    assert sandbox.requests_received == 2


async def test_a_delete_without_content_is_done(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """204 is an answer, not a lost one."""
    sandbox.answer("", status=204, to="DELETE /v1/campaigns/:id")

    assert await client.request("DELETE", "/v1/campaigns/5") is None
    assert sandbox.requests_received == 1


async def test_an_answer_of_another_shape_is_not_paid_for_twice(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Repeating a read would bring the same answer for another credit."""
    with pytest.raises(APIResponseValidationError) as caught:
        await client.request("GET", "/v1/posts/1", response_type=list[int])

    assert not caught.value.malformed
    assert sandbox.requests_received == sandbox.credits_spent == 1


class _Half(msgspec.Struct):
    data: msgspec.Raw


@pytest.mark.client(max_retries=0)
@pytest.mark.parametrize(
    "response_type", [None, dict, msgspec.Raw, _Half, list[msgspec.Raw], dict[str, msgspec.Raw]]
)
async def test_an_answer_that_is_not_utf_8_is_refused_whatever_it_is_read_as(
    response_type: Any, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """msgspec hands a `Raw` on as it came; whoever opens it later has no request to tell it by."""
    sandbox.answer(b'{"data": {"name": "caf\xe9"}}', to="GET /v1/creators/:id")

    with pytest.raises(APIResponseValidationError):
        await client.request(
            "GET", "/v1/creators/tkc_0123456789abcdef", response_type=response_type
        )


async def test_debug_logs_name_requests_and_no_token(
    sandbox: Sandbox, client: TokfluenceClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Logs end up anywhere."""
    sandbox.internal_error(to=GET, times=1)
    with caplog.at_level(logging.DEBUG, logger="tokfluence_async"):
        await client.posts.get(1)

    assert sandbox.requests[-1].request_id in caplog.text
    assert "GET /v1/posts/1 -> 200" in caplog.text
    assert sandbox.token not in caplog.text


async def test_a_closed_client_says_so(sandbox: Sandbox) -> None:
    """And closing is idempotent."""
    client = TokfluenceClient(sandbox.token, base_url=sandbox.url, throttle=Throttle())
    await client.posts.get(1)
    await client.aclose()
    await client.aclose()

    with pytest.raises(RuntimeError, match="closed"):
        await client.posts.get(1)


def test_a_base_url_left_empty_is_not_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller's own variable that was not set would send their token elsewhere; an empty one in
    the environment is unset."""
    with pytest.raises(ConfigurationError, match="base URL"):
        TokfluenceClient("x", base_url="")

    monkeypatch.setenv("TOKFLUENCE_BASE_URL", "")
    assert "developers.tokfluence.com" in repr(TokfluenceClient("x"))


@pytest.mark.parametrize(
    "options",
    [
        {"token": b"x"},
        {"base_url": b"http://127.0.0.1"},
        {"base_url": 4},
        {"throttle": 5},
        {"throttle": False},
        {"throttle": Throttle},
        {"session": 4},
        {"session": aiohttp.ClientSession},
        {"timeout": "x"},
        {"timeout": True},
        {"timeout": (1, 2)},
        {"timeout": Timeout(connect="1")},  # type: ignore[arg-type] - that is what is refused
        {"max_retries": "3"},
        {"max_retries": None},
        {"max_concurrency": 1.5},
        {"analyze_concurrency": "8"},
        {"max_credits": 1.5},
        {"max_credits": True},
        {"keep_credits": "1"},
        {"max_body": "1"},
    ],
    ids=str,
)
def test_an_option_of_another_type_is_refused_at_the_call(options: dict[str, Any]) -> None:
    """Not later, by something that names neither the option nor the client; the `ValueError` it was
    before, it is still."""
    name = next(iter(options))
    told = {"token": "API token", "base_url": "base URL"}.get(name, name)

    with pytest.raises(ConfigurationError, match=told) as caught:
        TokfluenceClient(**{"token": "x", **options})
    assert name == "token" or isinstance(caught.value, ValueError)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    # None is "as before" there.
    if (
        name in inspect.signature(TokfluenceClient.with_options).parameters
        and options[name] is not None
    ):
        with pytest.raises(ConfigurationError, match=told):
            TokfluenceClient("x").with_options(**options)


async def test_the_throttle_in_use_can_be_asked(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """Also where none was given: how many wait and how fast it goes is asked when something is
    slow."""
    await client.posts.get("1")

    assert client.with_options(max_retries=0).throttle is client.throttle
    assert client.throttle.statistics().pace > 0


@pytest.mark.parametrize("url", ["https://exa mple.com", "https://a\tb.com", "https://a.com/x\ny"])
def test_a_blank_in_a_base_url_is_refused_at_once(url: str) -> None:
    """urlsplit would take a tab or a line break out without a word."""
    with pytest.raises(ConfigurationError, match="blank or a control character"):
        TokfluenceClient("x", base_url=url)


async def test_a_blank_around_a_base_url_is_left_out(sandbox: Sandbox) -> None:
    """What a line of a .env file or a terminal leaves there."""
    async with TokfluenceClient(sandbox.token, base_url=f" {sandbox.url}/ \n") as client:
        assert (await client.posts.get("7")).post_id == "7"


@pytest.mark.parametrize(
    "proxy",
    ["", "proxy:3128", "socks5://h:1", "http://", "http://a b", "http://h:x", "http://a..b"],
)
def test_what_is_no_proxy_is_refused_without_showing_it(proxy: str) -> None:
    """It may hold a password."""
    with pytest.raises(ConfigurationError, match="proxy is not the URL") as caught:
        TokfluenceClient("x", proxy=proxy)
    assert proxy in ("", "http://") or proxy not in str(caught.value)
    with pytest.raises(ConfigurationError, match="proxy must be"):
        TokfluenceClient("x", proxy=3128)  # type: ignore[arg-type]
