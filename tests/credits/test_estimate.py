"""What a job would cost, said beforehand, and held against what it then did cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokfluence_async import JournalError, Sandbox, Throttle, TokfluenceClient, crawl
from tokfluence_async._credits.estimate import build_estimate

IDS = [str(7234567890123456789 + n) for n in range(40)]


@pytest.mark.parametrize("indexed", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("refresh", ["missing", "always"])
async def test_a_crawl_costs_at_least_and_at_most_what_was_said(
    indexed: float, refresh: str, tmp_path: Path
) -> None:
    """Both bounds are promises; the wallet is the judge."""
    async with (
        Sandbox(indexed=indexed, comments_per_post=300, visibility_delay=9.0) as sandbox,
        TokfluenceClient(sandbox.token, base_url=sandbox.url) as client,
    ):
        said = await client.posts.estimate(
            [*IDS, "bad", IDS[0]], comments=True, comments_per_post=300, refresh=refresh
        )  # type: ignore[call-overload]
        assert sandbox.requests_received == 0
        report = await crawl(client, IDS, tmp_path / "out", comments=True, refresh=refresh)  # type: ignore[arg-type]

    assert (said.posts, said.malformed, said.duplicates, said.done) == (len(IDS), 1, 1, 0)
    assert said.credits_at_most is not None
    assert said.credits_at_least <= report.credits_spent <= said.credits_at_most
    assert said.requests_at_least <= client.usage.requests <= (said.requests_at_most or 0)
    assert said.seconds_at_least <= report.seconds


async def test_what_the_journal_knows_costs_nothing(
    tmp_path: Path, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """The second half of a job is half a job."""
    await crawl(client, IDS[:30], tmp_path / "out")
    sent = sandbox.requests_received
    journal = tmp_path / "out" / "journal.sqlite"

    plain = await client.posts.estimate(IDS, journal=journal)
    with_comments = await client.posts.estimate(IDS, journal=journal, comments=True)

    assert (plain.done, plain.credits_at_least) == (30, 10)
    assert (with_comments.done, with_comments.credits_at_least, with_comments.credits_at_most) == (
        0,
        10 + 2 * 40,
        None,
    )
    assert (with_comments.requests_at_most, with_comments.seconds_at_most) == (None, None)
    assert sandbox.requests_received == sent


@pytest.mark.sandbox(indexed=0.0)
async def test_what_was_analyzed_and_not_read_is_only_read(
    tmp_path: Path, client: TokfluenceClient
) -> None:
    """Its 25 credits are spent."""
    await client.posts.analyze(IDS[:4], journal=tmp_path / "j")
    said = await client.posts.estimate(IDS[:4], journal=tmp_path / "j")
    assert (said.credits_at_least, said.credits_at_most) == (4, 4)


async def test_an_estimate_makes_no_journal(tmp_path: Path, client: TokfluenceClient) -> None:
    """It says what would be; it does nothing."""
    await client.posts.estimate(IDS, journal=tmp_path / "j")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "j").write_bytes(b"x" * 5000)
    with pytest.raises(JournalError):
        await client.posts.estimate(IDS, journal=tmp_path / "j")


async def test_what_cannot_be_estimated_is_an_error(client: TokfluenceClient) -> None:
    """The caller's own iterator may fail, and an option may be misspelt."""

    def broken() -> object:
        yield IDS[0]
        raise OSError("the file went away")

    with pytest.raises(OSError, match="the file went away"):
        await client.posts.estimate(broken())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="refresh"):
        await client.posts.estimate(IDS, refresh="never")  # type: ignore[arg-type]


async def test_without_a_throttle_nothing_waits_for_it(sandbox: Sandbox) -> None:
    """A lane that is off takes no time."""
    async with TokfluenceClient(
        sandbox.token, base_url=sandbox.url, throttle=Throttle(None, None)
    ) as client:
        assert (await client.posts.estimate(IDS)).seconds_at_most == 0.0


def test_the_prices_are_the_pages() -> None:
    """1 to read, 25 to analyze, 2 a page of comments; the first read after an analysis may come
    early a few times."""
    said = build_estimate(new=100, comments=True, comments_per_post=450, pace=10.0)
    assert said.credits_at_least == 100 * (1 + 2)
    assert said.credits_at_most == 100 * (1 + 25 + 1 + 3 * 2) + 6
    assert said.seconds_at_least == 20.0
