"""Real nginx and HAProxy on loopback, with a jittering network in front of them, in real time at a
tenth of the scale."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ._throttle_limiters import Contender

__all__ = ["LIMIT", "PERIOD", "SERVERS", "find", "race"]

LIMIT, PERIOD = 600, 6.0
# 200 ms at the real scale.
JITTER = 0.02
WORKERS = 40

_NGINX = """
daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log crit;
events {{ worker_connections 256; }}
http {{
  access_log off; keepalive_requests 1000000;
  client_body_temp_path {root}; proxy_temp_path {root}; fastcgi_temp_path {root};
  uwsgi_temp_path {root}; scgi_temp_path {root};
  limit_req_zone $binary_remote_addr zone=ip:1m rate={rate}r/s;
  limit_req_status 429;
  server {{
    listen 127.0.0.1:{port};
    # Not `return`: it answers in the rewrite phase, before limit_req is asked.
    location / {{ limit_req zone=ip burst=20 nodelay; root {root}; try_files /ok =500; }}
  }}
}}
"""

_HAPROXY = """
global
  nbthread 1
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
  timeout http-keep-alive 60s
frontend f
  bind 127.0.0.1:{port}
  stick-table type ip size 1k expire 60s store http_req_rate({period}ms)
  http-request track-sc0 src
  acl over sc_http_req_rate(0) gt {limit}
  http-request return status 429 content-type text/plain string "no" if over
  http-request return status 200 content-type text/plain string "ok"
"""


def find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _serving(config: str, command: Callable[[Path], list[str]]) -> Iterator[int]:
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # nginx's worker runs as another user when it is started by root.
        root.chmod(0o755)
        (root / "ok").write_text("ok")
        text = config.format(
            root=root,
            port=port,
            rate=round(LIMIT / PERIOD),
            limit=LIMIT,
            period=round(PERIOD * 1000),
        )
        (root / "conf").write_text(text)
        server = subprocess.Popen(command(root / "conf"), stderr=subprocess.DEVNULL)
        try:
            for _ in range(200):
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection(("127.0.0.1", port), 0.2),
                ):
                    break
                time.sleep(0.02)
            else:
                raise RuntimeError(f"{command(root / 'conf')[0]} does not listen")
            yield port
        finally:
            server.terminate()
            server.wait(10)


def nginx() -> contextlib.AbstractContextManager[int]:
    return _serving(
        _NGINX, lambda conf: [find("nginx") or "nginx", "-c", str(conf), "-p", str(conf.parent)]
    )


def haproxy() -> contextlib.AbstractContextManager[int]:
    return _serving(
        _HAPROXY, lambda conf: [find("haproxy") or "haproxy", "-db", "-q", "-f", str(conf)]
    )


SERVERS: dict[str, Callable[[], contextlib.AbstractContextManager[int]]] = {
    "nginx": nginx,
    "haproxy": haproxy,
}


async def _requests(port: int, client: Contender, seconds: float) -> tuple[int, int]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    until = began + seconds + 0.2
    chance = random.Random(3)
    count = {200: 0, 429: 0}

    async def worker() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while True:
                await client.take()
                if loop.time() >= until:
                    return
                await asyncio.sleep(chance.expovariate(1 / JITTER))
                writer.write(b"GET / HTTP/1.1\r\nHost: benchmark\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line[15:])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                )
                await reader.readexactly(length)
                status = int(head[9:12])
                # From a tenth of a second on, when the first have arrived, so that those under way
                # at the end do not count as lost.
                if status == 429 or 0.1 <= loop.time() - began < seconds + 0.1:
                    count[status] += 1
                if status == 429:
                    client.refused(PERIOD / 10)  # neither of them says when to come back
                else:
                    client.answered()
        finally:
            writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(worker())
    return count[200], count[429]


def race(
    server: Callable[[], contextlib.AbstractContextManager[int]],
    limiter: Callable[[int, float], Contender],
    seconds: float,
) -> tuple[float, int]:
    """(part of the permitted rate that got through, refusals), with a server of its own that has
    just started."""

    async def main(port: int) -> tuple[int, int]:
        return await _requests(port, limiter(LIMIT, PERIOD), seconds)

    with server() as port:
        accepted, refused = asyncio.run(main(port))
    return accepted / (LIMIT * seconds / PERIOD), refused
