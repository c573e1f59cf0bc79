"""What the API page says, rule by rule, as a caller sees it."""

from __future__ import annotations

import asyncio
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokfluence_async import Sandbox
from tokfluence_async._sandbox.ledger import ANALYZE, COMMENTS, POST
from tokfluence_async._sandbox.sandbox import DEFAULT_TOKEN

from .conftest import OTHER_ID, POST_ID, url_of
from .test_world import fixture, shape

OTHER_TOKEN = "tkf_live_" + "b" * 32


# Bodies


async def test_bodies_are_shaped_as_documented(start: Callable[..., Any]) -> None:
    """Keys, order and JSON types of the fixtures, over the wire."""
    api = await start(indexed=[POST_ID], comments_per_post=30)
    api.sandbox.index(OTHER_ID, age=10)

    post = await api.get()
    page = await api.comments(query="?limit=20")
    analyzed = await api.analyze(POST_ID, OTHER_ID)
    missing = await api.get("1")

    assert shape(post.body) == shape(fixture("post.json"))
    assert shape(page.body["meta"]) == shape(fixture("comments.json")["meta"])
    assert page.body["meta"] == {"total": 30, "next_cursor": 20}
    assert list(page.body) == ["data", "meta"]
    assert list(page.body["data"][0]) == list(fixture("comments.json")["data"][0])
    expected = fixture("analyze.json")
    for row, post_id in zip(expected["data"], (POST_ID, OTHER_ID), strict=True):
        row["url"] = url_of(post_id)
    assert analyzed.body == expected
    assert shape(missing.body) == shape(fixture("error.json"))
    assert post.headers["Content-Type"] == "application/json; charset=utf-8"


def test_the_fixtures_are_the_documented_ones() -> None:
    """They are copied from the API page's folder, byte for byte; this catches an accidental
    reformat."""
    for path in (Path(__file__).parent.parent / "fixtures").glob("*.json"):
        text = path.read_text()
        assert text.startswith("{\n  ")
        assert json.loads(text)


# Authentication


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        DEFAULT_TOKEN,
        f"bearer {DEFAULT_TOKEN}",
        f"Bearer  {DEFAULT_TOKEN}",
        f"Basic {DEFAULT_TOKEN}",
        f"Bearer {DEFAULT_TOKEN[:-1]}",
        f"Bearer {OTHER_TOKEN}",
    ],
)
async def test_without_a_good_token_nothing_is_done(
    start: Callable[..., Any], authorization: str
) -> None:
    """401 `unauthorized`, on every endpoint, nothing charged."""
    api = await start()

    for call in (api.get, api.comments, api.analyze):
        answer = await call(headers={"Authorization": authorization})
        assert (answer.status, answer.code, answer.credits) == (401, "unauthorized", 0)

    assert api.sandbox.credits_spent == 0
    assert api.sandbox.credits == 1_000_000


async def test_cookies_and_queries_do_not_authenticate(start: Callable[..., Any]) -> None:
    """They are ignored."""
    api = await start()

    answer = await api.call(
        "GET",
        f"/v1/posts/{POST_ID}?token={DEFAULT_TOKEN}",
        headers={"Authorization": "", "Cookie": f"token={DEFAULT_TOKEN}"},
    )

    assert answer.status == 401


async def test_a_revoked_key_fails_on_the_next_request(start: Callable[..., Any]) -> None:
    """Also on a connection that has served it before; its wallet is told all the same."""
    api = await start(reuse=True, credits=10)
    assert (await api.get()).status == 200

    api.sandbox.revoke()

    answer = await api.get()
    assert (answer.status, answer.code, answer.credits) == (401, "unauthorized", 9)


@pytest.mark.parametrize(
    "token",
    ["", "tkf_live_", "tkf_test_" + "a" * 32, "tkf_live_" + "a" * 31, "tkf_live_" + "-" * 32],
)
def test_a_sandbox_takes_only_tokens_of_the_documented_form(token: str) -> None:
    """41 characters: `tkf_live_` and 32 alphanumerics."""
    with pytest.raises(ValueError, match="32 alphanumerics"):
        Sandbox(token=token)


async def test_keys_have_wallets_and_ids_of_their_own(start: Callable[..., Any]) -> None:
    """What one key did is no matter to the other."""
    api = await start(credits=10)
    other = api.sandbox.add_key(OTHER_TOKEN, credits=5)

    first = await api.get(request_id="same")
    second = await api.get(request_id="same", token=OTHER_TOKEN)

    assert (first.status, first.credits) == (200, 9)
    assert (second.status, second.credits) == (200, 4)
    assert (api.sandbox.credits, other.credits, other.spent) == (9, 4, 1)
    assert [entry.key for entry in api.sandbox.requests] == ["tkf_live_sand", "tkf_live_bbbb"]
    assert OTHER_TOKEN not in repr(other)
    with pytest.raises(ValueError, match="already"):
        api.sandbox.add_key(OTHER_TOKEN)


# Credits


async def test_prices(start: Callable[..., Any]) -> None:
    """1 a post, 2 a page, 25 a URL, and every answer says what is left."""
    api = await start(credits=1000)

    left = [
        (await api.get()).credits,
        (await api.comments()).credits,
        (await api.analyze(POST_ID, OTHER_ID)).credits,
    ]

    assert left == [999, 997, 947]
    assert api.sandbox.credits_spent == 53
    assert api.sandbox.charged(POST_ID) == 28
    assert [api.sandbox.charged(POST_ID, to) for to in (POST, COMMENTS, ANALYZE)] == [1, 2, 25]


async def test_duplicates_and_fresh_urls_are_billed_too(start: Callable[..., Any]) -> None:
    """ "Charged for every URL submitted": twice in a batch is twice, and the second time it is
    fresh."""
    api = await start(indexed=0.0)

    answer = await api.analyze(POST_ID, POST_ID)
    again = await api.analyze(POST_ID)

    assert [row["status"] for row in answer.body["data"]] == ["analyzed", "fresh"]
    assert answer.body["meta"] == {"submitted": 2, "cost": 50}
    assert [row["status"] for row in again.body["data"]] == ["fresh"]
    assert api.sandbox.credits_spent == 75
    assert api.sandbox.billed_twice() == [POST_ID]
    assert api.sandbox.times_charged() == {POST_ID: 3}


async def test_with_too_few_credits_nothing_is_done(start: Callable[..., Any]) -> None:
    """402 before the work, not after; what is affordable goes on."""
    api = await start(credits=26, indexed=0.0, seconds_per_url=100)
    loop = asyncio.get_running_loop()

    before = loop.time()
    refused = await api.analyze(POST_ID, OTHER_ID)
    took = loop.time() - before
    affordable = await api.analyze(POST_ID)
    page = await api.comments()

    assert (refused.status, refused.code, refused.credits) == (402, "insufficient_credits", 26)
    assert took < 1
    assert (affordable.status, affordable.credits) == (200, 1)
    assert (page.status, page.credits) == (402, 1)
    assert not api.sandbox.is_indexed(OTHER_ID)
    api.sandbox.credits = 2
    assert (await api.comments(POST_ID)).credits == 0


async def test_misses_and_invalid_requests_are_not_refunded(start: Callable[..., Any]) -> None:
    """404 and 422 cost what the answer would have."""
    api = await start(indexed=0.0, credits=1000)

    miss = await api.get()
    page = await api.comments()
    invalid = await api.comments(query="?limit=0")
    batch = await api.call(
        "POST", "/v1/posts/analyze", json={"urls": [url_of(POST_ID), "https://example.com"]}
    )

    assert [answer.code for answer in (miss, page, invalid, batch)] == [
        "post_not_found", "post_not_found", "missing_parameter", "missing_parameter",
    ]  # fmt: skip
    assert [answer.credits for answer in (miss, page, invalid, batch)] == [999, 997, 995, 945]
    assert not api.sandbox.requests[-1].done


async def test_a_502_of_its_own_is_refunded(start: Callable[..., Any]) -> None:
    """Charged, not done, refunded: the wallet is as before, and the ledger shows both."""
    api = await start(credits=100, indexed=0.0)
    api.sandbox.upstream_error(to=ANALYZE)

    answer = await api.analyze(POST_ID)

    assert (answer.status, answer.code, answer.credits) == (502, "upstream_error", 100)
    entry = api.sandbox.requests[0]
    assert (entry.charged, entry.refunded, entry.done) == (25, 25, False)
    assert api.sandbox.credits_spent == api.sandbox.charged(POST_ID) == 0
    assert api.sandbox.billed_twice() == []
    assert api.sandbox.key().spent == 0


# Request ids


async def test_a_processed_request_id_gets_409(start: Callable[..., Any]) -> None:
    """Not charged again, not done again, the first answer not replayed; it holds for reads."""
    api = await start(indexed=0.0)
    for call in (api.get, api.comments, lambda **more: api.analyze(OTHER_ID, **more)):
        request_id = f"id of {call}"
        first = await call(request_id=request_id)
        spent = api.sandbox.credits_spent

        again = await call(request_id=request_id)

        assert first.status in (200, 404)
        assert first.headers["X-Request-Id"] == request_id
        assert (again.status, again.code) == (409, "duplicate_request")
        assert again.credits == first.credits
        assert api.sandbox.credits_spent == spent
    assert len([entry for entry in api.sandbox.requests if entry.done]) == 1


async def test_an_id_holds_across_endpoints(start: Callable[..., Any]) -> None:
    """It "names a logical request on every endpoint"."""
    api = await start()

    await api.get(request_id="one")

    assert (await api.comments(request_id="one")).status == 409


async def test_without_an_id_one_is_made(start: Callable[..., Any]) -> None:
    """Another every time, and told."""
    api = await start()

    answers = [await api.get() for _ in range(2)]

    made = {answer.headers["X-Request-Id"] for answer in answers}
    assert len(made) == 2
    assert all(len(request_id) == 36 for request_id in made)
    assert api.sandbox.requests[0].request_id is None


async def test_an_id_that_is_still_at_work_gets_409_too(start: Callable[..., Any]) -> None:
    """The first attempt is not over: the 409 comes before its work is done."""
    api = await start(indexed=0.0, seconds_per_url=10)

    first = asyncio.create_task(api.analyze(POST_ID, request_id="one"))
    await asyncio.sleep(1)
    second = await api.analyze(POST_ID, request_id="one")

    assert second.status == 409
    assert not first.done()
    assert (await first).status == 200
    assert (await api.analyze(POST_ID, request_id="one")).status == 409
    assert api.sandbox.credits_spent == 25


async def test_ids_are_forgotten_after_a_while(start: Callable[..., Any]) -> None:
    """How long they are remembered is not documented, so it can be set."""
    api = await start(remember_ids=60)
    await api.get(request_id="one")

    await asyncio.sleep(59)
    early = await api.get(request_id="one")
    await asyncio.sleep(2)
    late = [
        await api.get(request_id="one"),
        await api.get(request_id="two"),
        await api.get(request_id="three"),
    ]

    assert early.status == 409
    assert [answer.status for answer in late] == [200, 200, 200]
    assert len(api.sandbox.key().ids) == 3
    await asyncio.sleep(100)
    for n in range(3):
        await api.get(request_id=str(n))
    assert len(api.sandbox.key().ids) == 3


@pytest.mark.parametrize("burns", [False, True])
@pytest.mark.parametrize(
    "refusal", ["rate_limit", "upstream_error", "internal_error", "credits", "throttle"]
)
async def test_whether_a_refusal_uses_its_id_up_is_a_choice(
    start: Callable[..., Any], burns: bool, refusal: str
) -> None:
    """The page leaves it open, so a client has to be right under both."""
    api = await start(
        refusals_burn_ids=burns,
        indexed=0.0,
        per_ip=None,
        per_key=1 if refusal == "throttle" else None,
    )
    if refusal == "credits":
        api.sandbox.credits = 0
    elif refusal == "throttle":
        await api.get()
    else:
        getattr(api.sandbox, refusal)(to=ANALYZE)

    refused = await api.analyze(POST_ID, request_id="one")
    api.sandbox.credits = 100
    await asyncio.sleep(61)
    again = await api.analyze(POST_ID, request_id="one")

    assert refused.status in (402, 429, 500, 502)
    assert again.status == (409 if burns else 200)


async def test_a_refusal_does_not_renew_an_id_that_was_processed(start: Callable[..., Any]) -> None:
    """A 429 for an id that is done must not make the sandbox forget or remember it otherwise than
    before."""
    api = await start(refusals_burn_ids=True, remember_ids=100)
    await api.get(request_id="one")
    await asyncio.sleep(90)
    api.sandbox.rate_limit()

    assert (await api.get(request_id="one")).status == 429
    await asyncio.sleep(20)

    assert (await api.get(request_id="one")).status == 200


async def test_misses_and_invalid_requests_use_their_id_up(start: Callable[..., Any]) -> None:
    """They were processed: debited and answered."""
    api = await start(indexed=0.0)

    for query, status in (("?limit=0", 422), ("", 404)):
        assert (await api.comments(query=query, request_id=query or "x")).status == status
        assert (await api.comments(query=query, request_id=query or "x")).status == 409


# Throttles


@pytest.mark.parametrize(
    "throttle",
    [
        "fixed_window",
        "sliding_window",
        "sliding_log_counting_refusals",
        "sliding_counter",
        "token_bucket",
        "gcra",
        "haproxy",
    ],
)
async def test_the_limit_of_an_ip_holds(start: Callable[..., Any], throttle: str) -> None:
    """600 a minute [public], whichever way it is counted, and the wait it names is enough."""
    api = await start(throttle=throttle, per_ip=20)

    answers = [await api.get() for _ in range(21)]

    assert [answer.status for answer in answers] == [200] * 20 + [429]
    refused = answers[-1]
    assert refused.code == "rate_limited"
    assert refused.credits == 1_000_000 - 20
    assert refused.headers["Retry-After"].isdigit()
    await asyncio.sleep(int(refused.headers["Retry-After"]))
    assert (await api.get()).status == 200
    assert api.sandbox.rate_limited == 1


async def test_a_throttle_may_be_given_options_or_built(start: Callable[..., Any]) -> None:
    """nginx's burst, a window's alignment, or an algorithm of one's own."""
    nginx = await start(throttle="nginx", throttle_options={"burst": 3})
    own = await start(
        throttle=lambda limit, period: type(
            "Shut", (), {"allow": lambda self, now: limit + period}
        )()
    )

    statuses = [(await nginx.get()).status for _ in range(6)]

    assert statuses == [200, 200, 200, 200, 429, 429]
    # Both lanes refuse: 600 + 60 for the address, 1200 + 60 for the key. The longer wait is told.
    assert (await own.get()).headers["Retry-After"] == "1260"


def test_a_throttle_that_cannot_be_built_is_told_at_once() -> None:
    """Not at the first request."""
    with pytest.raises(ValueError, match="no throttle"):
        Sandbox(throttle="leaky")
    with pytest.raises(ValueError, match="page_stride"):
        Sandbox(page_stride=0)


async def test_the_limit_of_a_key_holds_over_ips(start: Callable[..., Any]) -> None:
    """Both lanes count in parallel: a key from many addresses, and an address with many keys."""
    api = await start(per_ip=3, per_key=4, forwarded_for=True)
    api.sandbox.add_key(OTHER_TOKEN)

    def from_(ip: str, **more: Any) -> Any:
        return api.get(headers={"X-Forwarded-For": ip}, **more)

    statuses = [
        (await from_(ip)).status for ip in ("1.1.1.1", "1.1.1.1", "1.1.1.1", "1.1.1.1", "2.2.2.2")
    ]
    other = [(await from_(ip, token=OTHER_TOKEN)).status for ip in ("1.1.1.1", "2.2.2.2")]

    # The fourth is refused for its address, and counted against the key all the same: the fifth is
    # one too many for it.
    assert statuses == [200, 200, 200, 429, 429]
    assert other == [429, 200]


async def test_an_address_cannot_be_claimed_unless_allowed(start: Callable[..., Any]) -> None:
    """The peer's address counts, as behind a proxy that is not trusted."""
    api = await start(per_ip=1)

    answers = [await api.get(headers={"X-Forwarded-For": f"1.1.1.{n}"}) for n in range(2)]

    assert [answer.status for answer in answers] == [200, 429]
    assert api.sandbox.requests[0].ip == "127.0.0.1"


async def test_throttles_do_not_ask_for_credits_or_tokens(start: Callable[..., Any]) -> None:
    """Requests without a good token count against the address; ones without credits against
    both."""
    api = await start(per_ip=2, credits=0)

    answers = [
        await api.get(headers={"Authorization": ""}),
        await api.get(),
        await api.get(),
        await api.get(token="x"),
    ]

    assert [answer.status for answer in answers] == [401, 402, 429, 429]


async def test_retry_after_is_in_whole_seconds_and_never_too_short(
    start: Callable[..., Any],
) -> None:
    """Rounded up: half a second is one."""
    api = await start(per_ip=1, period=0.5)

    answers = [await api.get(), await api.get()]

    assert answers[1].headers["Retry-After"] == "1"


async def test_without_throttles_nothing_is_refused(start: Callable[..., Any]) -> None:
    """For benches."""
    for options in ({"throttle": None}, {"per_ip": None, "per_key": None}):
        api = await start(**options, reuse=True)
        assert {(await api.get()).status for _ in range(1300)} == {200}


# Posts and the index


async def test_only_what_is_in_the_index_is_found(start: Callable[..., Any]) -> None:
    """A fraction chosen by id, a set, or a function."""
    half = await start(indexed=0.5, throttle=None)
    some = await start(indexed={POST_ID})
    odd = await start(indexed=lambda post_id: post_id.endswith("9"))

    found = [(await half.get(str(n))).status for n in range(200)]

    assert set(found) == {200, 404}
    assert 70 < found.count(200) < 130
    assert [half.sandbox.is_indexed(str(n)) for n in range(200)] == [
        status == 200 for status in found
    ]
    for api in (some, odd):
        assert [(await api.get(post_id)).status for post_id in (POST_ID, "8")] == [200, 404]
    some.sandbox.index("8")
    assert (await some.get("8")).status == 200


@pytest.mark.parametrize(
    "post_id",
    ["abc", "-1", "%31%32", "..%2F..%2Fv1%2Fcampaigns", "１２", "9" * 21, "analyze", "1."],
)
async def test_what_is_no_id_is_not_found(start: Callable[..., Any], post_id: str) -> None:
    """Paths are taken literally; nothing is decoded into another endpoint."""
    api = await start()
    # A request line as it stands, as yarl would tidy it up.
    reader, writer = await asyncio.open_connection("127.0.0.1", api.sandbox.port)
    writer.write(
        f"GET /v1/posts/{post_id} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: "
        f"Bearer {DEFAULT_TOKEN}\r\n\r\n".encode()
    )
    answer = await reader.read()
    writer.close()

    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.0 400", b"HTTP/1.1 400"))
    assert all(entry.status == 404 for entry in api.sandbox.requests)


async def test_unknown_routes_and_methods(start: Callable[..., Any]) -> None:
    """Not billed; in the documented envelope; 405 names what is allowed."""
    api = await start()

    answers = [
        await api.call(method, path)
        for method, path in [
            ("GET", "/v1/campaigns/1"),
            ("GET", "/v1/posts"),
            ("GET", "/v1/posts/"),
            ("GET", f"/v1/posts/{POST_ID}/likes"),
            ("POST", f"/v1/posts/{POST_ID}"),
            ("DELETE", f"/v1/posts/{POST_ID}/comments"),
            ("PUT", "/v1/posts/analyze"),
            ("GET", "/v2/posts/1"),
        ]
    ]

    assert [answer.status for answer in answers] == [404, 404, 404, 404, 405, 405, 405, 404]
    assert [answer.headers.get("Allow") for answer in answers[4:7]] == ["GET", "GET", "GET, POST"]
    assert {answer.code for answer in answers} == {"not_found", "method_not_allowed"}
    assert api.sandbox.credits_spent == 0


# Comments


async def test_a_walk_over_all_pages_sees_every_comment_once(start: Callable[..., Any]) -> None:
    """`cursor` is the number of comments to skip; the last page says null."""
    api = await start(comments_per_post=430)

    cursor: int | None = 0
    seen: list[str] = []
    sizes: list[int] = []
    while cursor is not None:
        body = (await api.comments(query=f"?cursor={cursor}&limit=200")).body
        seen += [comment["comment_id"] for comment in body["data"]]
        sizes.append(len(body["data"]))
        assert body["meta"]["total"] == 430
        cursor = body["meta"]["next_cursor"]

    assert seen == [f"{POST_ID}-c-{n}" for n in range(1, 431)]
    assert sizes == [200, 200, 30]


async def test_defaults_and_edges_of_paging(start: Callable[..., Any]) -> None:
    """50 from the front; nothing past the end; a full last page still ends the walk."""
    api = await start(comments_per_post=100)

    first = (await api.comments()).body
    last = (await api.comments(query="?cursor=50")).body
    beyond = (await api.comments(query="?cursor=1000")).body
    repeated = (await api.comments(query="?cursor=1&cursor=99&limit=1")).body

    assert (len(first["data"]), first["meta"]["next_cursor"]) == (50, 50)
    assert (len(last["data"]), last["meta"]["next_cursor"]) == (50, None)
    assert beyond == {"data": [], "meta": {"total": 100, "next_cursor": None}}
    assert repeated["data"][0]["comment_id"] == f"{POST_ID}-c-100"


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=-1", "limit=x", "limit=", "limit=1.5", "limit=%EF%BC%91",
     "limit=+5", "cursor=-1", "cursor=x", "cursor=", "cursor=null", "cursor=1e3",
     "cursor=" + "9" * 30],
)  # fmt: skip
async def test_invalid_pages_are_refused(start: Callable[..., Any], query: str) -> None:
    """422 `missing_parameter`: the code for missing and invalid alike."""
    api = await start()

    answer = await api.comments(query="?" + query)

    assert (answer.status, answer.code) == (422, "missing_parameter")


async def test_a_post_may_have_no_comments(start: Callable[..., Any]) -> None:
    """An empty first page is not an error."""
    api = await start(comments_per_post=0)

    assert (await api.comments()).body == {"data": [], "meta": {"total": 0, "next_cursor": None}}


async def test_new_comments_shift_the_offsets_while_paging(start: Callable[..., Any]) -> None:
    """The next page begins with comments already seen, and `total` has grown."""
    api = await start(comments_per_post=10)
    first = (await api.comments(query="?limit=5")).body

    api.sandbox.add_comments(POST_ID, 2)
    second = (await api.comments(query="?limit=5&cursor=5")).body

    ids = [[comment["comment_id"] for comment in page["data"]] for page in (first, second)]
    assert ids[0][3:] == ids[1][:2]
    assert second["meta"] == {"total": 12, "next_cursor": 10}


async def test_pages_may_be_smaller_than_asked_for(start: Callable[..., Any]) -> None:
    """Whether `limit` is the stride is not documented: `next_cursor` is the word."""
    api = await start(comments_per_post=100, page_stride=20)

    body = (await api.comments(query="?limit=200&cursor=10")).body

    assert len(body["data"]) == 20
    assert body["meta"]["next_cursor"] == 30


async def test_pages_may_have_gaps(start: Callable[..., Any]) -> None:
    """Comments that are counted but not shown make short pages, and empty ones, that are not the
    last."""
    some = await start(comments_per_post=1000, hidden_comments=0.5)
    none = await start(comments_per_post=1000, hidden_comments=1.0)

    page = (await some.comments(query="?limit=200")).body
    empty = (await none.comments(query="?limit=200")).body

    assert 60 < len(page["data"]) < 140
    assert page["meta"]["next_cursor"] == 200
    assert empty == {"data": [], "meta": {"total": 1000, "next_cursor": 200}}


async def test_a_change_while_serving_holds_from_the_next_page(start: Callable[..., Any]) -> None:
    """Pages are kept encoded, but only as long as nothing that made them has changed."""
    api = await start(comments_per_post=50, throttle=None)
    before = (await api.comments(query="?limit=20")).body

    api.sandbox.page_stride = 7
    shorter = (await api.comments(query="?limit=20")).body
    api.sandbox.page_stride = None
    api.sandbox.hidden_comments = 1.0
    hidden = (await api.comments(query="?limit=20")).body

    assert len(before["data"]) == 20
    assert shorter == {"data": before["data"][:7], "meta": {"total": 50, "next_cursor": 7}}
    assert hidden == {"data": [], "meta": {"total": 50, "next_cursor": 20}}


# Analyze


async def test_analysis_takes_its_time_one_url_after_the_other(start: Callable[..., Any]) -> None:
    """Several seconds per cold URL, serially; fresh ones take none; batches do not wait for each
    other."""
    api = await start(indexed=0.0, seconds_per_url=4.0)
    loop = asyncio.get_running_loop()

    async def timed(*post_ids: str) -> float:
        before = loop.time()
        assert (await api.analyze(*post_ids)).status == 200
        return loop.time() - before

    together = await asyncio.gather(timed(*map(str, range(1, 51))), timed("60"), timed("70", "71"))
    again = await timed(*map(str, range(1, 51)))

    assert together == pytest.approx([200, 4, 8], abs=0.01)
    assert again == pytest.approx(0, abs=0.01)
    assert api.sandbox.peak_in_flight(ANALYZE) == 3
    assert api.sandbox.in_flight() == 0


async def test_time_per_url_may_depend_on_the_post(start: Callable[..., Any]) -> None:
    """Heavy tails are made of this."""
    api = await start(indexed=0.0, seconds_per_url=lambda post_id: float(post_id))
    before = asyncio.get_running_loop().time()

    await api.analyze("3", "5")

    assert asyncio.get_running_loop().time() - before == pytest.approx(8, abs=0.01)


async def test_results_become_visible_after_a_delay(start: Callable[..., Any]) -> None:
    """Readable "after a short delay": each post's own, from when it was analyzed."""
    api = await start(indexed=0.0, seconds_per_url=1.0, visibility_delay=5.0)
    await api.analyze(POST_ID, OTHER_ID)

    statuses = [(await api.get()).status, (await api.get(OTHER_ID)).status]
    await asyncio.sleep(4.5)
    statuses += [(await api.get()).status, (await api.get(OTHER_ID)).status]
    await asyncio.sleep(1)
    statuses += [(await api.get()).status, (await api.get(OTHER_ID)).status]

    assert statuses == [404, 404, 200, 404, 200, 200]


async def test_a_refresh_does_not_hide_what_was_there(start: Callable[..., Any]) -> None:
    """A post stays readable while it is analyzed again."""
    api = await start(indexed=0.0, visibility_delay=lambda post_id: 5.0)
    await api.analyze(POST_ID)
    await asyncio.sleep(6)
    await api.analyze(POST_ID, force=True)

    assert (await api.get()).status == 200


async def test_freshness_and_force(start: Callable[..., Any]) -> None:
    """Fresh for a while after its analysis, stale then, and never with `force`; what was indexed
    long ago is stale."""
    api = await start(freshness=100, seconds_per_url=1.0)
    api.sandbox.index("1", age=99)
    api.sandbox.index("2", age=101)

    async def statuses(*post_ids: str, **more: Any) -> list[str]:
        return [row["status"] for row in (await api.analyze(*post_ids, **more)).body["data"]]

    assert await statuses("2", "3", "1") == ["analyzed", "analyzed", "analyzed"]
    assert await statuses("1", "2", "3", force=False) == ["fresh"] * 3
    assert await statuses("1", force=True) == ["analyzed"]
    assert api.sandbox.requests[1].fresh == ["1", "2", "3"]
    await asyncio.sleep(101)
    assert await statuses("1") == ["analyzed"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"urls"',
        b"{}",
        b'{"urls": null}',
        b'{"urls": []}',
        b'{"urls": {}}',
        b'{"urls": "https://www.tiktok.com/@a/video/1"}',
        b'{"urls": [1]}',
        b'{"urls": ["https://www.tiktok.com/@a/video/1", null]}',
        b'{"urls": ["7234567890123456789"]}',
        b'{"urls": ["https://www.tiktok.com/@a/video/1"], "force": null}',
        b'{"urls": ["https://www.tiktok.com/@a/video/1"], "force": "true"}',
        b'{"urls": ["https://www.tiktok.com/@a/video/1"], "force": 1}',
        '{"urls": ["https://www.tiktok.com/@a/video/1"]}'.encode("utf-16"),
        b"[" * 100_000,
        b'{"urls": [' + b",".join([b'"https://www.tiktok.com/@a/video/1"'] * 51) + b"]}",
        b" " * 2_000_000,
    ],
    ids=lambda body: repr(body[:40]),
)
async def test_bad_batches_are_refused(start: Callable[..., Any], body: bytes) -> None:
    """1 to 50 URLs of TikTok videos and perhaps a boolean, in a JSON object: anything else is 422,
    and nothing is done."""
    api = await start(indexed=0.0)

    answer = await api.call(
        "POST",
        "/v1/posts/analyze",
        data=io.BytesIO(body),
        headers={"Content-Type": "application/json"},
    )

    assert (answer.status, answer.code) == (422, "missing_parameter")
    assert not api.sandbox.is_indexed("1")
    # Not refunded, if it could be counted at all.
    assert api.sandbox.credits_spent in (0, 25, 50, 51 * 25)
    assert (api.sandbox.credits_spent == 51 * 25) == (body.count(b"https") == 51)


async def test_a_whole_batch_of_50_is_taken(start: Callable[..., Any]) -> None:
    """The limit itself is allowed, and unknown members of the body are no matter."""
    api = await start(seconds_per_url=0)

    answer = await api.call(
        "POST",
        "/v1/posts/analyze",
        json={"urls": [url_of(str(n)) for n in range(50)], "force": True, "note": "x"},
    )

    assert answer.status == 200
    assert answer.body["meta"] == {"submitted": 50, "cost": 1250}
    assert [row["postId"] for row in answer.body["data"]] == [str(n) for n in range(50)]


async def test_rows_may_be_changed_and_statuses_unknown(start: Callable[..., Any]) -> None:
    """The order of rows, the spelling of URLs and the list of statuses are not promised."""
    api = await start(
        indexed=0.0,
        visibility_delay=0,
        analyze_status=lambda post_id: "deleted" if post_id == "2" else None,
        analyze_rows=lambda rows: [{**row, "url": row["url"].upper()} for row in reversed(rows)][
            :2
        ],
    )

    answer = await api.analyze("1", "2", "3")

    assert [(row["postId"], row["status"]) for row in answer.body["data"]] == [
        ("3", "analyzed"),
        ("2", "deleted"),
    ]
    assert answer.body["data"][0]["url"].startswith("HTTPS://WWW")
    assert answer.body["meta"] == {"submitted": 3, "cost": 75}
    assert [api.sandbox.is_indexed(post_id) for post_id in "123"] == [True, False, True]


async def test_nulls_and_unknown_fields_reach_the_wire(start: Callable[..., Any]) -> None:
    """Options of the world, through the server."""
    api = await start(nulls=1.0, extra_fields=True, comments_per_post=1)

    assert (await api.get()).body["data"]["caption"] is None
    assert "translations" in (await api.comments()).body["data"][0]


async def test_a_client_that_leaves_does_not_stop_the_work(start: Callable[..., Any]) -> None:
    """Charged and done, with nobody there to read the answer."""
    api = await start(indexed=0.0, seconds_per_url=10, visibility_delay=0)

    with pytest.raises(TimeoutError):
        await api.analyze(POST_ID, request_id="one", timeout=5)
    early = await api.analyze(POST_ID, request_id="one")
    await asyncio.sleep(10)

    assert early.status == 409
    assert (await api.get()).status == 200
    assert api.sandbox.charged(POST_ID, ANALYZE) == 25


# Time


async def test_latency_and_transit(start: Callable[..., Any]) -> None:
    """Latency is the service's, and part of an answer; transit is the network's, and comes before
    the counting."""
    slow = await start(latency=0.25)
    far = await start(transit=lambda: 0.5, latency=lambda: 0.25)
    loop = asyncio.get_running_loop()

    before = loop.time()
    await slow.get()
    middle = loop.time()
    await far.get()
    after = loop.time()

    assert middle - before == pytest.approx(0.25, abs=0.01)
    assert after - middle == pytest.approx(0.75, abs=0.01)
    assert far.sandbox.times() == [pytest.approx(middle + 0.5, abs=0.01)]


async def test_an_index_of_ages_needs_no_clock_before_it_starts() -> None:
    """Posts can be put into the index before the sandbox serves."""
    sandbox = Sandbox(indexed=0.0)
    sandbox.index(POST_ID, age=math.inf)

    assert sandbox.is_indexed(POST_ID)
    assert not sandbox.is_indexed(OTHER_ID)
