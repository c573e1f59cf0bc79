"""Counts as people read them."""

from __future__ import annotations

__all__ = ["plural"]


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 post`, `1,000 posts`; `many` where an s at the end does not make the plural."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
