"""Counting the inputs of a job that is not run, for its estimate."""

from __future__ import annotations

from .._journal.journal import Journal
from .._journal.records import Entry
from .sources import Source

__all__ = ["count_inputs"]


async def count_inputs(
    source: Source, journal: Journal | None, *, comments: bool
) -> dict[str, int]:
    """How many posts of each kind there are: `new`, `unread` (their analysis was paid for),
    `unwalked` (written without their comments), `done`, and `malformed` inputs.

    Raises what the caller's own iterator raised.
    """
    counts = {"new": 0, "unread": 0, "unwalked": 0, "done": 0, "malformed": 0}
    try:
        while (item := await source.next()) is not None:
            if item.ref is None:
                counts["malformed"] += 1
                continue
            entry = None if journal is None else await journal.look_up(item.ref.post_id)
            counts[_kind_of(entry, comments)] += 1
    finally:
        await source.aclose()
    if source.error is not None:
        raise source.error
    return counts


def _kind_of(entry: Entry | None, comments: bool) -> str:
    if entry is None or not (entry.written or entry.status is not None):
        return "new"
    if not entry.written:
        return "unread"
    return "unwalked" if comments and not entry.walked else "done"
