"""Posts and comments: shaped as documented, the same every time, each on its own."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokfluence_async._sandbox.world import World, fraction_of, heavy_tailed, post_id_of_url

from .conftest import POST_ID

FIXTURES = Path(__file__).parent.parent / "fixtures"
ids = st.integers(0, 10**20 - 1).map(str)


def fixture(name: str) -> Any:
    return json.loads((FIXTURES / name).read_text())


def shape(value: Any) -> Any:
    """Keys in order, and JSON types."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return "list" if isinstance(value, list) else type(value).__name__


@given(ids)
def test_a_post_has_exactly_the_documented_fields(post_id: str) -> None:
    """Fields and types of `fixtures/post.json`, in its order."""
    post = World().post(post_id)

    assert list(post) == list(fixture("post.json")["data"])
    assert shape(post) == shape(fixture("post.json")["data"])
    assert post["post_id"] == post_id
    assert post_id_of_url(post["url"]) == post_id


@given(ids, st.integers(0, 10**6))
def test_a_comment_has_exactly_the_documented_fields(post_id: str, offset: int) -> None:
    """Fields and types of `fixtures/comments.json`; only the parent is sometimes a string,
    sometimes null."""
    comment = World(comments_per_post=10**7).comment(post_id, offset)
    documented = fixture("comments.json")["data"][0]

    assert list(comment) == list(documented)
    parent = comment.pop("parent_comment_id")
    documented.pop("parent_comment_id")
    assert shape(comment) == shape(documented)
    assert parent is None or (
        parent.startswith(f"{post_id}-c-") and parent != comment["comment_id"]
    )


def test_the_same_seed_makes_the_same_world_in_another_process() -> None:
    """Hash randomisation and the order of calls must not matter: ledgers of two runs are
    compared."""
    code = (
        "import json; from tokfluence_async._sandbox.world import World; w = World(7, "
        "comments_per_post=9);"
        f"print(json.dumps([w.comment('{POST_ID}', 5), w.post('{POST_ID}')]))"
    )
    elsewhere = json.loads(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    )
    world = World(7, comments_per_post=9)

    assert elsewhere == [world.comment(POST_ID, 5), world.post(POST_ID)]
    assert World(8).post(POST_ID) != world.post(POST_ID)


def test_a_late_comment_costs_no_more_than_the_first() -> None:
    """Comment 10 ** 12 is made without the others, so millions need no memory."""
    world = World(comments_per_post=10**13)

    assert world.comment(POST_ID, 10**12)["comment_id"] == f"{POST_ID}-c-{10**12 + 1}"


def test_added_comments_come_in_front_and_move_the_others() -> None:
    """Offsets shift, identities do not."""
    world = World(comments_per_post=5)
    before = [world.comment(POST_ID, offset) for offset in range(5)]

    world.add_comments(POST_ID, 3)

    after = [world.comment(POST_ID, offset) for offset in range(8)]
    assert after[3:] == before
    assert [comment["comment_id"] for comment in after[:3]] == [
        f"{POST_ID}-c-{n}" for n in (8, 7, 6)
    ]
    stamps = [comment["published_at"] for comment in after]
    assert stamps == sorted(stamps, reverse=True)
    assert world.total_comments(POST_ID) == world.post(POST_ID)["comments"] == 8
    with pytest.raises(ValueError):
        world.add_comments(POST_ID, -1)


def test_comment_ids_do_not_repeat() -> None:
    """A client that folds by comment id must be able to rely on it."""
    world = World(comments_per_post=2000)
    world.add_comments(POST_ID, 500)

    assert len({world.comment(POST_ID, offset)["comment_id"] for offset in range(2500)}) == 2500


def test_texts_are_what_people_write() -> None:
    """Emoji with joiners, right-to-left, CJK, combining marks, newlines, quotes and markup all
    occur."""
    world = World(comments_per_post=3000)
    text = "".join(world.comment(POST_ID, offset)["text"] for offset in range(3000))

    assert "\u200d" in text
    assert "\n" in text
    assert '"' in text
    assert "<b>" in text
    assert {"R", "AL", "L", "NSM"} <= {unicodedata.bidirectional(char) for char in text}
    assert max(map(ord, text)) > 0xFFFF
    assert unicodedata.normalize("NFC", text) != text


def test_numbers_of_comments_are_spread() -> None:
    """None, a few, and thousands: what a crawl meets."""
    totals = [World().total_comments(str(7 * 10**18 + n)) for n in range(400)]

    assert min(totals) == 0
    assert max(totals) > 1500
    assert sorted(totals)[200] < 200
    assert World(comments_per_post=lambda post_id: int(post_id) % 10).total_comments("17") == 7


def test_nulls_and_unknown_fields_come_when_asked_for() -> None:
    """What the page does not promise, a client has to stand."""
    world = World(nulls=1.0, extra_fields=True, comments_per_post=3)
    post, comment = world.post(POST_ID), world.comment(POST_ID, 0)

    assert post["caption"] is None
    assert post["music"] is None
    assert post["post_id"] == POST_ID
    assert "region" in post
    assert comment["text"] is None
    assert comment["comment_id"] == f"{POST_ID}-c-1"
    assert "is_pinned" in comment
    assert "isrc" in World(extra_fields=True).post(POST_ID)["music"]
    some = [World(nulls=0.3).post(str(n))["caption"] is None for n in range(200)]
    assert 20 < sum(some) < 100


@pytest.mark.parametrize(
    ("url", "post_id"),
    [
        (f"https://www.tiktok.com/@wwe/video/{POST_ID}", POST_ID),
        (f"http://m.tiktok.com/v/{POST_ID}.html", POST_ID),
        (f"HTTPS://WWW.TikTok.com/@a.b_c/photo/{POST_ID}?lang=en#x", POST_ID),
        (f"https://tiktok.com/@/video/{POST_ID}/", POST_ID),
        (f"www.tiktok.com/@wwe/video/{POST_ID}", None),
        (POST_ID, None),
        (f"https://www.tiktok.com.evil.com/@wwe/video/{POST_ID}", None),
        (f"https://evil.com/?https://www.tiktok.com/@wwe/video/{POST_ID}", None),
        ("https://vm.tiktok.com/ZMabc/", None),
        ("https://www.tiktok.com/@wwe/video/１２３", None),
        (f"https://www.tiktok.com/@wwe/video/{POST_ID}\n", None),
        (7234567890123456789, None),
        (None, None),
    ],
)
def test_only_video_urls_are_video_urls(url: object, post_id: str | None) -> None:
    """Strict: a client that sends anything else is wrong, and should hear it."""
    assert post_id_of_url(url) == post_id


def test_heavy_tails_are_heavy_and_end() -> None:
    """Half below the median, few far above it, none above the longest."""
    seconds = sorted(map(heavy_tailed(2.0, longest=60.0), map(str, range(2000))))

    assert seconds[1000] == pytest.approx(2.0, rel=0.1)
    assert seconds[1950] > 10
    assert seconds[-1] <= 60.0
    assert sum(seconds) / 2000 > 1.4 * seconds[1000]


@given(st.lists(st.text()))
def test_fractions_lie_between_zero_and_one(parts: list[str]) -> None:
    """And one is left out, or `indexed=1.0` would miss posts."""
    assert 0 <= fraction_of(*parts) < 1
