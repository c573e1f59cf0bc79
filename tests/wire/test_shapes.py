"""A body to a value of a type."""

from __future__ import annotations

import pytest

from tokfluence_async._wire import shapes as _shapes
from tokfluence_async._wire.bodies import PostBody
from tokfluence_async._wire.shapes import Shape


def test_an_odd_field_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """Read leniently, but not in silence; and a crawl may meet it a million times."""
    _shapes._told.clear()
    shape: Shape[PostBody] = Shape(PostBody)

    posts = [shape.decode(b'{"data": {"post_id": "1", "views": "many"}}').data for _ in range(3)]

    assert [post.views for post in posts] == [None] * 3
    [record] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "$.data.views" in record.getMessage()
