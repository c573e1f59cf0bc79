"""How a job is cut into batches, and how answers are matched to inputs. No await, no clock.

Large batches go first and smaller ones towards the end (*guided* cutting), and none is expected to
take longer than 45 s. What a batch takes is learnt from the answers as `a + b * urls`, by least
squares: a service that works a batch one URL after another shows hardly an `a`, and one that works
all at once is sent larger batches. The price is the same whatever the cut.

`docs/design/planner.md` has the derivation, the measurements, and how to get them again.

Source: the Tokfluence API page, `POST /v1/posts/analyze`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .._errors import InvalidPostError
from .._models import Analysis
from .._wire.bodies import AnalyzeRow
from .._wire.calls import MAX_BATCH
from .._wire.ids import PostRef, parse_post_id

__all__ = ["Planner", "match_rows"]

_FACTOR = 1.5
_EXPECTED_SECONDS = 45.0
# What a URL takes on average is taken to be higher by this, over the root of how many have been
# seen.
_UNSURE = 2.0
# The sizes of batches that are sent before anything has been seen, in turn: small, because a URL
# may take long, and different, because otherwise `a` and `b` cannot be told apart.
_FIRST = (10, 4, 7)
# Standard errors by which `a` has to be more than nothing, and what few observations add to that,
# as in Student's t: of four batches of a service that works serially, one in ten would look
# parallel, and large batches would follow.
_SURE = 2.0
_FEW_ADD = 3.0
# What the fit is made of, as a journal keeps it; and the URLs of an earlier run that count as much
# as this run's own.
_SUMS = ("batches", "urls", "seconds", "urls_urls", "urls_seconds", "seconds_seconds")
_TRUSTED = 100.0
# A limit is this many times what is expected: seconds are heavy-tailed, and a limit that is too
# short costs more than a long wait. (Of simulated batches with lognormal seconds, sigma 1, one in
# 10,000 of a single URL takes longer than 40 times the median, none of 20 URLs longer than 4 times
# the mean.)
_PATIENCE = 4.0


class Planner:
    """Chooses the size of the next batch, and says what it may take.

    Args:
        concurrency: Batches in flight at once.
        batch_size: A fixed size, or None to choose.
    """

    def __init__(self, concurrency: int, batch_size: int | None = None) -> None:
        self._concurrency = concurrency
        self._fixed = batch_size
        self._cut = 0
        # The even share of this round, and the batch with which it ends.
        self._round = self._round_ends = 0
        # Of the batches seen: how many, and the sums of urls, seconds, and their products.
        self._sums: dict[str, float] = dict.fromkeys(_SUMS, 0.0)

    def next_size(self, left: int | None, most: int = MAX_BATCH) -> int:
        """URLs for the next batch, 1 to 50.

        Args:
            left: URLs that have not been sent, or None if that is not known (a source that has not
                ended).
            most: URLs it may hold, unless its size is fixed.
        """
        if self._fixed is not None:
            return self._fixed
        overhead, slope = self.fit()
        size = MAX_BATCH
        if left is not None:
            size = math.ceil(left / (_FACTOR * self._concurrency))
            if overhead > 0.0:
                size = max(size, self._even_share(left, overhead, slope))
        seen = self._sums["urls"]
        if not seen:
            most = min(most, _FIRST[self._cut % len(_FIRST)])
        else:
            slope *= 1.0 + _UNSURE / math.sqrt(seen)
            if overhead + slope * MAX_BATCH > _EXPECTED_SECONDS and slope > 0.0:
                most = min(most, int((_EXPECTED_SECONDS - overhead) / slope))
        return max(1, min(size, most, MAX_BATCH))

    def _even_share(self, left: int, overhead: float, slope: float) -> int:
        # The same for as many batches as there are workers: by what is left at each one's turn,
        # every batch would be smaller than the one before it, and the job would never end.
        if self._cut >= self._round_ends:
            rounds = max(1, math.ceil(left / (self._concurrency * MAX_BATCH)))
            even = math.ceil(left / (self._concurrency * rounds))
            self._round = min(even, _cheapest(left / self._concurrency, overhead, slope))
            self._round_ends = self._cut + self._concurrency
        return self._round

    def fit(self) -> tuple[float, float]:
        """`(a, b)` of `seconds = a + b * urls` by what has been seen: `a` only as far as it is
        sure, neither below 0."""
        count, n, t, nn, nt, tt = self._sums.values()
        if not n:
            return 0.0, 0.0
        none = (0.0, t / n)  # with `a` as nothing, `b` is all seconds by all URLs
        if count < 4:
            return none
        spread = nn - n * n / count
        if spread <= 1e-9 * nn:
            return none
        b = (nt - n * t / count) / spread
        a = (t - b * n) / count
        squares = max(tt - a * t - b * nt, 0.0)
        error = math.sqrt(squares / (count - 2) * (1.0 / count + (n / count) ** 2 / spread))
        sure = min(a - _SURE * (1.0 + _FEW_ADD / (count - 2)) * error, t / count)
        if sure <= 0.0:
            return none
        return sure, max(0.0, (t - sure * count) / n)  # rounding: `sure` may be all of it

    def expected(self, urls: int) -> float:
        """Seconds a batch of `urls` is expected to take; 0.0 as long as nothing has been seen."""
        overhead, slope = self.fit()
        return overhead + slope * urls

    def limit(self, urls: int) -> float:
        """Seconds a batch of `urls` is to be given at least, by what has been seen; 0.0 as long as
        nothing has."""
        return _PATIENCE * self.expected(urls)

    def cut(self) -> None:
        """A batch was cut; the next one may have another size."""
        self._cut += 1

    def expect(self, learnt: Mapping[str, float]) -> None:
        """An earlier run has `learnt` this, perhaps among other things."""
        if not all(0.0 <= learnt.get(name, -1.0) < math.inf for name in _SUMS):
            return  # it saw nothing, or was of a version that kept less
        # Worth no more than two batches of this run's own: the service may have become slower.
        share = _TRUSTED / max(learnt["urls"], _TRUSTED)
        for name in _SUMS:
            self._sums[name] += share * learnt[name]

    def learnt(self) -> dict[str, float]:
        """For the next run."""
        return dict(self._sums)

    def observe(self, urls: int, seconds: float) -> None:
        """A batch of `urls` was answered after `seconds`."""
        for name, value in zip(
            _SUMS, (1, urls, seconds, urls * urls, urls * seconds, seconds * seconds), strict=True
        ):
            self._sums[name] += value


def _cheapest(share: float, overhead: float, slope: float) -> int:
    """The size at which `share` URLs of one worker, and half a batch of waiting for the others,
    take least."""
    if slope <= 0.0:
        return MAX_BATCH
    return min(math.ceil(math.sqrt(2.0 * share * overhead / slope)), MAX_BATCH)


def match_rows(refs: Sequence[PostRef], rows: Sequence[object]) -> dict[str, Analysis]:
    """The rows of an answer by the video ids that were asked for, whatever order or spelling they
    came back in.

    A row is known by its `postId`, or else by the id in its URL; rows of posts nobody asked for and
    second rows of one post are left out, and so is what is no row at all. What is missing from the
    result was left out by the service.
    """
    asked = {ref.post_id for ref in refs}
    found: dict[str, Analysis] = {}
    for row in rows:
        if not isinstance(row, AnalyzeRow):
            continue
        url = row.url if isinstance(row.url, str) else None
        status = "" if row.status is None else str(row.status)
        for name in (row.post_id, row.url):
            try:
                post_id = parse_post_id(name)
            except InvalidPostError:
                continue
            if post_id in asked and post_id not in found:
                found[post_id] = Analysis(post_id=post_id, url=url, status=status)
                break
    return found
