"""`--shard`: which shard of a job this process works."""

from __future__ import annotations

import os
import re
from typing import Any

from typer.core import TyperCommand

from .. import ConfigurationError
from .._bulk.shards import Shard, check_shard
from .inputs import UsageError

__all__ = ["FROM_ENVIRONMENT", "ShardedCommand", "read_shard"]

# What `--shard` without a value stands for, as engines set it: the index of a Kubernetes indexed
# Job, and the number of shards, which nobody but the user knows.
FROM_ENVIRONMENT = "env"
_NUMBER, _TOTAL = "JOB_COMPLETION_INDEX", "TOKFLUENCE_SHARDS"
_VALUE = re.compile(r"-?\d+/-?\d+|env")


class ShardedCommand(TyperCommand):
    """A command whose `--shard` may stand without a value, also before FILE."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a lone `--shard` its value. Where a word follows it, and there is one word too many,
        that word was meant as its value."""
        spelled: list[str] = []
        meant: str | None = None
        for n, arg in enumerate(args):
            if arg == "--":
                spelled += args[n:]
                break
            following = args[n + 1] if n + 1 < len(args) else ""
            lone = arg == "--shard" and not _VALUE.fullmatch(following)
            if lone and n + 1 < len(args) and not following.startswith("-"):
                meant = following
            spelled.append(f"--shard={FROM_ENVIRONMENT}" if lone else arg)
        rest = super().parse_args(ctx, spelled)
        if ctx.args and meant is not None:
            ctx.params["shard"] = meant
        return rest


def read_shard(given: str | None) -> Shard | None:
    """The shard that `--shard` names.

    Raises:
        UsageError: It is no `I/N` with 0 <= I < N, or the environment does not say it.
    """
    if given is None:
        return None
    text = given
    if given == FROM_ENVIRONMENT:
        number, total = (os.environ.get(name, "").strip() for name in (_NUMBER, _TOTAL))
        if not number or not total:
            raise UsageError(
                f"--shard without I/N reads {_NUMBER} and {_TOTAL}, and "
                f"{_TOTAL if number else _NUMBER} is not set"
            )
        text = f"{number}/{total}"
    try:
        return check_shard(text)
    except ConfigurationError:
        where = f" from {_NUMBER} and {_TOTAL}" if given == FROM_ENVIRONMENT else ""
        raise UsageError(
            f"--shard {text!r}{where} is no shard: I/N is wanted, such as 0/4, with I from 0 to N-1"
        ) from None
