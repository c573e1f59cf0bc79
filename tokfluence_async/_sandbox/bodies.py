"""Bodies that are not what they should be: pure functions from the right body to the wrong one.

Each begins with an answer whose work was done and charged. So what a test sees is the price of a
body that a client cannot read.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from .answers import encode
from .world import is_list, is_object

__all__ = ["HALVES", "NEARLY_JSON", "gzip_padded", "half_emoji", "nearly_json", "nested"]

_TEXTS = ("caption", "text", "title", "message")
_NUMBERS = ("likes", "cost")
# Stands in a text for a byte that JSON's own encoder would not write. No text of the sandbox has
# this character.
_MARK = "\ue000"

HALVES: Mapping[str, tuple[str, str]] = {
    "high": ("", "\ud83d"),
    "low": ("\ude02", ""),
    "both": ("\ude02", "\ud83d"),
}
"""What `half_emoji` puts before and after a text."""


def _with_fields(value: object, names: Collection[str], change: Callable[[Any], Any]) -> object:
    """`value` with every field of these names changed, however deep."""
    if is_object(value):
        return {
            name: change(each) if name in names else _with_fields(each, names, change)
            for name, each in value.items()
        }
    if is_list(value):
        return [_with_fields(each, names, change) for each in value]
    return value


def half_emoji(body: bytes, half: str, fields: Collection[str] | None) -> bytes:
    """Every text of these fields with half of an emoji at an end, as a service sends it that
    counts and cuts texts in UTF-16: `"so funny \\ud83d"`, which is valid JSON."""
    before, after = HALVES[half]
    cut = _with_fields(
        json.loads(body), fields or _TEXTS, lambda text: f"{before}{text or ''}{after}"
    )
    # Such a service escapes all that is not ASCII.
    return json.dumps(cut, separators=(",", ":")).encode()


def _number(number: float) -> Callable[[bytes, Collection[str] | None], bytes]:
    def change(body: bytes, fields: Collection[str] | None) -> bytes:
        return encode(_with_fields(json.loads(body), fields or _NUMBERS, lambda _: number))

    return change


def _raw(byte: bytes) -> Callable[[bytes, Collection[str] | None], bytes]:
    def change(body: bytes, fields: Collection[str] | None) -> bytes:
        def mark(text: str | None) -> str:
            text = text or ""
            return text[:1] + _MARK + text[1:]

        marked = _with_fields(json.loads(body), fields or _TEXTS, mark)
        return encode(marked).replace(_MARK.encode(), byte)

    return change


NEARLY_JSON: Mapping[str, Callable[[bytes, Collection[str] | None], bytes]] = {
    "nan": _number(float("nan")),
    "infinity": _number(float("inf")),
    "-infinity": _number(float("-inf")),
    "bom": lambda body, _: b"\xef\xbb\xbf" + body,
    "newline": _raw(b"\n"),
    "tab": _raw(b"\t"),
    "latin-1": _raw(b"\xe9"),
    "comma": lambda body, _: body[:-1] + b"," + body[-1:],
}
"""Ways to be nearly JSON, by the names `nearly_json` takes."""


def nearly_json(body: bytes, how: str, fields: Collection[str] | None) -> bytes:
    """The body, wrong in one of the ways of `NEARLY_JSON`."""
    return NEARLY_JSON[how](body, fields)


def nested(depth: int) -> bytes:
    """`depth` arrays, one in the other."""
    return b'{"data":%b%b}' % (b"[" * depth, b"]" * depth)


def gzip_padded(body: bytes, size: int) -> bytes:
    """The body and white space up to `size` bytes, packed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    blank = b" " * 2**20
    pieces = [packer.compress(body)]
    pieces += [
        packer.compress(blank[: size - start]) for start in range(len(body), size, len(blank))
    ]
    return b"".join([*pieces, packer.flush()])
