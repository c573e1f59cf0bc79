"""What may be changed while a sandbox serves. `Sandbox` has these attributes, and says in its
docstring what each means; the rooms behind it read them at every request."""

from __future__ import annotations

from collections.abc import Callable

from .world import Json

__all__ = ["Options", "number_of"]


class Options:
    """The attributes of a `Sandbox` that its service reads."""

    per_ip: int | None
    per_key: int | None
    period: float
    seconds_per_url: float | Callable[[str], float]
    visibility_delay: float | Callable[[str], float]
    freshness: float
    page_stride: int | None
    hidden_comments: float
    analyze_status: Callable[[str], str | None] | None
    analyze_rows: Callable[[list[Json]], list[Json]] | None
    refusals_burn_ids: bool
    latency: float | Callable[[], float]
    transit: float | Callable[[], float]


def number_of(value: float | Callable[..., float], *args: str) -> float:
    """A number that is given as it is, or by a function."""
    return value(*args) if callable(value) else value
