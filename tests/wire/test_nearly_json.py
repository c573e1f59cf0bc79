"""Bodies that are nearly JSON are read, once, and kept as JSON that every reader takes."""

from __future__ import annotations

import io
import json
import logging
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.json
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokfluence_async import (
    APIResponseValidationError,
    Sandbox,
    TokfluenceClient,
    UpstreamError,
    crawl,
)
from tokfluence_async._wire import shapes as _shapes
from tokfluence_async._wire.answers import Answer, parse_answer, parse_error
from tokfluence_async._wire.bodies import CommentsBody, PostBody, RawCommentsBody, RawPostBody
from tokfluence_async._wire.checks import check_nesting
from tokfluence_async._wire.lines import comment_lines, post_line
from tokfluence_async._wire.nearly_json import repair_json
from tokfluence_async._wire.shapes import Shape

POST: Shape[PostBody] = Shape(PostBody)
RAW_POST: Shape[RawPostBody] = Shape(RawPostBody)
COMMENTS: Shape[CommentsBody] = Shape(CommentsBody)
RAW_COMMENTS: Shape[RawCommentsBody] = Shape(RawCommentsBody)


# What stands in the place of a caption, and the caption that is read.
TEXTS: dict[str, tuple[bytes, str | None]] = {
    "the first half at the end": (rb'"so funny \ud83d"', "so funny \ufffd"),
    "the first half in the middle": (rb'"so \ud83d funny"', "so \ufffd funny"),
    "the second half": (rb'"\ude02 so"', "\ufffd so"),
    "the first half twice": (rb'"\ud83d\ud83d"', "\ufffd\ufffd"),
    "the halves in the wrong order": (rb'"\ude02\ud83d"', "\ufffd\ufffd"),
    "a half before an escape": (rb'"\ud83d\u0041\n"', "\ufffdA\n"),
    "a half before an escaped quote": (rb'"\ud83d\""', '\ufffd"'),
    "a half in capitals": (rb'"\uD83D"', "\ufffd"),
    "a half and a whole": (rb'"\ud83d\ud83d\ude02"', "\ufffd\U0001f602"),
    "a whole": (rb'"\ud83d\ude02"', "\U0001f602"),
    "a whole that was cut in its escape": (rb'"so \ud83d\ud"', "so \ufffd\ufffd"),
    "an escape that was cut": (rb'"so \u"', "so \ufffd"),
    "an escaped backslash before what looks like a half": (rb'"\\ud83d"', r"\ud83d"),
    "three backslashes before it": (rb'"\\\ud83d"', "\\\ufffd"),
    "a half in UTF-8": (b'"so \xed\xa0\xbd"', "so \ufffd"),
    "a character cut in its third byte": (b'"so \xf0\x9f\x98"', "so \ufffd"),
    "a character cut in its second byte": (b'"so \xe2\x80"', "so \ufffd"),
    "a raw newline": (b'"so\nfunny"', "so\nfunny"),
    "a raw carriage return": (b'"so\r\nfunny"', "so\r\nfunny"),
    "a raw tab": (b'"so\tfunny"', "so\tfunny"),
    "a raw zero byte": (b'"so\x00funny"', "so\x00funny"),
    "an escape of JavaScript's": (rb'"it\'s \x41"', r"it\'s \x41"),
    "NaN": (b"NaN", None),
    "Infinity": (b"Infinity", None),
    "minus Infinity": (b"-Infinity", None),
    "nan": (b"nan", None),
    "inf": (b"-inf", None),
    "what old Windows writes": (b"1.#QNAN0", None),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_is_nearly_json_is_read(name: str) -> None:
    """In a field that is known and in one that is not, as a Struct, as bytes and as a dict."""
    text, read = TEXTS[name]
    body = b'{"data": {"post_id": "1", "caption": %b, "new": [%b, {"%b": 1}]}}' % (
        text,
        text,
        text[1:-1] if text.startswith(b'"') else b"key",
    )

    kept = bytes(RAW_POST.decode(body).data)

    assert POST.decode(body).data.caption == read
    assert json.loads(kept)["caption"] == read
    assert json.loads(kept)["new"][0] == read
    assert Shape[dict[str, Any]](dict).decode(body)["data"]["caption"] == read
    assert json.loads(bytes(Shape[msgspec.Raw](msgspec.Raw).decode(body)))


def test_a_mark_at_the_beginning_is_skipped() -> None:
    """As Windows, and services that were begun there, write files."""
    body = '{"data": {"post_id": "1", "caption": "\U0001f602"}}'
    for given_body in (
        body.encode("utf-8-sig"),
        b"\n" + body.encode("utf-8-sig"),
        b"\xef\xbb\xbf" + body.encode("utf-8-sig"),
        body.encode("utf-16"),
        b"\xfe\xff" + body.encode("utf-16-be"),
        body.encode("utf-32"),
    ):
        assert POST.decode(given_body).data.caption == "\U0001f602"


@pytest.mark.parametrize(
    "number", [b"1e999", b"-1e999", b"1E+400", b"9" * 5000, b"9" * 400 + b".5"]
)
def test_a_number_that_nothing_holds_is_null(number: bytes) -> None:
    """In a field that is not known too: msgspec and Arrow refuse the whole file for it."""
    body = b'{"data": {"post_id": "1", "likes": %b, "new": [%b]}}' % (number, number)

    line = post_line(RAW_POST.decode(body).data)

    assert POST.decode(body).data.likes is None
    assert msgspec.json.decode(line) == {"post_id": "1", "likes": None, "new": [None]}
    assert Shape[dict[str, Any]](dict).decode(body)["data"]["new"] == [None]


@pytest.mark.parametrize("cursor", [b"NaN", b"Infinity", b" \n 1e999", b" " * 500 + b"-Infinity"])
def test_no_end_of_a_walk_is_made_up(cursor: bytes) -> None:
    """Null there is the last page; what is no number is not."""
    body = b'{"data": [{"comment_id": "1", "likes": NaN}], "meta": {"next_cursor" :%b}}' % cursor

    for shape in (COMMENTS, RAW_COMMENTS):
        with pytest.raises(APIResponseValidationError):
            parse_answer(Answer(200, body, "r"), shape)


@pytest.mark.parametrize(
    "body",
    [
        rb'{"error": {"code": "upstream_error", "message": "no \ud83d"}}',
        b'{"error": {"code": "upstream_error", "message": "caf\xe9"}}',
        b'\xef\xbb\xbf{"error": {"code": "upstream_error", "message": "x"}}',
        b'{"error": {"code": "upstream_error", "message": "a\nb", "after": NaN}}',
        b'{"error": {"code": "upstream_error", "message": ["a", 1]}}',
        b'{"error": {"code": "upstream_error", "message": {"en": "a"}}}',
    ],
)
def test_an_error_keeps_its_code(body: bytes) -> None:
    """It says whether the call was charged; the message is for people only."""
    error = parse_error(Answer(502, body, "r"))

    assert isinstance(error, UpstreamError)
    assert error.code == "upstream_error"


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters()),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.booleans(),
)
@example(["NaN", "\\", '\\"', '"NaN', "\\u", "\\ud83d", "1e999"], True)
def test_what_is_json_is_left_alone(value: Any, ascii: bool) -> None:
    """Byte for byte, whatever its texts look like."""
    try:
        body = json.dumps(value, ensure_ascii=ascii).encode()
    except UnicodeEncodeError:  # half a pair cannot be written without an escape
        return
    expected = json.loads(body)
    readable = json.dumps(expected, ensure_ascii=False).encode("utf-8", "replace") == json.dumps(
        expected, ensure_ascii=False
    ).encode("utf-8", "surrogatepass")

    if readable:
        assert repair_json(body) == (body, set())


@given(st.lists(st.text(st.characters() | st.characters(categories=["Cs"]))))
@example(["\ud83d", "\ud83d\ude02", "\ude02\ud83d", "\\\ud83d", "\ud83d\\ude02"])
def test_a_half_costs_itself_and_nothing_else(texts: list[str]) -> None:
    """Python reads the same body, halves and all; each of them, and no more, becomes U+FFFD."""
    body = json.dumps(texts).encode()
    expected = [
        text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        for text in json.loads(body)
    ]

    assert Shape[list[str]](list).decode(body) == expected


@given(st.binary(max_size=80))
@example(b'{"a": "\\ud83d')
@example(b'"\\')
def test_no_bytes_are_too_odd(garbage: bytes) -> None:
    """What cannot be read is refused by the decoder, not by an accident on the way there."""
    repair_json(garbage)
    repair_json(b'{"data": {"post_id": "' + garbage + b'"}}')


# --- what is kept ---------------------------------------------------------------------------------


def _by_jq(lines: bytes) -> list[Any]:
    done = subprocess.run(["jq", "-c", "."], input=lines, capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


READERS: dict[str, Callable[[bytes], list[Any]]] = {
    "json": lambda lines: [json.loads(line) for line in lines.decode().splitlines()],
    "msgspec": msgspec.json.Decoder(Any).decode_lines,
    "pyarrow": lambda lines: pyarrow.json.read_json(io.BytesIO(lines)).to_pylist(),
    "jq": _by_jq,
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_takes_what_is_kept(reader: str) -> None:
    """Lines outlive the program that wrote them."""
    if reader == "jq" and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    for name, (text, read) in TEXTS.items():
        body = (
            b'{"data": [{"comment_id": "1", "text": %b, "x": 1e999}, {"comment_id": "2"}], ' % text
        )
        body += b'"meta": {"next_cursor": null}}'

        [first, second] = READERS[reader](comment_lines("7", RAW_COMMENTS.decode(body).data))

        assert (first["post_id"], first["text"], first["x"]) == ("7", read, None), name
        assert second["comment_id"] == "2"


@pytest.mark.sandbox(indexed=1.0, comments_per_post=3)
async def test_half_an_emoji_costs_one_page(
    sandbox: Sandbox, client: TokfluenceClient, tmp_path: Path
) -> None:
    """A post and a page in which a text was cut are paid for once, and are in the files."""
    post = json.dumps({"data": sandbox.world.post("1") | {"caption": "so \ud83d"}})
    comment = sandbox.world.comment("1", 0) | {"text": "funny \ud83d", "new": "\ude02"}
    page = json.dumps({"data": [comment], "meta": {"total": 1, "next_cursor": None}})
    sandbox.answer(post.encode(), to="GET /v1/posts/:id")
    sandbox.answer(page.encode(), to="GET /v1/posts/:id/comments")

    report = await crawl(client, ["1"], tmp_path, comments=True)

    assert (report.posts, report.comments, report.failed) == (1, 1, 0)
    assert sandbox.requests_received == 2
    assert report.credits_spent == 3
    for reader in READERS:
        if reader != "jq" or shutil.which("jq"):
            [line] = READERS[reader]((tmp_path / "comments.jsonl").read_bytes())
            assert (line["text"], line["new"]) == ("funny \ufffd", "\ufffd")


def test_what_was_odd_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crawl may meet it a million times, and in a thousand kinds."""
    monkeypatch.setattr(_shapes, "_told", set())
    with caplog.at_level(logging.WARNING, "tokfluence_async"):
        for _ in range(3):
            POST.decode(rb'{"data": {"post_id": "1", "caption": "\ud83d"}}')

    assert ["U+FFFD" in record.getMessage() for record in caplog.records] == [True]


# --- worst inputs ---------------------------------------------------------------------------------

MEGABYTE = 2**20
BRACKETS = b"[" * 300
WORST: dict[str, bytes] = {
    "escaped quotes in a text without end": BRACKETS + b'"' + b'\\"' * (MEGABYTE // 2),
    "escaped quotes": b'"' + b'\\"' * (MEGABYTE // 2),
    "quotes": BRACKETS + b'"' * MEGABYTE,
    "backslashes": BRACKETS + b'"' + b"\\" * MEGABYTE,
    "quotes and brackets": BRACKETS + b'"["[' * (MEGABYTE // 4),
    "brackets in texts": b'["[",' * (MEGABYTE // 5),
    "nested to the limit": (b"[" * 64 + b"]" * 64 + b",") * (MEGABYTE // 129),
    "open brackets": b"[" * MEGABYTE,
    "halves": b'"' + b"\\ud83d" * (MEGABYTE // 6),
    "cut escapes": b'"' + b"\\u" * (MEGABYTE // 2),
    "halves in UTF-8": b'"' + b"\xed\xa0" * (MEGABYTE // 2),
    "lead bytes": b'"' + b"\xf0\x9f" * (MEGABYTE // 2),
    "control characters": b'"' + b"\n" * MEGABYTE,
    "a few control characters": (b'"' + b"x" * 200 + b'\n"') * (MEGABYTE // 203),
    "good escapes": b'"' + b"\\u0041" * (MEGABYTE // 6),
    "pairs": b'["' + b"\\ud83d\\ude02" * (MEGABYTE // 12) + b'"]',
    "NaN": b"NaN," * (MEGABYTE // 4),
    "a long word": b"N" * MEGABYTE,
    "Infinity and more": b"Infinity" * (MEGABYTE // 8),
    "digits": b"9" * MEGABYTE,
    "digits and an exponent": b"9" * MEGABYTE + b"e9",
    "a long exponent": b"1e" + b"9" * MEGABYTE,
    "a long fraction": b"1." + b"9" * MEGABYTE,
    "points": b"1." * (MEGABYTE // 2),
    "marks": b"\xef\xbb\xbf" * (MEGABYTE // 3),
    "blanks": b" " * MEGABYTE,
    "blanks after a cursor": b'"next_cursor"' + b" " * MEGABYTE + b":NaN",
    "cursors": b'"next_cursor":NaN,' * (MEGABYTE // 18),
    "words": b"a," * (MEGABYTE // 2),
    "short keys": b'{"a":' * (MEGABYTE // 5),
    "short numbers": b"1," * (MEGABYTE // 2),
}


@pytest.mark.parametrize("name", WORST)
def test_the_worst_body_of_a_megabyte_takes_a_moment(name: str) -> None:
    """A pattern that goes back and forth takes hours for one of these, and no timeout of the loop
    gets a turn; one that asks Python about each quote takes half a second for a megabyte of them.
    Each body is read ten times here: at most 0.8 s of the processor, measured."""
    body = WORST[name]
    started = time.process_time()

    for text in (body, b'{"data": {"post_id": "1", "likes": ' + body + b"}}"):
        for shape in (POST, RAW_POST, Shape[Any](dict), Shape[Any](msgspec.Raw)):
            with suppress(APIResponseValidationError):
                parse_answer(Answer(200, text, "r"), shape)
        parse_error(Answer(502, text, "r"))

    assert time.process_time() - started < 3


def test_an_unterminated_text_hides_its_brackets() -> None:
    """Brackets in a text are no depth, also where the text never ends."""
    check_nesting(b"[[" + b"[]," * 300 + b'"' + b"[" * 1000)
