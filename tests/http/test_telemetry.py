"""What OpenTelemetry is told: each call, attempt and credit once, and nothing of anybody's."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

sdk = pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
    InMemorySpanExporter,
)
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.semconv._incubating.attributes import (
    http_attributes,
    url_attributes,
)
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.semconv.metrics import http_metrics
from opentelemetry.trace import SpanKind, StatusCode

from tokfluence_async import (
    AuthenticationError,
    NotFoundError,
    Sandbox,
    TokfluenceClient,
    crawl,
)
from tokfluence_async._http import log, telemetry

ID = "7234567890123456789"
GET = "GET /v1/posts/:id"
ANALYZE = "POST /v1/posts/analyze"


class Seen:
    """A client's telemetry, in memory."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._metrics = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meter_provider = MeterProvider([self._metrics], shutdown_on_exit=False)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._spans.get_finished_spans())

    @property
    def calls(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.kind is SpanKind.INTERNAL]

    @property
    def attempts(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.kind is SpanKind.CLIENT]

    def metrics(self) -> dict[str, list[Any]]:
        data = self._metrics.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def sums(self, name: str) -> dict[Any, int]:
        points = self.metrics().get(name, [])
        return {point.attributes["tokfluence.operation"]: point.value for point in points}


def events(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


def facts(span: ReadableSpan) -> dict[str, Any]:
    """A span's attributes, without those that differ at each run."""
    return {
        name: value
        for name, value in (span.attributes or {}).items()
        if name not in ("server.port", "tokfluence.request_id")
    }


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
async def client(
    sandbox: Sandbox, seen: Seen, request: pytest.FixtureRequest
) -> AsyncIterator[TokfluenceClient]:
    """A client of `sandbox` whose telemetry is `seen`."""
    options = {
        key: value
        for mark in request.node.iter_markers("client")
        for key, value in mark.kwargs.items()
    }
    async with TokfluenceClient(
        sandbox.token,
        base_url=sandbox.url,
        tracer_provider=seen.tracer_provider,
        meter_provider=seen.meter_provider,
        **options,
    ) as opened:
        yield opened


@pytest.mark.sandbox(indexed=1.0, comments_per_post=5)
async def test_five_requests_are_three_calls_and_five_attempts(
    sandbox: Sandbox, client: TokfluenceClient, seen: Seen
) -> None:
    """A read whose answer is lost and its repeat, a page, an analysis with 502, and one with
    200."""
    sandbox.drop_answer(to=GET)
    sandbox.upstream_error(to=ANALYZE)

    await client.posts.get(ID)
    async for _ in client.posts.comments(ID):
        pass
    await client.posts.analyze([ID])

    got, page, analyzed = seen.calls
    assert [span.name for span in seen.calls] == [
        "tokfluence.posts.get",
        "tokfluence.posts.comments",
        "tokfluence.posts.analyze",
    ]
    assert [facts(span) for span in seen.calls] == [
        {"tokfluence.operation": "posts.get", "tokfluence.attempts": 2, "tokfluence.credits": 2},
        {
            "tokfluence.operation": "posts.comments",
            "tokfluence.attempts": 1,
            "tokfluence.credits": 2,
        },
        {
            "tokfluence.operation": "posts.analyze",
            "tokfluence.urls": 1,
            "tokfluence.attempts": 2,
            "tokfluence.credits": 25,
        },
    ]
    assert {span.status.status_code for span in seen.calls} == {StatusCode.UNSET}
    assert [span.parent and span.parent.span_id for span in seen.attempts] == [
        call.context.span_id for call in (got, got, page, analyzed, analyzed)
    ]
    reading = {
        "http.request.method": "GET",
        "server.address": "127.0.0.1",
        "url.template": "/v1/posts/{id}",
        "tokfluence.operation": "posts.get",
    }
    analyzing = {
        **reading,
        "http.request.method": "POST",
        "url.template": "/v1/posts/analyze",
        "tokfluence.operation": "posts.analyze",
    }
    assert [facts(span) for span in seen.attempts] == [
        {**reading, "error.type": "APIConnectionError"},
        {**reading, "http.request.resend_count": 1, "http.response.status_code": 200},
        {
            **reading,
            "url.template": "/v1/posts/{id}/comments",
            "tokfluence.operation": "posts.comments",
            "http.response.status_code": 200,
        },
        {**analyzing, "http.response.status_code": 502, "error.type": "502"},
        {**analyzing, "http.request.resend_count": 1, "http.response.status_code": 200},
    ]
    assert [span.status.status_code.name for span in seen.attempts] == [
        "ERROR",
        "UNSET",
        "UNSET",
        "ERROR",
        "UNSET",
    ]
    assert [span.name for span in seen.attempts[::2]] == [
        "GET /v1/posts/{id}",
        "GET /v1/posts/{id}/comments",
        "POST /v1/posts/analyze",
    ]
    # Each request carries its own attempt's span, and is the one that the sandbox received.
    assert [request.headers["traceparent"].split("-")[2] for request in sandbox.requests] == [
        f"{span.context.span_id:016x}" for span in seen.attempts
    ]
    assert [span.attributes["tokfluence.request_id"] for span in seen.attempts] == [
        request.request_id for request in sandbox.requests
    ]


@pytest.mark.sandbox(indexed=1.0, comments_per_post=5)
async def test_metrics_count_each_request_and_each_credit_once(
    sandbox: Sandbox, client: TokfluenceClient, seen: Seen
) -> None:
    """By operation; the sum is what the service has charged."""
    sandbox.drop_answer(to=GET)
    sandbox.upstream_error(to=ANALYZE)
    sandbox.rate_limit(to="GET /v1/creators", retry_after=3)

    await client.posts.get(ID)
    async for _ in client.posts.comments(ID):
        pass
    await client.posts.analyze([ID, ID, "7234567890123456780"])
    with pytest.raises(NotFoundError):
        await client.request("GET", "/v1/creators", params={"q": "x"})

    metrics = seen.metrics()
    assert seen.sums("tokfluence.client.credits") == {
        "posts.get": 2,
        "posts.comments": 2,
        "posts.analyze": 50,
        "request": 1,
    }
    assert sum(seen.sums("tokfluence.client.credits").values()) == client.usage.credits_spent
    assert seen.sums("tokfluence.client.throttle.refused") == {"request": 1}
    for name in ("http.client.request.duration", "tokfluence.client.throttle.wait"):
        assert sum(point.count for point in metrics[name]) == sandbox.requests_received
    [remaining] = metrics["tokfluence.client.credits_remaining"]
    assert remaining.value == client.credits_remaining


async def test_waits_gates_and_settled_batches_are_events(
    sandbox: Sandbox, client: TokfluenceClient, seen: Seen
) -> None:
    """On the call's span, as each is a reason why a call took long."""
    sandbox.index(ID)
    sandbox.rate_limit(to=GET, retry_after=7)
    sandbox.drop_answer(to=ANALYZE)

    first = asyncio.create_task(client.posts.get(ID))
    await asyncio.sleep(1)
    await client.posts.get(ID)  # meets the gate that the first one's 429 has closed
    await first
    [outcome] = (await client.posts.analyze([ID])).outcomes

    refusal, waiting, analyzed = sorted(seen.calls, key=lambda span: span.start_time)
    assert outcome.unwrap().status == "duplicate_request"
    assert [name for name in events(refusal) if name != "tokfluence.throttle.wait"] == [
        "tokfluence.throttle.refused",
        "tokfluence.retry",
    ]
    [gate] = [event for event in waiting.events if event.name == "tokfluence.throttle.gate"]
    assert gate.attributes["tokfluence.seconds"] == pytest.approx(6, abs=0.5)
    [refused] = [event for event in refusal.events if event.name == "tokfluence.throttle.refused"]
    assert refused.attributes == {"tokfluence.retry_after": 7.0}
    assert "tokfluence.throttle.wait" in events(analyzed)
    [settled] = [event for event in analyzed.events if event.name == "tokfluence.settled"]
    assert settled.attributes == {"tokfluence.verify": False}
    assert analyzed.attributes["tokfluence.credits"] == 25


@pytest.mark.sandbox(indexed=1.0)
async def test_a_crawl_of_a_thousand_posts_is_a_thousand_attempts(
    sandbox: Sandbox, seen: Seen, tmp_path: Path
) -> None:
    """And nothing of them is kept."""
    counts: Counter[Any] = Counter()
    alive = 0

    class Counting(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            nonlocal alive
            counts[span.kind] += 1
            if counts[span.kind] % 500 == 0:
                gc.collect()
                calls = [
                    each for each in gc.get_objects() if isinstance(each, telemetry.WatchedCall)
                ]
                alive = max(alive, len(calls))

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Counting())
    async with TokfluenceClient(
        sandbox.token, base_url=sandbox.url, tracer_provider=provider
    ) as client:
        report = await crawl(client, range(1, 1001), tmp_path)

    assert report.posts == 1000
    assert counts == {SpanKind.CLIENT: 1000, SpanKind.INTERNAL: 1000}
    assert alive <= 60  # those under way: `max_concurrency` is 50


async def test_what_is_held_back_is_no_attempt(
    sandbox: Sandbox, client: TokfluenceClient, seen: Seen
) -> None:
    """After a 401 those who wait for a slot are not sent: no request, no span of one."""
    sandbox.revoke()

    report = await client.posts.analyze(range(1, 301))
    async for _ in client.posts.get_many(range(1, 31)):
        pass

    assert len(report.failed) == 300
    assert len(seen.attempts) == sandbox.requests_received
    assert {span.status.status_code for span in seen.calls} == {StatusCode.ERROR}
    assert {(span.attributes or {})["error.type"] for span in seen.calls} == {"AuthenticationError"}


@pytest.mark.client(max_retries=0)
async def test_a_connection_that_fails_is_an_attempt(
    sandbox: Sandbox, client: TokfluenceClient, seen: Seen
) -> None:
    """Nothing was sent, but it was tried, and took its time."""
    sandbox.lose_network()

    with pytest.raises(Exception, match="connect"):
        await asyncio.wait_for(client.posts.get(ID), 200)

    [attempt] = seen.attempts
    assert (attempt.attributes or {})["error.type"] == "APIConnectionError"


async def test_a_cancelled_call_ends_its_spans(
    sandbox: Sandbox, client: TokfluenceClient, seen: Seen
) -> None:
    """By name, and not as a failure: it is what the caller wanted."""
    sandbox.stall(to=GET)
    task = asyncio.create_task(client.posts.get(ID))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert [(span.attributes or {})["error.type"] for span in seen.spans] == ["CancelledError"] * 2
    assert {span.status.status_code for span in seen.spans} == {StatusCode.UNSET}
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.sandbox(indexed=1.0, comments_per_post=30)
async def test_calls_belong_to_the_span_they_were_made_in(
    sandbox: Sandbox, client: TokfluenceClient, seen: Seen
) -> None:
    """Also those that go in the background: pages ahead, many posts at once."""
    with seen.tracer_provider.get_tracer("app").start_as_current_span("job") as job:
        async for _ in client.posts.get_many(range(1, 21)):
            pass
        async for _ in client.posts.comments(ID, limit=10, prefetch=3):
            pass
        (await client.posts.analyze([ID])).raise_for_errors()
        assert trace.get_current_span() is job

    calls = [span for span in seen.calls if span.name != "job"]
    assert len(calls) == 24
    assert {span.parent.span_id for span in calls if span.parent} == {
        job.get_span_context().span_id
    }


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.sandbox(indexed=1.0, comments_per_post=5)
async def test_nothing_of_anybodys_is_told(
    with_ids: bool, sandbox: Sandbox, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No token, no text, no address of a user; a post's id only to who asks for it."""
    if with_ids:
        monkeypatch.setenv("TOKFLUENCE_OTEL_POST_IDS", "1")
    sandbox.drop_answer(to=GET)
    async with TokfluenceClient(
        sandbox.token,
        base_url=sandbox.url,
        tracer_provider=seen.tracer_provider,
        meter_provider=seen.meter_provider,
    ) as client:
        post = await client.posts.get(ID)
        comments = [comment async for comment in client.posts.comments(ID)]
        await client.posts.analyze([f"https://www.tiktok.com/@somebody/video/{ID}"])
        with pytest.raises(NotFoundError):
            await client.request("GET", "/v1/creators/@somebody/posts")

    told = json.dumps(
        [[span.to_json() for span in seen.spans], repr(seen.metrics())], ensure_ascii=False
    )
    private = [sandbox.token, post.caption, comments[0].text]
    assert not [text for text in private if text is None or text in told]
    assert ("somebody" in told) is with_ids
    assert (ID in told) is with_ids
    if with_ids:
        full = [(span.attributes or {})["url.full"] for span in seen.attempts]
        assert full[0] == f"{sandbox.url}/v1/posts/{ID}"


def test_names_are_those_of_the_conventions() -> None:
    """As released; `url.template` is not stable there yet."""
    names = Path(telemetry.__file__).read_text("utf-8")
    for name in (
        http_attributes.HTTP_REQUEST_METHOD,
        http_attributes.HTTP_REQUEST_RESEND_COUNT,
        http_attributes.HTTP_RESPONSE_STATUS_CODE,
        server_attributes.SERVER_ADDRESS,
        server_attributes.SERVER_PORT,
        error_attributes.ERROR_TYPE,
        url_attributes.URL_TEMPLATE,
        url_attributes.URL_FULL,
        http_metrics.HTTP_CLIENT_REQUEST_DURATION,
    ):
        assert f'"{name}"' in names


async def test_who_samples_nothing_pays_nothing_and_is_told_nothing(
    sandbox: Sandbox, seen: Seen
) -> None:
    """Sampled out, or without an SDK: the calls are the same."""
    off = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    off.add_span_processor(SimpleSpanProcessor(seen._spans))
    for provider in (off, trace.NoOpTracerProvider(), None):
        async with TokfluenceClient(
            sandbox.token,
            base_url=sandbox.url,
            tracer_provider=provider,
            meter_provider=seen.meter_provider,
        ) as client:
            await client.posts.get(ID)

    assert seen.spans == []
    assert seen.sums("tokfluence.client.credits") == {"posts.get": 3}
    # A trace that is not sampled goes on, and says that it is not; without one there is none.
    [flags, *others] = [request.headers.get("traceparent", "")[-2:] for request in sandbox.requests]
    assert int(flags, 16) & trace.TraceFlags.SAMPLED == 0
    assert others == ["", ""]


def test_without_opentelemetry_nothing_of_it_is_loaded() -> None:
    """Importing it takes 50 ms; a client that was made before does not begin later."""
    code = """if True:
        import sys
        from tokfluence_async import TokfluenceClient
        client = TokfluenceClient("x", base_url="http://127.0.0.1:1")
        assert not [name for name in sys.modules if name.startswith("opentelemetry")]
        assert "tokfluence_async._http.telemetry" not in sys.modules
        import opentelemetry.trace
        TokfluenceClient("x", base_url="http://127.0.0.1:1")
        assert "tokfluence_async._http.telemetry" in sys.modules
        assert not [name for name in sys.modules if name.startswith("opentelemetry.sdk")]
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_api_that_is_too_old_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else's dependency is no reason not to start; a provider that was given is."""

    def too_old(*_: Any) -> Any:
        raise TypeError("unexpected keyword argument")

    monkeypatch.setattr(telemetry.Telemetry, "__init__", too_old)

    TokfluenceClient("x", base_url="http://127.0.0.1:1")
    assert "opentelemetry-api is too old" in caplog.text
    with pytest.raises(TypeError):
        TokfluenceClient(
            "x", base_url="http://127.0.0.1:1", tracer_provider=trace.NoOpTracerProvider()
        )


async def test_records_of_the_log_carry_the_ids_of_their_span(
    sandbox: Sandbox,
    client: TokfluenceClient,
    seen: Seen,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Under the names of OpenTelemetry's own instrumentation of `logging`, and in the lines of
    `TOKFLUENCE_LOG`."""
    sandbox.index(ID)
    sandbox.internal_error(to=GET)
    with caplog.at_level(logging.DEBUG, "tokfluence_async"):
        await client.posts.get(ID)
    [call] = seen.calls
    ids = {(record.otelTraceID, record.otelSpanID) for record in caplog.records}  # type: ignore[attr-defined]
    assert ids == {(f"{call.context.trace_id:032x}", f"{call.context.span_id:016x}")}

    for as_json in (True, False):
        log.configure("debug", as_json=as_json)
        await client.posts.get(ID)
        logging.getLogger("tokfluence_async").info("outside")
    log.reset()
    as_objects = capsys.readouterr().err.splitlines()
    last = f"{seen.calls[-1].context.trace_id:032x}"
    first = json.loads(as_objects[0])
    assert first["trace_id"] == f"{seen.calls[-2].context.trace_id:032x}"
    assert len(first["span_id"]) == 16
    assert "trace_id" not in json.loads(as_objects[1])
    assert last in as_objects[2]
    assert "trace" not in as_objects[3]


async def test_a_key_that_is_refused_fails_the_span(
    sandbox: Sandbox, client: TokfluenceClient, seen: Seen
) -> None:
    """The call's by the name of its error, the attempt's by its status."""
    sandbox.revoke()
    with pytest.raises(AuthenticationError):
        await client.posts.get(ID)

    attempt, call = seen.spans
    assert (attempt.attributes or {})["error.type"] == "401"
    assert (call.attributes or {})["error.type"] == "AuthenticationError"
    assert (call.attributes or {})["tokfluence.credits"] == 0
