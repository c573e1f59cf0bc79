"""Scripted faults: what goes wrong, with which requests, and how often.

A fault is a value; the server carries it out. Each request is hit by at most one fault, the first
armed one (in the order of scripting) that wants it. Requests that are refused for their token or by
the throttle are never hit: they did not get that far.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .ledger import Entry

__all__ = ["KINDS", "Fault", "Faults", "When"]

When = Literal["before", "after"]
"""`before`: before the work, so nothing was done and nothing charged. `after`: the work was done
and charged."""

KINDS: Mapping[str, str] = {
    "drop": "the connection is closed without an answer",
    "reset": "the connection is reset (RST) without an answer",
    "reset_body": "the connection is reset in the middle of the body",
    "stall": "nothing happens for a while, or for ever",
    "answer": "something else is answered",
    "internal_error": "the API's own 500",
    "upstream_error": "the API's own 502, refunded",
    "rate_limit": "the API's own 429",
    "cut": "the body ends before Content-Length says, or before the last chunk",
    "drip": "the body arrives in small pieces, slowly",
    "huge": "the body is followed by very much white space",
    "gzip_bomb": "a small gzip body that is very large when unpacked",
    "nested": "a body of very deeply nested arrays",
    "half_emoji": "texts end, or begin, with half of an emoji",
    "nearly_json": "the body is JSON but for one thing",
    "replace_body": "the status and headers are right, the body is something else",
}


def _pattern(to: str) -> re.Pattern[str]:
    method, _, path = to.partition(" ")
    if not re.fullmatch(r"[A-Z]+|\*", method) or not path.startswith("/"):
        raise ValueError(f"{to!r} is not a route: write it as 'GET /v1/posts/:id'")
    segments = [
        r"[^/]+" if segment.startswith(":") else re.escape(segment) for segment in path.split("/")
    ]
    return re.compile((r"[A-Z]+" if method == "*" else method) + " " + "/".join(segments))


@dataclass(eq=False)
class Fault:
    """One scripted fault; `Sandbox` has a method for each kind, so this is seldom made by hand.

    Args:
        kind: One of `KINDS`.
        to: The route it is for, as `GET /v1/posts/:id`; `*` for any method; None for every request.
        times: How many requests it hits; None for all of them.
        nth: The first request it hits, counting those that match from 1.
        when: Before the work or after it, for the kinds where both make sense.
        reused_only: Only requests on a connection that has carried others before.
        where: A further condition on the request.
        options: What the kind needs; see the methods of `Sandbox`.
    """

    kind: str
    to: str | None = None
    times: int | None = 1
    nth: int = 1
    when: When = "after"
    reused_only: bool = False
    where: Callable[[Entry], bool] | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    hits: int = 0
    """How many requests it has hit."""
    seen: int = 0
    """How many requests matched, hit or not."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault is called {self.kind!r}; there are {', '.join(KINDS)}")
        if self.when not in ("before", "after"):
            raise ValueError(f"when is {self.when!r}; it is 'before' or 'after' the work")
        if self.times is not None and self.times < 1:
            raise ValueError(f"times is {self.times!r}; it is 1 or more, or None for ever")
        if self.nth < 1:
            raise ValueError(f"nth is {self.nth!r}; the first request is number 1")
        self._pattern = None if self.to is None else _pattern(self.to)

    @property
    def spent(self) -> bool:
        """Whether it has hit all it was to hit."""
        return self.times is not None and self.hits >= self.times

    def wants(self, entry: Entry) -> bool:
        """Whether it hits this request; counts it if it matches."""
        if self._pattern is not None and not self._pattern.fullmatch(
            f"{entry.method} {entry.path}"
        ):
            return False
        if self.reused_only and not entry.connection:
            return False
        if self.where is not None and not self.where(entry):
            return False
        self.seen += 1
        return self.seen >= self.nth


class Faults:
    """The faults that are armed, in the order they were scripted."""

    def __init__(self) -> None:
        self.armed: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        self.armed.append(fault)
        return fault

    def take(self, entry: Entry) -> Fault | None:
        """The fault that hits this request, or None."""
        if not self.armed:
            return None
        for fault in self.armed:
            if fault.wants(entry):
                fault.hits += 1
                entry.fault = fault.kind
                if fault.spent:
                    self.armed.remove(fault)
                return fault
        return None

    def clear(self) -> None:
        self.armed.clear()
