"""What was given is not given again, in whatever order it comes; memory is bounded."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfluence_async._bulk.recent import Recent

SOME = st.lists(st.integers(0, 60).map(str), max_size=6)


@given(st.lists(SOME, max_size=30), st.integers(6, 30))
def test_what_was_given_lately_is_remembered_by_whole_pages(
    pages: list[list[str]], size: int
) -> None:
    """It forgets a page at a time: what came last is known, to a page less than `size`, and memory
    is bounded."""
    recent = Recent(size)
    given_ids: list[str] = []

    for page in pages:
        fresh = recent.new(page, page)
        assert len(set(fresh)) == len(fresh)
        assert not set(fresh) & set(given_ids[len(given_ids) - (size - 6) :])
        assert list(dict.fromkeys(one for one in page if one in fresh)) == fresh
        given_ids += fresh
        assert len(recent._ids) <= size


@given(
    st.sampled_from(["up", "down", "mixed"]),
    st.integers(1, 7),
    st.lists(st.integers(0, 9), max_size=30),
    st.randoms(use_true_random=False),
)
def test_a_walk_gives_each_once_in_whatever_order_the_list_is(
    order: str, limit: int, arrivals: list[int], rng: random.Random
) -> None:
    """Arrivals at the front shift it, so the next page begins with what was given. In order or not,
    all of the first list comes once."""
    listed = [f"{n:03}" for n in range(100, 160)]
    if order == "down":
        listed.reverse()
    elif order == "mixed":
        rng.shuffle(listed)
    first = list(listed)
    recent = Recent(size=400)
    found: list[str] = []
    cursor = 0
    number = 200

    while cursor < len(listed):
        page = listed[cursor : cursor + limit]
        cursor += limit
        arrived = arrivals.pop() if arrivals else 0
        found += recent.new(page, page)
        for _ in range(arrived):
            number += 1
            listed.insert(0, str(number))

    assert [one for one in found if one < "200"] == first
    assert len(set(found)) == len(found)


def test_the_last_ten_thousand_are_known() -> None:
    """As many comments may arrive between two pages."""
    recent = Recent()
    walk = [f"{n:05}" for n in range(20_000)]
    for at in range(0, 20_000, 50):
        page = walk[at : at + 50]
        assert recent.new(page, page) == page

    assert recent.new(walk[10_000:], walk[10_000:]) == []
    assert recent.new(walk[:50], walk[:50]) == walk[:50]


@pytest.mark.parametrize("page", [["1", "1"], ["1", "2", "2"], ["2", "1", "1"]])
def test_what_stands_twice_on_one_page_comes_once(page: list[str]) -> None:
    """As the first of the two."""
    numbered = list(enumerate(page))

    assert [one for _, one in Recent().new(numbered, page)] == list(dict.fromkeys(page))
    assert Recent().new(numbered, page)[0] == (0, page[0])
