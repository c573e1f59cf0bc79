"""A guard that does not depend on the machine: instructions of one `posts.get` and of one page of
comments, by callgrind.

`python -m benchmarks.guard`. Instructions are counted in user space, for two amounts of work, so
that start and imports fall out of their difference; the server is a process of its own. They differ
by far less than a per cent between runs and hardly between machines with the same builds of Python
and the libraries. What is judged is the ratio to the hand-written loop under the same builds, with
a tolerance. Where there is no valgrind, nothing is judged: it says so, and ends with 0.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .bodies import PAGE_SIZE, post_id
from .contenders import CONTENDERS, drive
from .servers import raw

__all__ = ["main"]

# What it was when it was last measured, on CPython 3.11, and what it may become before somebody has
# to look. A ratio may be lowered whenever the code allows it, and raised only with a reason in the
# commit. Of a page, what is beyond the loop's is remembering its ids and counting its brackets:
# short passes over memory that is in the cache by then, so that CPU time is less than instructions
# say: below 1.00 where ids grow, about 1.0 where they are in no order (`python -m benchmarks
# comments` tells).
_KNOWN = {"posts": 1.35, "comments": 1.22}
_TOLERANCE = 0.05
_FEW, _MANY = 20, 80
_IN_FLIGHT = 10
_TOTAL = re.compile(rb"Collected\s*:\s*(\d+)")


def main() -> int:
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        print(
            "warning: valgrind is not installed, so nothing was counted and nothing is judged",
            file=sys.stderr,
        )
        return 0
    bad = 0
    for what, known in _KNOWN.items():
        ours, hand = (_instructions(valgrind, name, what) for name in ("ours", "hand"))
        ratio = ours / hand
        good = ratio <= known * (1.0 + _TOLERANCE)
        bad += not good
        unit = "request" if what == "posts" else "page"
        print(
            f"{what}: {ours:,.0f} instructions a {unit}, the hand-written loop {hand:,.0f}: "
            f"ratio {ratio:.3f}, "
            f"known {known:.2f} + {_TOLERANCE:.0%}: {'good' if good else 'WORSE'}",
            flush=True,
        )
    return 1 if bad else 0


def _instructions(valgrind: str, name: str, what: str) -> float:
    few, many = (_count(valgrind, name, what, amount) for amount in (_FEW, _MANY))
    return (many - few) / (_MANY - _FEW)


def _count(valgrind: str, name: str, what: str, amount: int) -> int:
    # The post has as many pages as are asked for.
    with (
        tempfile.TemporaryDirectory(prefix="tokfluence-guard-") as folder,
        raw(comments=amount * PAGE_SIZE) as url,
    ):
        command = [
            valgrind,
            "--tool=callgrind",
            f"--callgrind-out-file={folder}/out",
            sys.executable,
        ]
        done = subprocess.run(
            [*command, "-m", "benchmarks.guard", name, what, str(amount), url],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
        )
    found = _TOTAL.search(done.stderr)
    if done.returncode or found is None:
        raise RuntimeError(done.stderr.decode(errors="replace")[-2000:])
    return int(found[1])


async def _do(name: str, what: str, amount: int, url: str) -> None:
    contender = CONTENDERS[name](url)
    await contender.open()
    if what == "posts":
        await drive(contender.get, (post_id(n) for n in range(amount)), _IN_FLIGHT)
    else:
        await contender.comments(post_id(0))
    await contender.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asked, kind, count, base = sys.argv[1:]
        asyncio.run(_do(asked, kind, int(count), base))
    else:
        sys.exit(main())
