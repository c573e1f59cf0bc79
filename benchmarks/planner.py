"""How batches are cut decides when a job ends: simulated makespans over a lower bound, our
`Planner` as one row of the table.

An event simulation, so hours pass in milliseconds and every policy meets the same seeded seconds
per URL. Beside it, for a few cells, the client itself against the sandbox on a virtual clock.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tokfluence_async import Sandbox, TokfluenceClient
from tokfluence_async._bulk.planner import Planner
from tokfluence_async.testing import VirtualLoop

from . import plot
from .bodies import post_id
from .goals import Goal, judge
from .turns import quartiles, spread

__all__ = ["CELLS", "POLICIES", "SERVICES", "Run", "run", "simulate"]

CELLS = ((20, 8), (100, 8), (100, 16), (1000, 8), (1000, 32), (10000, 32), (10000, 8))
# Requests a second, and seconds for a request's way there and back with the service's own work
# around a batch.
_RATE = 10.0
_WAY = 0.2
_MAX_BATCH = 50
# Cells in which the client itself is measured.
_CLIENT_CELLS = ((20, 8), (100, 8), (100, 16), (1000, 8), (1000, 32))
_TICKS = (1, 2, 5, 10, 20, 50, 100, 200)
_LONGEST_CELL = (1000, 8)
# In which one URL may take longer than all of the work, divided.
_LOOSE_CELLS = ((20, 8), (100, 16))


class Policy(Protocol):
    def next_size(self, left: int) -> int: ...

    def observe(self, urls: int, seconds: float) -> None: ...


class _Fixed:
    def __init__(self, rule: Callable[[int], int]) -> None:
        self._rule = rule

    def next_size(self, left: int) -> int:
        return max(1, min(self._rule(left), _MAX_BATCH, left))

    def observe(self, urls: int, seconds: float) -> None:
        pass


class _Mean:
    """Guided, and no batch expected to take more than a minute by the mean of all seconds per URL
    so far; until there is one, 10."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._urls = 0
        self._seconds = 0.0

    def next_size(self, left: int) -> int:
        most = 60.0 * self._urls / self._seconds if self._urls else 10.0
        return max(1, min(math.ceil(left / (1.5 * self._concurrency)), _MAX_BATCH, int(most), left))

    def observe(self, urls: int, seconds: float) -> None:
        self._urls += urls
        self._seconds += seconds


class _Ours:
    def __init__(self, concurrency: int, learnt: Mapping[str, float] | None = None) -> None:
        self._planner = Planner(concurrency)
        if learnt is not None:
            self._planner.expect(learnt)

    def learnt(self) -> Mapping[str, float]:
        return self._planner.learnt()

    def next_size(self, left: int) -> int:
        size = min(self._planner.next_size(left), left)
        self._planner.cut()
        return size

    def observe(self, urls: int, seconds: float) -> None:
        self._planner.observe(urls, seconds)


OURS = "tokfluence_async: learnt, guided, at most 45 s expected"
SECOND = "tokfluence_async, a second run with the same journal"
# By (number of URLs, concurrency). The first three are what people write; guided cutting looks at
# what is left, the others at seconds, too.
POLICIES: dict[str, Callable[[int, int], Policy]] = {
    "batches of 50, as everyone writes it": lambda n, c: _Fixed(lambda left: 50),
    "ceil(N / C), at most 50": lambda n, c: _Fixed(lambda left: math.ceil(n / c)),
    "one URL a request": lambda n, c: _Fixed(lambda left: 1),
    "guided: ceil(left / 1.5 C), at most 50": lambda n, c: _Fixed(
        lambda left: math.ceil(left / (1.5 * c))
    ),
    "… and at most 60 s expected, by a running mean (first batches <= 10)": lambda n, c: _Mean(c),
    OURS: lambda n, c: _Ours(c),
}
# These learn nothing: what others could have instead.
_FIXED = tuple(POLICIES)[:4]

SERVICES: dict[str, tuple[bool, Callable[[random.Random], float]]] = {
    "serial, heavy-tailed (lognormal, median 3 s, sigma 0.9)": (
        True,
        lambda rng: rng.lognormvariate(math.log(3.0), 0.9),
    ),
    "serial, constant 4 s": (True, lambda rng: 4.0),
    "parallel, heavy-tailed": (False, lambda rng: rng.lognormvariate(math.log(3.0), 0.9)),
    "parallel, constant 4 s": (False, lambda rng: 4.0),
}


@dataclass(frozen=True)
class Run:
    """One simulated job, all in seconds but the count of requests.

    Attributes:
        bound: The makespan's lower bound, by all the work and by the throttle.
        closer: The same, and no less than the longest single URL.
        longest: The longest request.
    """

    makespan: float
    bound: float
    closer: float
    requests: int
    longest: float


def simulate(policy: Policy, seconds: list[float], concurrency: int, *, serial: bool) -> Run:
    """Workers take batches as they become free; requests leave no faster than the throttle lets
    them."""
    left = list(reversed(seconds))
    free = [0.0] * concurrency
    running: list[tuple[float, int, int, float]] = []
    tie = itertools.count()
    slot = makespan = longest = 0.0
    requests = 0
    while left:
        began = max(heapq.heappop(free), slot)
        while running and running[0][0] <= began:
            _, _, size, took = heapq.heappop(running)
            policy.observe(size, took)
        size = policy.next_size(len(left))
        batch = [left.pop() for _ in range(size)]
        took = _WAY + (sum(batch) if serial else max(batch))
        slot = began + 1.0 / _RATE
        requests += 1
        longest = max(longest, took)
        makespan = max(makespan, began + took)
        heapq.heappush(free, began + took)
        heapq.heappush(running, (began + took, next(tie), size, took))
    while running:
        _, _, size, took = heapq.heappop(running)
        policy.observe(size, took)
    work = sum(seconds) / concurrency if serial else max(seconds)
    bound = max(work, math.ceil(len(seconds) / _MAX_BATCH) / _RATE)
    return Run(makespan, bound, max(bound, max(seconds)), requests, longest)


@dataclass
class _Table:
    """What the policies did to one service: a value for each cell, by policy."""

    ratios: dict[str, list[float]]
    quarters: dict[str, list[tuple[float, float, float]]]
    closer: dict[str, list[float]]
    longest: dict[str, list[float]]


def run(quick: bool, out: Path) -> None:
    """Print the table of each service and judge the goals on the serial ones; then the client
    itself."""
    seeds = range(3 if quick else 60)
    every: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for service, (serial, draw) in SERVICES.items():
        table = _simulate_all(serial, draw, seeds)
        print(
            f"### Analyze makespan over the lower bound; a service that is {service}; mean of "
            f"{len(seeds)} seeds"
        )
        _print_table(table)
        if not every:
            _tell_closer(table.closer)
        if serial:
            _judge_serial(table, quick)
        else:
            _tell_parallel(table.ratios)
        every[service] = table.quarters
    _draw(every, out / "planner.png")
    _client(quick, out)


def _simulate_all(serial: bool, draw: Callable[[random.Random], float], seeds: range) -> _Table:
    table = _Table({}, {}, {}, {})
    for name, make in [*POLICIES.items(), (SECOND, None)]:
        table.ratios[name], table.closer[name], table.quarters[name] = [], [], []
        for urls, concurrency in CELLS:
            runs = [
                simulate(
                    make(urls, concurrency)
                    if make is not None
                    else _Ours(
                        concurrency,
                        _learnt_by(_seconds(draw, seed + 1000, urls), concurrency, serial),
                    ),
                    _seconds(draw, seed, urls),
                    concurrency,
                    serial=serial,
                )
                for seed in seeds
            ]
            ratios = [each.makespan / each.bound for each in runs]
            table.ratios[name].append(statistics.mean(ratios))
            table.quarters[name].append(quartiles(ratios))
            if (urls, concurrency) in _LOOSE_CELLS:
                table.closer[name].append(
                    statistics.mean(each.makespan / each.closer for each in runs)
                )
            if (urls, concurrency) == _LONGEST_CELL:
                table.longest[name] = [each.longest for each in runs]
    return table


def _print_table(table: _Table) -> None:
    print("No server: an event simulation of one.\n")
    print(
        "| policy | "
        + " | ".join(f"{n}/{c}" for n, c in CELLS)
        + " | longest request at 1000/8, median (max) of seeds |"
    )
    print("|---" * (len(CELLS) + 2) + "|")
    for name, ratios in table.ratios.items():
        cells = " | ".join(f"{ratio:.2f}" for ratio in ratios)
        longest = table.longest[name]
        print(f"| {name} | {cells} | {statistics.median(longest):.0f} ({max(longest):.0f}) s |")
    print()


def _judge_serial(table: _Table, quick: bool) -> None:
    goals = [
        goal
        for name in (OURS, SECOND)
        for goal in (
            *_goals(table.ratios[name], CELLS, name),
            _best_fixed(table.ratios, name),
            _longest(table.longest[name], name),
        )
    ]
    judge(goals, quick)


def _tell_parallel(ratios: dict[str, list[float]]) -> None:
    print(
        "Expected of a service that works all URLs of a batch at once: guided cutting loses to "
        "50s, for small batches save nothing there\nand each pays for its slowest URL. Ours "
        "learns the parallelism from its first answers, too late for jobs of up to 1,000 URLs,\n"
        "and keeps what it has learnt in the journal. No goal is set; against the best fixed "
        "policy of the cell:"
    )
    for name, which in ((OURS, "the first run"), (SECOND, "a second one")):
        cells = zip(CELLS, ratios[name], _best(ratios), strict=True)
        print(
            f"{which} takes "
            + ", ".join(f"x{ours / best:.2f} at {n}/{c}" for (n, c), ours, best in cells)
            + "."
        )
    print(flush=True)


def _tell_closer(closer: Mapping[str, Sequence[float]]) -> None:
    print(
        "The bound above is max(work / concurrency, requests / rate). A small job comes nearer to\n"
        "a bound that also holds the longest single URL, which no cutting shortens:\n"
    )
    print("| policy, by that bound | " + " | ".join(f"{n}/{c}" for n, c in _LOOSE_CELLS) + " |")
    print("|---" * (len(_LOOSE_CELLS) + 1) + "|")
    for name, found in closer.items():
        print(f"| {name} | {' | '.join(f'{ratio:.2f}' for ratio in found)} |")
    print()


def _learnt_by(seconds: list[float], concurrency: int, serial: bool) -> Mapping[str, float]:
    """What a first run leaves in the journal for the next one, of other URLs."""
    first = _Ours(concurrency)
    simulate(first, seconds, concurrency, serial=serial)
    return first.learnt()


def _seconds(draw: Callable[[random.Random], float], seed: int, urls: int) -> list[float]:
    rng = random.Random(f"{seed}/{urls}")
    return [draw(rng) for _ in range(urls)]


def _goals(
    ratios: Sequence[float], cells: Sequence[tuple[int, int]], name: str = OURS
) -> Iterator[Goal]:
    for most, asked in ((1.25, 10), (1.05, 100)):
        found = [
            (ratio, n, c) for ratio, (n, c) in zip(ratios, cells, strict=True) if n >= asked * c
        ]
        worst, urls, concurrency = max(found)
        yield Goal(
            f"makespan <= {most} of the bound for N >= {asked} C{_which(name)}",
            f"{worst:.3f} at worst, at {urls}/{concurrency}",
            worst <= most,
        )


def _best(ratios: dict[str, list[float]]) -> list[float]:
    return [min(ratios[name][index] for name in _FIXED) for index in range(len(CELLS))]


def _best_fixed(ratios: dict[str, list[float]], name: str) -> Goal:
    worst, (urls, concurrency) = max(
        (ours / best, each)
        for ours, best, each in zip(ratios[name], _best(ratios), CELLS, strict=True)
    )
    return Goal(
        f"never more than 5 % worse than the best fixed policy of the cell{_which(name)}",
        f"{worst - 1:+.1%} at worst, at {urls}/{concurrency}",
        worst <= 1.05,
    )


def _which(name: str) -> str:
    return ", in a second run" if name == SECOND else ""


def _longest(seconds: Sequence[float], name: str) -> Goal:
    return Goal(
        f"longest request at 1000/8 <= 150 s, in the worst of the seeds{_which(name)}",
        f"{max(seconds):.0f} s, {statistics.median(seconds):.0f} s in the median one",
        max(seconds) <= 150,
    )


def _client(quick: bool, out: Path) -> None:
    """`client.posts.analyze` in the first of the services, with the documented throttle, beside the
    simulation of it."""
    seeds = range(2 if quick else 5)
    cells = _CLIENT_CELLS[:3] if quick else _CLIENT_CELLS
    _, draw = next(iter(SERVICES.values()))
    print(
        f"### Analyze makespan over the lower bound, by the client itself; serial, "
        f"heavy-tailed; {len(seeds)} seeds"
    )
    print(
        "Server: the sandbox, in the same loop, on a virtual clock. Median and quartiles; "
        "counts are of all seeds.\n"
    )
    print("| N / C | simulated | the client | its requests (simulated) | refused |")
    print("|---|---|---|---|---|")
    means = []
    drawn: dict[str, dict[str, plot.Bar]] = {"simulated": {}, "the client": {}}
    for urls, concurrency in cells:
        simulated, client, planned, sent, refused = [], [], 0, 0, 0
        for seed in seeds:
            seconds = _seconds(draw, seed, urls)
            expected = simulate(
                POLICIES[OURS](urls, concurrency), seconds, concurrency, serial=True
            )
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                took, requests, limited = runner.run(_analyze(seconds, concurrency))
            simulated.append(expected.makespan / expected.bound)
            client.append(took / expected.bound)
            planned += expected.requests
            sent += requests
            refused += limited
        means.append(statistics.mean(client))
        for bars, found in zip(drawn.values(), (simulated, client), strict=True):
            bars[f"{urls}/{concurrency}"] = plot.bar(found, ".2f")
        print(
            f"| {urls}/{concurrency} | {spread(simulated, '.3f')} | {spread(client, '.3f')} | "
            f"{sent} ({planned}) | {refused} |",
            flush=True,
        )
    print()
    judge(() if quick else _goals(means, cells), quick)
    plot.grouped(drawn, "makespan / lower bound", out / "planner-client.png")


async def _analyze(seconds: Sequence[float], concurrency: int) -> tuple[float, int, int]:
    """Seconds on the virtual clock, requests, and refusals."""
    took = {post_id(number): each for number, each in enumerate(seconds)}
    async with (
        Sandbox(indexed=0.0, seconds_per_url=took.__getitem__, latency=_WAY) as sandbox,
        TokfluenceClient(
            sandbox.token, base_url=sandbox.url, analyze_concurrency=concurrency
        ) as client,
    ):
        loop = asyncio.get_running_loop()
        began = loop.time()
        report = await client.posts.analyze(list(took))
        if len(report.succeeded) != len(took):
            raise RuntimeError(f"{len(report.succeeded)} of {len(took)}")
        return loop.time() - began, len(sandbox.requests), sandbox.rate_limited


def _draw(
    found: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]], path: Path
) -> None:
    """Medians of the seeds, and their quartiles as whiskers; dots, as a logarithmic axis has no
    place for bars to begin at."""
    drawn = plot.figure(13.0, 8.0, panels=(2, 2))
    if drawn is None:
        return
    for axes, (service, policies) in zip(drawn[1].flat, found.items(), strict=True):
        for index, (name, values) in enumerate(policies.items()):
            places = [x + (index - (len(policies) - 1) / 2) * 0.11 for x in range(len(CELLS))]
            whiskers = [
                [mid - low for low, mid, _ in values],
                [high - mid for _, mid, high in values],
            ]
            axes.errorbar(
                places,
                [mid for _, mid, _ in values],
                yerr=whiskers,
                fmt="o",
                markersize=3.5,
                capsize=2,
                label=name,
            )
        axes.set_xticks(range(len(CELLS)), [f"{n}/{c}" for n, c in CELLS])
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.set_yticks(_TICKS, [str(each) for each in _TICKS])
        axes.minorticks_off()
        axes.set_ylim(low, high)
        axes.set_title(service, fontsize=9)
        axes.set_ylabel("makespan / lower bound, median of seeds")
        axes.axhline(1.0, color="black", linewidth=0.8)
    drawn[0].legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8
    )
    plot.save(drawn, path)
