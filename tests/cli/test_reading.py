"""`tokfluence post` and `tokfluence comments`."""

from __future__ import annotations

from typing import Any

from tokfluence_async._sandbox.ledger import COMMENTS, POST

from .support import (
    ID,
    Run,
    json_lines,
)


def test_posts_are_json_lines_on_standard_output(run: Run, sandboxes: dict[str, Any]) -> None:
    """Programs read standard output: nothing but data may be there."""
    result = run("post", ID, f"https://m.tiktok.com/v/{ID}.html", "2", "--sandbox")

    assert result.exit_code == 0
    assert sorted(post["post_id"] for post in json_lines(result.stdout)) == ["2", ID]
    assert sandboxes["made"].times(to=POST)
    assert sandboxes["made"].credits_spent == 2
    assert "2 credits spent" in result.stderr


def test_a_failed_input_is_told_and_the_others_are_written(
    run: Run, sandboxes: dict[str, Any]
) -> None:
    """Status 1 says that something is missing from the data."""
    sandboxes["options"] = {"indexed": {ID}}

    result = run("post", ID, "2", "[/nope]", "--sandbox")

    assert result.exit_code == 1
    assert [post["post_id"] for post in json_lines(result.stdout)] == [ID]
    assert "failed: 2: 404 post_not_found" in result.stderr
    assert "failed: [/nope]:" in result.stderr
    assert sandboxes["made"].credits_spent == 2


def test_comments_come_in_order(run: Run, sandboxes: dict[str, Any]) -> None:
    """Two credits a page of 200."""
    sandboxes["options"] = {"comments_per_post": 450}

    result = run("comments", ID, "--sandbox")

    assert [c["comment_id"] for c in json_lines(result.stdout)] == [
        f"{ID}-c-{n}" for n in range(1, 451)
    ]
    assert result.exit_code == 0
    assert sandboxes["made"].credits_spent == 6


def test_max_items_and_cursor_bound_what_is_bought(run: Run, sandboxes: dict[str, Any]) -> None:
    """A look at a few comments costs a page, not a post's worth."""
    sandboxes["options"] = {"comments_per_post": 5000}

    result = run("comments", ID, "--sandbox", "--max-items", "10", "--cursor", "200")

    assert [c["comment_id"] for c in json_lines(result.stdout)] == [
        f"{ID}-c-{n}" for n in range(201, 211)
    ]
    assert sandboxes["made"].times(to=COMMENTS)
    assert sandboxes["made"].credits_spent == 2


def test_comments_that_end_early_say_how_to_go_on(run: Run, sandboxes: dict[str, Any]) -> None:
    """What was paid for stands on standard output; the rest is one option away."""
    sandboxes["options"] = {"comments_per_post": 1000}

    result = run("comments", ID, "--sandbox", "--max-credits", "4")

    assert result.exit_code == 3
    assert len(json_lines(result.stdout)) == 400
    assert "--cursor 400" in result.stderr


def test_comments_of_an_unknown_post(run: Run, sandboxes: dict[str, Any]) -> None:
    """Status 1 and the service's word."""
    sandboxes["options"] = {"indexed": 0.0}

    result = run("comments", "1", "--sandbox")
    malformed = run("comments", "nope", "--sandbox")

    assert (result.exit_code, malformed.exit_code) == (1, 1)
    assert "post_not_found" in result.stderr
    assert "'nope' is not a TikTok post" in malformed.stderr
