"""Real reverse proxies between client and service: they buffer, compress, cut, answer by
themselves, and send twice."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tokfluence_async import InternalServerError, Sandbox, Throttle, TokfluenceClient, UpstreamError
from tokfluence_async._sandbox.faults import Fault
from tokfluence_async._sandbox.ledger import ANALYZE, COMMENTS, POST

from .conftest import POST_ID, SECRET, TOKEN, ids
from .test_connections import free_port

pytestmark = pytest.mark.real_time

NGINX = """
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log; {user}
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
    uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
    upstream api {{
        server 127.0.0.1:{upstream} max_fails=0; server 127.0.0.1:{upstream} max_fails=0;
        keepalive 2;
    }}
    gzip on; gzip_min_length 1; gzip_proxied any; gzip_types application/json;
    proxy_buffer_size 4k; proxy_buffers 4 4k; proxy_busy_buffers_size 8k;
    proxy_max_temp_file_size 0;
    keepalive_requests 7; keepalive_timeout 2s;
    server {{
        listen 127.0.0.1:{listen};
        location / {{
            proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_connect_timeout 1s; proxy_read_timeout 1s;
            proxy_next_upstream error timeout invalid_header http_502 http_503;
            proxy_next_upstream_tries 2;
        }}
    }}
}}
"""

# `retry-on` makes HAProxy send requests again of any method, analyze included: the worst that can
# stand in between.
HAPROXY = """
global
    maxconn 500
defaults
    mode http
    timeout connect 1s
    timeout client 10s
    timeout server 1s
    timeout http-keep-alive 1s
    retries 1
    retry-on all-retryable-errors
    option redispatch
frontend in
    bind 127.0.0.1:{listen}
    default_backend out
backend out
    http-reuse always
    server one 127.0.0.1:{upstream}
"""

PROXIES = {
    "nginx": (NGINX, ["nginx", "-p", "{dir}", "-c"]),
    "haproxy": (HAPROXY, ["haproxy", "-db", "-f"]),
}


@pytest.fixture(params=PROXIES)
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


def write_config(proxy: str, directory: Path, listen: int, upstream: int) -> str:
    path = directory / f"{proxy}.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    path.write_text(
        PROXIES[proxy][0].format(dir=directory, listen=listen, upstream=upstream, user=user)
    )
    return str(path)


def check_logs(directory: Path) -> None:
    for log in directory.iterdir():
        if log.is_file():
            assert SECRET not in log.read_text(errors="replace")


@asynccontextmanager
async def behind(
    proxy: str, directory: Path, **options: Any
) -> AsyncIterator[tuple[Sandbox, TokfluenceClient]]:
    listen = free_port()
    sandbox = Sandbox(
        **{"token": TOKEN, "seconds_per_url": 0.0, "visibility_delay": 0.0, **options}
    )
    async with sandbox:
        config = write_config(proxy, directory, listen, sandbox.port)
        command = [part.format(dir=directory) for part in PROXIES[proxy][1]]
        with (directory / "output").open("wb") as output:
            process = subprocess.Popen(  # noqa: ASYNC220 - started once, and it must not depend on the loop
                [*command, config], stdout=output, stderr=output
            )
        try:
            for _ in range(200):
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", listen)
                    writer.close()
                    break
                except ConnectionError:
                    assert process.poll() is None, (directory / "output").read_text()
                    await asyncio.sleep(0.02)
            async with TokfluenceClient(TOKEN, base_url=f"http://127.0.0.1:{listen}") as client:
                yield sandbox, client
        finally:
            process.terminate()
            process.wait(10)
    check_logs(directory)


def check_money(sandbox: Sandbox, client: TokfluenceClient) -> None:
    """The proxy may have sent more than we did; it must not cost more than we know of, nor a batch
    twice."""
    usage = client.usage
    assert sandbox.billed_twice() == []
    assert usage.credits_spent >= sandbox.credits_spent


async def everything(client: TokfluenceClient) -> None:
    """Each kind of call, to the end, and right."""
    assert (await client.posts.get(POST_ID)).post_id == POST_ID
    found = [
        comment.comment_id
        async for comment in client.posts.comments(POST_ID, limit=100, prefetch=2)
    ]
    assert len(found) == len(set(found)) == 450
    report = await client.posts.analyze(ids(12, start=100), batch_size=4)
    report.raise_for_errors()
    posts = [outcome.unwrap().post_id async for outcome in client.posts.resolve(ids(3, start=100))]
    assert sorted(posts) == ids(3, start=100)


async def test_everything_works_through_it(proxy: str, tmp_path: Path) -> None:
    """Compressed, in small buffers, over connections that it closes every few requests; and nothing
    is paid twice."""
    async with behind(proxy, tmp_path, indexed=[POST_ID], comments_per_post=450) as (
        sandbox,
        client,
    ):
        await everything(client)

        assert sandbox.requests_received == client.usage.requests
        assert client.usage.credits_spent == sandbox.credits_spent
        assert sandbox.billed_twice() == []


FAULTS: dict[str, Callable[[Sandbox, str], Fault]] = {
    "answers dropped": lambda s, to: s.drop_answer(to=to, times=1),
    "connections refused": lambda s, to: s.refuse_connection(to=to, times=2),
    "bodies cut": lambda s, to: s.cut_body(to=to, times=2),
    "bodies reset": lambda s, to: s.reset_body(to=to, times=2),
    "chunked bodies cut": lambda s, to: s.cut_body(to=to, times=2, chunked=True),
    "too slow": lambda s, to: s.stall(1.5, to=to, times=1),
    "503 after the work": lambda s, to: s.proxy_error(503, to=to, times=2, when="after"),
    "500": lambda s, to: s.internal_error(to=to, times=2),
    # Once: what arrived whole and cannot be used is asked for once more, and not again.
    "garbage": lambda s, to: s.replace_body(b"<html>", to=to, times=1),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_faults_behind_it_are_survived_and_paid_for_once(
    proxy: str, tmp_path: Path, fault: str
) -> None:
    """A proxy that sends again under the same id gets 409: a read is then repeated under a new one,
    a batch was done."""
    async with behind(proxy, tmp_path, indexed=[POST_ID], comments_per_post=450) as (
        sandbox,
        client,
    ):
        faults = [FAULTS[fault](sandbox, route) for route in (POST, COMMENTS, ANALYZE)]

        assert (await client.posts.get(POST_ID)).post_id == POST_ID
        found = [comment.comment_id async for comment in client.posts.comments(POST_ID, limit=100)]
        report = await client.posts.analyze(ids(3, start=100), batch_size=3)

        assert len(found) == len(set(found)) == 450
        assert {outcome.unwrap().status for outcome in report.outcomes} <= {
            "analyzed",
            "duplicate_request",
        }
        assert sandbox.times_charged() == dict.fromkeys(ids(3, start=100), 1)
        assert all(fault.hits for fault in faults)
        check_money(sandbox, client)


async def test_a_service_that_is_down_is_told_by_status(proxy: str, tmp_path: Path) -> None:
    """The proxy's own 502 or 503 in HTML: no code, no credits, an error of ours; when the service
    is back, so are we."""
    async with behind(proxy, tmp_path, indexed=[POST_ID]) as (sandbox, client):
        port = sandbox.port
        await client.posts.get(POST_ID)
        await sandbox.aclose()

        with pytest.raises((UpstreamError, InternalServerError)) as caught:
            await client.with_options(max_retries=1).posts.get(POST_ID)
        assert caught.value.code is None
        assert caught.value.credits_remaining is None
        assert "html" in str(caught.value).lower()

        async with Sandbox(token=TOKEN, port=port, indexed=[POST_ID]) as again:
            assert (await client.posts.get(POST_ID)).post_id == POST_ID
            assert again.requests_received == 1


async def test_many_at_once_over_few_connections_of_its_own(proxy: str, tmp_path: Path) -> None:
    """Answers are not mixed up, whatever the proxy does with its connections."""
    async with behind(proxy, tmp_path, per_ip=None, per_key=None, latency=0.01) as (
        sandbox,
        client,
    ):
        origin = client._engine.origin
        fast = TokfluenceClient(
            TOKEN, base_url=origin, throttle=Throttle(None, None), max_concurrency=30
        )

        posts = await asyncio.gather(*(fast.posts.get(post_id) for post_id in ids(300)))

        assert [post.post_id for post in posts] == ids(300)
        assert Counter(entry.path.rpartition("/")[2] for entry in sandbox.requests).keys() == set(
            ids(300)
        )
        assert fast.usage.credits_spent >= sandbox.credits_spent
        await fast.aclose()
