"""When to read a post that was analyzed just now. Every read that comes too early costs a credit.

"Readable through `GET /v1/posts/:id` after a short delay" is all the page says [seed], so the delay is learnt. As long
as nothing is known, one post of a batch goes ahead and is read at growing ages; the others wait for what it finds. From
then on every post is first read at the lowest age that has worked and that no failure has contradicted since. To wait a
little longer than needed costs time, which a crawl has; to ask too early costs credits.
"""

from __future__ import annotations

__all__ = ["Visibility"]

_FIRST = 2.0
_GROWTH = 2.0


class Visibility:
    """What the answers so far say of the delay, in seconds since the analysis was answered.

    Attributes:
        known: The age at which posts are expected to be readable, or None as long as no read has succeeded.
    """

    __slots__ = ("_failed_at", "known")

    def __init__(self) -> None:
        self.known: float | None = None
        self._failed_at = 0.0

    def expect(self, age: float | None) -> None:
        """An earlier run found posts readable at `age`; None if it did not."""
        self.known = age

    def first(self) -> float:
        """The age at which to read a post first."""
        if self.known is not None:
            return self.known
        return max(_FIRST, self._failed_at * _GROWTH)

    def after(self, age: float, patience: float) -> float | None:
        """The age at which to read again after a read at `age` failed; None when patience has run out.

        The last read is at `patience` itself, so that no post is given up on earlier than it has to be.
        """
        if age >= patience:
            return None
        return min(max(age * _GROWTH, self.first(), _FIRST), patience)

    def succeeded(self, age: float) -> None:
        """A read at `age` found its post."""
        if self.known is None or age < self.known:
            self.known = age if age > self._failed_at else self.known or age

    def failed(self, age: float) -> None:
        """A read at `age` came too early."""
        self._failed_at = max(self._failed_at, age)
        if self.known is not None and age >= self.known:
            self.known = age * 1.25
