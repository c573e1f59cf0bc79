"""Jobs whose every request would fail alike end early: where something else than the API answers,
and where the account is refused."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aioresponses import aioresponses

from tokfluence_async import (
    AuthenticationError,
    InsufficientCreditsError,
    NotFoundError,
    Outcome,
    PermissionDeniedError,
    Sandbox,
    TokfluenceClient,
    TokfluenceError,
    crawl,
)
from tokfluence_async._errors import APIResponseValidationError, InternalServerError, UpstreamError
from tokfluence_async._http.foreign_server import ForeignServer

TOKEN = "tkf_live_" + "x" * 32
MANY = range(1, 1001)
HTML = "<!DOCTYPE html><title>Error 404</title><h1>File not found</h1>"

CALLS = ["resolve", "get_many", "analyze", "analyze_iter", "crawl"]


async def errors_of(
    client: TokfluenceClient, call: str, folder: Path
) -> list[TokfluenceError | None]:
    """What became of `MANY`; of a crawl, what it raises."""
    if call == "crawl":
        report = await crawl(client, MANY, folder, comments=True)
        assert report.failed == len(MANY)
        return []
    if call == "analyze":
        return [outcome.error for outcome in await client.posts.analyze(MANY)]
    outcomes: AsyncIterator[Outcome[Any]] = getattr(client.posts, call)(MANY)
    return [outcome.error async for outcome in outcomes]


@pytest.mark.parametrize("call", CALLS)
async def test_a_wrong_address_is_said_to_be_one(
    canned: aioresponses, tmp_path: Path, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    """Not a million failures, ten a second, each with the same web page in it."""
    every = re.compile(".*")
    canned.get(every, status=404, body=HTML, repeat=True)
    canned.post(every, status=501, body=HTML, repeat=True)
    async with TokfluenceClient(TOKEN) as client:
        errors = await errors_of(client, call, tmp_path)
        requests = client.usage.requests

    assert requests < 40
    [warning] = [
        record.message
        for record in caplog.records
        if record.message.startswith("nothing more is sent")
    ]
    assert "check the address https://" in warning
    if call != "crawl":  # whose files hold the answers' own words
        assert {type(error) for error in errors} <= {
            NotFoundError,
            InternalServerError,
        }  # as each that was sent ended
        assert len(errors) == len(MANY)
        assert sum("check the address https://" in str(error) for error in errors) > len(MANY) / 2


@pytest.mark.parametrize("call", CALLS)
async def test_a_refused_token_ends_those_in_line_too(
    sandbox: Sandbox, tmp_path: Path, call: str
) -> None:
    """A service that counts bad logins may lock the key; and what waits for a slot would only be
    refused as well."""
    async with TokfluenceClient(TOKEN, base_url=sandbox.url) as client:
        if call == "crawl":
            with pytest.raises(AuthenticationError):
                await crawl(client, MANY, tmp_path, comments=True)
        else:
            errors = await errors_of(client, call, tmp_path)
            assert all(isinstance(error, AuthenticationError) for error in errors)

    assert sandbox.requests_received <= 12  # what had left before the first answer came: the burst


@pytest.mark.sandbox(credits=3)
async def test_an_empty_wallet_ends_the_reads_in_line(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Three are paid for; the rest would cost a round trip each to hear the same."""
    outcomes = [outcome async for outcome in client.posts.get_many(MANY)]

    assert sum(outcome.ok for outcome in outcomes) == 3
    assert {type(outcome.error) for outcome in outcomes if not outcome.ok} == {
        InsufficientCreditsError
    }
    assert sandbox.requests_received <= 15


@pytest.mark.sandbox(indexed=0.5, credits=60)
async def test_a_wallet_too_small_for_a_batch_is_not_empty_for_reads(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """25 credits are not there, single ones are: reads that were begun go on, and are answered."""
    outcomes = [outcome async for outcome in client.posts.resolve(range(1, 41))]

    entries = sandbox.requests
    refused = next(n for n, entry in enumerate(entries) if entry.status == 402)
    after = [entry.status for entry in entries[refused + 1 :]]
    assert 200 in after
    assert set(after) <= {200, 404}
    assert sum(outcome.ok for outcome in outcomes) >= after.count(200)
    assert sandbox.credits_spent <= 60


async def test_single_calls_keep_their_own_errors(canned: aioresponses) -> None:
    """An application that awaits one call handles what that call ended in."""
    canned.get(re.compile(".*"), status=404, body=HTML, repeat=True)
    async with TokfluenceClient(TOKEN) as client:
        for _ in range(30):
            with pytest.raises(NotFoundError, match="File not found"):
                await client.posts.get("1")


NOT_THE_APIS = [
    NotFoundError(404, None, "html"),
    PermissionDeniedError(403, None, "html"),
    InternalServerError(501, None, "html"),
    APIResponseValidationError("no JSON", status=200, malformed=True),
]


@pytest.mark.parametrize("error", NOT_THE_APIS, ids=lambda error: type(error).__name__)
def test_ten_answers_of_somebody_elses_are_enough(error: Any) -> None:
    """One may be a proxy's in front of the API."""
    server = ForeignServer("https://example.com")
    for _ in range(9):
        server.spoke(error)
    assert server.error is None

    server.spoke(error)

    assert type(server.error) is type(error)
    assert "check the address https://example.com" in str(server.error)


@pytest.mark.parametrize(
    "known",
    [None, NotFoundError(404, "post_not_found", "no")],
    ids=["a post", "an error of its own"],
)
def test_one_answer_of_the_apis_settles_it(known: Any) -> None:
    """From then on whatever else comes is a proxy's bad day, up to ten refusals in a row."""
    server = ForeignServer("https://example.com")
    for error in [*NOT_THE_APIS, known, *NOT_THE_APIS * 9]:
        server.spoke(error)

    assert server.error is None


@pytest.mark.parametrize(
    "error",
    [
        UpstreamError(502, None, "html"),
        InternalServerError(503, None, "html"),
        APIResponseValidationError("a field", status=200, malformed=False),
    ],
    ids=["502", "503", "an odd field"],
)
def test_an_outage_is_no_wrong_address(error: Any) -> None:
    """A crawl that begins while the service is down goes on when it is back."""
    server = ForeignServer("https://example.com")
    for _ in range(100):
        server.spoke(error)

    assert server.error is None


def test_the_first_answer_of_the_apis_clears_the_error() -> None:
    """An ingress that was still being set up must not end the jobs of the client's whole life."""
    server = ForeignServer("https://example.com")
    for error in NOT_THE_APIS * 3:
        server.spoke(error)
    assert server.error is not None

    server.spoke(None)

    assert server.error is None


PAGE = "<html>Just a moment...</html>"


@pytest.mark.parametrize("status", [401, 402, 403])
@pytest.mark.parametrize("call", ["resolve", "get_many", "crawl"])
async def test_one_page_of_a_firewalls_fails_one_input(
    sandbox: Sandbox, client: TokfluenceClient, tmp_path: Path, call: str, status: int
) -> None:
    """Only the API's own refusal says that all others will be refused."""
    await client.posts.get("1")
    sandbox.answer(PAGE, status=status, headers={"Content-Type": "text/html"}, nth=50)
    if call == "crawl":
        failed = (await crawl(client, range(1, 201), tmp_path)).failed
    else:
        outcomes = getattr(client.posts, call)(range(1, 201))
        failed = [outcome.ok async for outcome in outcomes].count(False)

    assert failed == 1
    assert sandbox.requests_received == 201


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_firewall_that_keeps_refusing_ends_the_job(
    sandbox: Sandbox, client: TokfluenceClient, status: int
) -> None:
    """Ten in a row are no accident; the next job asks again."""
    await client.posts.get("1")
    sandbox.answer(PAGE, status=status, headers={"Content-Type": "text/html"}, times=None)
    errors = [outcome.error async for outcome in client.posts.get_many(MANY)]

    assert len(errors) == len(MANY)
    assert sandbox.requests_received < 80
    assert "The last 10 refusals came from something between" in str(errors[-1])

    sandbox.clear_faults()
    await client.posts.get("1")
    assert all([outcome.ok async for outcome in client.posts.get_many(MANY[:100])])
