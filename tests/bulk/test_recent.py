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
    pages: list[list[str]], near: int
) -> None:
    """It forgets a page at a time: what came last is known, to a page less than `near`, and memory
    stays below a page more."""
    recent = Recent(near, near)
    given_ids: list[str] = []

    for page in pages:
        fresh = recent.new(page, page)
        assert len(set(fresh)) == len(fresh)
        assert not set(fresh) & set(given_ids[len(given_ids) - (near - 6) :])
        assert list(dict.fromkeys(one for one in page if one in fresh)) == fresh
        given_ids += fresh
        assert len(recent._ids or ()) <= near + 6


@given(
    st.lists(st.tuples(SOME, st.sampled_from([0, 0, 10, 100])), max_size=40),
    st.integers(6, 12),
    st.integers(0, 30),
)
def test_what_was_given_before_that_is_known_as_far_back_as_asked(
    pages: list[tuple[list[str], int]], near: int, more: int
) -> None:
    """To a page less at either end; and memory is bounded there too."""
    size = near + more
    recent = Recent(size, near)
    given_ids: list[str] = []

    for page, back in pages:
        fresh = recent.new(page, page, back=back)
        assert len(set(fresh)) == len(fresh)
        known = min(near - 6 + back, size - 6)
        if known > 0:
            assert not set(fresh) & set(given_ids[-known:])
        given_ids += fresh
        assert recent._held <= size
        assert len(recent._ids or ()) <= near + 6


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
    recent = Recent(size=100, near=7)
    found: list[str] = []
    cursor = 0
    number = 200

    while cursor < len(listed):
        page = listed[cursor : cursor + limit]
        cursor += limit
        arrived = arrivals.pop() if arrivals else 0
        found += recent.new(page, page, back=100)
        for _ in range(arrived):
            number += 1
            listed.insert(0, str(number))

    assert [one for one in found if one < "200"] == first
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("step", [1, -1])
def test_what_goes_on_in_order_is_new_however_long_the_walk(step: int) -> None:
    """Nothing has to be looked up for that; what then breaks the order is looked for among all that
    is remembered."""
    recent = Recent(size=1000, near=10)
    walk = [f"{n:05}" for n in range(20_000)[::step]]
    for at in range(0, 20_000, 50):
        assert recent.new(walk[at : at + 50], walk[at : at + 50]) == walk[at : at + 50]
    assert recent._ids is None

    again = walk[-900:-890]
    assert recent.new(again, again, back=1000) == []
    assert recent.new(
        [again[0], "x", again[1], "x"], [again[0], "x", again[1], "x"], back=1000
    ) == ["x"]


@pytest.mark.parametrize("page", [["1", "1"], ["1", "2", "2"], ["2", "1", "1"]])
def test_what_stands_twice_on_one_page_comes_once(page: list[str]) -> None:
    """Two of the same are in no order."""
    assert Recent().new(page, page) == list(dict.fromkeys(page))


@pytest.mark.parametrize("ordered", [True, False])
@given(st.integers(0, 990), st.integers(0, 50), st.integers(5, 200))
def test_a_page_that_stands_among_those_given_is_seen_without_being_told(
    ordered: bool, shift: int, more: int, stride: int
) -> None:
    """As far as a thousand back, if it is as long as those, and whether or not it reaches beyond
    what was given."""
    ids = [f"{n:05}" for n in range(3000)]
    if not ordered:
        random.Random(1).shuffle(ids)
    recent = Recent()
    for at in range(0, 2000, stride):
        page = ids[at : min(at + stride, 2000)]
        assert recent.new(page, page) == page

    length = stride + more
    page = [*ids[2000 - shift : 2000][:length], *(f"x{n}" for n in range(length - shift))]
    assert recent.new(page, page) == page[shift:]
    assert recent._edges == {edge for edges in recent._edges_of for edge in edges}
