"""What a user does, from the first call to a resumed crawl; prints what came of it as JSON.

Run by `test_windows.py` in a process that plays Windows. The paths have drive letters and
backslashes wherever one is parsed.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tokfluence_async import Journal, Sandbox, Throttle, TokfluenceClient, crawl

# Below the working folder, a test's own: here a backslash is a letter like any other.
JOURNAL = r"C:\jobs\posts.sqlite"
LOCKED = r"D:\jobs\own.sqlite"
OUT = r"C:\out"
SHARED = r"C:\run\throttle"

IDS = [str(7_234_567_890_123_456_000 + number) for number in range(12)]
URLS = [f"https://www.tiktok.com/@a/video/{post_id}" for post_id in IDS]


async def bulk_calls(client: TokfluenceClient, sandbox: Sandbox) -> dict[str, Any]:
    first = await client.posts.analyze(URLS, journal=JOURNAL)
    before = sandbox.credits_spent
    again = await client.posts.analyze(URLS, journal=JOURNAL)
    billed = sandbox.credits_spent - before
    async with Journal(LOCKED) as journal:
        own = await client.posts.analyze(URLS[:3], journal=journal)
    resolved = [outcome.ok async for outcome in client.posts.resolve(IDS)]
    read = [outcome.ok async for outcome in client.posts.get_many(IDS)]
    return {
        "analyzed": len(first.succeeded),
        "again": [len(again.succeeded), billed],
        "own": len(own.succeeded),
        "resolved": sum(resolved),
        "read": sum(read),
    }


async def crawls(client: TokfluenceClient, sandbox: Sandbox) -> dict[str, Any]:
    first = await crawl(client, IDS[:8], OUT, comments=True)
    before = sandbox.credits_spent
    again = await crawl(client, IDS, OUT, comments=True)
    lines = (Path(OUT) / "posts.jsonl").read_bytes()
    return {
        "posts": [first.posts, again.posts, again.skipped],
        "comments": first.comments + again.comments,
        "billed": sandbox.credits_spent - before,
        "lines": lines.count(b"\n"),
        "returns": lines.count(b"\r"),
        "files": sorted(path.name for path in Path(OUT).iterdir()),
    }


async def shared() -> dict[str, Any]:
    """Two clients that share their budgets by a file, as two processes would."""
    options = {"base_url": "", "throttle": Throttle(shared=SHARED, per_ip=6_000, per_key=None)}
    async with Sandbox(throttle=None) as sandbox:
        options["base_url"] = sandbox.url
        async with TokfluenceClient(sandbox.token, **options) as client:
            read = [outcome.ok async for outcome in client.posts.get_many(IDS)]
            return {"shared": [sum(read), client.throttle.statistics().shared]}


async def main() -> dict[str, Any]:
    options = {"seconds_per_url": 0.01, "visibility_delay": 0.05, "comments_per_post": 30}
    async with (
        Sandbox(throttle=None, **options) as sandbox,
        TokfluenceClient(
            sandbox.token, base_url=sandbox.url, throttle=Throttle(per_ip=60_000, per_key=None)
        ) as client,
    ):
        post = await client.posts.get(IDS[0])
        comments = [comment async for comment in client.posts.comments(post.post_id)]
        return {
            "post": post.post_id,
            "read_comments": len(comments),
            **await bulk_calls(client, sandbox),
            **await crawls(client, sandbox),
            **await shared(),
            "twice": sandbox.billed_twice(),
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main()), default=str))
