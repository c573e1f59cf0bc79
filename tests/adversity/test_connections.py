"""No connection at all: refused, unknown names, certificates that do not hold."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tokfluence_async import APIConnectionError, ClosedError, Sandbox, TokfluenceClient

from .conftest import GOOD_POST, POST_ID, TOKEN, http, ids, raw_rig, raw_server, rig


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("own", [True, False], ids=["own session", "user's session"])
async def test_a_refused_connection_was_never_sent_and_costs_nothing(own: bool) -> None:
    """Repeated as often as was said; the error says that nothing left, and the budget is
    untouched."""
    session = None if own else aiohttp.ClientSession()
    async with TokfluenceClient(
        TOKEN,
        base_url=f"http://127.0.0.1:{free_port()}",
        max_retries=3,
        max_credits=1,
        session=session,
    ) as client:
        for _ in range(3):
            with pytest.raises(APIConnectionError, match="Nothing was sent") as caught:
                await client.posts.get(POST_ID)

            assert not caught.value.sent
            assert caught.value.attempts == 4
        assert (client.usage.requests, client.usage.credits_spent) == (0, 0)
        if session is not None:
            await session.close()


async def test_a_server_that_comes_back_is_found() -> None:
    """A restart of the service is a few refused connections; a batch keeps its id over them and is
    sent once."""
    port = free_port()
    async with TokfluenceClient(
        TOKEN, base_url=f"http://127.0.0.1:{port}", max_retries=8
    ) as client:
        sandbox = Sandbox(token=TOKEN, port=port, indexed=0.0)
        call = asyncio.create_task(client.posts.analyze(ids(3), batch_size=3))
        await asyncio.sleep(1)
        async with sandbox:
            (await call).raise_for_errors()
            assert sandbox.requests_received == client.usage.requests == 1
            assert client.usage.credits_spent == sandbox.credits_spent == 75
            await client.aclose()


@pytest.mark.real_time
async def test_an_unknown_name_is_a_connection_error() -> None:
    """`.invalid` never resolves (RFC 2606)."""
    async with TokfluenceClient(TOKEN, base_url="http://service.invalid", max_retries=0) as client:
        with pytest.raises(APIConnectionError, match="Nothing was sent") as caught:
            await client.posts.get(POST_ID)
        assert not caught.value.sent


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate signed by nobody, for 127.0.0.1, with its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "self-signed.pem"
    try:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
             "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
             "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", f"{path}.crt"],
            check=True, capture_output=True,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_a_certificate_signed_by_nobody_is_refused(certificate: Path) -> None:
    """Verification is on, and no option switches it off: the request, with its token, never
    leaves."""
    async with raw_rig(GOOD_POST, listen={"ssl": server_context(certificate)}, max_retries=1) as (
        server,
        client,
    ):
        with pytest.raises(APIConnectionError, match="certificate") as caught:
            await client.posts.get(POST_ID)

        assert not caught.value.sent
        assert server.requests == []
        assert (client.usage.requests, client.usage.credits_spent) == (0, 0)


async def test_a_certificate_for_another_host_is_refused(certificate: Path) -> None:
    """Trusted, but not theirs."""
    context = ssl.create_default_context(cafile=certificate)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
        raw_rig(
            GOOD_POST, listen={"ssl": server_context(certificate)}, max_retries=0, session=session
        ) as (
            server,
            client,
        ),
    ):
        assert (await client.posts.get(POST_ID)).post_id == POST_ID
        async with TokfluenceClient(
            TOKEN,
            base_url=server.url.replace("127.0.0.1", "127.0.0.2"),
            session=session,
            max_retries=0,
        ) as elsewhere:
            with pytest.raises(APIConnectionError):
                await elsewhere.posts.get(POST_ID)

        assert len(server.requests) == 1


async def test_a_trusted_service_is_reached_over_tls(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an own session as well, where the system trusts the certificate."""
    made = ssl.create_default_context

    def trusting(*args: Any, **more: Any) -> ssl.SSLContext:
        context = made(*args, **more)
        context.load_verify_locations(certificate)
        return context

    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusting())
    async with raw_rig(GOOD_POST, listen={"ssl": server_context(certificate)}, max_retries=0) as (
        server,
        client,
    ):
        assert (await client.posts.get(POST_ID)).post_id == POST_ID
        assert len(server.requests) == client.usage.requests == 1


# --- connections that are dead in the pool --------------------------------------------------------


@pytest.mark.parametrize("own", [True, False], ids=["own session", "user's session"])
@pytest.mark.parametrize("silent", [False, True], ids=["reset", "silent"])
async def test_a_repeat_after_a_loss_leaves_on_a_new_connection(own: bool, silent: bool) -> None:
    """A balancer that lost its state has lost them all: six in the pool are not six attempts."""
    async with AsyncExitStack() as stack:
        session = None if own else await stack.enter_async_context(aiohttp.ClientSession())
        sandbox, client = await stack.enter_async_context(rig({"session": session}, latency=1.0))
        await asyncio.gather(*(client.posts.get(post_id) for post_id in ids(6)))
        assert sandbox.lose_connections(silent=silent) == 6
        before = client.usage.requests

        await client.posts.get(POST_ID)

        assert client.usage.requests == before + 2
        assert client.usage.retries == 1


async def test_connections_that_idled_too_long_together_are_one_retry() -> None:
    """A balancer says 408 on each of them, so one call met one after the other until it failed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(1.0)  # so that each call has a connection of its own
        writer.write(GOOD_POST.replace(b"Connection: close", b"Connection: keep-alive"))
        with suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(http(b"", "408 Request Timeout"))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, TokfluenceClient(TOKEN, base_url=url) as client:
        await asyncio.gather(*(client.posts.get(POST_ID) for _ in range(6)))

        await client.posts.get(POST_ID)

        assert client.usage.retries == 1


# --- proxies --------------------------------------------------------------------------------------


async def test_a_proxy_is_used_where_it_is_given() -> None:
    """The whole address goes to it, with the token, as with any HTTP proxy."""
    async with (
        raw_server(GOOD_POST) as proxy,
        TokfluenceClient(
            TOKEN,
            base_url="http://api.invalid/gate",
            proxy=proxy.url.replace("://", "://user:s3cret@"),
        ) as client,
    ):
        assert (await client.posts.get(POST_ID)).post_id == POST_ID

        [request] = proxy.requests
        assert request.head.startswith(b"GET http://api.invalid/gate/v1/posts/")
        assert request.header("proxy-authorization") == "Basic dXNlcjpzM2NyZXQ="


async def test_a_proxy_that_refuses_is_said_to_be_the_one() -> None:
    """Nothing was sent, and its password is in no message."""
    refusal = http(b"", "407 Proxy Authentication Required")
    async with (
        raw_server(refusal) as proxy,
        TokfluenceClient(
            TOKEN,
            base_url="https://api.invalid",
            proxy=proxy.url.replace("://", "://user:s3cret@"),
            max_retries=0,
        ) as client,
    ):
        with pytest.raises(APIConnectionError, match=r"proxy refused to connect \(407") as caught:
            await client.posts.get(POST_ID)

        assert not caught.value.sent
        assert "Nothing was sent" in str(caught.value)
        assert "s3cret" not in str(caught.value) + repr(caught.value)
        assert client.usage.requests == 0


async def test_a_proxy_that_is_not_there_is_named() -> None:
    """And not the address behind it."""
    proxy = f"http://user:s3cret@127.0.0.1:{free_port()}"
    async with TokfluenceClient(TOKEN, proxy=proxy, max_retries=0) as client:
        with pytest.raises(APIConnectionError, match="Check proxy= and the network") as caught:
            await client.posts.get(POST_ID)

    assert not caught.value.sent
    assert "s3cret" not in str(caught.value)


async def test_a_failed_connection_says_a_word_of_proxy_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """People who set them expect them to be obeyed."""
    url = f"http://127.0.0.1:{free_port()}"
    async with TokfluenceClient(TOKEN, base_url=url, max_retries=0) as client:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        with pytest.raises(APIConnectionError) as plain:
            await client.posts.get(POST_ID)
        monkeypatch.setenv("HTTPS_PROXY", "http://user:s3cret@proxy:3128")
        with pytest.raises(APIConnectionError) as told:
            await client.posts.get(POST_ID)

    assert "proxy" not in str(plain.value)
    assert "HTTPS_PROXY is set, and this client reads no proxy from the environment" in str(
        told.value
    )
    assert "s3cret" not in str(told.value)


async def test_a_users_session_that_is_closed_in_mid_job_is_said_to_be() -> None:
    """Not a group of empty AssertionErrors, nor an outcome that blames the network."""
    session = aiohttp.ClientSession()
    async with rig({"session": session}, latency=2.0) as (_, client):
        asyncio.get_running_loop().call_later(
            5, lambda: closing.append(asyncio.ensure_future(session.close()))
        )
        closing: list[asyncio.Future[None]] = []

        with pytest.raises(ClosedError, match="session that this client uses"):
            async for _ in client.posts.get_many(ids(300)):
                pass
        with pytest.raises(ClosedError, match="session that this client uses"):
            await client.posts.get(POST_ID)
        await closing[0]
