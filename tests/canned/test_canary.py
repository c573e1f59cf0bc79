"""Why `canned` in conftest.py is more than `aioresponses()`: each of these fails when its half of
the shim can go."""

from __future__ import annotations

import aiohttp
import pytest
from aioresponses import aioresponses

URL = "https://developers.tokfluence.com/v1/posts/1"


async def test_aioresponses_still_lacks_the_stream_writer() -> None:
    """When this fails, aioresponses knows aiohttp 3.14: take `_Response` out of conftest.py."""
    with aioresponses() as answers:
        answers.get(URL, body=b"{}")
        async with aiohttp.ClientSession() as session:
            with pytest.raises(TypeError, match="stream_writer"):
                await session.get(URL)


async def test_aioresponses_still_fails_on_large_bodies(
    response_class: type[aiohttp.ClientResponse],
) -> None:
    """When this fails, take `_reader` out of conftest.py."""
    with aioresponses() as answers:
        answers.get(URL, body=b"x" * 131_073, response_class=response_class)
        async with aiohttp.ClientSession() as session:
            with pytest.raises(AssertionError):
                await session.get(URL)


async def test_the_shim_cures_both(canned: aioresponses) -> None:
    """A body of a megabyte comes out as it went in."""
    canned.get(URL, body=b"x" * 2**20)

    async with aiohttp.ClientSession() as session, session.get(URL) as response:
        body = await response.read()

    assert body == b"x" * 2**20
