"""What is to be reached, and whether it was. A run with `--quick` has too few rounds to judge
anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Goal", "judge"]


@dataclass(frozen=True)
class Goal:
    """One line: what is asked, what was seen, and whether that is enough; None where it could not
    be measured."""

    what: str
    seen: str
    met: bool | None


def judge(goals: Iterable[Goal], quick: bool) -> None:
    if quick:
        print("Goals: not judged with --quick.\n", flush=True)
        return
    print("Goals:")
    for goal in goals:
        verdict = "not judged" if goal.met is None else "met" if goal.met else "MISSED"
        print(f"- {goal.what}: {goal.seen}, {verdict}")
    print(flush=True)
