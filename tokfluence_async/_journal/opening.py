"""A journal as it is given to a call: an open one, the path of a file, or the URL of a Redis."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

from .._errors import ConfigurationError
from .journal import Journal
from .sqlite import SQLiteJournal

__all__ = ["JournalOrPath", "enter_journal", "is_redis_url", "is_there"]

JournalOrPath: TypeAlias = Journal | str | os.PathLike[str]


async def enter_journal(stack: AsyncExitStack, journal: JournalOrPath) -> Journal:
    """An open journal for one call: the caller's own as it is, or the one that a path or URL names
    until `stack` ends."""
    if is_redis_url(journal):
        from .redis import RedisJournal  # redis-py is loaded where it is asked for

        journal = await stack.enter_async_context(RedisJournal(str(journal)))
    elif isinstance(journal, (str, os.PathLike)):
        journal = await stack.enter_async_context(SQLiteJournal(journal))
    elif not isinstance(journal, Journal):
        raise ConfigurationError(
            "journal= takes a Journal, the path of one, or the URL of a Redis; not "
            f"{type(journal).__name__}. Nothing was sent."
        )
    return (await journal.open()).for_call()


def is_redis_url(place: object) -> bool:
    """Whether `place` names a Redis, and not a file. A URL of another scheme is none of both: as a
    Redis it is refused, without a password that it may hold."""
    return isinstance(place, str) and "://" in place


def is_there(journal: JournalOrPath) -> bool:
    """Whether there is anything to open."""
    if not isinstance(journal, (str, os.PathLike)) or is_redis_url(journal):
        return True
    return Path(journal).expanduser().exists()
