"""The process of one contender. It is set up once, warmed up, and then does a piece of work
whenever it is told to.

Orders come in as JSON lines, figures go out: CPU seconds of this process by the operating system's
accounting (user and system), wall seconds, and how many requests or comments it did.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from typing import Any

from .bodies import post_id
from .contenders import CONTENDERS, Contender, drive
from .servers import POSTS


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _work(contender: Contender, order: dict[str, Any]) -> int:
    if order["what"] == "posts":
        count = int(order["count"])
        await drive(
            contender.get, (post_id(n % POSTS) for n in range(count)), int(order["in_flight"])
        )
        return count
    if order["what"] == "many posts":
        return await contender.many_posts([post_id(n) for n in range(int(order["count"]))])
    return await contender.all_comments([post_id(n) for n in range(int(order["count"]))])


async def _serve(contender: Contender) -> None:
    await contender.open()
    print(json.dumps({"ready": True}), flush=True)
    # Nothing else is to run between two orders, so the loop may well stand still while it waits for
    # one.
    while line := sys.stdin.readline():
        order = json.loads(line)
        wall, cpu = time.perf_counter(), _cpu()
        done = await _work(contender, order)
        figures = {"cpu": _cpu() - cpu, "wall": time.perf_counter() - wall, "done": done}
        contender.tidy()
        print(json.dumps(figures), flush=True)
    await contender.close()


def main() -> None:
    name, url, checkout = sys.argv[1:]
    if checkout:  # contenders import the package when they open, and find this one first
        sys.path.insert(0, checkout)
    kind = CONTENDERS[name]
    factory = None
    if kind.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(kind(url)))


if __name__ == "__main__":
    main()
