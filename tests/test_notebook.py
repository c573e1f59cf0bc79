"""What a notebook shows: safe, compact, and progress that redraws itself."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import re
import sys
import types
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfluence_async import (
    Analysis,
    AnalyzeReport,
    Comment,
    CommentPage,
    CrawlReport,
    InvalidPostError,
    Music,
    Outcome,
    Post,
    Progress,
    Sandbox,
    TokfluenceClient,
    Usage,
    _models,
    frames,
    show_progress,
)
from tokfluence_async._crawl.tables import make_encoder

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&\x1b[2J\u202e"
TAGS = {"div", "span", "b", "bdi", "a", "table", "thead", "tbody", "tr", "th", "td", "progress"}
VOID = {"progress"}


class _Reader(HTMLParser):
    """Holds HTML to what we write ourselves: known tags, closed in order, and links to http
    only."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        for name, value in attrs:
            assert name in {"style", "href", "target", "rel", "value", "max"}
            assert name != "href" or (value or "").startswith(("https://", "http://"))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _read(html: str) -> str:
    """The text of `html`, which is well-formed and safe."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    assert not set(reader.text) & {"\x1b", "\u202e"}
    return reader.text


def _html(shown: Any) -> str:
    html = shown._repr_html_()
    assert isinstance(html, str)
    return html


def test_a_post_is_a_card() -> None:
    """Caption, numbers, tags and sound, and a link to the video."""
    post = Post(
        post_id="7234567890123456789",
        url="https://www.tiktok.com/@wwe/video/7234567890123456789",
        caption="Big match tonight",
        published_at=dt.datetime(2026, 4, 12, 19, 0, tzinfo=dt.UTC),
        duration=28,
        views=1_240_000,
        hashtags=["wwe"],
        mentions=["fan1"],
        music=Music(title="original sound", author="wwe"),
        is_sponsored=True,
    )

    text = _read(_html(post))

    for part in (
        "7234567890123456789",
        "2026-04-12 19:00 UTC",
        "28 s",
        "Big match",
        "1,240,000",
        "#wwe",
        "@fan1",
        "sponsored",
    ):
        assert part in text
    assert f'href="{post.url}"' in _html(post)
    assert len(_html(post)) < 3000


@pytest.mark.parametrize(
    ("hint", "value", "shown"),
    [
        (int | None, 1_234, "1,234"),
        (str | None, EVIL, "<script>"),
        (bool | None, True, "yes"),
        (list[str] | None, ["a", "b"], "a b"),
        (dt.datetime | None, dt.datetime(2026, 4, 12, tzinfo=dt.UTC), "2026-04-12 00:00 UTC"),
        (Music | None, Music(title="Rain", author=EVIL), "title Rain"),
    ],
    ids=str,
)
def test_a_field_that_is_added_to_a_post_is_shown_everywhere(
    hint: Any, value: object, shown: str
) -> None:
    """In its card, in frames and in the tables of a crawl, by its declaration alone."""
    wider: Any = msgspec.defstruct(
        "Wider", [("new_field", hint, None)], bases=(Post,), frozen=True, kw_only=True
    )
    post = wider(post_id="1", new_field=value)
    table = make_encoder("csv", wider).encode([post])

    assert f"new field {shown}" in _read(_html(post))
    assert frames.to_arrow([post]).column("new_field").to_pylist() != [None]
    assert b"new_field" in table.splitlines()[0]


def test_a_field_that_is_added_to_a_comment_is_a_column_of_its_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside those that have a head of their own."""
    wider: Any = msgspec.defstruct(
        "Wider", [("new_field", int | None, None)], bases=(Comment,), frozen=True, kw_only=True
    )
    monkeypatch.setattr(_models, "Comment", wider)
    page = CommentPage(
        items=[wider(comment_id="1", new_field=7_777)], total=1, cursor=0, next_cursor=None
    )

    text = _read(_html(page))
    assert "new field" in text
    assert "7,777" in text


def test_a_link_that_is_none_is_not_made() -> None:
    """`javascript:` would run with the notebook's rights."""
    assert "href" not in _html(Post(post_id="1", url="javascript:alert(1)"))


def test_a_page_shows_its_first_comments() -> None:
    """Ten of them, and where the page stands."""
    items = [
        Comment(comment_id=str(n), text=EVIL, parent_comment_id="0" if n else None)
        for n in range(200)
    ]

    text = _read(
        _html(CommentPage(items=items, total=1900, cursor=200, next_cursor=400, repeated=3))
    )

    assert "200 comments of 1,900" in text
    assert "the next at cursor 400" in text
    assert "3 repeated" in text
    assert "and 190 more" in text
    assert text.count("<script>") == 10  # as text
    assert "the last page" in _read(
        _html(CommentPage(items=[], total=None, cursor=0, next_cursor=None))
    )
    one = _read(
        _html(CommentPage(items=items[:1], total=1, cursor=0, next_cursor=None, repeated=1))
    )
    assert "1 comment of 1" in one
    assert "1 repeated one left out" in one


def test_a_report_counts_and_shows_failures() -> None:
    """By the service's own words."""
    outcomes: list[Outcome[Analysis]] = [
        Outcome(input="1", post_id="1", value=Analysis(post_id="1", status="analyzed")),
        Outcome(input="2", post_id="2", value=Analysis(post_id="2")),
        *(Outcome(input=EVIL, error=InvalidPostError(EVIL, EVIL)) for _ in range(12)),
    ]

    text = _read(_html(AnalyzeReport(outcomes=outcomes, duplicates=4, credits_spent=1050)))

    for part in (
        "14 posts",
        "analyzed",
        "no status",
        "failed",
        "1,050",
        "InvalidPostError",
        "and 2 more",
    ):
        assert part in text
    assert "InvalidPostError" not in _read(_html(AnalyzeReport(outcomes=outcomes[:1])))


def test_an_outcome_shows_its_value_or_its_error() -> None:
    """With what was given, which may be anything."""
    read = Outcome(
        input="https://www.tiktok.com/@wwe/video/1",
        post_id="1",
        value=Post(post_id="1", caption=EVIL),
    )
    analyzed = Outcome(input=1, post_id="1", value=Analysis(post_id="1", status="analyzed"))
    failed: Outcome[Post] = Outcome(input=EVIL, error=InvalidPostError(EVIL, EVIL))

    for part in ("@wwe/video/1", "post 1", "Post 1", "<script>"):
        assert part in _read(_html(read))
    assert "analyzed" in _read(_html(analyzed))
    assert "InvalidPostError" in _read(_html(failed))
    assert "is not a TikTok post" in _read(_html(failed))
    assert len(_html(failed)) < 3000


async def test_an_estimate_shows_what_it_comes_to(client: TokfluenceClient) -> None:
    """From and to, or the least where no more is known."""
    ids = [*range(1, 1001), 1, "nope"]

    text = _read(_html(await client.posts.estimate(ids)))
    assert re.search(r"credits 1,000 to 2\d,\d{3}", text)
    assert "malformed 1" in text
    assert "credits 3,000 or more" in _read(_html(await client.posts.estimate(ids, comments=True)))
    assert "credits 0" in _read(_html(await client.posts.estimate([])))


async def test_a_ledger_shows_what_each_endpoint_cost(
    sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """And where the counts differ, the newest first."""
    assert "endpoint" not in _read(_html(client.ledger))

    await client.posts.get(1)
    for lost in range(1, 13):
        sandbox.credits -= lost
        await client.posts.get(1)

    text = _read(_html(client.ledger))
    assert "GET /v1/posts/:id" in text
    assert "credits spent 13" in text
    assert f"left {sandbox.credits:,}" in text
    assert "spent elsewhere+12spent elsewhere+11" in text
    assert "and 2 more" in text


def test_the_other_reports() -> None:
    """A crawl's, a client's, and how far a call is."""
    assert "everything was tried" in _read(_html(CrawlReport(posts=5)))
    assert "stopped by budget" in _read(_html(CrawlReport(stopped_by="budget")))
    assert "9.9/s, slowed down" in _read(_html(Usage(pace=9.9, slowed=True)))
    assert "not limited" in _read(_html(Usage()))
    known = Progress(
        done=5, failed=1, total=10, credits_spent=9, credits_remaining=91, elapsed=2.0, comments=7
    )
    assert "5 of 10" in _read(_html(known))
    assert "<progress></progress>" in _html(
        Progress(done=5, failed=1, total=None, credits_spent=9, credits_remaining=None, elapsed=2.0)
    )
    assert "Usage" in _read(_html(TokfluenceClient("x").usage))


@given(
    st.text(),
    st.one_of(st.none(), st.text()),
    st.one_of(st.none(), st.integers(), st.floats(allow_nan=False)),
)
def test_no_text_becomes_markup(text: str, url: str | None, number: float | None) -> None:
    """Whatever strangers write, and whatever the service sends for a number."""
    post = Post(
        post_id=text,
        url=url,
        caption=text,
        duration=number,
        hashtags=[text],
        mentions=[text],
        music=Music(title=text, author=text),
    )

    _read(_html(post))
    _read(
        _html(
            CommentPage(
                items=[Comment(comment_id="1", text=text, author_username=text)],
                total=1,
                cursor=0,
                next_cursor=None,
            )
        )
    )
    _read(_html(CrawlReport(stopped_by=text)))
    _read(_html(Outcome(input=text, post_id=text, value=text)))
    _read(_html(Outcome(input=text, error=InvalidPostError(text, text))))


async def test_running_a_cell_again_leaks_nothing(sandbox: Sandbox) -> None:
    """`client = TokfluenceClient()` without a close, again and again: the old connections go with
    the old client."""
    before = asyncio.all_tasks()
    for _ in range(5):
        client = TokfluenceClient(sandbox.token, base_url=sandbox.url)
        await client.posts.get("1")
        async for _ in client.posts.comments("1", prefetch=4):
            break
        del client
        gc.collect()
        await asyncio.sleep(1)

        assert sandbox.open_connections == 0
        assert asyncio.all_tasks() == before


def _progress(done: int) -> Progress:
    return Progress(
        done=done, failed=0, total=2, credits_spent=1, credits_remaining=9, elapsed=1.0, comments=3
    )


def test_progress_redraws_itself_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """One output per call, updated in place: re-running a cell leaves no trail."""
    shown: list[tuple[str, dict[str, str]]] = []

    class Handle:
        def update(self, what: dict[str, str], *, raw: bool) -> None:
            shown.append(("update", what))

    def display(what: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        shown.append(("display", what))
        return Handle()

    shell: Any = types.SimpleNamespace(kernel=object())
    ipython: Any = types.ModuleType("IPython")
    ipython.get_ipython = lambda: shell
    ipython.display = types.SimpleNamespace(display=display)
    monkeypatch.setitem(sys.modules, "IPython", ipython)

    tell = show_progress()
    tell(_progress(1))
    tell(_progress(2))

    assert [how for how, _ in shown] == ["display", "update"]
    assert "2 of 2" in _read(shown[1][1]["text/html"])
    assert shown[1][1]["text/plain"].startswith("2 of 2 done, 3 comments")


def test_progress_is_a_line_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a kernel, in IPython's own terminal too."""
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    show_progress()(_progress(1))
    ipython: Any = types.ModuleType("IPython")
    ipython.get_ipython = lambda: None
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    show_progress()(_progress(2))

    assert (
        capsys.readouterr().err
        == "1 of 2 done, 3 comments, 0 failed, 1 credit, 1 s\n2 of 2 done, 3 comments, 0 "
        "failed, 1 credit, 1 s\n"
    )
