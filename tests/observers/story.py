"""Five requests on the wire, with one tool watching; what it saw is printed as JSON.

    python -m tests.observers.story TOOL

A process of its own for each tool, as each patches aiohttp for good. The requests: a read whose
answer is lost, its repeat, a page of comments, an analysis that fails with 502, and its repeat.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from tokfluence_async import Sandbox, TokfluenceClient
from tokfluence_async.testing import VirtualLoop

POST_ID = "7234567890123456789"
GET = "GET /v1/posts/:id"
ANALYZE = "POST /v1/posts/analyze"


async def tell(sandbox: Sandbox, **options: Any) -> None:
    sandbox.drop_answer(to=GET)
    sandbox.upstream_error(to=ANALYZE)
    async with TokfluenceClient(sandbox.token, base_url=sandbox.url, **options) as client:
        await client.posts.get(POST_ID)
        async for _ in client.posts.comments(POST_ID, max_items=5):
            pass
        report = await client.posts.analyze([POST_ID])
        report.raise_for_errors()


def run(work: Callable[[Sandbox], Any] = tell) -> Sandbox:
    async def main() -> Sandbox:
        async with Sandbox(indexed=1.0, comments_per_post=5) as sandbox:
            await work(sandbox)
        return sandbox

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


# --- the tools ------------------------------------------------------------------------------------


def plain() -> list[Any]:
    """Nothing is watching, unless the interpreter was started by a tool."""
    run()
    return []


def opentelemetry() -> list[Any]:
    """With the client's own spans, beside its instrumentation of aiohttp."""
    return _opentelemetry()


def instrumentation() -> list[Any]:
    """Its instrumentation of aiohttp alone."""
    from opentelemetry.trace import NoOpTracerProvider

    return _opentelemetry(tracer_provider=NoOpTracerProvider())


def _opentelemetry(**options: Any) -> list[Any]:
    from opentelemetry import trace
    from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    AioHttpClientInstrumentor().instrument()
    run(partial(tell, **options))
    return [json.loads(span.to_json()) for span in spans.get_finished_spans()]


def sentry() -> list[Any]:
    import sentry_sdk
    from sentry_sdk.envelope import Envelope
    from sentry_sdk.transport import Transport

    seen: list[Any] = []

    class Kept(Transport):
        def capture_envelope(self, envelope: Envelope) -> None:
            seen.extend(item.payload.json for item in envelope.items)

    sentry_sdk.init(dsn="http://key@127.0.0.1:1/1", transport=Kept, traces_sample_rate=1.0)
    with sentry_sdk.start_transaction(name="story"):
        run()
        sentry_sdk.capture_message("the end")
    sentry_sdk.flush()
    return seen


def datadog() -> list[Any]:
    from ddtrace import patch
    from ddtrace.trace import Span, TraceFilter, tracer

    seen: list[Any] = []

    class Kept(TraceFilter):
        def process_trace(self, trace: list[Span]) -> None:
            seen.extend(
                {"name": span.name, "tags": span.get_tags(), "error": span.error} for span in trace
            )

    tracer.configure(trace_processors=[Kept()])
    patch(aiohttp=True)
    run()
    tracer.flush()
    return seen


TOOLS = {tool.__name__: tool for tool in (plain, opentelemetry, instrumentation, sentry, datadog)}

if __name__ == "__main__":
    print(json.dumps(TOOLS[sys.argv[1]](), default=str))
