"""Two readings of one page, the description and the server, meet: schemathesis looks for
contradictions."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from tokfluence_async import Sandbox
from tokfluence_async._sandbox.openapi import describe
from tokfluence_async._sandbox.sandbox import DEFAULT_TOKEN
from tokfluence_async._sandbox.world import World, post_id_of_url

from .conftest import POST_ID, url_of


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """A sandbox in a thread of its own, as schemathesis is not asynchronous."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    sandbox = Sandbox(
        throttle=None, credits=10**12, indexed=0.5, seconds_per_url=0, nulls=0.2, extra_fields=True
    )
    asyncio.run_coroutine_threadsafe(sandbox.start(), loop).result(10)
    try:
        yield sandbox.url
    finally:
        asyncio.run_coroutine_threadsafe(sandbox.aclose(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.real_time
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("operation_id", ["getPost", "listComments", "analyzePosts"])
def test_the_server_does_what_its_description_says(
    served: str, operation_id: str, mode: GenerationMode
) -> None:
    """Valid requests are taken, invalid ones refused, and every answer is one of those
    described."""
    # Not through its pytest plugin, which does not know pytest 9.
    operation = schemathesis.openapi.from_url(f"{served}/openapi.json").find_operation_by_id(
        operation_id
    )
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        # Parameters that nobody knows are not refused, and the token is always put in.
        assume(set(case.query or {}) <= {"cursor", "limit"})
        response = case.call_and_validate(headers={"Authorization": f"Bearer {DEFAULT_TOKEN}"})
        statuses[response.status_code] += 1

    check()

    # It has met what it was looking for, and not the same refusal sixty times.
    assert statuses[200 if mode is GenerationMode.POSITIVE else 422] or operation_id == "getPost"
    assert sum(statuses.values()) >= 10


@pytest.mark.real_time
def test_the_description_is_served_without_a_token(served: str) -> None:
    """OpenAPI 3.1, of exactly the three documented endpoints."""
    description = requests.get(f"{served}/openapi.json", timeout=10).json()

    assert description["openapi"] == "3.1.0"
    assert description["servers"] == [{"url": served}]
    assert {(path, *operations) for path, operations in description["paths"].items()} == {
        ("/v1/posts/{id}", "get"),
        ("/v1/posts/{id}/comments", "get"),
        ("/v1/posts/analyze", "post"),
    }


def test_fields_and_which_may_be_null_are_those_of_the_description() -> None:
    """A field that is added is described, and is tried without its value."""
    schemas = describe("http://127.0.0.1")["components"]["schemas"]
    world = World(nulls=1.0, comments_per_post=3)

    for name, made in (("Post", world.post(POST_ID)), ("Comment", world.comment(POST_ID, 0))):
        fields = schemas[name]["properties"]
        assert list(made) == list(fields)
        assert {field for field, value in made.items() if value is None} == {
            field for field, kind in fields.items() if "null" in kind["type"]
        }


def test_urls_of_the_description_are_urls_of_the_server() -> None:
    """The pattern written for the description and the one the server uses agree, generated and
    documented ones alike."""
    schemas = describe("http://127.0.0.1")["components"]["schemas"]
    pattern = re.compile(schemas["AnalyzeRequest"]["properties"]["urls"]["items"]["pattern"])
    generated = st.from_regex(pattern, fullmatch=True)

    @settings(max_examples=200, suppress_health_check=list(HealthCheck))
    @given(generated)
    def check(url: str) -> None:
        assert post_id_of_url(url) is not None

    check()
    assert pattern.fullmatch(url_of(POST_ID))
