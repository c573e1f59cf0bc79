"""A pause that the service asked for: until when no request may pass, and when one may try.

Promises: a pause is only ever moved later, and what was asked is never shortened. A pause of more
than a day is different: it may be a mistake of the service (1e308 seconds, the year 9999), which
would shut the lane for the life of the process. So one request a day may pass. If it is answered,
the gate opens; if it is refused, the gate stays closed.

Relies on: the caller asks `opens` before a request passes, and calls `passed` when it does.
"""

from __future__ import annotations

import math

__all__ = ["DAY", "RequestedPause"]

#: Seconds. Whatever is closed for longer is tried once in this time.
DAY = 86400.0


class RequestedPause:
    """The gate of one lane: closed from a refusal until the moment that the service named."""

    def __init__(self) -> None:
        #: The end of the pause that was asked for.
        self.until = -math.inf
        #: When the next request may pass: `until`, or the next try of a gate closed for long.
        self.opens = -math.inf
        #: A request has passed while the gate was closed, and was not refused so far.
        self.tried = False

    def closed_for(self, now: float) -> float:
        """Seconds until the next request may pass; 0.0 when one may."""
        return max(0.0, self.opens - now)

    def close(self, now: float, pause: float) -> None:
        """Let nothing pass for `pause` seconds, or for longer if that was asked before."""
        self.tried = False
        self.until = max(self.until, now + pause)
        self.opens = max(self.opens, min(self.until, now + DAY))

    def passed(self, now: float) -> None:
        """A request passes. If the gate is closed, it is the only one for a day."""
        if now < self.until:
            self.tried = True
            self.opens = min(self.until, now + DAY)

    def came_back(self, now: float) -> None:
        """The request that passed never left: another one may try in its place."""
        if self.tried:
            self.tried = False
            self.opens = now

    def answered(self, now: float) -> bool:
        """A request was answered. Opens the gate if one had passed it as a try; says whether."""
        if not self.tried:
            return False
        self.tried = False
        self.until = self.opens = now
        return True
