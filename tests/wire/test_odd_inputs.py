"""Odd inputs, from the call to what the server received and the files hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokfluence_async import Sandbox, TokfluenceClient, crawl

ID = "7234567890123456789"


class Markup(str):
    """As markupsafe's: what `strip` gives back is of the class again, and `str` is something
    else."""

    def strip(self, chars: str | None = None, /) -> Markup:
        return Markup(super().strip(chars))

    def __str__(self) -> str:
        return "something else"


class Number(int):
    pass


ODD: list[Any] = [
    np.str_("names no post"),
    "so funny \ud83d",
    f"https://www.tiktok.com/@a/video/{ID}?q=\ud83d",
    Markup(" 7000000000000000001 "),
    Number(7000000000000000002),
    np.int64(7000000000000000003),
    np.str_("7000000000000000004"),
    "\ufeff7000000000000000005\u200b",
    "Link: https://www.tiktokv.com/share/video/7000000000000000006/",
]


@pytest.mark.sandbox(indexed=1.0)
async def test_odd_inputs_do_not_end_a_crawl(
    sandbox: Sandbox, client: TokfluenceClient, tmp_path: Path
) -> None:
    """One of them ended it at every run, with a TypeError or a UnicodeEncodeError, and the others
    were never written."""
    report = await crawl(client, ODD, tmp_path, journal=tmp_path / "journal.sqlite")
    again = await crawl(client, ODD, tmp_path, journal=tmp_path / "journal.sqlite")

    assert (report.posts, report.failed) == (7, 2)
    assert (again.posts, again.skipped, again.failed) == (0, 7, 2)
    assert sandbox.requests_received == 7
    lines = (tmp_path / "failures.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["input"] for line in lines] == [
        "names no post",
        "so funny \ufffd",
    ]


async def test_outcomes_hold_plain_inputs(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """They are pickled, logged and put into frames."""
    report = await client.posts.analyze([*ODD, True, None])

    assert {type(outcome.input) for outcome in report} == {str, int, bool, type(None)}
    assert len(report.succeeded) == 7


@pytest.mark.sandbox(indexed=1.0, comments_per_post=3)
async def test_a_post_stands_for_its_id(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """As it came from `get`, it goes into `comments`, and into a bulk call."""
    post = await client.posts.get(ID)

    comments = [comment async for comment in client.posts.comments(post)]
    report = await client.posts.analyze([post, ID])

    assert len(comments) == 3
    assert [request.path.partition("?")[0] for request in sandbox.requests[:2]] == [
        f"/v1/posts/{ID}",
        f"/v1/posts/{ID}/comments",
    ]
    assert (len(report.outcomes), report.duplicates) == (1, 1)


async def test_a_parameter_that_no_query_holds_is_not_sent(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """It would be paid for, and mean something else."""
    with pytest.raises(ValueError, match="of type dict"):
        await client.request("GET", "/v1/creators", params={"filter": {"a": 1}})

    assert sandbox.requests_received == 0
