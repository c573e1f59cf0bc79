r"""Bytes that are nearly JSON, made JSON. Slow, and only used after a decoder has refused a body.

An answer is paid for, and the same request would bring the same bytes again. So what can be read
without guessing is read:

- half of a surrogate pair (`"\ud83d"`, or its bytes), an escape or a character that was cut:
  becomes U+FFFD. Services that cut texts by length send these, and RFC 8259 permits the first;
- NaN, Infinity, and numbers that no double holds: null. Not as `next_cursor`, where null is
  the end;
- a byte order mark: skipped; UTF-16 and UTF-32 with a mark: decoded;
- a control character in a text: escaped; an escape that JSON does not have: taken as text.

Whatever else is wrong stays wrong, and the decoder says so. Every pattern here is linear in the
length of the body: quantifiers are possessive, and no two matches look at the same bytes. A body
with thousands of faults is not nearly JSON, and is left as it is.
"""

from __future__ import annotations

import codecs
import re

__all__ = ["repair_json"]

_HALF = "half of a surrogate pair, or a character that was cut; it is read as U+FFFD"
_NO_NUMBER = "NaN, Infinity or a number that no double holds; it is read as null"
_MARK = "a byte order mark; it is skipped"
_CONTROL = "a control character in a text; it is kept"
_ESCAPE = "an escape that JSON does not have; it is read as text"

_MOST_FAULTS = 10_000
# What JSON, or NaN, can begin with.
_FIRST = b'{["-0123456789tfnNI'
_MARKS = (  # the longer ones first: UTF-32's begins as UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_REPLACEMENT = "\ufffd".encode()
# A surrogate, or the beginning of a character of three or four bytes without its end.
_CUT = re.compile(
    rb"\xed[\xa0-\xbf][\x80-\xbf]"
    rb"|[\xe0-\xef][\x80-\xbf](?![\x80-\xbf])"
    rb"|[\xf0-\xf4][\x80-\xbf]{1,2}+(?![\x80-\xbf])"
)
# What is right, as long as possible: cursors, whatever they say; what stands between values; texts;
# numbers and words. Then one odd thing: a text (the last one may have no end), or a word.
_TOKEN = re.compile(
    rb"""( (?:
          "next_cursor" \s*+ : \s*+ [\w\#+.-]++
        | [^"\w\#+.-]++
        | " (?:
              [^"\\\x00-\x1f]++
            | \\["\\/bfnrt]
            | \\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}
            | \\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}
          )*+ "
        | (?: -?[0-9]{1,18}+(?:\.[0-9]{1,18}+)?+(?:[eE][+-]?[0-9]{1,2}+)?+ | true | false | null )
          (?![\w\#+.-])
    )*+ )
    ( " (?: [^"\\]++ | \\. )*+ "? | [\w\#+.-]++ | \Z )""",
    re.DOTALL | re.VERBOSE,
)
# The part of a text that is right, and the first thing after it that is not: a control character,
# an escape that was cut or that JSON does not have. At the end there is none.
_FAULT = re.compile(
    rb"""(
        (?: [^\\\x00-\x1f]++
          | \\["\\/bfnrt]
          | \\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}
          | \\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}
        )*+
    )( [\x00-\x1f] | \\u[0-9a-fA-F]{0,4}+ | \\. | \Z )""",
    re.DOTALL | re.VERBOSE,
)
_UTF_8_MARKS = re.compile(rb"(?:\s*+\xef\xbb\xbf)++")
_NOT_FINITE = re.compile(
    rb"[-+]?(?:NaN|Inf|Infinity|1\.#(?:INF|IND|QNAN|SNAN))[0-9]*", re.IGNORECASE
)
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")
# Python converts no longer integers from text, and msgspec takes none.
_MOST_DIGITS = 4300


class _NotNearlyJSONError(Exception):
    """There is a word that JSON does not have, or there are too many faults."""


def repair_json(body: bytes) -> tuple[bytes, set[str]]:
    """`body` as JSON, as far as that can be said, and what was odd about it in words.

    Returns:
        `body` itself and no words where there is nothing that could be put right.
    """
    repair = _Repair()
    try:
        text = repair.run(body)
    except _NotNearlyJSONError:
        return body, set()
    return (text, repair.odd) if repair.odd else (body, set())


class _Repair:
    def __init__(self) -> None:
        self.odd: set[str] = set()
        self._faults = 0

    def run(self, body: bytes) -> bytes:
        text = self._unmarked(body)
        if text.lstrip()[:1] not in _FIRST:
            return body
        text, cuts = _CUT.subn(_REPLACEMENT, text, _MOST_FAULTS)
        self._note(_HALF, cuts)
        return _TOKEN.sub(self._token, text)

    def _note(self, oddity: str, times: int = 1) -> None:
        if times:
            self.odd.add(oddity)
            self._faults += times
        if self._faults >= _MOST_FAULTS:
            raise _NotNearlyJSONError

    def _unmarked(self, body: bytes) -> bytes:
        for mark, encoding in _MARKS:
            if body.startswith(mark):
                self._note(_MARK)
                return body.decode(encoding, "replace").encode()
        marks = _UTF_8_MARKS.match(body)
        if marks is None:
            return body
        self._note(_MARK)
        return body[marks.end() :]

    def _token(self, match: re.Match[bytes]) -> bytes:
        right, odd = match.groups()
        if odd.startswith(b'"'):
            return right + _FAULT.sub(self._fault, odd)
        if _NOT_FINITE.fullmatch(odd) or _is_too_large(odd):
            self._note(_NO_NUMBER)
            return right + b"null"
        if odd and not _NUMBER.fullmatch(odd):
            raise _NotNearlyJSONError
        return match[0]

    def _fault(self, match: re.Match[bytes]) -> bytes:
        right, fault = match.groups()
        if not fault:
            return right
        if len(fault) == 1:
            self._note(_CONTROL)
            return b"%b\\u%04x" % (right, fault[0])
        if fault.startswith(b"\\u"):
            self._note(_HALF)
            return right + b"\\ufffd"
        self._note(_ESCAPE)
        if fault[1] < 0x20:
            return b"%b\\\\\\u%04x" % (right, fault[1])
        return right + b"\\" + fault


def _is_too_large(token: bytes) -> bool:
    """Whether `token` is a number of JSON's that Python, msgspec or Arrow cannot hold."""
    if len(token) < 4 or not _NUMBER.fullmatch(token):
        return False
    if token.lstrip(b"-").isdigit():
        return len(token) > _MOST_DIGITS
    return float(token) in (float("inf"), float("-inf"))
