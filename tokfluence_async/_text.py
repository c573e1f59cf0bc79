"""Texts for people: counts, and what strangers wrote made safe for a terminal.

Captions and comments are written by strangers. A terminal that is sent their bytes as they are may
be told to move its cursor, change its title, type on its input, or show a text in another order
than it has. ESC and the one-byte CSI U+009B both do that, and rich prints both, even through `Text`
and `escape()`. What is shown on a screen is escaped here; files and pipes get the text unchanged.
"""

from __future__ import annotations

import re

__all__ = ["escape_controls", "one_line", "plural"]

# C0 but tab and newline, DEL, C1, the line separators, and the marks that reorder what follows them
# (embeddings, overrides, isolates). Joiners, direction marks and tag characters stay: emoji and
# right-to-left words are made of them, and they change nothing beyond themselves. Lone surrogates
# cannot be encoded at all.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_BREAKS = re.compile("[\t\n]")


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 post`, `1,000 posts`; `many` where an s at the end does not make the plural."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def escape_controls(text: str) -> str:
    """`text` with every character that steers a terminal written as `\\u001b` and its like.

    Inside a JSON string that is the same string again, so escaped JSON lines can still be copied
    and parsed. Tabs and newlines stay.
    """
    return _UNSAFE.sub(_escape, text)


def one_line(text: str, width: int | None = None) -> str:
    """`text` escaped, on one line, and cut to `width` characters with an ellipsis."""
    line = _BREAKS.sub(" ", escape_controls(text))
    return line if width is None or len(line) <= width else line[: max(width - 1, 0)] + "…"
