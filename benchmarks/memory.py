"""Memory does not grow with the job: peak resident size for 10 000 and for a million inputs, each
in a process of its own.

And what one URL in flight takes: the same job with few and with many of them under way, at a server
that takes its time.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import plot
from .bodies import POST_ID
from .contenders import TOKEN, UNLIMITED
from .goals import Goal, judge
from .servers import RAW, raw
from .turns import quartiles, spread

__all__ = ["run"]

# Inputs are ids, or the URLs people have. All posts are in the index, or it is cold: none is,
# before it has been analyzed.
_JOBS = (
    "comments",
    "comments kept",
    "analyze_iter",
    "resolve",
    "crawl",
    "analyze_iter, URLs",
    "resolve, URLs",
    "crawl, URLs",
    "resolve, cold",
    "crawl, cold",
)
# Of the large job, where a million would be too many: they would not fit, or take more than five
# minutes.
_AT_MOST = {"comments kept": 200_000, "crawl, cold": 500_000}
_SMALL = 10_000
# What is in flight at once, few and many: calls, and for `analyze_iter` batches, of this many URLs.
_BATCH = 50
_FLYING: dict[str, tuple[int, int]] = {
    "analyze_iter": (8, 72),
    "resolve": (50, 1050),
    "crawl": (50, 1050),
}
# Seconds an answer takes, so that all of them are under way together.
_LATENCY = 0.5


def run(quick: bool, out: Path) -> None:
    """The growth from the small job to the large one is what counts; the rest is the interpreter
    and its modules."""
    large = 50_000 if quick else 1_000_000
    rounds = 1 if quick else 3
    print(f"### Peak resident memory, {_SMALL:,} and {large:,} inputs")
    print(
        f"Server: {RAW}. No canned body: an analysis is answered by the URLs it asks for, and a "
        "long walk has 5,000 pages."
    )
    print(
        "Inputs are ids in no order, a tenth of them twice, or their URLs. Cold: a post is 404 "
        "until it was analyzed, and its first read comes after "
        "0.02 s\ninstead of 2, as this server has it at once."
    )
    print(
        f"The small one: median of {rounds} and quartiles. The large one takes minutes: one run.\n"
    )
    print(
        "| job | peak, small | peak, large | growth | bytes an input | a large one's seconds, CPU |"
    )
    print("|---|---|---|---|---|---|")
    goals = []
    peaks: dict[str, dict[str, plot.Bar]] = {"small": {}, "large": {}}
    for job in _JOBS:
        many = min(large, _AT_MOST.get(job, large))
        name = f"{job} ({many:,})" if many != large else job
        small = [measure(job, _SMALL)["peak"] / 1e6 for _ in range(rounds)]
        big = measure(job, many)
        growth = big["peak"] - 1e6 * quartiles(small)[1]
        each = growth / (many - _SMALL)
        print(
            f"| {name} | {spread(small, '.1f')} MB | {big['peak'] / 1e6:.1f} MB "
            f"| {growth / 1e6:.1f} MB | {each:.1f} | {big['wall']:.0f}, {big['cpu']:.0f} |",
            flush=True,
        )
        peaks["small"][job] = plot.bar(small, ".0f", f" MB, {_SMALL:,}")
        peaks["large"][job] = plot.bar([big["peak"] / 1e6], ".0f", f" MB, {many:,}")
        if job == "comments kept":
            goals.append(Goal(f"{name}, bytes a comment <= 830", f"{each:.0f}", each <= 830))
        else:
            goals.append(Goal(f"{name}, growth <= 64 MB", f"{growth / 1e6:.1f} MB", growth <= 64e6))
    print(
        "\nFolding duplicates by video id needs to remember every id of a job: that is what "
        "grows in all but the comments.\n"
    )
    judge(goals, quick)
    plot.grouped(peaks, "peak resident memory, MB, and inputs", out / "memory.png")
    print(f"### Bytes a URL in flight; median of {rounds} and quartiles")
    print(f"Server: {RAW}, each answer {_LATENCY} s late, which nginx cannot be.\n")
    print("| job | URLs in flight | peak | URLs in flight | peak | bytes a URL |")
    print("|---|---|---|---|---|---|")
    drawn = {}
    for job, flying in _FLYING.items():
        urls = [count * (_BATCH if job == "analyze_iter" else 1) for count in flying]
        # The same inputs both times, so that what is remembered of each does not count.
        turns = [
            [
                measure(job, 3 * urls[1], in_flight=count, latency=_LATENCY)["peak"]
                for count in flying
            ]
            for _ in range(rounds)
        ]
        few, lots = ([turn[index] / 1e6 for turn in turns] for index in (0, 1))
        each = [(turn[1] - turn[0]) / (urls[1] - urls[0]) for turn in turns]
        print(
            f"| {job} | {urls[0]:,} | {spread(few, '.1f')} MB | {urls[1]:,} | "
            f"{spread(lots, '.1f')} MB "
            f"| {spread(each, ',.0f')} |",
            flush=True,
        )
        drawn[job] = plot.bar(each, ",.0f")
    print()
    plot.grouped({"": drawn}, "bytes a URL in flight", out / "memory-in-flight.png")


def measure(
    job: str, count: int, *, in_flight: int | None = None, latency: float = 0.0
) -> dict[str, Any]:
    """`job` over `count` inputs in a new process; peak resident bytes, wall and CPU seconds."""
    comments = count if job.startswith("comments") else 0
    with raw(comments=comments, latency=latency, cold=job.endswith(", cold")) as url:
        command = [
            sys.executable,
            "-m",
            "benchmarks.memory",
            job,
            str(count),
            url,
            str(in_flight or ""),
        ]
        done = subprocess.run(
            command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True
        )
    return dict(json.loads(done.stdout))


def _ids(count: int) -> Iterator[str]:
    """In no order, as in real lists, and every tenth one twice."""
    for n in range(count):
        post_id = str(POST_ID + n * 2_654_435_761 % 2**40)
        yield post_id
        if n % 10 == 0:
            yield post_id


def _urls(count: int) -> Iterator[str]:
    """The same posts, as people copy them."""
    for post_id in _ids(count):
        yield f"https://www.tiktok.com/@creator{post_id[-4:]}/video/{post_id}"


def _hurry() -> None:
    """The server has every post at once, so seconds of waiting until one is readable are not the
    job's. In the child only."""
    from tokfluence_async._bulk import intake as _intake
    from tokfluence_async._bulk import visibility as _visibility

    _visibility.FIRST_READ = 0.02  # type: ignore[attr-defined]
    _intake._LINGER = 0.01


async def _do(job: str, count: int, url: str, in_flight: int | None) -> None:
    from tokfluence_async import Throttle, TokfluenceClient, crawl

    throttle = Throttle(per_ip=UNLIMITED, per_key=UNLIMITED)
    job, _, kind = job.partition(", ")
    if kind == "cold":
        _hurry()
    inputs = _urls if kind == "URLs" else _ids
    done = 0
    reads, batches = (50, 8) if in_flight is None else (in_flight, in_flight)
    async with TokfluenceClient(
        TOKEN, base_url=url, throttle=throttle, max_concurrency=reads, analyze_concurrency=batches
    ) as client:
        if job == "comments":
            async for _ in client.posts.comments(POST_ID):
                done += 1
        elif job == "comments kept":
            done = len([comment async for comment in client.posts.comments(POST_ID)])
        elif job == "analyze_iter":
            async for outcome in client.posts.analyze_iter(
                inputs(count), batch_size=in_flight and _BATCH
            ):
                done += outcome.ok
        elif job == "resolve":
            async for found in client.posts.resolve(inputs(count)):
                done += found.ok
        else:
            with tempfile.TemporaryDirectory(prefix="tokfluence-bench-") as folder:
                done = (await crawl(client, inputs(count), folder)).posts
                again = await crawl(client, inputs(count), folder)  # in which nothing is new
                done -= again.posts + count - again.skipped
    if done != count:
        raise RuntimeError(f"{job}: {done} of {count}")


def _peak(usage: resource.struct_rusage) -> int:
    """Bytes. On Linux `ru_maxrss` begins with what the parent held when it forked, which may be
    more than all that is measured."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    job, count, url, in_flight = sys.argv[1:]
    began = time.perf_counter()
    asyncio.run(_do(job, int(count), url, int(in_flight) if in_flight else None))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "peak": _peak(usage),
        "wall": time.perf_counter() - began,
        "cpu": usage.ru_utime + usage.ru_stime,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
