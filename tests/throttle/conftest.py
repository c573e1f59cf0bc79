"""Origins nobody else uses, as budgets belong to the process."""

from __future__ import annotations

import itertools

import pytest

_numbers = itertools.count()


@pytest.fixture
def origin() -> str:
    return f"http://service-{next(_numbers)}.test"
