"""Outcomes to standard output as they come, and the summary at their end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

from msgspec import Struct

from .. import Outcome
from .._text import plural
from .output import Output
from .session import Session

__all__ = ["finish", "write_outcomes"]

T = TypeVar("T", bound=Struct)


async def write_outcomes(
    session: Session, outcomes: AsyncIterator[Outcome[T]], output: Output, one: str, many: str
) -> int:
    """Values to standard output as they come, errors to standard error."""
    written = 0
    async with output:
        async for outcome in outcomes:
            if outcome.error is not None:
                session.failures.add(outcome.input, outcome.error)
            else:
                await output.write([outcome.unwrap()])
                written += 1
    return finish(session, written, one, many)


def finish(session: Session, written: int, one: str, many: str) -> int:
    failures = session.failures
    snapshot = session.snapshot()
    lines = [f"{plural(written, one, many)} in {session.elapsed:.1f} s.", session.bill()]
    if failures.count:
        lines.append(f"{failures.count:,} failed; see above.")
    if failures.first_unaffordable is not None:
        lines.append(f"{failures.unaffordable:,} not done. {failures.first_unaffordable}")
    session.screen.summary(
        lines,
        {
            "written": written,
            "failed": failures.count,
            "not_affordable": failures.unaffordable,
            "credits_spent": snapshot.credits_spent,
            "credits_remaining": snapshot.credits_remaining,
            "requests": snapshot.requests,
            "rate_limited": snapshot.rate_limited,
            "seconds": session.elapsed,
        },
    )
    return failures.status
