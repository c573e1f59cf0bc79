"""A pause that is longer than any pause makes sense: honoured, and tried once a day."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tokfluence_async import RateLimitError, Sandbox, TokfluenceClient

DAY = 86400.0
IDS = [str(7234567890123456789 + n) for n in range(10)]


@pytest.mark.parametrize(
    "text", ["1e308", "1e999", "9" * 308, "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"]
)
async def test_one_request_a_day_finds_out_whether_an_absurd_pause_is_over(
    sandbox: Sandbox, client: TokfluenceClient, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake of the service's must not shut a client for the life of its process."""
    caplog.set_level(logging.WARNING)
    refusal = {"error": {"code": "rate_limited", "message": "slow down"}}
    sandbox.answer(refusal, status=429, headers={"Retry-After": text}, times=2)

    async def all_at_once() -> list[bool]:
        results = await asyncio.gather(
            *(client.posts.get(post_id) for post_id in IDS), return_exceptions=True
        )
        assert all(isinstance(r, RateLimitError) for r in results if isinstance(r, Exception))
        return [not isinstance(result, Exception) for result in results]

    with pytest.raises(RateLimitError):
        await client.posts.get(IDS[0])
    assert sandbox.requests_received == 1
    for _ in range(3):
        await asyncio.sleep(DAY / 4)
        assert not any(await all_at_once())
    assert sandbox.requests_received == 1

    await asyncio.sleep(DAY / 4 + 1)
    assert not any(await all_at_once())  # the one that left was refused as well
    assert sandbox.requests_received == 2

    await asyncio.sleep(DAY + 1)
    await all_at_once()
    assert all(await all_at_once())
    assert sandbox.statuses[429] == 2
    assert any("day" in record.message for record in caplog.records)
