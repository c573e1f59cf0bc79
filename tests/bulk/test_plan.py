"""How batches are cut, and how an answer's rows find their inputs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfluence_async._bulk.planner import Planner, match_rows
from tokfluence_async._models import Analysis
from tokfluence_async._wire.bodies import AnalyzeBody, AnalyzeRow
from tokfluence_async._wire.ids import PostRef
from tokfluence_async._wire.shapes import Shape

REFS = [PostRef(str(n), "@wwe") for n in range(1, 6)]


def row(post_id: Any, url: str | None = None, status: str | None = "analyzed") -> AnalyzeRow:
    return AnalyzeRow(url=url, post_id=post_id, status=status)


spelled = st.sampled_from(["plain", "int", "url only", "url in id", "photo", "respelled"])


@given(
    st.permutations(range(5)), st.lists(spelled, min_size=5, max_size=5), st.sets(st.integers(0, 4))
)
def test_rows_are_matched_by_video_id_whatever_order_or_spelling(
    order: list[int], forms: list[str], left_out: set[int]
) -> None:
    """The page promises neither; matching by position would give posts each other's status."""
    rows: list[AnalyzeRow] = []
    for n in order:
        if n in left_out:
            continue
        ref, form = REFS[n], forms[n]
        word = f"status-{ref.post_id}"
        rows.append(
            {
                "plain": row(ref.post_id, ref.url, word),
                "int": row(int(ref.post_id), None, word),
                "url only": row(None, ref.url, word),
                "url in id": row(f"HTTPS://M.TIKTOK.COM/v/{ref.post_id}.html", "...", word),
                "photo": row("tkp_0123", f"tiktok.com/@x/photo/{ref.post_id}?a=b", word),
                "respelled": row(f" {ref.post_id} ", None, word),
            }[form]
        )

    found = match_rows(REFS, rows)

    assert set(found) == {ref.post_id for n, ref in enumerate(REFS) if n not in left_out}
    assert all(analysis.post_id == post_id for post_id, analysis in found.items())
    assert all(analysis.status == f"status-{post_id}" for post_id, analysis in found.items())


def test_rows_nobody_asked_for_are_left_out() -> None:
    """And so are rows that name nothing, and second rows of one post: the first one's word
    stands."""
    rows = [
        row("99"),
        row(None),
        row("bad", "bad"),
        row("1", None, "analyzed"),
        row("1", None, "fresh"),
        row(True),
    ]

    found = match_rows(REFS, rows)

    assert {post_id: analysis.status for post_id, analysis in found.items()} == {"1": "analyzed"}


def test_a_row_whose_id_is_another_posts_is_known_by_its_url() -> None:
    """`postId` first, else the URL: a service that reports an internal id in the one still says
    which in the other."""
    found = match_rows(REFS, [row("123456", REFS[2].url)])

    assert set(found) == {"3"}


@pytest.mark.parametrize("word", ["analyzed", "fresh", "queued", "", None, "ANALYZED", "näher"])
def test_any_status_passes_through(word: str | None) -> None:
    """Two are documented, others may exist: a closed enum would turn a new one into an outage (trap
    23)."""
    found = match_rows(REFS, [row("1", None, word)])

    assert found["1"].status == (word or "")


@given(
    st.integers(1, 60),
    st.none() | st.integers(1, 50),
    st.integers(0, 5000),
    st.lists(st.floats(0.001, 600), max_size=5),
)
def test_every_size_is_one_the_service_takes(
    concurrency: int, batch_size: int | None, left: int, seconds: list[float]
) -> None:
    """1 to 50, whatever was seen before; a fixed size is kept to."""
    planner = Planner(concurrency, batch_size)
    for each in seconds:
        planner.observe(10, each)

    for of in (left, None):
        size = planner.next_size(of)
        assert 1 <= size <= 50
        assert batch_size is None or size == batch_size


def test_batches_shrink_towards_the_end() -> None:
    """So that no worker is busy for minutes when the others are done
    (`docs/design/planner.md`)."""
    planner = Planner(8)
    planner.observe(100, 50.0)
    left, sizes = 1000, list[int]()

    while left:
        sizes.append(min(planner.next_size(left), left))
        left -= sizes[-1]

    assert sum(sizes) == 1000
    assert sizes[0] == 50
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


def test_no_batch_is_expected_to_take_longer_than_45_seconds() -> None:
    """Nothing seen: ten. Then by the seconds per URL seen so far; a very slow service gets single
    URLs."""
    planner = Planner(8)
    assert planner.next_size(1000) == 10
    assert planner.expected(7) == 0.0

    planner.observe(10, 40.0)
    assert planner.next_size(1000) == 6  # the mean of ten may be two thirds too low
    assert planner.expected(7) == pytest.approx(28.0)

    slow = Planner(8)
    slow.observe(1, 500.0)
    assert slow.next_size(1000) == 1


@pytest.mark.parametrize(
    "odd", [None, "row", 5, 1.5, True, [1], {"postId": ["2"], "url": {"a": 1}, "status": "x"}]
)
@pytest.mark.parametrize("meta", [None, 7, {"cost": "75"}, {"cost": None}, []])
def test_an_odd_row_or_meta_takes_no_other_row_with_it(odd: Any, meta: Any) -> None:
    """The answer is paid for: what can be read of it is read, and the batch is not sent again."""
    body = {"data": [odd, {"url": 5, "postId": 1, "status": 3}], "meta": meta}

    rows = Shape[AnalyzeBody](AnalyzeBody).decode(json.dumps(body).encode()).data
    found = match_rows([PostRef("1"), PostRef("2")], rows)

    assert found == {"1": Analysis(post_id="1", url=None, status="3")}


def test_a_row_keeps_its_url_where_that_is_a_text() -> None:
    """As the service spelt it."""
    found = match_rows(REFS, [row("1", "https://x.example/1"), row("2", 5), row("3")])

    assert {key: analysis.url for key, analysis in found.items()} == {
        "1": "https://x.example/1",
        "2": None,
        "3": None,
    }
