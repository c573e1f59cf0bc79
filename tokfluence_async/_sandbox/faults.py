"""Scripted faults: what goes wrong, with which requests, and how often.

A fault is a value; the server carries it out. Each request is hit by at most one fault, the first
armed one (in the order of scripting) that wants it. Requests that are refused for their token or by
the throttle are never hit: they did not get that far.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

from .ledger import Entry
from .sending import JSON
from .world import Json

__all__ = ["KINDS", "SCRIPTABLE", "Fault", "Faults", "Scripting", "When"]

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


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _html(status: int) -> bytes:
    title = f"{status} {HTTPStatus(status).phrase}"
    return (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
        "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    ).encode()


class Scripting:
    """The half of `Sandbox` that scripts faults.

    Every method takes, beside its own arguments:

    - `to`: the route, as `GET /v1/posts/:id`, `*` for any method; None for every request under
      `/v1`;
    - `times`: how many requests are hit; None for all of them;
    - `nth`: the first one that is hit, counting those that match from 1;
    - `where`: a further condition, a function of the `Entry`;
    - `reused_only`: only requests on a connection that has carried others before;
    - `delay`: seconds of silence before the fault strikes;

    and returns the `Fault`, whose `hits` say how often it struck.
    """

    def __init__(self) -> None:
        self._faults = Faults()

    def fault(
        self,
        kind: str,
        *,
        to: str | None = None,
        times: int | None = 1,
        nth: int = 1,
        when: When = "after",
        reused_only: bool = False,
        where: Callable[[Entry], bool] | None = None,
        **options: Any,
    ) -> Fault:
        """Script any fault by its name in `faults.KINDS`; the methods below say it better."""
        return self._faults.add(
            Fault(
                kind,
                to,
                times,
                nth=nth,
                when=when,
                reused_only=reused_only,
                where=where,
                options=options,
            )
        )

    def drop_answer(self, *, to: str | None = None, times: int | None = 1, **more: Any) -> Fault:
        """The work is done and charged, then the connection is closed without an answer.
        `reset=True`: with a RST."""
        kind = "reset" if more.pop("reset", False) else "drop"
        return self.fault(kind, to=to, times=times, when="after", **more)

    def refuse_connection(
        self, *, to: str | None = None, times: int | None = 1, **more: Any
    ) -> Fault:
        """The connection is reset before any work; nothing is charged. `reset=False`: closed
        instead."""
        kind = "reset" if more.pop("reset", True) else "drop"
        return self.fault(kind, to=to, times=times, when="before", **more)

    def drop_reused(
        self, *, to: str | None = None, times: int | None = 1, when: When = "before", **more: Any
    ) -> Fault:
        """A kept-alive connection turns out to be dead when it is used again: closed without an
        answer.

        This is what aiohttp's client hides by sending reads a second time.
        """
        return self.fault("drop", to=to, times=times, when=when, reused_only=True, **more)

    def reset_body(
        self, *, to: str | None = None, times: int | None = 1, at: float = 0.5, **more: Any
    ) -> Fault:
        """The connection is reset in the middle of the body, after the fraction `at` of it."""
        return self.fault("reset_body", to=to, times=times, at=at, **more)

    def stall(
        self,
        seconds: float | None = None,
        *,
        to: str | None = None,
        times: int | None = 1,
        when: When = "after",
        in_body: bool = False,
        **more: Any,
    ) -> Fault:
        """Silence for `seconds` (None: for ever) before or after the work; `in_body`: with half of
        the body sent.

        After the silence everything goes on as if nothing had been.
        """
        return self.fault(
            "stall", to=to, times=times, when=when, seconds=seconds, in_body=in_body, **more
        )

    def proxy_error(
        self,
        status: int = 502,
        *,
        to: str | None = None,
        times: int | None = 1,
        when: When = "before",
        body: bytes | str | None = None,
        cut: float | None = None,
        **more: Any,
    ) -> Fault:
        """A proxy's 502, 503 or 504: HTML without `X-Credits-Remaining`, before the work or after
        it (charged).

        Args:
            body: Instead of nginx's HTML; `b""` for none.
            cut: Send only this fraction of the body, then close.
            delay: Seconds before the answer, as keyword.
        """
        return self.fault("answer", to=to, times=times, when=when, status=status, body=_html(status) if body is None
                          else body, headers={"Content-Type": "text/html; charset=utf-8", "Server": "nginx"}, cut=cut, **more)  # fmt: skip

    def answer(
        self,
        body: bytes | str | Json | list[Any] = b"",
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        to: str | None = None,
        times: int | None = 1,
        when: When = "before",
        **more: Any,
    ) -> Fault:
        """Answer something else, on any route: a dict or list is sent as JSON. Headers of the API's
        own are not added."""
        content = body if isinstance(body, (bytes, str)) else _json(body)
        return self.fault("answer", to=to, times=times, when=when, status=status, body=content,
                          headers={"Content-Type": JSON, **(headers or {})}, **more)  # fmt: skip

    def redirect(
        self,
        location: str,
        *,
        status: int = 302,
        to: str | None = None,
        times: int | None = 1,
        **more: Any,
    ) -> Fault:
        """Answer a redirect, which this API never does."""
        return self.answer(
            status=status, headers={"Location": location}, to=to, times=times, **more
        )

    def internal_error(
        self,
        *,
        to: str | None = None,
        times: int | None = 1,
        when: When = "before",
        charged: bool | None = None,
        **more: Any,
    ) -> Fault:
        """The API's own 500 `internal_error`, before the work or after it. `charged`: by default,
        if work was done."""
        charged = when == "after" if charged is None else charged
        return self.fault("internal_error", to=to, times=times, when=when, charged=charged, **more)

    def upstream_error(self, *, to: str | None = None, times: int | None = 1, **more: Any) -> Fault:
        """The API's own 502 `upstream_error`: charged, not done, refunded."""
        return self.fault("upstream_error", to=to, times=times, when="before", **more)

    def rate_limit(
        self,
        *,
        to: str | None = None,
        times: int | None = 1,
        retry_after: float | str | None = 1,
        **more: Any,
    ) -> Fault:
        """A burst of `times` 429s, not charged, with any text as `Retry-After`; None leaves the
        header out."""
        return self.fault(
            "rate_limit", to=to, times=times, when="before", retry_after=retry_after, **more
        )

    def cut_body(
        self,
        *,
        to: str | None = None,
        times: int | None = 1,
        at: float = 0.5,
        chunked: bool = False,
        **more: Any,
    ) -> Fault:
        """The connection is closed after the fraction `at` of the body, of a known length or in
        chunks."""
        return self.fault("cut", to=to, times=times, at=at, chunked=chunked, **more)

    def drip(
        self,
        *,
        to: str | None = None,
        times: int | None = 1,
        piece: int = 1,
        every: float = 1.0,
        **more: Any,
    ) -> Fault:
        """The body arrives `piece` bytes at a time, one piece `every` so many seconds."""
        return self.fault("drip", to=to, times=times, piece=piece, every=every, **more)

    def huge_body(
        self, size: int = 256 * 2**20, *, to: str | None = None, times: int | None = 1, **more: Any
    ) -> Fault:
        """The right body, followed by white space up to `size` bytes, in chunks."""
        return self.fault("huge", to=to, times=times, size=size, **more)

    def gzip_bomb(
        self, size: int = 256 * 2**20, *, to: str | None = None, times: int | None = 1, **more: Any
    ) -> Fault:
        """The same, packed: about a thousandth of `size` on the wire."""
        return self.fault("gzip_bomb", to=to, times=times, size=size, **more)

    def nested_body(
        self, depth: int = 100_000, *, to: str | None = None, times: int | None = 1, **more: Any
    ) -> Fault:
        """A body of `depth` arrays, one in the other."""
        return self.fault("nested", to=to, times=times, depth=depth, **more)

    def replace_body(
        self,
        body: bytes | str | Json | list[Any],
        *,
        to: str | None = None,
        times: int | None = 1,
        **more: Any,
    ) -> Fault:
        """The work is done and charged, status and headers are right, but the body is this."""
        content = body if isinstance(body, (bytes, str)) else _json(body)
        return self.fault("replace_body", to=to, times=times, body=content, **more)

    def clear_faults(self) -> None:
        """Disarm all faults."""
        self._faults.clear()

    @property
    def pending_faults(self) -> list[Fault]:
        """Faults that have not hit all they were to hit. A test that scripts one may check that it
        struck."""
        return list(self._faults.armed)


SCRIPTABLE = frozenset(
    {
        "drop_answer", "refuse_connection", "drop_reused", "reset_body", "stall", "proxy_error", "answer", "redirect",
        "internal_error", "upstream_error", "rate_limit", "cut_body", "drip", "huge_body", "gzip_bomb", "nested_body",
        "replace_body",
    }
)  # fmt: skip
"""The methods of `Scripting` that may be called over HTTP: all that can be said in JSON."""
