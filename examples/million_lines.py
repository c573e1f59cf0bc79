"""Crawl a file of a million lines: flat memory, one line of progress, and the same command to go on
after anything.

    TOKFLUENCE_TOKEN=tkf_live_... python examples/million_lines.py ids.txt out --max-credits 50000
    python examples/million_lines.py ids.txt out --sandbox

The file is read line by line as the crawl gets on, never as a whole. `tokfluence crawl` does the
same from a shell; this is how it is built into a program: a generator in, files and a report out,
SIGTERM for a clean stop.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from tokfluence_async import ConfigurationError, Progress, Sandbox, TokfluenceClient, crawl


def lines(path: Path) -> Iterator[str]:
    """What is to be crawled. Any iterable will do: a database cursor, a queue, an async
    generator."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                yield line.strip()


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def show(progress: Progress) -> None:
    print(
        f"\r{progress.done:,} done, {progress.failed:,} failed, "
        f"{counted(progress.credits_spent, 'credit')}, "
        f"{progress.done / max(progress.elapsed, 1):.1f} posts/s ",
        end="",
        file=sys.stderr,
    )


@contextlib.asynccontextmanager
async def connect(sandbox: bool) -> AsyncIterator[TokfluenceClient]:
    if not sandbox:
        async with TokfluenceClient() as client:
            yield client
        return
    async with (
        Sandbox(indexed=0.9, seconds_per_url=1.0, record=False) as stand_in,
        TokfluenceClient(stand_in.token, base_url=stand_in.url) as client,
    ):
        yield client


async def main(
    file: Path, out: Path, *, max_credits: int | None = None, sandbox: bool = False
) -> int:
    stop = asyncio.Event()
    heard: list[signal.Signals] = []

    def hear(which: signal.Signals) -> None:
        heard.append(which)
        stop.set()

    loop = asyncio.get_running_loop()
    for which in (signal.SIGINT, signal.SIGTERM):
        # Where signals cannot be heard (another thread, Windows), the journal makes a hard end
        # harmless all the same.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(which, hear, which)
    async with connect(sandbox) as client:
        report = await crawl(
            client, lines(file), out, max_credits=max_credits, on_progress=show, stop=stop
        )
    print(file=sys.stderr)
    print(
        f"{counted(report.posts, 'post')}, {report.skipped:,} done earlier, {report.failed:,} "
        "failed, "
        f"{counted(report.credits_spent, 'credit')} in {report.seconds:,.0f} s"
        + (f", stopped by {report.stopped_by}: run it again to go on" if report.stopped_by else "")
    )
    if heard:
        return 128 + heard[0]  # as shells and supervisors know it, and as the command does
    return 1 if report.failed or report.stopped_by else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Crawl a file with a TikTok URL or video id per line."
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--max-credits", type=int)
    parser.add_argument("--sandbox", action="store_true", help="no token, no network")
    given = parser.parse_args()
    # Before the folder is made for nothing.
    if not given.file.exists() or given.file.is_dir():
        parser.exit(2, f"{given.file}: {'a folder' if given.file.is_dir() else 'no such file'}\n")
    try:
        sys.exit(
            asyncio.run(
                main(given.file, given.out, max_credits=given.max_credits, sandbox=given.sandbox)
            )
        )
    except ConfigurationError as error:  # no token, a folder that cannot be written
        parser.exit(2, f"{error}\n")
