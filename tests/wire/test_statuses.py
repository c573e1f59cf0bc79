"""What each status says: was it charged, was the work begun, may it pass."""

from __future__ import annotations

import pytest

from tokfluence_async._wire.statuses import Meaning, Past, meaning_of

NONE, REFUSED, POSSIBLE = Past.FRESH, Past.REFUSED, Past.MAYBE

# status, code, charged, adds, passes, crowded
SAID = [
    (300, None, False, NONE, False, False),
    (399, None, False, NONE, False, False),
    (400, "invalid_request", True, NONE, False, False),
    (401, "unauthorized", False, NONE, False, False),
    (402, "insufficient_credits", False, REFUSED, False, False),
    (403, "plan_required", True, NONE, False, False),
    (404, "post_not_found", True, NONE, False, False),
    (408, None, True, POSSIBLE, True, False),
    (409, "duplicate_request", False, NONE, False, False),
    (422, "missing_parameter", True, NONE, False, False),
    (425, None, True, POSSIBLE, True, False),
    (429, "rate_limited", False, REFUSED, True, True),
    (500, "internal_error", True, POSSIBLE, True, False),
    (501, None, True, POSSIBLE, False, False),
    (502, "upstream_error", False, REFUSED, True, False),
    (502, None, True, POSSIBLE, True, False),
    (502, "bad_gateway", True, POSSIBLE, True, False),
    (503, None, True, POSSIBLE, True, True),
    # A proxy's 503 that carries the API's word is no refund of the API's: a batch that was done
    # would be billed again.
    (503, "upstream_error", True, POSSIBLE, True, True),
    (504, "upstream_error", True, POSSIBLE, True, False),
    (505, None, True, POSSIBLE, False, False),
]


@pytest.mark.parametrize(("status", "code", "charged", "adds", "passes", "crowded"), SAID)
def test_what_a_status_says(
    status: int, code: str | None, charged: bool, adds: Past, passes: bool, crowded: bool
) -> None:
    """As the page says [public]; where it says nothing, the charge is taken as made and the work as
    begun, so that no budget is overrun and no batch is billed again."""
    assert meaning_of(status, code) == Meaning(charged, adds, passes, crowded)
