"""Memory of a crawl over 10 000 to 1 000 000 inputs, against a server that does nothing else.

Resident memory of a process of its own, at the end and at its peak. Two runs on each size: one that reads and writes every post, and one
over the same journal, in which nothing is new. Run: python -m benchmarks.crawl_memory [SIZE ...]
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

SIZES = (10_000, 100_000, 1_000_000)
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Credits-Remaining: 1000000\r\nContent-Length: %d\r\n\r\n%s"
)
_BODY = (
    b'{"data":{"post_id":"%s","url":"https://www.tiktok.com/@wwe/video/1","caption":"a caption of some length #fyp",'
    b'"views":123456,"likes":2345,"comments":0,"shares":12,"saves":3,"hashtags":["fyp"],"mentions":[]}}'
)


class _Server(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        body = _BODY % data.split(b" ", 2)[1].rpartition(b"/")[2]
        self._transport.write(_HEAD % (len(body), body))


def _inputs(size: int) -> Iterator[str]:
    # Ids in no order, as in real lists, and every tenth one twice.
    for number in range(size):
        yield str(7_000_000_000_000_000_000 + number * 2_654_435_761 % 2**40)
        if number % 10 == 0:
            yield str(7_000_000_000_000_000_000 + number * 2_654_435_761 % 2**40)


def _resident() -> float:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


async def _work(url: str, size: int, out: str) -> None:
    from tokfluence_async import Throttle, TokfluenceClient, crawl

    async with TokfluenceClient("t", base_url=url, throttle=Throttle(None, None)) as client:
        began = time.perf_counter()
        report = await crawl(client, _inputs(size), out)
        took = time.perf_counter() - began
    assert report.posts + report.skipped == size, report
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu = time.process_time()
    print(json.dumps([report.posts, report.skipped, report.duplicates, _resident(), peak, took, cpu]))


async def _serve(sizes: tuple[int, ...]) -> None:
    server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(__doc__)
    print(
        f"{'inputs':>9} {'run':>8} {'written':>8} {'skipped':>8} {'folded':>8} {'at end':>8} {'peak':>8} {'s':>7} {'CPU s':>7}"
    )
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            for run in ("first", "again"):
                child = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "benchmarks.crawl_memory", "--work", url, str(size), folder + "/out"),
                    stdout=subprocess.PIPE,
                )
                told, _ = await child.communicate()
                posts, skipped, duplicates, resident, peak, took, cpu = json.loads(told)
                print(
                    f"{size:9} {run:>8} {posts:8} {skipped:8} {duplicates:8} {resident:5.0f} MB {peak:5.0f} MB {took:7.1f} {cpu:7.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        asyncio.run(_work(sys.argv[2], int(sys.argv[3]), sys.argv[4]))
    else:
        asyncio.run(_serve(tuple(int(size) for size in sys.argv[1:]) or SIZES))
