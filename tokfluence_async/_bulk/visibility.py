"""When a read pays: before an analysis, and after it.

Before it, a read costs 1 credit. Where it finds the post, it saves the analysis (25) and the read
after that (1). So it pays as long as more than one post in 26 is in the index; `HitRate` leaves
most reads out where fewer are.

After it, every read that comes too early costs a credit. "Readable after a short delay" is all the
page says [seed], so `Visibility` learns the delay. As long as nothing is known, one post of a batch
goes ahead, and the others wait for what it finds.
"""

from __future__ import annotations

import math

from .._credits.reads import FIRST_READ, READ_GROWTH
from .._wire.prices import ANALYZE_PRICE, POST_PRICE

__all__ = ["HitRate", "Visibility"]

# A read first pays if it hits at least this often: it costs 1 and saves 25 + 1.
_PAYS = POST_PRICE / (ANALYZE_PRICE + POST_PRICE)
# Hits taken to have been seen before the first read: with 2, some fifty misses in a row are needed
# to leave reads out. It doubles with each time that this turned out wrong, so that inputs in long
# runs, now cached and now not, cost little more than reading all.
_OPTIMISM = 2.0
# While reads are left out, every eighth is made all the same. A miss costs 1 credit; what a hit
# found too late would have saved costs 25, so it is looked for often.
_PROBE = 8
# Reads that follow a probe's hit, to tell a run of cached posts from a single one; this many of
# them have to hit.
_CHECK = 8
_CONFIRMED = 2
_FADE = 400


class HitRate:
    """Whether to read a post before having it analyzed, by how often that has found something.

    Once it does not pay, the posts are asked about one after the other (`sparse`), so that no more
    than seven go unread between two answers. Inputs come in runs (a creator's posts, a day's
    export), and a run of cached posts that is analyzed all the same costs 26 times what it should.

    Attributes:
        sparse: Most reads are left out; ask for the next post only when the last answer is known.
    """

    def __init__(self) -> None:
        self.sparse = False
        self._optimism = _OPTIMISM
        self._reads = 0
        self._hits = 0
        self._passed = 0
        self._checking = 0
        self._confirmed = 0

    def wants_read(self) -> bool:
        """Whether to read the next post first. Asking counts."""
        if not self.sparse or self._checking:
            return True
        self._passed += 1
        return self._passed % _PROBE == 0

    def found(self, hit: bool) -> None:
        """A read before analysis found its post, or not."""
        self._reads += 1
        self._hits += hit
        if self._reads > _FADE:  # old answers fade
            self._reads //= 2
            self._hits //= 2
        if not self.sparse:
            self.sparse = (self._hits + self._optimism) / (self._reads + self._optimism) < _PAYS
        elif self._checking:
            self._checking -= 1
            self._confirmed += hit
            if self._confirmed >= _CONFIRMED:
                self.sparse = False
                self._optimism *= 2
                self._reads = self._hits = self._checking = 0
        elif hit:
            self._checking, self._confirmed = _CHECK, 0


class Visibility:
    """What the answers so far say of the delay, in seconds since the analysis was answered.

    Attributes:
        known: The age at which posts are expected to be readable, or None as long as no read has
            succeeded.
        latest: The highest age at which a read has found its post; infinite as long as none has.
    """

    def __init__(self) -> None:
        self.known: float | None = None
        self.latest = math.inf
        self._failed_at = 0.0

    def expect(self, age: float | None) -> None:
        """An earlier run found posts readable at `age`; None if it did not."""
        self.known = age

    def first(self) -> float:
        """The age at which to read a post first."""
        if self.known is not None:
            return self.known
        return max(FIRST_READ, self._failed_at * READ_GROWTH)

    def after(self, age: float, patience: float) -> float | None:
        """The age at which to read again after a read at `age` failed; None when patience has run
        out.

        The last read is at `patience` itself, so that no post is given up on earlier than it has to
        be.
        """
        if age >= patience:
            return None
        return min(max(age * READ_GROWTH, self.first(), FIRST_READ), patience)

    def succeeded(self, age: float) -> None:
        """A read at `age` found its post."""
        self.latest = age if math.isinf(self.latest) else max(self.latest, age)
        if self.known is None or age < self.known:
            self.known = age if age > self._failed_at else self.known or age

    def failed(self, age: float) -> None:
        """A read at `age` came too early."""
        self._failed_at = max(self._failed_at, age)
        if self.known is not None and age >= self.known:
            self.known = age * 1.25
