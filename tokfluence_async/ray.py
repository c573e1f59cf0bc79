"""Ray Data: a dataset of URLs into a dataset of posts (extra `[ray]`).

    import ray
    from tokfluence_async.ray import ResolvePosts

    posts = ray.data.read_text("urls.txt").map_batches(
        ResolvePosts,
        fn_constructor_kwargs={
            "throttle": "redis://127.0.0.1:6379/0",
            "journal": "redis://127.0.0.1:6379/1?job=spring",
        },
        batch_size=200,
        concurrency=4,
    )
    posts.write_parquet("posts")

Each actor has a client of its own. What has to be one thing for all of them is given to the
constructor: the throttle, the journal, the limit of credits. Ray Data starts a dead actor again,
and its rows are run again (`max_restarts` and `max_task_retries` are -1 there unless told
otherwise), so without a shared journal they would be paid for twice.

This module imports no Ray: it is a class that `map_batches` can use.
"""

# pyarrow comes without type information, so what it returns is unknown to pyright; mypy takes it
# for Any.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownParameterType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from msgspec.structs import replace

from ._client import TokfluenceClient
from ._credits.budget import MaxCredits
from ._errors import AuthenticationError, InvalidPostError, PermissionDeniedError
from ._models import Outcome, Post
from ._throttle.throttle import Throttle
from ._wire.ids import parse_post
from .frames import to_arrow

if TYPE_CHECKING:
    import pyarrow as pa

    from ._journal.opening import JournalOrPath

__all__ = ["ResolvePosts"]

# `read_text` calls its only column `text`.
_COLUMNS = ("url", "text")
# What would be the error of every row of the dataset ends the job instead.
_FOR_ALL = (AuthenticationError, PermissionDeniedError)


class ResolvePosts:
    """Rows that name posts in, rows with the posts out: for `ray.data.Dataset.map_batches`.

    A row comes back for each row that goes in, in the same order, typed as `frames` types
    `Outcome[Post]`: `input` (as given, as text), the columns of `Post`, and `error` (null where all
    went well). Rows of one batch that name the same post are read once and share it.

    Args:
        column: Where the URL or id stands; None takes `url`, else `text`.
        throttle: What the actors share so as to stay within the service's limits together: the
            `shared` of a `Throttle` (`redis://…`, or a path for the actors of one machine), or a
            `Throttle`. None counts the requests of each process alone.
        journal: What the actors share so as to pay for nothing twice: `redis://…?job=NAME`, or a
            `RedisJournal`. A path will do for a single actor only. None remembers nothing, and a
            dead actor's rows are paid for again.
        max_credits: Credits to spend at most: a `SharedBudget` for all actors together, a number
            for each one alone.
        refresh, force, patience: As for `client.posts.resolve`.
        options: Any other argument of `TokfluenceClient`. The token is best left to the
            environment of the actors (`TOKFLUENCE_TOKEN`, by Ray's `runtime_env`), as arguments are
            kept by Ray.
    Raises:
        ModuleNotFoundError: pyarrow is not installed; the message says how.
    """

    def __init__(
        self,
        *,
        column: str | None = None,
        throttle: Throttle | str | os.PathLike[str] | None = None,
        journal: JournalOrPath | None = None,
        max_credits: MaxCredits = None,
        refresh: Literal["missing", "always"] = "missing",
        force: bool = False,
        patience: float = 60.0,
        **options: Any,
    ) -> None:
        if find_spec("pyarrow") is None:
            raise ModuleNotFoundError(
                "ResolvePosts needs pyarrow, which is not installed: "
                "pip install 'tokfluence_async[ray]' (or from a checkout: pip install '.[ray]')",
                name="pyarrow",
            )
        if isinstance(throttle, (str, os.PathLike)):
            throttle = Throttle(shared=throttle)
        self._column = column
        self._client = TokfluenceClient(throttle=throttle, max_credits=max_credits, **options)
        self._posts_of = partial(
            self._client.posts.resolve,
            refresh=refresh,
            force=force,
            patience=patience,
            journal=journal,
        )
        # One loop for the actor's life, as connections belong to a loop.
        self._runner = asyncio.Runner()

    def __call__(self, batch: Any) -> pa.Table:
        """The posts of one batch, in any of Ray's formats (numpy, pandas, pyarrow).

        Raises:
            KeyError: There is no such column.
            TokfluenceError: What ends a whole job: the token is refused, the journal cannot be
                used. What concerns one row is in its `error`.
        """
        table: pa.Table = self._runner.run(self._resolve(_values(batch, self._column)))
        return table

    def close(self) -> None:
        """Close connections and the loop. Ray ends an actor without calling this."""
        try:
            self._runner.run(self._client.aclose())
        finally:
            self._runner.close()

    async def _resolve(self, values: list[Any]) -> pa.Table:
        rows: list[Outcome[Post]] = []
        wanted: dict[str, Any] = {}
        for value in values:
            try:
                post_id = parse_post(value).post_id
            except InvalidPostError as error:
                rows.append(Outcome(input=value, error=error))
            else:
                wanted.setdefault(post_id, value)
                rows.append(Outcome(input=value, post_id=post_id))
        found: dict[str | None, Outcome[Post]] = {}
        async with aclosing(self._posts_of(wanted.values())) as outcomes:
            async for outcome in outcomes:
                if isinstance(outcome.error, _FOR_ALL):
                    raise outcome.error
                found[outcome.post_id] = outcome
        for place, row in enumerate(rows):
            if row.error is None:
                rows[place] = replace(found[row.post_id], input=row.input)
        return to_arrow(rows, Outcome[Post])


def _values(batch: Any, column: str | None) -> list[Any]:
    """The inputs of a batch, as Python's own objects."""
    names = list(getattr(batch, "column_names", batch))
    wanted = _COLUMNS if column is None else (column,)
    name = next((name for name in wanted if name in names), None)
    if name is None:
        raise KeyError(
            f"There is no column {' or '.join(map(repr, wanted))} in {names}: "
            "say which one names the posts, as ResolvePosts(column=…)."
        )
    values = batch[name]
    to_list = getattr(values, "to_pylist", None) or getattr(values, "tolist", None)
    return list(values) if to_list is None else list(to_list())
