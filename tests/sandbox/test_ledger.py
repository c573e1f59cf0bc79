"""What tests ask the sandbox afterwards, in this process and from another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfluence_async import Sandbox
from tokfluence_async._sandbox.ledger import ANALYZE, COMMENTS, POST, peak

from .conftest import OTHER_ID, POST_ID


async def test_every_request_is_kept_as_it_was_received(start: Callable[..., Any]) -> None:
    """What was on the wire, not what a client believes it sent."""
    api = await start(indexed=0.0, seconds_per_url=2.0)
    began = asyncio.get_running_loop().time()

    await api.analyze(POST_ID, OTHER_ID, request_id="one", headers={"User-Agent": "test"})
    await api.comments(query="?cursor=3")

    batch, page = api.sandbox.requests
    assert batch.number == 1
    assert batch.time == pytest.approx(began, abs=0.01)
    assert batch.ended == pytest.approx(began + 4, abs=0.01)
    assert (batch.method, batch.path, batch.route) == ("POST", "/v1/posts/analyze", ANALYZE)
    assert (batch.request_id, batch.key, batch.ip) == ("one", "tkf_live_sand", "127.0.0.1")
    assert batch.headers["user-agent"] == "test"
    assert batch.headers["x-request-id"] == "one"
    assert json.loads(batch.body)["urls"]
    assert batch.post_ids == [POST_ID, OTHER_ID]
    assert (batch.status, batch.code, batch.charged, batch.done, batch.answered) == (
        200,
        None,
        50,
        True,
        True,
    )
    assert (page.route, page.query, page.status, page.code) == (
        COMMENTS,
        "cursor=3",
        404,
        "post_not_found",
    )
    assert (page.charged, page.done) == (2, False)
    assert api.sandbox.statuses == {200: 1, 404: 1}


async def test_times_and_peaks(start: Callable[..., Any]) -> None:
    """The most requests in any window, of all, of a route, of a key."""
    api = await start(per_ip=6, comments_per_post=1)
    other = api.sandbox.add_key("tkf_live_" + "c" * 32)
    for _ in range(3):
        await api.get()
        await asyncio.sleep(10)
    await asyncio.gather(api.comments(), api.get(token=other.token), api.get(), api.get())
    sandbox = api.sandbox

    assert len(sandbox.times()) == sandbox.requests_received == 7
    assert len(sandbox.times(POST, key=sandbox.token)) == 5
    assert len(sandbox.times(status=429)) == 1
    assert sandbox.peak() == 7
    assert sandbox.peak(5.0) == 4
    assert sandbox.peak(15.0) == 5
    assert sandbox.peak(5.0, to=COMMENTS) == 1
    assert sandbox.peak(5.0, key=other.token) == 1
    assert Sandbox().peak() == 0


@given(st.lists(st.integers(0, 50)), st.integers(1, 20))
def test_a_peak_is_the_fullest_window(times: list[int], window: int) -> None:
    """Half-open: requests exactly one window apart are not in one."""
    expected = max((sum(end - window < t <= end for t in times) for end in times), default=0)

    assert peak(times, window) == expected


async def test_a_bounded_ledger_keeps_the_newest(start: Callable[..., Any]) -> None:
    """And without one the counters go on: long benches need no memory for it."""
    bounded = await start(record=2)
    off = await start(record=False)
    for api in (bounded, off):
        for post_id in "12345":
            await api.get(post_id)
        await api.analyze("1")

    assert [entry.number for entry in bounded.sandbox.requests] == [5, 6]
    assert bounded.sandbox.charged("1") == 26
    assert off.sandbox.requests == []
    assert (off.sandbox.requests_received, off.sandbox.credits_spent, off.sandbox.statuses) == (
        6,
        30,
        {200: 6},
    )
    assert off.sandbox.charged("1") == 0
    off.sandbox.upstream_error()
    await off.analyze("1")
    assert off.sandbox.credits_spent == 30


async def test_the_doors_for_other_processes(start: Callable[..., Any]) -> None:
    """The ledger is read and faults are scripted over HTTP: unthrottled, unbilled, without a
    token."""
    api = await start(per_ip=3)

    async def outside(method: str, path: str, **more: Any) -> Any:
        return await api.call(method, path, headers={"Authorization": ""}, **more)

    fault = {"fault": "drop_answer", "to": ANALYZE, "times": 1}
    scripted = await outside("POST", "/_sandbox/faults", json=fault)
    armed = await outside("GET", "/_sandbox/faults")
    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        await api.analyze(POST_ID, request_id="one")
    await api.analyze(POST_ID, request_id="one")
    await api.analyze(POST_ID, request_id="two")
    for _ in range(20):
        summary = (await outside("GET", "/_sandbox/ledger")).body
    entries = (await outside("GET", "/_sandbox/ledger?entries")).body["entries"]

    assert (scripted.status, armed.body) == (
        201,
        {"armed": [{"kind": "drop", "to": ANALYZE, "times": 1, "hits": 0}]},
    )
    assert summary["analyze_charges"] == {POST_ID: 2}
    assert summary["billed_twice"] == [POST_ID]
    assert summary["credits_spent"] == 50
    assert summary["requests"] == summary["peak"] == 3
    assert summary["statuses"] == {"200": 2, "409": 1}
    assert summary["faults"] == {"drop": 1}
    assert summary["keys"]["tkf_live_sand"] == {"credits": 999_950, "spent": 50, "revoked": False}
    assert [entry["status"] for entry in entries] == [200, 409, 200]
    assert entries[0]["fault"] == "drop"
    assert api.sandbox.token not in json.dumps([summary, entries])
    assert (await outside("GET", "/nothing")).status == 404
    assert (await outside("DELETE", "/_sandbox/faults")).status == 404


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"fault": "revoke"}', b'{"fault": "aclose"}',
     b'{"fault": "stall", "to": "x"}', b'{"fault": "redirect"}', b'{"fault": ["stall"]}'],
)  # fmt: skip
async def test_faults_that_are_none_are_refused_at_the_door(
    start: Callable[..., Any], body: bytes
) -> None:
    """Nothing but faults can be called from outside."""
    api = await start()

    answer = await api.call("POST", "/_sandbox/faults", data=body)

    assert (answer.status, answer.code) == (422, "invalid_fault")
    assert api.sandbox.pending_faults == []


# Life


async def test_it_can_be_started_and_closed_by_hand() -> None:
    """Closing twice is harmless; starting twice is a mistake; a port is chosen anew unless
    given."""
    sandbox = Sandbox()
    await sandbox.start()
    url = sandbox.url
    assert url.startswith("http://127.0.0.1:")
    assert not url.endswith(":0")
    with pytest.raises(RuntimeError):
        await sandbox.start()

    await sandbox.aclose()
    await sandbox.aclose()

    assert sandbox.open_connections == 0
    with pytest.raises(OSError, match=r".*"):
        await asyncio.open_connection("127.0.0.1", sandbox.port)
    async with Sandbox(port=sandbox.port) as again:
        assert again.url == url


async def test_closing_abandons_work_and_leaves_no_task(start: Callable[..., Any]) -> None:
    """Otherwise a test would wait for the slowest batch."""
    api = await start(indexed=0.0, seconds_per_url=1000)
    call = asyncio.create_task(api.analyze(POST_ID))
    await asyncio.sleep(1)

    await api.sandbox.aclose()
    with pytest.raises(aiohttp.ClientError):
        await call
    await asyncio.sleep(1)

    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_an_ipv6_address_is_written_in_brackets() -> None:
    """So that the URL can be used as it is."""
    assert Sandbox(host="::1", port=80).url == "http://[::1]:80"
