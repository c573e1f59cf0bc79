"""The models of nginx and HAProxy beside the real ones, which are on most machines where this
matters.

The same requests go to the real server, in bursts and lulls over some seconds, each with the time
it was sent; the model is asked about those times afterwards. Both count in whole milliseconds of
clocks that are not ours, so a decision that hangs on one millisecond may differ; what was let
through in all may not.
"""

from __future__ import annotations

import contextlib
import getpass
import http.client
import itertools
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tokfluence_async._sandbox.throttles import HAProxyRate, NginxLimitReq, Throttle

pytestmark = pytest.mark.real_time

NGINX = """
daemon off; user {user}; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log crit;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;
  fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d;
  scgi_temp_path {folder}/e; keepalive_requests 100000;
  limit_req_zone $binary_remote_addr zone=one:1m rate={rate}r/s;
  limit_req_status 429;
  server {{ listen 127.0.0.1:{port}; root {folder}; location / {{ limit_req zone=one {burst}; }} }}
}}
"""
HAPROXY = """
defaults
  mode http
  timeout client 30s
  timeout connect 5s
  timeout server 30s
frontend one
  bind 127.0.0.1:{port}
  stick-table type ip size 1k expire 60s store http_req_rate({period}ms)
  http-request track-sc0 src
  http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt {limit} }}
  http-request return status 200
"""


def _program(name: str) -> str:
    path = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        for _ in range(500):
            if process.poll() is not None:
                errors = process.stderr.read() if process.stderr is not None else b""
                pytest.fail(f"{command[0]} did not start: {errors.decode()}")
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=1),
            ):
                break
            time.sleep(0.01)
        yield
    finally:
        process.terminate()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def _ask(port: int, gaps: list[float]) -> tuple[list[float], list[bool]]:
    """Send a request after each gap; when each was sent, and whether it was let through."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.connect()
    times: list[float] = []
    passed: list[bool] = []
    for gap in gaps:
        if gap:
            time.sleep(gap)
        before = time.monotonic()
        connection.request("GET", "/x.txt")
        response = connection.getresponse()
        response.read()
        times.append((before + time.monotonic()) / 2)
        assert response.status in (200, 429)
        passed.append(response.status == 200)
    connection.close()
    return times, passed


def _bursts_and_lulls(seconds: float) -> list[float]:
    """Requests in clumps, at a pace, and not at all: what tells algorithms apart."""
    chance = random.Random(3)
    gaps: list[float] = []
    while sum(gaps) < seconds:
        kind = chance.choice(["burst", "pace", "lull"])
        if kind == "burst":
            gaps += [0.0] * chance.randrange(10, 60)
        elif kind == "pace":
            gaps += [chance.uniform(0.002, 0.012) for _ in range(chance.randrange(5, 30))]
        else:
            gaps.append(chance.uniform(0.05, 0.4))
    return gaps


def _compare(
    run: Callable[[], tuple[list[float], list[bool]]],
    model: Callable[[], Throttle],
    *,
    ahead: int,
    alike: float,
) -> None:
    """Up to three runs, until in one of them the two were never further apart than `ahead` requests
    let through, and enough decisions alike.

    A busy machine blurs when a request arrived, which no model can know; a model that is wrong is
    wrong each time.
    """
    for _ in range(3):
        times, passed = run()
        assert 20 < sum(passed) < len(passed) - 20, (
            "this run could not have told one algorithm from another"
        )
        throttle = model()
        modelled = [throttle.allow(at) == 0.0 for at in times]
        agreed = sum(ours == theirs for ours, theirs in zip(modelled, passed, strict=True)) / len(
            passed
        )
        counts = zip(itertools.accumulate(modelled), itertools.accumulate(passed), strict=True)
        apart = max(abs(ours - theirs) for ours, theirs in counts)
        print(
            f"{agreed:.1%} of {len(passed)} decisions alike, {apart} apart at most, "
            f"{sum(passed)} let through"
        )
        if apart <= ahead and agreed >= alike:
            return
    pytest.fail(f"{apart} apart, where {ahead} may be, and {agreed:.1%} of the decisions alike")


# nginx reads CLOCK_MONOTONIC_COARSE, which moves in steps of up to 4 ms: without a burst every
# decision hangs on that, so the interval there has to be much longer.
@pytest.mark.parametrize(("rate", "burst"), [(20, 0), (100, 20)])
def test_nginx_counts_as_its_model_does(tmp_path: Path, rate: int, burst: int) -> None:
    """`limit_req` with and without a burst."""
    program, port = _program("nginx"), _free_port()
    (tmp_path / "x.txt").write_text("x")
    tmp_path.chmod(0o755)
    config = tmp_path / "nginx.conf"
    config.write_text(
        NGINX.format(
            folder=tmp_path,
            user=getpass.getuser(),
            port=port,
            rate=rate,
            burst=f"burst={burst} nodelay" if burst else "",
        )
    )

    def run() -> tuple[list[float], list[bool]]:
        with _running(
            [program, "-c", str(config), "-p", str(tmp_path), "-e", str(tmp_path / "error.log")],
            port,
        ):
            return _ask(port, _bursts_and_lulls(4.0))

    # Seen, of eight runs, three of them with four busy loops beside: with a burst 0 or 1 apart,
    # where 105 for 100 is 4 to 6 and a burst of 19 or 21 is 3 or 4. Without one 0 or 1 apart, and
    # 95 to 100 % alike (once, when busy, 4 and 88 %), where 21 for 20 is 1 to 6 apart and 80 to
    # 91.5 % alike: one that differs moves those after it.
    _compare(
        run, lambda: NginxLimitReq(rate, 1.0, burst=burst), ahead=2, alike=0.9 if burst else 0.95
    )


def test_haproxy_counts_as_its_model_does(tmp_path: Path) -> None:
    """`http_req_rate`, and a rule that denies above it: denied requests count too."""
    program, port = _program("haproxy"), _free_port()
    config = tmp_path / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, period=500, limit=40))

    def run() -> tuple[list[float], list[bool]]:
        with _running([program, "-f", str(config)], port):
            return _ask(port, _bursts_and_lulls(3.0))

    # Seen: all alike, busy or not; 39 or 41 for 40 is 2 or 3 apart.
    _compare(run, lambda: HAProxyRate(40, 0.5), ahead=1, alike=0.98)
