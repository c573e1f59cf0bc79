"""Servers that are not the bottleneck, each in a process of its own: nginx with canned files, or a
raw asyncio protocol."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

from .bodies import PAGE_SIZE, POST_ID, comments_data, comments_page, post_body, post_id

__all__ = ["CREDITS", "PAGES", "POSTS", "RAW", "fast", "fast_name", "find_nginx", "nginx", "raw"]

CREDITS = "987654"
# 20 000 comments.
PAGES = 100
# More than any cache of parsed URLs holds, so that nobody is measured on the same one again and
# again.
POSTS = 2000
RAW = "a raw asyncio protocol in Python, in a process of its own"

_NGINX = """
daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;
  keepalive_requests 1000000000; keepalive_timeout 3600;
  open_file_cache max=10000; open_file_cache_valid 1h; default_type application/json;
  client_body_temp_path {root}; proxy_temp_path {root}; fastcgi_temp_path {root};
  uwsgi_temp_path {root}; scgi_temp_path {root};
  server {{
    listen 127.0.0.1:{port}; root {root}/www;
    add_header X-Credits-Remaining {credits};
    location ~ ^/v1/posts/(?<id>[0-9]+)$ {{ try_files /posts/$id.json @any; }}
    location @any {{ return 200 '{post}'; }}
    location ~ ^/v1/posts/[0-9]+/comments$ {{
      try_files /comments/$arg_cursor.json /comments/0.json;
    }}
  }}
}}
"""


def find_nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def nginx(by_time: bool = False) -> Iterator[str]:
    """Serve `POSTS` posts from files, any other as the first one with an id of its own, and `PAGES`
    pages of comments; the value is the base URL."""
    program = find_nginx()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="tokfluence-bench-") as name:
        root = Path(name)
        root.chmod(0o755)  # nginx's worker is another user when the master is root
        pages = root / "www" / "comments"
        pages.mkdir(parents=True)
        posts = root / "www" / "posts"
        posts.mkdir()
        for index in range(POSTS):
            (posts / f"{post_id(index)}.json").write_bytes(post_body(index))
        for cursor in range(0, PAGES * PAGE_SIZE, PAGE_SIZE):
            (pages / f"{cursor}.json").write_bytes(
                comments_page(cursor, PAGES * PAGE_SIZE, by_time)
            )
        port = _free_port()
        config = root / "nginx.conf"
        post = post_body().decode().replace(str(POST_ID), "$id")
        config.write_text(_NGINX.format(root=root, port=port, credits=CREDITS, post=post))
        server = subprocess.Popen(
            [program, "-c", str(config), "-p", name], stderr=subprocess.DEVNULL
        )
        with _running(server, port) as url:
            yield url


@contextlib.contextmanager
def raw(
    *,
    latency: float = 0.0,
    comments: int = PAGES * PAGE_SIZE,
    by_time: bool = False,
    cold: bool = False,
) -> Iterator[str]:
    """The same answers from a raw asyncio protocol, each `latency` seconds late; a post has
    `comments` of them.

    With `cold` a post is not found until it has been analyzed.
    """
    port = _free_port()
    options = (str(port), str(latency), str(comments), str(int(by_time)), str(int(cold)))
    command = [sys.executable, "-m", "benchmarks.servers", *options]
    server = subprocess.Popen(command, cwd=Path(__file__).parent.parent)
    with _running(server, port) as url:
        yield url


def fast_name() -> str:
    return "nginx, one worker, canned bodies" if find_nginx() else f"{RAW} (nginx is not installed)"


@contextlib.contextmanager
def fast(by_time: bool = False) -> Iterator[str]:
    """nginx where it is installed; the ids of its comments grow with the time if `by_time`, else
    they are in no order."""
    with nginx(by_time) if find_nginx() else raw(by_time=by_time) as url:
        yield url


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def _running(server: subprocess.Popen[bytes], port: int) -> Iterator[str]:
    try:
        while True:
            if server.poll() is not None:
                raise RuntimeError(f"the server ended with status {server.returncode}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


# Different pages that are served in turn, so that a walk of any length repeats no id that is still
# remembered (10 000).
_DISTINCT = 60


_NOT_FOUND = b'{"error":{"code":"post_not_found","message":"This post is not in the index."}}'


class _Canned(asyncio.Protocol):
    latency: float
    comments: int
    post: bytes
    data: list[bytes]
    # Of every post that was analyzed, its id; None where all are found.
    analyzed: set[str] | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.left = b""

    def data_received(self, data: bytes) -> None:
        left = self.left + data if self.left else data
        while True:
            end = left.find(b"\r\n\r\n")
            if end < 0:
                break
            head, left = left[:end], left[end + 4 :]
            length = _length(head)
            if len(left) < length:
                left = head + b"\r\n\r\n" + left
                break
            body, left = left[:length], left[length:]
            answer = self.answer(head.split(b" ", 2)[1].decode(), body)
            if self.latency:
                asyncio.get_running_loop().call_later(self.latency, self.transport.write, answer)
            else:
                self.transport.write(answer)
        self.left = left

    def answer(self, target: str, body: bytes) -> bytes:
        path, _, query = target.partition("?")
        if path.endswith("/analyze"):
            urls = json.loads(body)["urls"]
            rows = [
                {"url": url, "postId": url.rsplit("/", 1)[-1], "status": "analyzed"} for url in urls
            ]
            if self.analyzed is not None:
                self.analyzed.update(row["postId"] for row in rows)
            meta = {"submitted": len(urls), "cost": 25 * len(urls)}
            return _framed(json.dumps({"data": rows, "meta": meta}).encode())
        if not path.endswith("/comments"):
            asked = path.rsplit("/", 1)[-1]
            if self.analyzed is not None and asked not in self.analyzed:
                return _framed(_NOT_FOUND, b"404 Not Found")
            return _framed(self.post.replace(b"%d" % POST_ID, asked.encode()))
        cursor = int(parse_qs(query).get("cursor", ["0"])[0])
        reached = cursor + PAGE_SIZE
        after = b"null" if reached >= self.comments else b"%d" % reached
        data = self.data[cursor // PAGE_SIZE % _DISTINCT]
        return _framed(
            b'{"data":%s,"meta":{"total":%d,"next_cursor":%s}}' % (data, self.comments, after)
        )


def _length(head: bytes) -> int:
    at = head.lower().find(b"\r\ncontent-length:")
    return int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


def _framed(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = (
        b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nX-Credits-Remaining: "
        b"%s\r\nContent-Length: %d\r\n\r\n"
    )
    return head % (status, CREDITS.encode(), len(body)) + body


async def _serve(port: int, latency: float, comments: int, by_time: bool, cold: bool) -> None:
    _Canned.analyzed = set() if cold else None
    _Canned.latency, _Canned.comments, _Canned.post = latency, comments, post_body()
    _Canned.data = [comments_data(n * PAGE_SIZE, by_time) for n in range(_DISTINCT)]
    server = await asyncio.get_running_loop().create_server(_Canned, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("latency", type=float)
    parser.add_argument("comments", type=int)
    parser.add_argument("by_time", type=int)
    parser.add_argument("cold", type=int)
    given = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(
            _serve(given.port, given.latency, given.comments, bool(given.by_time), bool(given.cold))
        )
