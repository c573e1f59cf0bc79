"""The ids that a job has met."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokfluence_async._bulk.seen import Seen


@given(st.lists(st.integers(1, 2**64 - 1) | st.integers(1, 30), max_size=200))
def test_it_is_a_set(numbers: list[int]) -> None:
    """Also of ids above 2**63."""
    seen = Seen()
    model: set[int] = set()

    for number in numbers:
        assert seen.add(str(number)) == (number not in model)
        model.add(number)


def test_neighbours_are_spread_evenly() -> None:
    """Ids of one day, one creator or one generator of test data: an insertion moves the ids behind
    it, so no array may hold them all."""
    for step in (1, 2, 2**12, 2**32, 2**40, 4097):
        seen = Seen()
        for n in range(20_000):
            seen.add(str((7_200_000_000_000_000_000 + n * step) % 2**64))

        assert max(len(numbers or ()) for numbers in seen._arrays) < 20_000 / 200
