"""Use and refusals of the throttle, beside what everybody writes: `python -m benchmarks.throttle`.

Caveats first. No server in the virtual tables: the sandbox's algorithms are asked of what arrives.
nginx and HAProxy are the real ones, where they are installed, on loopback and at a tenth of the
time scale, where a timer's lateness weighs ten times as much. Transit times are exponential, 200 ms
in the mean (20 ms at the tenth), which has a longer tail than the margin of 0.57 s covers: a
refusal in some hours of a sliding log is to be expected. Refused requests of the other limiters are
not retried in a smarter way than they come.
"""

from __future__ import annotations

import argparse
import logging
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

from . import _throttle_cost as cost
from . import _throttle_real as real
from . import _throttle_virtual as virtual
from . import plot
from ._throttle_limiters import LIMITERS
from .goals import Goal, judge
from .turns import quartiles, ratios, spread

OURS = "tokfluence_async"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for number, line in enumerate(lines):
        print(
            "| "
            + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            + " |"
        )
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print(flush=True)


def cell(use: float, refusals: int) -> str:
    return f"{100 * use:.2f} % / {refusals}"


def cells(found: list[tuple[float, int]]) -> str:
    return f"{spread([100 * use for use, _ in found])} / {sum(refusals for _, refusals in found)}"


def goal(where: str, use: float, found: list[tuple[float, int]]) -> Goal:
    refusals = sum(refused for _, refused in found)
    return Goal(
        f"{where}: permitted rate used >= 99.0 %, 0 refusals",
        f"{100 * use:.2f} %, {refusals} refusals",
        use >= 0.99 and not refusals,
    )


def draw(found: Mapping[tuple[str, str], list[tuple[float, int]]], what: str, path: Path) -> None:
    groups: dict[str, dict[str, plot.Bar]] = {limiter: {} for limiter in LIMITERS}
    for (name, limiter), runs in found.items():
        refusals = sum(refused for _, refused in runs)
        groups[limiter][name] = plot.bar([100 * use for use, _ in runs], ".1f", f" / {refusals}")
    plot.grouped(groups, f"{what}: % of the permitted rate / refusals", path)


def costs(slots: dict[str, list[float]]) -> None:
    table(
        ("", "CPU ns", "of AsyncLimiter's"),
        (
            (name, spread(found, ".0f"), spread(ratios(found, slots["AsyncLimiter.acquire"])))
            for name, found in slots.items()
        ),
    )


def options_given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throttle", description=__doc__)
    parser.add_argument("--minutes", type=int, default=30, help="virtual minutes per cell")
    parser.add_argument(
        "--seconds",
        type=float,
        default=24.0,
        help="real seconds per cell; 0 leaves the real servers out",
    )
    parser.add_argument("--rounds", type=int, default=3, help="of the real servers, in turns")
    parser.add_argument("--no-cost", action="store_true", help="leave the cost of a slot out")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="2 virtual minutes, 6 real seconds once; goals are not judged",
    )
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="where plots go")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.quick:
        options.minutes, options.seconds, options.rounds = 2, min(options.seconds, 6.0), 1
    return options


def compare(
    minutes: int, what: str, path: Path, *, on: float | None = None, off: float = 0.0
) -> list[tuple[float, int]]:
    """Every limiter against every way of counting, as a table and a plot; ours is returned."""
    found = {
        (name, limiter): virtual.steady(make, rule, minutes=minutes, on=on, off=off)
        for name, rule in virtual.ALGORITHMS.items()
        for limiter, make in LIMITERS.items()
    }
    table(
        ("the service counts by", *LIMITERS),
        (
            (name, *(cell(*found[name, limiter]) for limiter in LIMITERS))
            for name in virtual.ALGORITHMS
        ),
    )
    draw({each: [cell] for each, cell in found.items()}, what, path)
    return [found[name, OURS] for name in virtual.ALGORITHMS]


def virtual_tables(options: argparse.Namespace) -> None:
    """Saturated; in turns of demand and none; and a service that drops to a quarter."""
    print(
        f"600 a minute, saturated, {options.minutes} virtual minutes from a cold start: use of "
        "what is permitted / refusals"
    )
    ours = compare(options.minutes, "saturated", options.out / "throttle.png")
    judge([goal(f"the worst of {len(ours)} algorithms", min(ours)[0], ours)], options.quick)

    print(
        "the same, demand on for 20 s and off for 10 s: use of what is permitted while there is "
        "demand / refusals"
    )
    path = options.out / "throttle-on-off.png"
    compare(options.minutes, "on and off", path, on=20.0, off=10.0)

    print(f"the service drops to a quarter for {options.minutes} minutes, and returns")
    table(
        (
            "the service counts by",
            "refused at once",
            "refused later",
            "use of the quarter",
            "full rate after",
        ),
        (
            (name, str(at_once), f"{100 * later:.2f} %", f"{100 * use:.0f} %", f"{full:.0f} s")
            for name, rule in virtual.ALGORITHMS.items()
            for at_once, later, use, full in [
                virtual.drop(LIMITERS[OURS], rule, minutes=options.minutes)
            ]
        ),
    )


def real_tables(options: argparse.Namespace) -> None:
    """The same against nginx and HAProxy, where they are installed."""
    servers = [name for name in real.SERVERS if real.find(name) and options.seconds]
    if not servers:
        return
    print(
        f"the real ones: 600 in 6 s, {options.seconds:.0f} s from a cold start: use of what is "
        f"permitted in per cent, median of {options.rounds} in turns and quartiles / refusals in "
        "all of them"
    )
    races: dict[tuple[str, str], list[tuple[float, int]]] = {
        (name, limiter): [] for name in servers for limiter in LIMITERS
    }
    rng = random.Random(7)
    for _ in range(options.rounds):
        for (name, limiter), found in rng.sample(list(races.items()), len(races)):
            found.append(real.race(real.SERVERS[name], LIMITERS[limiter], options.seconds))
    table(
        ("server", *LIMITERS),
        ((name, *(cells(races[name, limiter]) for limiter in LIMITERS)) for name in servers),
    )
    judge(
        [
            goal(f"the real {name}, median", quartiles([use for use, _ in found])[1], found)
            for name in servers
            for found in [races[name, OURS]]
        ],
        options.quick,
    )
    draw(races, "real servers", options.out / "throttle-real.png")


def cost_tables(options: argparse.Namespace) -> None:
    """CPU of a free slot, and of a grant with 100 000 waiters."""
    quartile_words = "medians of rounds in turns, and quartiles"
    free = cost.free_slot()
    woken = cost.wake()
    held = cost.bytes_per_waiter()
    print(f"a free slot, under a limit that is never near; {quartile_words}")
    costs(free)
    drawn = {"a limit never near": free}
    for pattern, slots in cost.real_limit().items():
        print(f"a free slot of 600 a minute, {pattern}, on a virtual clock; {quartile_words}")
        costs(slots)
        drawn[f"600 a minute, {pattern}"] = slots
    plot.grouped(
        {
            pattern: {name: plot.bar(ns, ".0f") for name, ns in slots.items()}
            for pattern, slots in drawn.items()
        },
        "a free slot: CPU ns",
        options.out / "throttle-slot.png",
    )
    print(f"100 000 waiters, one slot a millisecond; {quartile_words}")
    sleeping = woken["asyncio.sleep"]
    table(
        ("", "CPU µs a grant", "of sleeping tasks'", "bytes a waiter"),
        (
            (name, spread(us, ".1f"), spread(ratios(us, sleeping)), f"{held[name]:.0f}")
            for name, us in woken.items()
        ),
    )
    plot.grouped(
        {"": {name: plot.bar(us, ".1f") for name, us in woken.items()}},
        "a grant with 100 000 waiters: CPU µs",
        options.out / "throttle-waiters.png",
    )
    slot = max((slots["acquire"] for slots in drawn.values()), key=quartiles)
    waking = ratios(woken[OURS], sleeping)
    judge(
        [
            Goal(
                "a free slot <= 3 µs, in the worst pattern",
                f"{spread([ns / 1e3 for ns in slot])} µs",
                quartiles(slot)[1] <= 3_000,
            ),
            Goal(
                "a grant with 100 000 waiters, against the waking of as many tasks <= 1.3",
                spread(waking),
                quartiles(waking)[1] <= 1.3,
            ),
        ],
        options.quick,
    )


def main() -> None:
    options = options_given()
    print(__doc__)
    logging.getLogger("tokfluence_async").setLevel(logging.ERROR)  # it would report every drop
    virtual_tables(options)
    real_tables(options)
    if not options.no_cost:
        cost_tables(options)


if __name__ == "__main__":
    main()
