"""A sandbox in a process of its own: the ledger that no crash of a client can touch.

`python serve.py '{"seconds_per_url": 0.01}'` prints its URL and token as a JSON line, and serves
until its standard input ends, so it never outlives who started it.
"""

from __future__ import annotations

import asyncio
import json
import sys

from tokfluence_async import Sandbox


async def main() -> None:
    async with Sandbox(**json.loads(sys.argv[1])) as sandbox:
        print(json.dumps({"url": sandbox.url, "token": sandbox.token}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
