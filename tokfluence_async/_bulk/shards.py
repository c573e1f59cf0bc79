"""Which inputs of a job fall to which of its shards.

A post falls to a shard by a hash of its video id that never changes: the first eight bytes of its
BLAKE2b digest, as a big-endian number, modulo the number of shards. So duplicates fall together,
and every machine and version agrees. Malformed inputs belong to shard 0.

A shard also counts all inputs it has seen, its own or not, with a fingerprint that does not depend
on their order. Shards whose counts differ have read different lists.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import NamedTuple

from .._errors import ConfigurationError

__all__ = ["Shard", "ShardFilter", "check_shard"]

_TEXT = re.compile(r"([0-9]{1,9})/([0-9]{1,9})\Z", re.ASCII)


class Shard(NamedTuple):
    """Shard `number` of `total`, counted from 0; as text `number/total`."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    def holds(self, post_id: str) -> bool:
        """Whether a post falls to this shard."""
        return _hash_of(post_id) % self.total == self.number


def check_shard(value: object) -> Shard | None:
    """A shard as a caller gives it: a pair of numbers, a text such as `0/4`, or None.

    Raises:
        ConfigurationError: It is none of these, or not 0 <= index < count.
    """
    if value is None:
        return None
    pair = value
    if isinstance(value, str) and (match := _TEXT.match(value)):
        pair = (int(match[1]), int(match[2]))
    if isinstance(pair, (tuple, list)) and len(pair) == 2:  # pyright: ignore[reportUnknownArgumentType]
        index, count = pair  # pyright: ignore[reportUnknownVariableType]
        if type(index) is int and type(count) is int and 0 <= index < count:  # pyright: ignore[reportUnknownArgumentType]
            return Shard(index, count)
    raise ConfigurationError(
        f"shard must be a pair (i, n) of whole numbers with 0 <= i < n, not {value!r}. "
        "Nothing was sent."
    )


class ShardFilter:
    """Lets through what falls to a shard, and counts everything.

    Attributes:
        seen: Inputs so far, those of other shards among them.
        fingerprint: The sum of their posts' hashes, modulo 2**64.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self.seen = 0
        self.fingerprint = 0

    def takes(self, post_id: str | None) -> bool:
        """Whether an input falls to the shard; None: it names no post."""
        self.seen += 1
        if post_id is None:
            return self._shard.number == 0
        number = _hash_of(post_id)
        self.fingerprint = (self.fingerprint + number) % 2**64
        return number % self._shard.total == self._shard.number


def _hash_of(post_id: str) -> int:
    return int.from_bytes(blake2b(post_id.encode(), digest_size=8).digest(), "big")
