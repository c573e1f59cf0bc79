"""The built documentation: links, and what a reader sees in a browser. Run by `nox -s docs`."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest

from .browser import CHROMIUM, Page, browser
from .conftest import ROOT

SITE = ROOT / "site"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
LOOKED_AT = [
    "index.html",
    "learn/index.html",
    "do/application/index.html",
    "look-up/posts/index.html",
    "look-up/errors/index.html",
    "look-up/command/index.html",
    "understand/index.html",
]

pytestmark = [pytest.mark.site, pytest.mark.real_time, pytest.mark.timeout(300)]
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


class _Found(HTMLParser):
    """The links, anchors and loaded files of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        elif tag in ("script", "img", "iframe", "source"):
            self.loaded.add(given.get("src", ""))
        elif tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.add(given.get("href", ""))


@functools.cache
def found_on(page: str) -> _Found:
    return _Found((SITE / page).read_text("utf-8"))


def test_the_site_was_built() -> None:
    assert len(PAGES) > 20, "build it first: nox -s docs"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    """Inside the site: a file, and an anchor in it. Addresses outside are well formed; nobody is
    asked."""
    broken = []
    for link in found_on(page).links:
        target = urlsplit(urljoin(f"http://site/{page}", link))
        if target.netloc != "site":
            assert target.scheme in ("https", "mailto"), link
            continue
        path = SITE / unquote(target.path).lstrip("/")
        path = path / "index.html" if path.is_dir() else path
        if not path.is_file():
            broken.append(link)
        elif target.fragment and path.suffix == ".html" and target.fragment != "__codelineno":
            anchors = found_on(path.relative_to(SITE).as_posix()).anchors
            if unquote(target.fragment) not in anchors:
                broken.append(link)

    assert broken == []


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    """The pages work without a network, and tell nobody who reads them."""
    loaded = {urljoin(f"http://site/{page}", address) for address in found_on(page).loaded}

    assert {address for address in loaded if urlsplit(address).netloc != "site"} == set()


def test_no_table_is_missing() -> None:
    """Every table that a page asks for was made."""
    assert not [page for page in PAGES if "<!-- table:" in (SITE / page).read_text("utf-8")]
    errors = (SITE / "look-up/errors/index.html").read_text("utf-8")
    for name in ("NotFoundError", "UpstreamError", "BudgetExceededError", "duplicate_request"):
        assert name in errors
    design = (SITE / "design/index.html").read_text("utf-8")
    for path in (ROOT / "docs" / "design").glob("*.md"):
        assert path.stem == "index" or f"{path.stem}/" in design, path


def test_every_error_says_what_to_do() -> None:
    """A new error class needs a line of advice."""
    tools = str(ROOT / "docs" / "_tools")
    script = (
        f"import sys; sys.path.insert(0, {tools!r}); import tables; "
        "print(tables.undescribed_errors())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "set()"


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The site's address on loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


async def _check(page: Page, served: str) -> None:
    """Nothing was asked of another host, and nothing went wrong."""
    outside = [url for url in page.asked if not url.startswith((served, "data:", "blob:"))]
    assert outside == []
    assert page.complaints == []


# What people type, and the page that answers.
QUESTIONS = {
    "analyze_iter": "#tokfluence_async._posts.Posts.analyze_iter",
    "duplicate_request": "look-up/errors/",
    "stop at 5,000 credits": "do/budget/",
    "two machines": "do/several-machines/",
    "disk is full": "look-up/errors/",
    "failures.jsonl": "look-up/files/",
    "corporate proxy": "do/proxy/",
    "FastAPI lifespan": "do/application/",
    "TOKFLUENCE_LOG": "look-up/environment/",
    "exit status": "look-up/command/",
    "pandas frame": "do/notebook/",
}


@needs_chromium
async def test_the_search_box_answers(served: str) -> None:
    """Typed by hand; the page is among the first results."""
    async with browser() as page:
        missed = {}
        for question, answer in QUESTIONS.items():
            await page.show(served, dark=False)
            await page.tell("document.querySelector('.md-search__input').focus()")
            await page.type(question)
            links = await page.until(
                "(found => found.length && found)([...document.querySelectorAll("
                "'.md-search-result__link')].map(link => link.href))"
            )
            if not any(answer in link for link in links[:6]):
                missed[question] = links[:6]
        await _check(page, served)

    assert missed == {}


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_pages_can_be_read(served: str, dark: bool, width: int) -> None:
    """In both colour schemes and at a phone's width: the scheme is the reader's, nothing sticks
    out of the screen, drawings are drawn. `SCREENS` names a folder for pictures."""
    async with browser() as page:
        for path in LOOKED_AT:
            await page.show(served + path, width=width, dark=dark)
            scheme = await page.tell("document.body.dataset.mdColorScheme")
            if 'class="mermaid"' in (SITE / path).read_text("utf-8"):
                await page.until("!document.querySelector('pre.mermaid')")
                heights = await page.tell(
                    "[...document.querySelectorAll('div.mermaid')].map(each => each.offsetHeight)"
                )
                assert heights
                assert all(height > 40 for height in heights), (path, heights)
            wide = await page.tell("document.documentElement.scrollWidth")
            seen = await page.tell(
                "(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))"
            )
            if folder := os.environ.get("SCREENS"):
                name = re.sub(r"\W+", "-", path.removesuffix("index.html")).strip("-") or "home"
                kind = f"{'dark' if dark else 'light'}-{width}"
                await page.picture(Path(folder) / f"{name}-{kind}.png")

            assert scheme == ("slate" if dark else "default")
            assert wide <= width, f"{path} is {wide} wide"
            text, ground = (sum(map(int, re.findall(r"\d+", each)[:3])) for each in seen)
            assert (text > ground) == dark, (path, seen)
        await _check(page, served)
