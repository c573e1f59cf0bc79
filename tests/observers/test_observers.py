"""Tools that watch or stand in for aiohttp see each request of the default client once, and no
token."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aioresponses import aioresponses

from tokfluence_async import Sandbox, TokfluenceClient

from . import story
from .story import POST_ID

ROOT = Path(__file__).parent.parent.parent
QUIET = {
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_TRACE_STARTUP_LOGS": "false",
    "DD_CRASHTRACKING_ENABLED": "false",
    "OTEL_TRACES_EXPORTER": "console",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
}
# The five requests of the story: method, path, and the status; None is the answer that was lost.
POST, PAGE, ANALYZE = f"/v1/posts/{POST_ID}", f"/v1/posts/{POST_ID}/comments", "/v1/posts/analyze"
FIVE = [
    ("GET", POST, None),
    ("GET", POST, 200),
    ("GET", PAGE, 200),
    ("POST", ANALYZE, 502),
    ("POST", ANALYZE, 200),
]


def needs(package: str) -> pytest.MarkDecorator:
    """Skip where it is not installed: `nox -s observers` has it."""
    try:
        found = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # its parent is not
        found = False
    return pytest.mark.skipif(not found, reason=f"{package} is not installed")


def told(tool: str, *before: str) -> str:
    """What the story printed, in a process that `tool` watches."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "tests.observers.story", tool],
        cwd=ROOT,
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert not re.search(r"tkf_live_\w{5}|Bearer", done.stdout)
    return done.stdout


def path_of(url: str) -> str:
    return re.sub(r"http://127\.0\.0\.1:\d+|\?.*", "", url)


def spans_of(found: list[Any]) -> list[tuple[str, str, int | None]]:
    """OpenTelemetry's spans of requests, by the names of either of its conventions."""
    return [
        (
            says.get("http.method") or says["http.request.method"],
            path_of(says.get("http.url") or says["url.template"]),
            says.get("http.status_code") or says.get("http.response.status_code"),
        )
        for says in (span["attributes"] for span in found if span["kind"] == "SpanKind.CLIENT")
    ]


OURS = [(method, path.replace(POST_ID, "{id}"), status) for method, path, status in FIVE]
STATUSES = ["ERROR", "UNSET", "UNSET", "ERROR", "UNSET"]


@needs("opentelemetry.instrumentation.aiohttp_client")
def test_opentelemetrys_instrumentation_sees_each_request_once() -> None:
    """Where the client's own spans are switched off. The lost one too, as an error."""
    spans = json.loads(told("instrumentation"))

    assert spans_of(spans) == FIVE
    assert [span["status"]["status_code"] for span in spans] == STATUSES


@needs("opentelemetry.instrumentation.aiohttp_client")
def test_beside_our_spans_the_instrumentation_makes_none() -> None:
    """Three calls, and under them each request once."""
    spans = json.loads(told("opentelemetry"))

    requests = [span for span in spans if span["kind"] == "SpanKind.CLIENT"]
    calls = [span for span in spans if span["kind"] == "SpanKind.INTERNAL"]
    assert spans_of(spans) == OURS
    assert [span["status"]["status_code"] for span in requests] == STATUSES
    assert len(spans) == 8
    assert {span["parent_id"] for span in requests} == {
        span["context"]["span_id"] for span in calls
    }


@needs("opentelemetry.distro")
def test_opentelemetry_without_a_line_of_code_sees_each_request_once() -> None:
    """`opentelemetry-instrument python …`: our spans, and none beside them."""
    printed = told("plain", str(Path(sys.executable).parent / "opentelemetry-instrument"))

    def objects() -> Iterator[Any]:
        text, decoder = printed, json.JSONDecoder()
        while text := text.lstrip():
            found, end = decoder.raw_decode(text)
            text = text[end:]
            yield found

    spans = [found for found in objects() if isinstance(found, dict)]
    assert spans_of(spans) == OURS
    assert len(spans) == 8


@needs("sentry_sdk")
def test_sentry_sees_each_request_once() -> None:
    """Spans and breadcrumbs, by the integration that is on by default. What has no answer is in
    neither: Sentry does not listen to aiohttp's `on_request_exception`, with any client."""
    message, transaction = json.loads(told("sentry"))

    crumbs = [
        crumb["data"]
        for crumb in message["breadcrumbs"]["values"]
        if crumb["category"] == "httplib"
    ]
    spans = [span["data"] for span in transaction["spans"] if span["op"] == "http.client"]
    for found in (crumbs, spans):
        assert [
            (data["http.method"], path_of(data["url"]), data["http.response.status_code"])
            for data in found
        ] == FIVE[1:]


@needs("ddtrace")
def test_datadog_sees_each_request_once() -> None:
    """By `ddtrace.patch(aiohttp=True)`."""
    spans = [span for span in json.loads(told("datadog")) if span["name"] == "aiohttp.request"]

    assert [
        (
            span["tags"]["http.method"],
            path_of(span["tags"]["http.url"]),
            int(span["tags"]["http.status_code"]) if "http.status_code" in span["tags"] else None,
        )
        for span in spans
    ] == FIVE
    assert [span["error"] for span in spans] == [1, 0, 0, 1, 0]


@needs("vcr")
def test_vcrpy_records_each_request_once_and_plays_it_back(tmp_path: Path) -> None:
    """What has no answer cannot be recorded. The token is in no cassette, and the filter that
    vcrpy's manual names has nothing to do."""
    import vcr

    cassette = tmp_path / "cassette.yaml"
    url = ""

    async def record(sandbox: Sandbox) -> None:
        nonlocal url
        url = sandbox.url
        with vcr.use_cassette(str(cassette)) as tape:
            await story.tell(sandbox)
            found = [(each.method, path_of(each.uri)) for each in tape.requests]
            assert found == [(method, path) for method, path, _ in FIVE[1:]]
            assert [answer["status"]["code"] for answer in tape.responses] == [200, 200, 502, 200]

    sandbox = story.run(record)
    assert sandbox.requests_received == 5
    assert sandbox.token not in cassette.read_text()
    assert "Bearer" not in cassette.read_text()

    async def play(sandbox: Sandbox) -> None:
        with vcr.use_cassette(
            str(cassette), record_mode="none", filter_headers=["authorization"]
        ) as tape:
            async with TokfluenceClient(sandbox.token, base_url=url) as client:
                assert (await client.posts.get(POST_ID)).post_id == POST_ID
                assert len([each async for each in client.posts.comments(POST_ID)]) == 5
                report = await client.posts.analyze([POST_ID])
                assert [outcome.unwrap().status for outcome in report] == ["analyzed"]
            assert tape.play_count == 4
        assert sandbox.requests_received == 0

    story.run(play)


async def test_aioresponses_sees_each_request_once(canned: aioresponses) -> None:
    """A refused read and its repeat."""
    url = f"https://developers.tokfluence.com/v1/posts/{POST_ID}"
    canned.get(url, status=502, payload={"error": {"code": "upstream_error", "message": "x"}})
    canned.get(url, payload={"data": {"post_id": POST_ID}})

    async with TokfluenceClient(
        "tkf_live_abcdEFGHijklMNOPqrstUVWXyz012345", base_url="https://developers.tokfluence.com"
    ) as client:
        assert (await client.posts.get(POST_ID)).post_id == POST_ID

    [calls] = canned.requests.values()
    assert len(calls) == 2
    assert "tkf_live_" not in repr(calls)
