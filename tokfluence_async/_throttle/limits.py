"""The numbers that a throttle is made with, checked.

Knows nothing of lanes: lanes take the smallest numbers of those in use.
"""

from __future__ import annotations

import math

from .._errors import ConfigurationError
from .._wire.secret import Secret

__all__ = ["Limits"]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Limits:
    """How many requests in what time, and how evenly; `Throttle` says what each number means.

    Raises:
        ConfigurationError: A number is out of its range.
    """

    def __init__(
        self,
        per_ip: float | None,
        per_key: float | None,
        period: float,
        *,
        burst: int,
        jitter: float,
        shared: str | None = None,
        ip: str = "default",
    ) -> None:
        for name, limit in (("per_ip", per_ip), ("per_key", per_key)):
            if limit is not None and not (_is_number(limit) and 0 < limit < math.inf):
                raise ConfigurationError(
                    f"{name} is a number of requests above 0, or None; not {limit!r}"
                )
        if not (_is_number(period) and 0 < period < math.inf):
            raise ConfigurationError(f"period is a number of seconds above 0; not {period!r}")
        if not (_is_number(burst) and burst == burst // 1 >= 1):
            raise ConfigurationError(
                f"burst is a whole number of requests, at least 1; not {burst!r}"
            )
        if not (_is_number(jitter) and 0 <= jitter < math.inf):
            raise ConfigurationError(f"jitter is a number of seconds, at least 0; not {jitter!r}")
        self.per_ip = per_ip
        self.per_key = per_key
        self.period = float(period)
        self.burst = int(burst)
        self.jitter = float(jitter)
        self.shared = None if shared is None else Secret(shared)
        self.ip = ip
