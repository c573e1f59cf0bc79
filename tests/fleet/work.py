"""A worker that resolves all posts of a file with a journal that others share.

`python work.py URLS JOURNAL OUT` writes the ids of the posts it got to OUT, a line each.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tokfluence_async import TokfluenceClient


async def main(urls: str, journal: str, out: str) -> None:
    ids = Path(urls).read_text("utf-8").split()
    async with TokfluenceClient() as client:
        resolving = client.posts.resolve(ids, journal=journal, patience=120)
        found = [outcome.unwrap().post_id async for outcome in resolving]
    Path(out).write_text("\n".join(found), "utf-8")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
