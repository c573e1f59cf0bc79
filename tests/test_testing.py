"""The virtual clock itself."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import pytest
from aiohttp import web
from aiolimiter import AsyncLimiter


async def test_an_hour_passes_at_once():
    """On a clock that waited, the two minutes that every test has would be up."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    await asyncio.sleep(3600)

    assert loop.time() - began == pytest.approx(3600)


async def test_timers_fire_in_their_order():
    order: list[int] = []

    async def at(seconds: int) -> None:
        await asyncio.sleep(seconds)
        order.append(seconds)

    await asyncio.gather(*(at(s) for s in (5, 1, 3, 2, 4)))

    assert order == [1, 2, 3, 4, 5]


async def test_aiolimiter_follows_the_virtual_clock():
    """Non-round rates ask for sleeps below the clock's resolution; frozen time would spin for
    ever."""
    loop = asyncio.get_running_loop()
    limiter = AsyncLimiter(7, 3.3)
    began = loop.time()

    for _ in range(70):
        await limiter.acquire()

    assert loop.time() - began == pytest.approx(63 / 7 * 3.3, rel=1e-3)


async def test_a_loopback_server_and_its_client_share_the_clock():
    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(100)
        return web.Response(text="done")

    app = web.Application()
    app.router.add_get("/", slow)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    loop = asyncio.get_running_loop()
    began = loop.time()

    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout())
    async with session, session.get(f"http://127.0.0.1:{port}/") as response:
        assert await response.text() == "done"

    assert loop.time() - began == pytest.approx(100, abs=0.1)
    await runner.cleanup()


async def test_a_thread_holds_the_clock_back():
    """Otherwise a time limit around a thread's work would expire before the thread had begun."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async with asyncio.timeout(1):
        await asyncio.to_thread(time.sleep, 0.02)

    assert loop.time() - began < 1


async def test_the_clock_can_be_moved_by_hand_but_never_back():
    from tokfluence_async.testing import VirtualLoop

    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    began = loop.time()

    loop.advance(10)

    assert loop.time() - began >= 10
    with pytest.raises(ValueError, match="forward"):
        loop.advance(-1)
