"""What a notebook shows: `_repr_html_` of the objects people look at, and progress that redraws
itself.

Captions and comments are written by strangers, so every text is escaped (markup by `html.escape`,
marks that reorder text by `_text`), isolated in `<bdi>` so that a right-to-left name does not
turn its row around, and cut. Links lead to http and https only. Colours are the notebook's own:
this is read in dark themes too.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

from ._text import escape_controls, plural

if TYPE_CHECKING:
    from ._credits.estimate import Estimate
    from ._credits.ledger import Ledger
    from ._models import (
        AnalyzeReport,
        Comment,
        CommentPage,
        CrawlReport,
        Outcome,
        Post,
        Progress,
        Usage,
    )

__all__ = [
    "analyze_report_html",
    "comment_page_html",
    "crawl_report_html",
    "estimate_html",
    "ledger_html",
    "outcome_html",
    "post_html",
    "progress_html",
    "show_progress",
    "usage_html",
]

# Rows of a table that are shown; the whole of it is one loop away.
_ROWS = 10
_CUT = 160
_DIM = "opacity:.65"


def _text(text: object, cut: int = _CUT) -> str:
    """A stranger's text as HTML."""
    if text is None:
        return f'<span style="{_DIM}">–</span>'
    shown = str(text)
    if len(shown) > cut:
        shown = shown[: cut - 1] + "…"
    return f"<bdi>{escape(escape_controls(shown))}</bdi>"


def _number(value: float | None) -> str:
    return f'<span style="{_DIM}">–</span>' if value is None else f"{value:,}"


def _moment(value: datetime | None) -> str:
    return (
        f'<span style="{_DIM}">–</span>'
        if value is None
        else f'<span style="white-space:nowrap">{value:%Y-%m-%d %H:%M} UTC</span>'
    )


def _link(url: str | None, label: str) -> str:
    if url is None or not url.startswith(("https://", "http://")):
        return label
    return f'<a href="{escape(url)}" target="_blank" rel="noopener noreferrer">{label}</a>'


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    """Pairs of a word and its (safe) HTML, on one line that wraps."""
    cells = (
        f'<span style="white-space:nowrap;margin-right:1.2em"><span style="{_DIM}">{escape(word)}</span> <b>{value}</b></span>'
        for word, value in facts
    )
    return f"<div>{''.join(cells)}</div>"


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    style = 'style="text-align:left;vertical-align:top"'
    head = "".join(f"<th {style}>{escape(name)}</th>" for name in heads)
    body = "".join(
        f"<tr>{''.join(f'<td {style}>{cell}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _card(*parts: str) -> str:
    return f'<div style="max-width:60em">{"".join(parts)}</div>'


def _more(count: int) -> str:
    return f'<div style="{_DIM}">and {count:,} more</div>' if count > 0 else ""


def post_html(post: Post) -> str:
    """A post as a card: caption, when, how it does, tags, sound."""
    head = f"<div>{_link(post.url, '<b>Post</b> ' + _text(post.post_id))}, {_moment(post.published_at)}"
    if post.duration is not None:
        head += f", {post.duration:g} s" if abs(post.duration) < 1e9 else ""
    head += ", sponsored</div>" if post.is_sponsored else "</div>"
    facts = [
        (name, _number(getattr(post, name)))
        for name in ("views", "likes", "comments", "shares", "saves")
    ]
    small: list[str] = []
    if post.hashtags:
        small.append(" ".join(_text("#" + tag, 40) for tag in post.hashtags[:_ROWS]))
    if post.mentions:
        small.append(" ".join(_text("@" + name, 40) for name in post.mentions[:_ROWS]))
    if post.music is not None:
        small.append(f"♪ {_text(post.music.title, 60)} – {_text(post.music.author, 40)}")
    foot = f'<div style="{_DIM}">{" &nbsp; ".join(small)}</div>' if small else ""
    caption = f'<div style="margin:.3em 0">{_text(post.caption, 400)}</div>' if post.caption else ""
    return _card(head, caption, _facts(facts), foot)


def _comment_row(comment: Comment) -> tuple[str, ...]:
    reply = "↳ " if comment.parent_comment_id else ""
    return (
        _moment(comment.published_at),
        _text(comment.author_username, 30),
        reply + _text(comment.text),
        _number(comment.likes),
        _number(comment.reply_count),
    )


def comment_page_html(page: CommentPage) -> str:
    """A page of comments: where it stands in the whole, and the first of them."""
    after = (
        "the last page" if page.next_cursor is None else f"the next at cursor {page.next_cursor:,}"
    )
    repeated = f", {plural(page.repeated, 'repeated one')} left out" if page.repeated else ""
    head = f"<div><b>{plural(len(page.items), 'comment')}</b> of {_number(page.total)}, from cursor {page.cursor:,}; {after}{repeated}</div>"
    if not page.items:
        return _card(head)
    table = _table(
        ("when", "who", "text", "likes", "replies"), map(_comment_row, page.items[:_ROWS])
    )
    return _card(head, table, _more(len(page.items) - _ROWS))


def _failures(outcomes: list[Outcome[Any]]) -> str:
    if not outcomes:
        return ""
    rows = (
        (_text(outcome.input, 80), _text(type(outcome.error).__name__), _text(outcome.error, 200))
        for outcome in outcomes[:_ROWS]
    )
    return _table(("failed", "error", ""), rows) + _more(len(outcomes) - _ROWS)


def outcome_html(outcome: Outcome[Any]) -> str:
    """What was given, and its value as it shows itself, or its error."""
    given = f"<div><b>{_text(outcome.input, 80)}</b>"
    if outcome.post_id is not None and outcome.post_id != outcome.input:
        given += f", post {_text(outcome.post_id)}"
    if outcome.error is not None:
        return _card(
            f"{given}: {_text(type(outcome.error).__name__)}</div>",
            f"<div>{_text(outcome.error, 400)}</div>",
        )
    value = outcome.value
    show = getattr(value, "_repr_html_", None)
    return _card(
        f"{given}</div>", f"<div>{_text(repr(value), 400)}</div>" if show is None else show()
    )


def _span(low: float, high: float | None, form: str = ",") -> str:
    if high is None:
        return f"{low:{form}} or more"
    least, most = f"{low:{form}}", f"{high:{form}}"
    return least if least == most else f"{least} to {most}"


def estimate_html(estimate: Estimate) -> str:
    """What a job would cost, and how long the throttle makes it take."""
    facts = [
        ("posts", f"{estimate.posts:,}"),
        ("done earlier", f"{estimate.done:,}"),
        ("duplicates", f"{estimate.duplicates:,}"),
        ("malformed", f"{estimate.malformed:,}"),
        ("credits", _span(estimate.credits_at_least, estimate.credits_at_most)),
        ("requests", _span(estimate.requests_at_least, estimate.requests_at_most)),
        ("seconds", _span(estimate.seconds_at_least, estimate.seconds_at_most, ",.0f")),
    ]
    return _card("<div><b>Estimate</b>, nothing was sent</div>", _facts(facts))


def ledger_html(ledger: Ledger) -> str:
    """What each endpoint has cost, and where the service's count differs."""
    facts = [("credits spent", f"{ledger.spent:,}"), ("left", _number(ledger.remaining))]
    parts = ["<div><b>Ledger</b></div>", _facts(facts)]
    lines = ledger.by_endpoint
    if lines:
        rows = (
            (_text(name), f"{line.requests:,}", f"{line.credits:,}", f"{line.uncertain:,}")
            for name, line in lines.items()
        )
        parts.append(_table(("endpoint", "requests", "credits", "of these not known"), rows))
    differences = ledger.differences
    if differences:
        shown = differences[: -_ROWS - 1 : -1]
        parts.append(
            _table(
                ("difference, newest first", "credits"),
                ((_text(d.kind), f"{d.credits:+,}") for d in shown),
            )
        )
        parts.append(_more(len(differences) - len(shown)))
    return _card(*parts)


def analyze_report_html(report: AnalyzeReport) -> str:
    """How many posts got which status, what it cost, and the first failures."""
    failed = report.failed
    statuses = Counter(outcome.unwrap().status for outcome in report.succeeded)
    facts = [(status or "no status", f"{count:,}") for status, count in statuses.most_common(_ROWS)]
    facts += [("failed", f"{len(failed):,}"), ("duplicates folded", f"{report.duplicates:,}")]
    facts.append(("credits spent", f"{report.credits_spent:,}"))
    return _card(
        f"<div><b>{plural(len(report.outcomes), 'post')}</b></div>",
        _facts(facts),
        _failures(failed),
    )


def crawl_report_html(report: CrawlReport) -> str:
    """What one run of a crawl did, and what ended it."""
    ended = (
        "everything was tried"
        if report.stopped_by is None
        else f"stopped by {_text(report.stopped_by)}"
    )
    facts = [
        ("posts", f"{report.posts:,}"),
        ("comments", f"{report.comments:,}"),
        ("failed", f"{report.failed:,}"),
        ("done earlier", f"{report.skipped:,}"),
        ("duplicates", f"{report.duplicates:,}"),
        ("credits spent", f"{report.credits_spent:,}"),
        ("seconds", f"{report.seconds:,.1f}"),
    ]
    return _card(f"<div><b>Crawl</b>, {ended}</div>", _facts(facts))


def usage_html(usage: Usage) -> str:
    """What a client has done so far."""
    pace = "not limited" if usage.pace is None else f"{usage.pace:.1f}/s"
    facts = [
        ("requests", f"{usage.requests:,}"),
        ("retries", f"{usage.retries:,}"),
        ("429", f"{usage.rate_limited:,}"),
        ("waited for slots", f"{usage.throttled_seconds:,.1f} s"),
        ("pace", pace + (", slowed down" if usage.slowed else "")),
        ("credits spent", f"{usage.credits_spent:,}"),
        ("received", f"{usage.bytes_received / 1e6:,.1f} MB"),
    ]
    return _card("<div><b>Usage</b></div>", _facts(facts))


def progress_html(progress: Progress) -> str:
    """A bar (if the end is known) and the counts."""
    total = progress.total
    bar = (
        "<progress></progress>"
        if total is None
        else f'<progress value="{progress.done}" max="{max(total, 1)}"></progress>'
    )
    facts = [
        ("done", f"{progress.done:,}" + ("" if total is None else f" of {total:,}")),
        ("failed", f"{progress.failed:,}"),
    ]
    if progress.comments:
        facts.append(("comments", f"{progress.comments:,}"))
    facts.append(("credits spent", f"{progress.credits_spent:,}"))
    if progress.credits_remaining is not None:
        facts.append(("left", f"{progress.credits_remaining:,}"))
    facts.append(("seconds", f"{progress.elapsed:,.0f}"))
    return _card(bar, _facts(facts))


def show_progress() -> Callable[[Progress], None]:
    """A ready-made `on_progress`: in a notebook a bar that redraws itself, elsewhere one line on
    standard error.

        await client.posts.analyze(urls, on_progress=show_progress())

    Make one per call: each draws in the cell it was made in.
    """
    display = _display()
    if display is None:
        return _print_progress
    handle: Any = None

    def show(progress: Progress) -> None:
        nonlocal handle
        shown = {"text/html": progress_html(progress), "text/plain": _line(progress)}
        if handle is None:
            handle = display(shown, raw=True, display_id=True)
        else:
            handle.update(shown, raw=True)

    return show


def _display() -> Callable[..., Any] | None:
    """IPython's `display`, if a kernel is running: never imported for its own sake, it takes half a
    second."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return ipython.display.display if ipython is not None else None


def _line(progress: Progress) -> str:
    of = "" if progress.total is None else f" of {progress.total:,}"
    comments = f", {plural(progress.comments, 'comment')}" if progress.comments else ""
    return (
        f"{progress.done:,}{of} done{comments}, {progress.failed:,} failed, {plural(progress.credits_spent, 'credit')}, "
        f"{progress.elapsed:,.0f} s"
    )


def _print_progress(progress: Progress) -> None:
    # On a terminal each line takes the place of the one before; a log gets them one after another.
    end = "\r" if sys.stderr.isatty() else "\n"
    print(_line(progress), end=end, file=sys.stderr, flush=True)
