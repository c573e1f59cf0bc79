"""Draw `docs/telemetry.svg`: twelve minutes of a crawl, as a monitoring system sees them.

    python docs/_tools/dashboard.py

A client with OpenTelemetry's Prometheus exporter crawls a sandbox on the virtual clock. Its metrics
are read every five seconds, as text, as Prometheus would. In minute 3 somebody else uses up the
key's budget; in minute 7 the service has no TikTok for half a minute.
Needs the dependency group `docs`.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tokfluence_async import Sandbox, TokfluenceClient, crawl
from tokfluence_async.testing import VirtualLoop

PICTURE = Path(__file__).parent.parent / "telemetry.svg"
STEP = 5.0
MINUTES = 12
OPERATIONS = {"posts.get": "C0", "posts.comments": "C1", "posts.analyze": "C2"}

Scrape = dict[tuple[str, str, str], float]


def scrape() -> Scrape:
    """Sample name, operation and bucket, each with its value."""
    found: Scrape = defaultdict(float)
    for family in text_string_to_metric_families(generate_latest().decode()):
        for sample in family.samples:
            labels = sample.labels
            key = (sample.name, labels.get("tokfluence_operation", ""), labels.get("le", ""))
            found[key] += sample.value
    return found


async def run() -> list[tuple[float, Scrape]]:
    seen: list[tuple[float, Scrape]] = []
    loop = asyncio.get_running_loop()
    meter_provider = MeterProvider([PrometheusMetricReader()])

    async def watch() -> None:
        while True:
            seen.append((loop.time(), scrape()))
            await asyncio.sleep(STEP)

    async def trouble(sandbox: Sandbox) -> None:
        await asyncio.sleep(3 * 60)
        sandbox.rate_limit(times=None, retry_after=8)
        await asyncio.sleep(40)
        sandbox.clear_faults()
        await asyncio.sleep(3 * 60 + 20)
        sandbox.upstream_error(to="POST /v1/posts/analyze", times=None)
        await asyncio.sleep(30)
        sandbox.clear_faults()

    async with Sandbox(indexed=0.5, comments_per_post=400, credits=500_000) as sandbox:
        background = [asyncio.create_task(watch()), asyncio.create_task(trouble(sandbox))]
        async with TokfluenceClient(
            sandbox.token, base_url=sandbox.url, meter_provider=meter_provider
        ) as client:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    async with asyncio.timeout(MINUTES * 60):
                        await crawl(client, range(1, 100_000), folder, comments=True)
                except TimeoutError:
                    pass
        for task in background:
            task.cancel()
    return seen


# --- what a monitoring system makes of it ---------------------------------------------------------


def rate(before: Scrape, now: Scrape, name: str, operation: str) -> float:
    key = (name, operation, "")
    return (now[key] - before[key]) / STEP


def quantile(before: Scrape, now: Scrape, name: str, operation: str, part: float) -> float | None:
    """As `histogram_quantile` does: evenly within a bucket."""
    buckets = sorted(
        (float(le), now[key] - before[key])
        for key in now
        for bucket, of, le in [key]
        if bucket == f"{name}_bucket" and of == operation
    )
    if not buckets or buckets[-1][1] <= 0:
        return None
    wanted, low, below = part * buckets[-1][1], 0.0, 0.0
    for high, count in buckets:
        if count >= wanted:
            top = low if high == float("inf") else high
            return low + (top - low) * (wanted - below) / max(count - below, 1e-9)
        low, below = high, count
    return None


def draw(seen: list[tuple[float, Scrape]]) -> None:
    mpl.rcParams.update({"svg.hashsalt": "tokfluence", "font.size": 8, "axes.titlesize": 9})
    figure, axes = plt.subplots(2, 2, figsize=(10, 5.6), layout="constrained", sharex=True)
    requests, durations, waits, money = axes.flat
    begin = seen[0][0]
    window = 6  # scrapes, half a minute, as in rate(…[30s])
    pairs = [
        ((now[0] - begin) / 60, before[1], now[1])
        for before, now in zip(seen, seen[window:], strict=False)
    ]

    def lines(
        where: plt.Axes, title: str, value: Callable[[Scrape, Scrape, str], float | None]
    ) -> None:
        where.set_title(title, loc="left")
        for operation, colour in OPERATIONS.items():
            points = [(at, value(before, now, operation)) for at, before, now in pairs]
            kept = [(at, each) for at, each in points if each is not None]
            where.plot(*zip(*kept, strict=True), color=colour, label=operation, linewidth=1.2)

    http, wait = "http_client_request_duration_seconds", "tokfluence_client_throttle_wait_seconds"
    lines(requests, "Requests a second", lambda b, n, o: rate(b, n, f"{http}_count", o) / window)
    lines(durations, "Attempt, 95 %, seconds", lambda b, n, o: quantile(b, n, http, o, 0.95))
    lines(waits, "Wait for a slot, 95 %, seconds", lambda b, n, o: quantile(b, n, wait, o, 0.95))
    refused = "tokfluence_client_throttle_refused_total"
    waits.bar(
        [at for at, *_ in pairs],
        [sum(rate(b, n, refused, o) / window for o in OPERATIONS) * 60 for _, b, n in pairs],
        width=0.08,
        color="C3",
        alpha=0.5,
        label="refused a minute",
    )
    spent = "tokfluence_client_credits_total"
    lines(money, "Credits a minute", lambda b, n, o: rate(b, n, spent, o) / window * 60)
    left = money.twinx()
    remaining = ("tokfluence_client_credits_remaining", "", "")
    left.plot(
        [at for at, *_ in pairs],
        [now[remaining] / 1000 for *_, now in pairs],
        color="0.5",
        linestyle=":",
        label="left, in thousands (right)",
    )
    for where in axes.flat:
        where.set_xlim(0, MINUTES)
        where.set_ylim(bottom=0)
        where.grid(alpha=0.25)
        where.spines[["top", "right"]].set_visible(False)
    requests.legend(frameon=False, loc="upper right")
    handles, labels = waits.get_legend_handles_labels()
    waits.legend(handles[-1:], labels[-1:], frameon=False)
    left.legend(frameon=False, loc="upper right")
    for where in axes[1]:
        where.set_xlabel("minutes")
    figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        draw(runner.run(run()))
