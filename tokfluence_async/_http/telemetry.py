"""Spans and metrics of OpenTelemetry: one span for each call, and under it one for each attempt.

Imported only where `opentelemetry` already is, or where a provider was given. Without this room a
call pays one `is None`.

Promises: nothing that is told holds the token, a text of a post or a comment, or the path of a
request as it was sent (`url.template` names ids `{id}`). Post ids are told only where
`TOKFLUENCE_OTEL_POST_IDS` is set. Credits are counted once, when their call ends.

Relies on the API of OpenTelemetry alone; the application chooses the SDK. Without one there are no
spans, and automatic instrumentation of aiohttp is left as it is. With one, it is told to leave each
attempt to us.

Names follow the semantic conventions for HTTP clients. They want a client span for each attempt and
no logical HTTP span around them, so a call's span is INTERNAL.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, TypeVar
from urllib.parse import urlsplit

from opentelemetry import metrics, propagate, trace
from opentelemetry.metrics import Meter, MeterProvider
from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider

from .._errors import APIConnectionError, TokfluenceError
from .._version import __version__
from .._wire.answers import Answer
from .._wire.calls import Call
from .attempt import Attempt
from .call import CallUnderWay
from .retry import Again, Decision, Settled

__all__ = ["MeterProvider", "Telemetry", "TracerProvider"]

T = TypeVar("T")

_SCOPE = "tokfluence_async"
_SCHEMA = "https://opentelemetry.io/schemas/1.27.0"
# What the conventions advise for `http.client.request.duration`. An analysis takes several seconds
# a URL, and a wait for a slot as long as the queue is, so larger ones follow.
_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
_LONG = [*_SECONDS, 30.0, 60.0, 120.0, 300.0]
# Parts of a path that name an endpoint. Every other part may be somebody's name or id.
_WORDS = frozenset(
    [
        *("v1", "posts", "comments", "analyze", "creators", "ai_search"),
        *("campaigns", "metrics", "influencers"),
    ]
)


class Telemetry:
    """The tracer and the instruments of one client.

    Args:
        base_url: Where the client's requests go.
        tracer_provider: None for the global one, whichever it is when a call is made.
        meter_provider: None for the global one.
    """

    def __init__(
        self,
        base_url: str,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        url = urlsplit(base_url)
        self.base_url = base_url
        self._server: dict[str, str | int] = {
            "server.address": url.hostname or "",
            "server.port": url.port or (443 if url.scheme == "https" else 80),
        }
        self.with_post_ids = os.environ.get("TOKFLUENCE_OTEL_POST_IDS", "") not in ("", "0")
        self._provider = tracer_provider
        self.tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider, _SCHEMA)
        meter = _meter(meter_provider)
        self.duration = meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Duration of one attempt: from its slot to the last byte of its answer.",
            explicit_bucket_boundaries_advisory=_LONG,
        )
        self.wait = meter.create_histogram(
            "tokfluence.client.throttle.wait",
            "s",
            "Time an attempt waited for its slot of the throttle, and at closed gates.",
            explicit_bucket_boundaries_advisory=_LONG,
        )
        self.refused = meter.create_counter(
            "tokfluence.client.throttle.refused", "{request}", "Answers with status 429."
        )
        self.credits = meter.create_counter(
            "tokfluence.client.credits",
            "{credit}",
            "Credits charged; a charge that is not known counts as made.",
        )
        self.remaining = meter.create_gauge(
            "tokfluence.client.credits_remaining",
            "{credit}",
            "Credits left in the wallet, as the service last said.",
        )
        _name_spans_in_logs()

    @property
    def traces(self) -> bool:
        """Whether somebody takes spans."""
        provider = self._provider or trace.get_tracer_provider()
        return not isinstance(provider, (trace.NoOpTracerProvider, trace.ProxyTracerProvider))

    def call(self, *details: Any) -> WatchedCall[Any]:
        """What `CallUnderWay(*details)` is, with a span."""
        return WatchedCall(self, *details)

    def labels_of(self, call: Call) -> dict[str, str | int]:
        """What the conventions want to know of every attempt."""
        return {
            "http.request.method": call.method,
            **self._server,
            "url.template": _template(call.target),
            "tokfluence.operation": call.operation,
        }


class WatchedCall(CallUnderWay[T]):
    """A call with its span, which is the current one until the call ends, and its metrics."""

    def __init__(self, telemetry: Telemetry, *details: Any) -> None:
        super().__init__(*details)
        self._telemetry = telemetry
        self._labels: dict[str, str | int] = {"tokfluence.operation": self._call.operation}
        self._span: Span = trace.INVALID_SPAN
        self._current = ExitStack()
        if telemetry.traces:
            urls = {"tokfluence.urls": self._call.units} if self._call.units else {}
            self._span = telemetry.tracer.start_span(
                f"tokfluence.{self._call.operation}", attributes={**self._labels, **urls}
            )
            self._current.enter_context(_as_current(self._span))

    def end(self) -> None:
        super().end()
        if self._charged:
            self._telemetry.credits.add(self._charged, self._labels)
        self._current.close()
        self._span.set_attribute("tokfluence.attempts", self._attempts)
        self._span.set_attribute("tokfluence.credits", self._charged)
        _tell_error(self._span, sys.exception())
        self._span.end()

    # --- what happens on the way ------------------------------------------------------------------

    async def _pass_gate(self) -> float:
        seconds = await super()._pass_gate()
        self._span.add_event("tokfluence.throttle.gate", {"tokfluence.seconds": seconds})
        self._telemetry.wait.record(seconds, self._labels)
        return seconds

    def _tell_wait(self, seconds: float) -> None:
        if seconds > 0:
            self._span.add_event("tokfluence.throttle.wait", {"tokfluence.seconds": seconds})
        self._telemetry.wait.record(seconds, self._labels)

    def read(self, attempt: Attempt, answer: Answer) -> T:
        if answer.status == 429:
            asked = answer.retry_after
            says = {} if asked is None else {"tokfluence.retry_after": asked}
            self._span.add_event("tokfluence.throttle.refused", says)
            self._telemetry.refused.add(1, self._labels)
        try:
            return super().read(attempt, answer)
        finally:
            remaining = self._key.ledger.remaining
            if remaining is not None:
                self._telemetry.remaining.set(remaining)

    def decide(self, attempt: Attempt, error: TokfluenceError) -> Decision:
        decision = super().decide(attempt, error)
        if isinstance(decision, Settled):
            self._span.add_event("tokfluence.settled", {"tokfluence.verify": decision.verify})
        elif isinstance(decision, Again):
            self._span.add_event("tokfluence.retry", {"tokfluence.seconds": decision.after})
        return decision

    # --- an attempt -------------------------------------------------------------------------------

    async def _send(self, attempt: Attempt, headers: Mapping[str, str] | None = None) -> Answer:
        """As an attempt with its slot is sent, under a span of its own."""
        waited = attempt.waited
        self._tell_wait(waited)
        labels = self._telemetry.labels_of(self._call)
        began = self._state.loop.time()
        with ExitStack() as stack:
            span = self._attempt_span(attempt, labels, stack)
            try:
                answer = await super()._send(attempt, _trace_headers(span))
            except BaseException as error:
                if attempt.sent or isinstance(error, APIConnectionError):
                    labels["error.type"] = _tell_error(span, error)
                    self._end_attempt(span, labels, began)
                raise  # if it was held back at the last moment, there was no request to tell of
            finally:
                if attempt.waited > waited:  # again, with a connection in hand
                    self._tell_wait(attempt.waited - waited)
            span.set_attribute("http.response.status_code", answer.status)
            labels["http.response.status_code"] = answer.status
            if answer.status >= 400:
                labels["error.type"] = str(answer.status)
                span.set_attribute("error.type", str(answer.status))
                span.set_status(StatusCode.ERROR)
            self._end_attempt(span, labels, began)
            return answer

    def _end_attempt(self, span: Span, labels: dict[str, str | int], began: float) -> None:
        span.end()
        self._telemetry.duration.record(self._state.loop.time() - began, labels)

    def _attempt_span(
        self, attempt: Attempt, labels: dict[str, str | int], stack: ExitStack
    ) -> Span:
        telemetry = self._telemetry
        if not telemetry.traces:
            return trace.INVALID_SPAN
        says = {**labels, "tokfluence.request_id": attempt.request_id}
        if self._attempts > 1:
            says["http.request.resend_count"] = self._attempts - 1
        if telemetry.with_post_ids:
            says["url.full"] = telemetry.base_url + self._call.target
        name = f"{labels['http.request.method']} {labels['url.template']}"
        span = telemetry.tracer.start_span(name, kind=SpanKind.CLIENT, attributes=says)
        stack.enter_context(_as_current(span))
        stack.enter_context(_without_automatic_spans())
        return span


def _tell_error(span: Span, error: BaseException | None) -> str:
    """Mark a span as ended by `error`, and return what `error.type` says. A cancellation is named,
    but is no failure."""
    if error is None:
        return ""
    name = type(error).__qualname__
    span.set_attribute("error.type", name)
    if isinstance(error, Exception):
        span.set_status(StatusCode.ERROR)
    return name


def _trace_headers(span: Span) -> dict[str, str] | None:
    """What carries the trace to the service, such as `traceparent`."""
    if span is trace.INVALID_SPAN:
        return None
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


def _as_current(span: Span) -> AbstractContextManager[Span]:
    return trace.use_span(
        span, end_on_exit=False, record_exception=False, set_status_on_exception=False
    )


def _without_automatic_spans() -> AbstractContextManager[None]:
    """Tell OpenTelemetry's instrumentation of aiohttp, if there is one, that this request has its
    span."""
    utils = sys.modules.get("opentelemetry.instrumentation.utils")
    return nullcontext() if utils is None else utils.suppress_http_instrumentation()


def _template(target: str) -> str:
    path = target.partition("?")[0].rstrip("/")
    return "/".join(part if not part or part in _WORDS else "{id}" for part in path.split("/"))


@functools.cache
def _meter(provider: MeterProvider | None) -> Meter:
    """Made once for each provider: as long as no SDK is there, the global one keeps each that was
    asked for."""
    return metrics.get_meter(_SCOPE, __version__, provider, _SCHEMA)


# --- the log --------------------------------------------------------------------------------------


class _SpanIds(logging.Filter):
    """Puts the ids of the current span into each record, under the names that OpenTelemetry's own
    instrumentation of `logging` uses; "0" where there is no span."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "otelTraceID"):
            context = trace.get_current_span().get_span_context()
            record.otelTraceID = f"{context.trace_id:032x}" if context.is_valid else "0"
            record.otelSpanID = f"{context.span_id:016x}" if context.is_valid else "0"
        return True


def _name_spans_in_logs() -> None:
    logger = logging.getLogger("tokfluence_async")
    if not any(isinstance(each, _SpanIds) for each in logger.filters):
        logger.addFilter(_SpanIds())
