"""Ways a service may count requests, each a small pure class.

The API page gives two limits (600 a minute per IP, 1200 per key) and no algorithm, so a client has
to be right under all of them. Here they are as `allow(now) -> seconds`: 0.0 is leave to go on,
anything else is how long to wait until a request would be let through if none came in between (what
an honest server puts into Retry-After). `now` is any clock in seconds that does not go backward.
Nothing in here sleeps, and nothing knows whose clock `now` is.

Two of them are models of real servers, after their sources: HAProxy 2.6 `http_req_rate`
(`include/haproxy/freq_ctr.h`, `src/freq_ctr.c`) and nginx 1.22 `limit_req`
(`src/http/modules/ngx_http_limit_req_module.c`). `tests/sandbox/test_real_servers.py` holds both
against the real programs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

__all__ = [
    "ALGORITHMS",
    "GCRA",
    "FixedWindow",
    "HAProxyRate",
    "Lanes",
    "NginxLimitReq",
    "SlidingCounter",
    "SlidingLog",
    "Throttle",
    "TokenBucket",
    "build_throttle",
]


class Throttle(Protocol):
    """Anything that can say, at time `now`, whether one more request may pass."""

    def allow(self, now: float, /) -> float:
        """Count a request that arrives at `now`; 0.0 lets it pass, else the seconds until one would
        pass."""
        ...


def _check(limit: float, period: float) -> None:
    if not limit >= 1:
        raise ValueError(f"limit is {limit!r}; a throttle lets at least 1 request pass per period")
    if not 0 < period < math.inf:
        raise ValueError(f"period is {period!r}; it is a positive number of seconds")


# A wait is never reported as 0.0, which would mean "go on".
_LEAST_WAIT = 1e-9


def _wait(seconds: float) -> float:
    return max(_LEAST_WAIT, seconds)


class FixedWindow:
    """`limit` requests in each of the windows that begin at `offset` + k * `period`. Refusals are
    not counted.

    Up to twice the limit can pass around a boundary; where the boundaries lie is for the server
    alone to know.
    """

    def __init__(self, limit: int, period: float, *, offset: float = 0.0) -> None:
        _check(limit, period)
        self.limit = limit
        self.period = period
        self.offset = offset
        self._window: float = -math.inf
        self._count = 0

    def allow(self, now: float) -> float:
        window = math.floor((now - self.offset) / self.period)
        if window != self._window:
            self._window = window
            self._count = 0
        if self._count < self.limit:
            self._count += 1
            return 0.0
        return _wait(self.offset + (window + 1) * self.period - now)


class SlidingLog:
    """Fewer than `limit` requests in the `period` that ends now; a request leaves the window after
    exactly `period`.

    With `count_refusals` a refused request counts as well: a client that hammers is never let in
    again.
    """

    def __init__(self, limit: int, period: float, *, count_refusals: bool = False) -> None:
        _check(limit, period)
        self.limit = limit
        self.period = period
        self.count_refusals = count_refusals
        # Only the newest `limit` requests matter: one more may pass as soon as the oldest of them
        # has left the window.
        self._log: deque[float] = deque(maxlen=limit)

    def allow(self, now: float) -> float:
        log = self._log
        if len(log) < self.limit or log[0] <= now - self.period:
            log.append(now)
            return 0.0
        if self.count_refusals:
            log.append(now)
        return _wait(log[0] + self.period - now)


class SlidingCounter:
    """Two counters: the last window's count, weighted with the part of it still in view, and this
    window's.

    A request passes if last * (1 - elapsed / period) + this + 1 <= limit. This is how Cloudflare
    and many Redis recipes approximate the sliding log in two numbers.
    """

    def __init__(
        self, limit: int, period: float, *, offset: float = 0.0, count_refusals: bool = False
    ) -> None:
        _check(limit, period)
        self.limit = limit
        self.period = period
        self.offset = offset
        self.count_refusals = count_refusals
        self._window: float = -math.inf
        self._last = 0
        self._this = 0

    def allow(self, now: float) -> float:
        position = (now - self.offset) / self.period
        window = math.floor(position)
        if window != self._window:
            self._last = self._this if window == self._window + 1 else 0
            self._this = 0
            self._window = window
        elapsed = position - window
        # The last window's weight is the product of floats: a billionth of a request must not
        # decide.
        if self._last * (1 - elapsed) + self._this + 1 <= self.limit + 1e-9:
            self._this += 1
            return 0.0
        if self.count_refusals:
            self._this += 1
        room = self.limit - 1 - self._this
        if room >= 0 and self._last:
            return _wait((1 - room / self._last - elapsed) * self.period)
        after = max(0.0, 1 - (self.limit - 1) / self._this)
        return _wait((1 - elapsed + after) * self.period)


class TokenBucket:
    """A bucket of `burst` tokens (default: the limit) that starts full and refills at limit /
    period."""

    def __init__(self, limit: float, period: float, *, burst: float | None = None) -> None:
        _check(limit, period)
        self.rate = limit / period
        self.burst = float(limit if burst is None else burst)
        if self.burst < 1:
            raise ValueError(f"burst is {burst!r}; a bucket holds at least 1 token")
        self._tokens = self.burst
        self._at = -math.inf

    def allow(self, now: float) -> float:
        if self._at > -math.inf:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        # The tokens are a sum of many small floats: a request exactly on time must not fail by the
        # last bit.
        if self._tokens >= 1 - 1e-9:
            self._tokens -= 1
            return 0.0
        return _wait((1 - self._tokens) / self.rate)


class GCRA:
    """The generic cell rate algorithm: a leaky bucket as one number, the theoretical arrival time.

    One request every period / limit seconds, of which `burst` (default: the limit) may come at
    once.
    """

    def __init__(self, limit: float, period: float, *, burst: float | None = None) -> None:
        _check(limit, period)
        self.interval = period / limit
        self.burst = float(limit if burst is None else burst)
        if self.burst < 1:
            raise ValueError(f"burst is {burst!r}; at least 1 request may come at once")
        self._tat = -math.inf

    def allow(self, now: float) -> float:
        tat = max(self._tat, now)
        early = tat - (self.burst - 1) * self.interval - now
        if early <= 1e-9:
            self._tat = tat + self.interval
            return 0.0
        return _wait(early)


class HAProxyRate:
    """HAProxy 2.6: `http-request track-sc0 src` with `http_req_rate(period)`, then deny if the rate
    is above `limit`.

    Two counters over whole milliseconds, as in `freq_ctr_total`: past * remaining + this * period,
    divided by the period and rounded down. A request is counted when it is tracked, so before the
    rule looks at the rate, and a denied request has been counted too: a client that keeps on at the
    limit after being denied stays denied. The windows begin with the first request, and anew with
    the first one after two idle periods.
    """

    def __init__(self, limit: int, period: float) -> None:
        _check(limit, period)
        self.limit = limit
        self.period_ms = max(1, round(period * 1000))
        self._tick: int | None = None
        self._this = 0
        self._past = 0

    def _count(self, now: int) -> None:
        """`update_freq_ctr_period`."""
        if self._tick is None:
            self._tick = now
        if now - self._tick < self.period_ms:
            self._this += 1
            return
        self._past, self._this = self._this, 1
        self._tick += self.period_ms
        if now - self._tick >= self.period_ms:
            self._past = 0
            self._tick = now

    def rate(self, now: float) -> int:
        """Requests per period as `sc_http_req_rate(0)` gives it at `now` (seconds), counting
        none."""
        return self._rate(math.floor(now * 1000))

    def _rate(self, now: int) -> int:
        """`freq_ctr_total` and `read_freq_ctr_period`."""
        if self._tick is None:
            return 0
        this, past = self._this, self._past
        remain = self._tick + self.period_ms - now
        if remain < 0:
            remain += self.period_ms
            past = this if remain >= 0 else 0
            this = 0
        if not this and past <= 1:  # "flapping correction at very low rates"
            return past
        return (past * max(remain, 0) + this * self.period_ms) // self.period_ms

    def allow(self, now: float) -> float:
        at = math.floor(now * 1000)
        self._count(at)
        if self._rate(at) <= self.limit:
            return 0.0
        # HAProxy itself says nothing about when to come back. The rate only falls while nothing
        # comes in, so the first millisecond at which one more would pass is found by halving; after
        # two periods everything is forgotten.
        low, high = 0, 2 * self.period_ms + 1
        while high - low > 1:
            middle = (low + high) // 2
            if self._rate_with_one_more(at + middle) <= self.limit:
                high = middle
            else:
                low = middle
        return _wait((at + high) / 1000 - now)

    def _rate_with_one_more(self, now: int) -> int:
        probe = HAProxyRate(self.limit, self.period_ms / 1000)
        probe._tick, probe._this, probe._past = self._tick, self._this, self._past
        probe._count(now)
        return probe._rate(now)


class NginxLimitReq:
    """nginx 1.22: `limit_req_zone ... rate=` of limit / period, with `limit_req burst= [nodelay]`.

    Thousandths of a request and whole milliseconds, as in `ngx_http_limit_req_lookup`: the excess
    falls with time, each request that is let through adds one, and one whose excess would be above
    `burst` is refused and not counted. Without `nodelay` a request that is let through is held back
    first; `delay` says how many seconds the last one would have been.
    """

    def __init__(
        self, limit: float, period: float, *, burst: int = 20, nodelay: bool = True
    ) -> None:
        _check(limit, period)
        if burst < 0:
            raise ValueError(f"burst is {burst!r}; it is 0 or more requests")
        self.rate = round(limit * 1000 / period)
        if self.rate < 1:
            raise ValueError(f"{limit!r} in {period!r} s is slower than nginx can count")
        self.burst = burst * 1000
        self.nodelay = nodelay
        self.delay = 0.0
        self._excess = 0
        self._last: int | None = None

    def allow(self, now: float) -> float:
        at = math.floor(now * 1000)
        if self._last is None:
            # The very first request makes the node, with no excess.
            self._last = at
            self.delay = 0.0
            return 0.0
        elapsed = at - self._last
        excess = max(0, self._excess - self.rate * elapsed // 1000 + 1000)
        if excess > self.burst:
            # Whole milliseconds until the excess has fallen to the burst.
            need = -(-(self._excess + 1000 - self.burst) * 1000 // self.rate)
            return _wait((self._last + need) / 1000 - now)
        self._excess = excess
        if elapsed:
            self._last = at
        self.delay = 0.0 if self.nodelay else excess / self.rate
        return 0.0


def _sliding_log_counting_refusals(limit: int, period: float, **options: Any) -> SlidingLog:
    return SlidingLog(limit, period, count_refusals=True, **options)


ALGORITHMS: Mapping[str, Callable[..., Throttle]] = {
    "fixed_window": FixedWindow,
    "sliding_window": SlidingLog,
    "sliding_log": SlidingLog,
    "sliding_log_counting_refusals": _sliding_log_counting_refusals,
    "sliding_counter": SlidingCounter,
    "token_bucket": TokenBucket,
    "gcra": GCRA,
    "haproxy": HAProxyRate,
    "nginx": NginxLimitReq,
}
"""By the names `Sandbox(throttle=...)` takes; `sliding_window` and `sliding_log` are the same."""


def build_throttle(
    algorithm: str | Callable[..., Throttle],
    limit: int,
    period: float,
    options: Mapping[str, Any] | None = None,
) -> Throttle:
    """The throttle named `algorithm` (or built by it) for `limit` requests in `period` seconds.

    Raises:
        ValueError: No algorithm of that name, or numbers it cannot work with.
    """
    if isinstance(algorithm, str):
        try:
            algorithm = ALGORITHMS[algorithm]
        except KeyError:
            known = ", ".join(sorted(ALGORITHMS))
            raise ValueError(f"no throttle is called {algorithm!r}; there are {known}") from None
    return algorithm(limit, period, **(options or {}))


class Lanes:
    """A throttle for each IP and each key, made when the first request of it arrives.

    Args:
        algorithm: As `build_throttle` takes it; None counts nothing.
    """

    def __init__(
        self,
        algorithm: str | Callable[..., Throttle] | None,
        options: Mapping[str, Any] | None,
    ) -> None:
        self._algorithm = algorithm
        self._options = options
        self._lanes: dict[str, Throttle] = {}

    def check(self, limit: int, period: float) -> None:
        """Build one and throw it away, so that what cannot be built is told before the first
        request."""
        if self._algorithm is not None:
            build_throttle(self._algorithm, limit, period, self._options)

    def allow(self, lane: str, limit: int | None, period: float, now: float) -> float:
        """Count a request; 0.0 lets it pass, else the seconds until one would. A lane keeps the
        limit it was made with; None is none."""
        if limit is None or self._algorithm is None:
            return 0.0
        throttle = self._lanes.get(lane)
        if throttle is None:
            throttle = build_throttle(self._algorithm, limit, period, self._options)
            self._lanes[lane] = throttle
        return throttle.allow(now)
