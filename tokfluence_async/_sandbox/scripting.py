"""The half of `Sandbox` that scripts faults: a method for each, so that a test reads as what went
wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from typing import Any

from .answers import JSON, encode
from .bodies import HALVES, NEARLY_JSON
from .faults import Fault, Faults, When
from .ledger import Entry
from .world import Json

__all__ = ["SCRIPTABLE", "Scripting"]


def _html(status: int) -> bytes:
    title = f"{status} {HTTPStatus(status).phrase}"
    return (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
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
        return self.fault(
            "answer",
            to=to,
            times=times,
            when=when,
            status=status,
            body=_html(status) if body is None else body,
            headers={"Content-Type": "text/html; charset=utf-8", "Server": "nginx"},
            cut=cut,
            **more,
        )

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
        content = body if isinstance(body, (bytes, str)) else encode(body)
        return self.fault(
            "answer",
            to=to,
            times=times,
            when=when,
            status=status,
            body=content,
            headers={"Content-Type": JSON, **(headers or {})},
            **more,
        )

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
        body: bytes | str | Json | list[Any] | Callable[[bytes], bytes],
        *,
        to: str | None = None,
        times: int | None = 1,
        **more: Any,
    ) -> Fault:
        """The work is done and charged, status and headers are right, but the body is this; or what
        a function makes of the right one."""
        content: bytes | Callable[[bytes], bytes]
        if isinstance(body, str):
            content = body.encode()
        elif isinstance(body, bytes) or callable(body):
            content = body
        else:
            content = encode(body)
        return self.fault("replace_body", to=to, times=times, body=content, **more)

    def half_emoji(
        self,
        half: str = "high",
        *,
        to: str | None = None,
        times: int | None = 1,
        fields: Collection[str] | None = None,
        **more: Any,
    ) -> Fault:
        """Texts are cut in the middle of an emoji: `"so funny \\ud83d"`, an escape without its
        other half, as UTF-16 services send it. Valid JSON; the work is done and charged.

        Args:
            half: `high` ends each text with the first half, `low` begins it with the second, `both`
                does both.
            fields: The fields that are cut, wherever they stand; by default `caption`, `text`,
                `title` and an error's `message`. An answer without them stays as it is.
        """
        if half not in HALVES:
            raise ValueError(f"half is {half!r}; it is one of {', '.join(HALVES)}")
        return self.fault("half_emoji", to=to, times=times, half=half, fields=fields, **more)

    def nearly_json(
        self,
        how: str,
        *,
        to: str | None = None,
        times: int | None = 1,
        fields: Collection[str] | None = None,
        **more: Any,
    ) -> Fault:
        """The body is JSON but for one thing. The work is done and charged.

        Args:
            how: `nan`, `infinity` or `-infinity` in the place of numbers; `bom`, a byte order mark
                in front; `newline` or `tab`, raw in the middle of texts; `latin-1`, a byte in texts
                that is not UTF-8; `comma`, one too many at the end.
            fields: The fields it happens to; by default `likes` and `cost` for numbers, and for
                texts those of `half_emoji`. An answer without them stays as it is.
        """
        if how not in NEARLY_JSON:
            known = ", ".join(NEARLY_JSON)
            raise ValueError(f"no body is nearly JSON by {how!r}; there are {known}")
        return self.fault("nearly_json", to=to, times=times, how=how, fields=fields, **more)

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
        "answer",
        "cut_body",
        "drip",
        "drop_answer",
        "drop_reused",
        "gzip_bomb",
        "half_emoji",
        "huge_body",
        "internal_error",
        "nearly_json",
        "nested_body",
        "proxy_error",
        "rate_limit",
        "redirect",
        "refuse_connection",
        "replace_body",
        "reset_body",
        "stall",
        "upstream_error",
    }
)
"""The methods of `Scripting` that may be called over HTTP: all that can be said in JSON."""
