"""A body that comes in pieces, read under the size cap as the client reads it, against
`response.read()`.

Both read the same stream of aiohttp's, which is fed a piece each turn of the loop. There are no
sockets: their cost is the same for both, and far above what is compared. In one process, in turns,
in a new order each round.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from aiohttp.base_protocol import BaseProtocol

from tokfluence_async._http.transport import read_body

from . import plot
from .goals import Goal, judge
from .turns import quartiles, ratios, spread

__all__ = ["run"]

# Pieces, bytes of each, and what it is like.
_BODIES = (
    (2, 37_500, "a page of 200 comments"),
    (8, 16_384, ""),
    (64, 16_384, ""),
    (1000, 1400, "a slow network"),
)
_LIMIT = 2**16  # of a stream, by aiohttp's default
_Read = Callable[[aiohttp.StreamReader], Awaitable[bytes]]


def run(quick: bool, out: Path) -> None:
    """Print the table, and judge the worst of its rows."""
    rounds = 5 if quick else 101
    print(
        f"### A body in pieces, against `read()`; CPU µs a body, median of {rounds} rounds and "
        "quartiles"
    )
    print("No server: a stream fed by hand.\n")
    print("| body | `read()` | under the cap | ratio |")
    print("|---|---|---|---|")
    worst = 0.0
    drawn = {}
    for count, size, name in _BODIES:
        theirs, ours = asyncio.run(_race(count, size, rounds))
        found = ratios(ours, theirs)
        worst = max(worst, quartiles(found)[1])
        body = f"{count} pieces of {size:,} bytes" + (f" ({name})" if name else "")
        drawn[body] = plot.bar(found, ".3f")
        print(
            f"| {body} | {spread(theirs, '.1f')} | {spread(ours, '.1f')} | "
            f"{spread(found, '.3f')} |",
            flush=True,
        )
    print()
    what = (
        "reading in pieces under the cap against `read()` <= 1.00, give or take 0.02, in the "
        "worst row"
    )
    plot.grouped(
        {"": drawn}, "CPU of reading under the cap, of `read()`'s", out / "pieces.png", goal=1.0
    )
    judge([Goal(what, f"{worst:.3f}", worst <= 1.02)], quick)


async def _race(count: int, size: int, rounds: int) -> tuple[list[float], list[float]]:
    """Microseconds a body of each round: by `read()`, and by the client's way."""

    async def capped(payload: aiohttp.StreamReader) -> bytes:
        return await read_body(payload, 2**25, lambda: None) or b""

    times = max(1, 2000 // count)
    theirs: list[float] = []
    ours: list[float] = []
    rng = random.Random(7)
    turn: list[tuple[list[float], _Read]] = [(theirs, _whole), (ours, capped)]
    for number in range(rounds + 1):
        rng.shuffle(turn)
        for found, read in turn:
            micros = await _measured(count, size, times, read)
            if number:  # the first is for warming up
                found.append(micros)
    return theirs, ours


async def _whole(payload: aiohttp.StreamReader) -> bytes:
    """As `response.read()` does it, which has a call of its own around the stream's, and some more
    that is left out here."""
    return await payload.read()


async def _measured(count: int, size: int, times: int, read: _Read) -> float:
    loop = asyncio.get_running_loop()
    piece = bytes(size)
    protocol = BaseProtocol(loop)
    protocol.connection_made(asyncio.Transport())  # a stream reads of nothing that is not connected
    spent = 0.0
    for _ in range(times):
        payload = aiohttp.StreamReader(protocol, _LIMIT, loop=loop)

        def feed(left: int, payload: aiohttp.StreamReader = payload) -> None:
            if left:
                payload.feed_data(piece)
                loop.call_soon(feed, left - 1)
            else:
                payload.feed_eof()

        began = time.process_time()
        loop.call_soon(feed, count)
        body = await read(payload)
        spent += time.process_time() - began
        if len(body) != count * size:
            raise RuntimeError(f"{len(body)} bytes of {count * size}")
    return spent / times * 1e6
