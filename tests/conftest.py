"""Every test runs on the virtual clock unless it is marked `real_time`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tokfluence_async.testing import VirtualLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("real_time"):
        return {"real": asyncio.new_event_loop}
    return {"virtual": VirtualLoop}
