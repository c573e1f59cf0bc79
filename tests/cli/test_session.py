"""What a command knows of its own run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tokfluence_async import Progress, Sandbox, TokfluenceClient
from tokfluence_async._cli.inputs import FileLines, StreamLines
from tokfluence_async._cli.screen import open_screen
from tokfluence_async._cli.session import Session

from .support import (
    snapshot_of,
)


async def test_the_total_of_a_stopped_command(
    sandbox: Sandbox, client: TokfluenceClient, tmp_path: Path
) -> None:
    """The last that was known before; of a file its lines, of a stream nothing."""
    (tmp_path / "urls").write_text("1\n2\n")
    known, stream, file = _session(client), _session(client), _session(client)
    known.on_progress(_progress(total=3000))
    stream.inputs, file.inputs = StreamLines("standard input"), FileLines(tmp_path / "urls")

    for each in (known, stream, file):
        each.stopping.set()
        each.on_progress(_progress(total=102))

    assert [each.total for each in (known, stream, file)] == [3000, None, 2]
    assert known.snapshot().total == 3000


def _session(client: TokfluenceClient) -> Session:
    return Session(
        client, None, open_screen(quiet=True, as_json=False, live=False), "crawl", "posts"
    )


def _progress(**changes: Any) -> Progress:
    values: dict[str, Any] = {
        "done": 40,
        "failed": 0,
        "total": 61,
        "credits_spent": 0,
        "credits_remaining": None,
    }
    return Progress(**{**values, "elapsed": 1.0, **changes})


async def test_what_was_not_sent_has_not_failed(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """A budget that is used up is no failure of forty posts."""
    session = _session(client)
    session.on_progress(_progress(failed=41, done=41, not_affordable=40))

    snapshot = session.snapshot()

    assert snapshot.counted(" of ") == "1 of 61 posts"
    told = [fact for fact, _ in snapshot.facts()]
    assert "1 failed" in told
    assert "40 not sent for want of credits" in told
    assert snapshot_of(not_affordable=1).eta is None


async def test_progress_counts_what_no_credits_were_left_for(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Of a budget as of an empty wallet; a failure of another kind is not among them."""
    seen: list[Progress] = []

    await client.posts.analyze(
        ["1", "2", "3", "nope"], max_credits=50, batch_size=1, on_progress=seen.append
    )

    assert (seen[-1].done, seen[-1].failed, seen[-1].not_affordable) == (4, 2, 1)


async def test_a_session_knows_what_is_on_its_way(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """It asks the client, as any program may."""
    session = _session(client)
    client._options.budget.reserve(75)

    assert session.snapshot().credits_reserved == 75


async def test_a_session_knows_who_shares_its_throttle(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says nothing of it as long as nothing is shared."""
    async with TokfluenceClient(sandbox.token, base_url=sandbox.url) as alone:
        await alone.posts.get("1")
        assert _session(alone).snapshot().processes is None
    monkeypatch.setenv("TOKFLUENCE_SHARED", str(tmp_path / "throttle"))

    async with TokfluenceClient(sandbox.token, base_url=sandbox.url) as client:
        session = _session(client)
        before = session.snapshot()
        await client.posts.get("2")
        snapshot = session.snapshot()

    assert before.processes is None
    assert (snapshot.processes, snapshot.sharing) == (1, True)
    assert "1 process shares the throttle" in [fact for fact, _ in snapshot.facts()]


@pytest.mark.parametrize(
    ("processes", "sharing", "says"),
    [
        (4, True, "4 processes share the throttle"),
        (4, False, "the shared throttle is away, alone at a share of it"),
    ],
)
def test_the_progress_says_how_many_share_the_throttle(
    processes: int, sharing: bool, says: str
) -> None:
    """Half the pace would look like a fault else."""
    facts = [fact for fact, _ in snapshot_of(processes=processes, sharing=sharing).facts()]

    assert says in facts
