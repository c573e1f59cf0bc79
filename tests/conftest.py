"""Every test runs on the virtual clock unless it is marked `real_time`; the sandbox and a client of
it are fixtures.

@pytest.mark.sandbox(indexed=0.0)      # options of the Sandbox
@pytest.mark.client(max_retries=0)     # options of the client
async def test_...(sandbox, client): ...
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from aioresponses import aioresponses
from aioresponses import core as aioresponses_core
from hypothesis import HealthCheck, settings

from tokfluence_async import Sandbox, TokfluenceClient
from tokfluence_async.testing import VirtualLoop

# No deadline in wall time: the machine is shared. Failures print what reproduces them.
settings.register_profile(
    "here",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.load_profile("here")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "sandbox(**options): how the `sandbox` fixture's Sandbox is made"
    )
    config.addinivalue_line(
        "markers", "client(**options): how the `client` fixture's TokfluenceClient is made"
    )


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("real_time"):
        return {"real": asyncio.new_event_loop}
    return {"virtual": VirtualLoop}


def _options(request: pytest.FixtureRequest, name: str) -> dict[str, Any]:
    marks = list(request.node.iter_markers(name))
    return {key: value for mark in reversed(marks) for key, value in mark.kwargs.items()}


@pytest.fixture
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """A sandbox in which every post is indexed, unless the `sandbox` mark says otherwise."""
    async with Sandbox(**_options(request, "sandbox")) as started:
        yield started


@pytest.fixture
async def client(
    request: pytest.FixtureRequest, sandbox: Sandbox
) -> AsyncIterator[TokfluenceClient]:
    """A client of `sandbox`."""
    async with TokfluenceClient(
        sandbox.token, base_url=sandbox.url, **_options(request, "client")
    ) as opened:
        yield opened


def run_virtual(work: Callable[[], Any]) -> Any:
    """Run an async function on a virtual loop of its own; for Hypothesis, whose examples must not
    share one."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work())


@pytest.fixture
def virtually() -> Callable[[Callable[[], Any]], Any]:
    return run_virtual


FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def documented() -> Mapping[str, Any]:
    """The documented bodies by name (`post`, `comments`, `analyze`, `error`), as parsed JSON."""
    return {path.stem: json.loads(path.read_bytes()) for path in FIXTURES.glob("*.json")}


# aioresponses 0.7.9 on aiohttp 3.14: its responses lack the `stream_writer` argument, and its
# stream readers pause a transport that is not there once a body is over 131 072 bytes.
# tests/canned/test_canary.py tells when this can go.


class _Response(aiohttp.ClientResponse):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, stream_writer=Mock(output_size=0), **kwargs)


def _reader(loop: Any = None) -> aiohttp.StreamReader:
    return aiohttp.StreamReader(ResponseHandler(loop=loop), limit=2**30, loop=loop)


@pytest.fixture
def response_class() -> type[aiohttp.ClientResponse]:
    return _Response


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> Iterator[aioresponses]:
    """Single canned answers by aioresponses. It knows nothing of time limits, cut bodies,
    middlewares or connections: those are tested on the sandbox."""
    monkeypatch.setattr(aioresponses_core, "stream_reader_factory", _reader)
    with aioresponses() as answers:
        monkeypatch.setattr(answers, "add", partial(answers.add, response_class=_Response))
        yield answers
