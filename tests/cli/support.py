"""What several tests of the command share."""

from __future__ import annotations

import io
import json
import os
import select
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import Result

from tokfluence_async._cli.snapshot import Snapshot

ID = "7234567890123456789"
URLS = Path(__file__).parents[2] / "examples" / "urls.txt"
Run = Callable[..., Result]


def json_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def json_file(path: Path) -> list[Any]:
    return json_lines(path.read_text("utf-8"))


URL = f"https://www.tiktok.com/@wwe/video/{ID}?lang=en&x=1"


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


# Whatever Unicode says steers: control characters, line and paragraph separators, and what reorders
# the text after it.
STEERING = "".join(
    character
    for character in map(chr, range(sys.maxunicode + 1))
    if unicodedata.category(character) in ("Cc", "Zl", "Zp")
    or unicodedata.bidirectional(character)
    in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
)


def snapshot_of(**changes: Any) -> Snapshot:
    values: dict[str, Any] = {
        "title": "crawl", "done": 40, "total": 100, "failed": 2, "comments": 1234,
        "credits_spent": 500, "credits_remaining": 9500, "elapsed": 20.0, "requests": 180,
        "rate": 9.0, "permitted": 9.9, "rate_limited": 1,
    }  # fmt: skip
    return Snapshot(**{**values, **changes})


def command_line(*args: object) -> list[str]:
    return [sys.executable, "-m", "tokfluence_async", *map(str, args)]


ENV = {name: value for name, value in os.environ.items() if not name.startswith("TOKFLUENCE")} | {
    "NO_COLOR": "1"
}


def read_all(descriptor: int) -> str:
    data = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and select.select([descriptor], [], [], 60)[0]:
        try:
            piece = os.read(descriptor, 65_536)
        except OSError:  # Linux's way of saying that the other end of a terminal is closed
            break
        if not piece:
            break
        data += piece
    os.close(descriptor)
    return data.decode()
