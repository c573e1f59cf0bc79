"""The service's objects as lines of JSON, with every field it sent, known to the Structs or not.

A line is the bytes of the answer; decoding and encoding them would cost ten times as much. Only two
kinds of objects are encoded again: one that spans lines, and a comment that has a `post_id` of its
own. No I/O here.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

from .._errors import APIStatusError, TokfluenceError, show_input
from .ids import plain

__all__ = ["comment_ids", "comment_lines", "failure_line", "line_ids", "post_line"]

# Characters of a text in a failure line.
_LONGEST = 4096
_INT64 = range(-(2**63), 2**63)
_POST_ID = b'"post_id"'


class _Named(Struct, frozen=True, gc=False):
    comment_id: str


_ids = msgspec.json.Decoder(_Named)
_fields = msgspec.json.Decoder(dict[str, Raw])


def post_line(post: Raw) -> bytes:
    """A post's line."""
    line = bytes(post)
    return (
        msgspec.json.format(line, indent=-1) if b"\n" in line or b"\r" in line else line
    ) + b"\n"


def comment_lines(post_id: str, comments: list[Raw]) -> bytes:
    """A page of comments, each with its `post_id` put in front; one write."""
    if not comments:
        return b""
    head = b'{"post_id":"' + post_id.encode() + b'",'
    together = b"".join(comments)
    # If the service ever sends a `post_id` of its own, it is a new field, and so in the first
    # comment as in all. Looking for it in each takes longer than everything else here.
    if b"\n" in together or b"\r" in together or _POST_ID in bytes(comments[0]):
        return b"".join([_comment_line(head, comment) for comment in comments])
    return head + (b"\n" + head).join([memoryview(comment)[1:] for comment in comments]) + b"\n"


def _comment_line(head: bytes, comment: Raw) -> bytes:
    line = bytes(comment)
    if _POST_ID in line:
        fields = _fields.decode(line)
        if fields.pop("post_id", None) is not None:
            line = msgspec.json.encode(fields)
    return head + msgspec.json.format(line, indent=-1).lstrip()[1:] + b"\n"


def comment_ids(comments: list[Raw]) -> list[str]:
    """The comments' ids, in their order; raises what msgspec raises."""
    return line_ids(b"\n".join(comments))


def line_ids(page: bytes) -> list[str]:
    """The comments' ids of a page as `comment_lines` wrote it."""
    return [comment.comment_id for comment in _ids.decode_lines(page)]


def failure_line(given: object, post_id: str | None, error: TokfluenceError) -> bytes:
    """An input that failed, and why. `given` may be any object at all."""
    code = getattr(error, "code", None)
    return (
        msgspec.json.encode(
            {
                "input": _shown(given),
                "post_id": post_id,
                "error": {
                    "type": type(error).__name__,
                    "status": getattr(error, "status", None),
                    "code": code if code is None else _text_of(code),
                    "message": _text_of(
                        error.message if isinstance(error, APIStatusError) else error
                    ),
                },
            }
        )
        + b"\n"
    )


def _shown(given: object) -> str | int:
    """An input as JSON can hold it: numbers of 64 bits as they are, all else as text."""
    value = plain(given)
    if isinstance(value, int):
        return value if value in _INT64 else str(show_input(value))
    return _text_of(show_input(value, _LONGEST))


def _text_of(value: object) -> str:
    """A plain str of bounded length, with U+FFFD for what UTF-8 cannot hold."""
    text = str(plain(value if isinstance(value, str) else str(value)))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
