"""Bodies that must not reach a decoder: nested too deeply, or made of too many values.

A body may be hostile. The transport bounds its size; what is left is depth and count. msgspec
recurses once per level, and in a thread with a small stack deep nesting kills the process instead
of raising. 31 KiB of gzip can be 32 MiB of `[],[],…`, which is a gigabyte of Python.
"""

from __future__ import annotations

import re

__all__ = ["MAX_BODY", "TooMuchError", "check_count", "check_nesting", "check_size"]

# 32 MiB. A page of 200 comments is about 75 KB, fifty creators less. What is larger is no answer of
# this API.
MAX_BODY = 32 * 2**20


class TooMuchError(ValueError):
    """The body is nested too deeply, or has more values than any answer has."""


def check_size(body: bytes, counted: bool) -> None:
    """Raise `TooMuchError` if decoding `body` could exhaust the stack or the memory.

    Args:
        counted: False for a body that is kept as one piece of bytes, and so makes no objects.
    """
    if len(body) > _SAFE_OPENS:
        if counted and len(body) > _SHORT:
            check_count(body)
        check_nesting(body)


# Values in one answer. A page of 200 comments has 2,500, a batch of 50 rows 160. Commas in texts
# are counted as well, and are fewer than this.
_MOST_VALUES = 100_000
# A value takes at least two bytes, so a shorter body cannot have more. Real pages of 200 comments
# are 70 to 130 KB and are not counted.
_SHORT = 2 * _MOST_VALUES


def check_count(body: bytes) -> None:
    """Raise if `body` would be made into more objects than any answer is.

    31 KiB of gzip can be 32 MiB of `[],[],[],…`, below every limit on size. Decoding that takes 0.9
    to 1.3 GB and holds the event loop for 2 to 12 s. Every value but the first comes after a comma
    or an opening bracket, so those are counted, in 24 ms.
    """
    if sum(_count(body, mark, _MOST_VALUES) for mark in (b",", b"[", b"{")) > _MOST_VALUES:
        raise TooMuchError(
            f"it holds more than {_MOST_VALUES} values. Where that is right, ask for it as "
            "msgspec.Raw, by client.request"
        )


# A body with at most this many opening brackets, in strings or not, cannot be nested deeper than
# that. In a thread with a stack of 128 KiB (musl's default) 300 levels decode and 400 kill it,
# whatever they are decoded into. Real pages of 200 comments have about 210 brackets.
_SAFE_OPENS = 256
# The depth that is allowed where there are more brackets. Documented bodies are 4 deep.
_MAX_DEPTH = 64
_NOT_MARKS = bytes(set(range(256)) - set(b'[]{}"'))
_STRING = re.compile(rb'"[^"]*+"?')


def check_nesting(body: bytes) -> None:
    """Raise if `body` is nested too deeply to be decoded safely.

    Counting the opening brackets is enough for all but crafted bodies. Of the others, strings are
    removed, and then innermost pairs, one level a pass.
    """
    if _count(body, b"{", _SAFE_OPENS) + _count(body, b"[", _SAFE_OPENS) <= _SAFE_OPENS:
        return
    # Escapes first, so that every quote left begins or ends a text. Then two quotes side by side
    # may go, whatever they are, as that moves no bracket into a text or out of one. Each step is
    # linear; a text without an end hides what follows it, as it does from the decoder.
    marks = body.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _NOT_MARKS)
    brackets = _STRING.sub(b"", marks.replace(b'""', b""))
    for _ in range(_MAX_DEPTH):
        reduced = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(reduced) == len(brackets):
            break
        brackets = reduced
    # What is left in a cut body are brackets without a partner; they may all be nested.
    if len(brackets) > _MAX_DEPTH:
        raise TooMuchError(f"nested more than {_MAX_DEPTH} levels deep")


def _count(body: bytes, mark: bytes, enough: int) -> int:
    """How often `mark` occurs, up to `enough` + 1.

    `replace` finds the next one by memchr: 9 µs for a page of 200 comments (70 KB) on Python 3.11
    to 3.13. `translate`, `count`, `split` and a loop of `find` took 24 to 104 µs, a pattern 600.
    """
    return len(body) - len(body.replace(mark, b"", enough + 1))
