"""Bodies that must not reach a decoder."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfluence_async import APIResponseValidationError
from tokfluence_async._wire.answers import Answer, parse_answer
from tokfluence_async._wire.bodies import CommentsBody, RawPostBody
from tokfluence_async._wire.checks import check_nesting
from tokfluence_async._wire.shapes import Shape

COMMENTS: Shape[CommentsBody] = Shape(CommentsBody)


def answer(body: bytes | str) -> Answer:
    return Answer(200, body.encode() if isinstance(body, str) else body, "req-1")


SMALL_STACK = """
    import threading, sys
    from typing import Any
    import msgspec
    from tokfluence_async._errors import TokfluenceError
    from tokfluence_async._wire.answers import *
    from tokfluence_async._wire.bodies import *
    from tokfluence_async._wire.calls import *
    from tokfluence_async._wire.shapes import *

    def bodies():
        for depth in (64, 254, 255, 256, 257, 400, 5_000):
            for left in (b"[", b'{"a":', b'{"data":', b'{"error":', b'{"meta":'):
                right = b"]" if left == b"[" else b"}"
                nested = left * depth + b"{}" + right * depth
                yield nested
                yield b'{"data": ' + nested + b"}"
                yield b'{"data": {"post_id": "1", "new": ' + nested + b"}}"
                dated = b'{"data": {"post_id": "1", "published_at": "2026-01-01T00:00:00", "new": '
                yield dated + nested + b"}}"
                yield b'{"data": [' + nested + b'], "meta": {"next_cursor": null}}'
                yield b'{"error": {"code": "x", "message": ' + nested + b"}}"
                yield nested[: len(nested) // 2]

    TYPES = (PostBody, CommentsBody, AnalyzeBody, RawPostBody, RawCommentsBody,
             dict, list, msgspec.Raw, Any)
    SHAPES = [Shape(each) for each in TYPES]
    CALL = build_analyze(["x"], False)
    done = []

    def work():
        for body in bodies():
            parse_error(Answer(500, body, "r"))
            answer = Answer(200, body, "r")
            for shape in SHAPES:
                try:
                    parse_answer(answer, shape)
                except TokfluenceError:
                    pass
            charge_of(answer, CALL)
        done.append(True)

    threading.stack_size(128 * 1024)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    print("alive" if done else "raised")
"""


def test_no_depth_of_nesting_kills_a_thread_with_a_small_stack() -> None:
    """msgspec recurses on the C stack: without the guard this is a segmentation fault, not an
    exception (trap 26).

    A thread of 128 KiB (what musl gives one); bodies of answers and of errors; typed, untyped, raw
    and skipped over.
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SMALL_STACK)], capture_output=True, text=True
    )

    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "alive", "")


def test_many_brackets_are_not_depth() -> None:
    """A page full of brackets in its texts, or of many small objects, is an ordinary page."""
    texts = json.dumps(
        {
            "data": [{"comment_id": str(n), "text": "[{" * 50 + '\\"' * 3} for n in range(200)],
            "meta": {"next_cursor": None},
        }
    )
    flat = json.dumps([[[]], {"a": {}}] * 5000)

    check_nesting(texts.encode())
    check_nesting(flat.encode())
    assert len(parse_answer(answer(texts), COMMENTS).data) == 200
    assert parse_answer(answer(flat), Shape[list[Any]](list)) == json.loads(flat)


def test_long_texts_full_of_commas_are_a_page() -> None:
    """The largest page there can be: 200 comments, each of as many characters as TikTok takes and
    more, all of them commas or brackets."""
    data = [{"comment_id": str(n), "text": ",[{" * 150 + "\u0000" * 500} for n in range(200)]
    body = json.dumps({"data": data, "meta": {"total": 200, "next_cursor": None}})

    assert len(body) > 500_000
    assert len(parse_answer(answer(body), COMMENTS).data) == 200


@given(
    st.recursive(
        st.text('[]{}"\\a'),
        lambda inner: st.lists(inner) | st.dictionaries(st.text('[]{}"\\'), inner),
    )
)
def test_the_nesting_guard_lets_every_shallow_document_pass(value: Any) -> None:
    """Brackets, quotes and backslashes in texts do not confuse it."""
    padded = [value] + [[] for _ in range(600)]

    check_nesting(json.dumps(padded).encode())


@pytest.mark.parametrize("place", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("bad", [b"\xff", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\x98\x80"])
@pytest.mark.parametrize("kind", [RawPostBody, msgspec.Raw])
def test_a_raw_body_is_utf_8_to_its_end(
    place: int, bad: bytes, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Characters of four bytes across the pieces it is looked at in pass; what is none, at any
    place, does not."""
    good = ("x" * place + "\U0001f600" * 20_000).encode()
    body = b'{"data": "' + good + b'"}'

    shape: Shape[Any] = Shape(kind)

    kept = parse_answer(answer(body), shape)
    assert b'"' + good + b'"' in bytes(kept.data if kind is RawPostBody else kept)
    for at in (0, place, 16_380 + place, 16_384 + place, len(good)):
        cut = at - (at - place) % 4 if at > place else at
        with pytest.raises(APIResponseValidationError, match="UTF-8"):
            parse_answer(answer(b'{"data": "' + good[:cut] + bad + good[cut:] + b'"}'), shape)
