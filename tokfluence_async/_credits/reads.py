"""When a post is read after its analysis, as long as nobody knows how soon posts are readable.

Each read costs a credit. So the ages grow, and the last one is the end of the caller's patience.
"""

from __future__ import annotations

__all__ = ["FIRST_READ", "READ_GROWTH", "count_early_reads"]

# Seconds after the analysis, and the factor from each read to the next.
FIRST_READ = 2.0
READ_GROWTH = 2.0


def count_early_reads(patience: float) -> int:
    """Reads of one post that may come too early, within `patience` seconds."""
    count, age = 1, FIRST_READ
    while age < patience:
        count, age = count + 1, age * READ_GROWTH
    return count
