"""Texts for people: counts, terminals, and the cards that objects show in a notebook.

Captions and comments are written by strangers. A terminal that is sent their bytes as they are may
be told to move its cursor, change its title, type on its input, or show a text in another order
than it has. ESC and the one-byte CSI U+009B both do that, and rich prints both, even through `Text`
and `escape()`. What is shown on a screen is escaped here; files and pipes get the text unchanged.

A `Card` says what an object shows, as plain values; `Card.html` draws it. Every text in it is
escaped, isolated in `<bdi>` so that a right-to-left name does not turn its row around, and cut.
Links lead to http and https only. Colours are the notebook's own, as people use dark themes too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from html import escape
from typing import Any, NamedTuple, cast

__all__ = [
    "Card",
    "Table",
    "escape_controls",
    "facts_of",
    "html_of",
    "one_line",
    "plural",
    "span",
]

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


def span(low: float, high: float | None, form: str = ",") -> str:
    """`5`, `5 to 9`, or `5 or more` where the upper end is not known."""
    if high is None:
        return f"{low:{form}} or more"
    least, most = f"{low:{form}}", f"{high:{form}}"
    return least if least == most else f"{least} to {most}"


# --- cards ----------------------------------------------------------------------------------------

# Rows of a table and items of a list that are shown; the whole of it is one loop away.
_SHOWN = 10
_CUT = 160
_CUT_TEXT = 400
_DIM = "opacity:.65"


class Table(NamedTuple):
    """Rows of values under heads. The first ten are drawn, and how many there are beside them."""

    heads: Sequence[str]
    rows: Sequence[Sequence[object]]


class Card(NamedTuple):
    """What an object shows of itself.

    Attributes:
        title: In bold: what it is.
        url: Where the title leads, if that is an http or https URL.
        about: What follows the title, on the same line. None is left out.
        progress: How much is done, and of how much (None: not known); drawn as a bar.
        text: A paragraph. None is left out.
        facts: Words and their values, on one line that wraps.
        inner: An object that is shown below, as a card if it has one.
        notes: Values of less weight, below all facts. None is left out.
    """

    title: str = ""
    url: str | None = None
    about: Sequence[object] = ()
    progress: tuple[int, int | None] | None = None
    text: str | None = None
    facts: Sequence[tuple[str, object]] = ()
    inner: object = None
    tables: Sequence[Table] = ()
    notes: Sequence[object] = ()

    def html(self) -> str:
        """The card as HTML that is safe whatever strangers wrote."""
        parts: list[str] = []
        if self.title:
            title = _link(f"<b>{_safe(self.title)}</b>", self.url)
            about = "".join(f", {_cell(value)}" for value in self.about if value is not None)
            parts.append(f"<div>{title}{about}</div>")
        if self.progress is not None:
            done, total = self.progress
            known = "" if total is None else f' value="{done}" max="{max(total, 1)}"'
            parts.append(f"<progress{known}></progress>")
        if self.text:
            parts.append(f'<div style="margin:.3em 0">{_safe(self.text, _CUT_TEXT)}</div>')
        if self.facts:
            parts.append(f"<div>{''.join(_fact(word, value) for word, value in self.facts)}</div>")
        if self.inner is not None:
            parts.append(html_of(self.inner))
        parts += [_table(table) for table in self.tables if table.rows]
        notes = [_cell(note) for note in self.notes if note]
        if notes:
            parts.append(f'<div style="{_DIM}">{" &nbsp; ".join(notes)}</div>')
        return f'<div style="max-width:60em">{"".join(parts)}</div>'


def facts_of(value: Any, *, but: Sequence[str] = ()) -> list[tuple[str, object]]:
    """Each field of a Struct as a fact, `but` those that are shown elsewhere or not at all. So a
    new field is shown by itself."""
    return [
        (name.replace("_", " "), getattr(value, name))
        for name in value.__struct_fields__
        if name not in but
    ]


def html_of(value: object) -> str:
    """An object as it shows itself in a notebook; by its `repr` if it says nothing of that."""
    show: Callable[[], str] | None = getattr(value, "_repr_html_", None)
    return f"<div>{_safe(repr(value), _CUT_TEXT)}</div>" if show is None else show()


def _safe(text: str, cut: int = _CUT) -> str:
    """A stranger's text as HTML."""
    if len(text) > cut:
        text = text[: cut - 1] + "…"
    return f"<bdi>{escape(escape_controls(text))}</bdi>"


def _cell(value: Any) -> str:
    """Any value as HTML."""
    if value is None:
        return f'<span style="{_DIM}">–</span>'
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,}"
    if isinstance(value, datetime):
        return f'<span style="white-space:nowrap">{value:%Y-%m-%d %H:%M} UTC</span>'
    if isinstance(value, (list, tuple)):
        return " ".join(_cell(item) for item in cast("Sequence[Any]", value)[:_SHOWN])
    if hasattr(value, "__struct_fields__"):
        return ", ".join(f"{escape(word)} {_cell(part)}" for word, part in facts_of(value))
    return _safe(str(value), 2 * _CUT if isinstance(value, Exception) else _CUT)


def _link(label: str, url: str | None) -> str:
    if url is None or not url.startswith(("https://", "http://")):
        return label
    return f'<a href="{escape(url)}" target="_blank" rel="noopener noreferrer">{label}</a>'


def _fact(word: str, value: object) -> str:
    return (
        f'<span style="white-space:nowrap;margin-right:1.2em">'
        f'<span style="{_DIM}">{escape(word)}</span> <b>{_cell(value)}</b></span>'
    )


def _table(table: Table) -> str:
    style = 'style="text-align:left;vertical-align:top"'
    head = "".join(f"<th {style}>{escape(name)}</th>" for name in table.heads)
    body = "".join(
        f"<tr>{''.join(f'<td {style}>{_cell(cell)}</td>' for cell in row)}</tr>"
        for row in table.rows[:_SHOWN]
    )
    more = len(table.rows) - _SHOWN
    rest = f'<div style="{_DIM}">and {more:,} more</div>' if more > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"
