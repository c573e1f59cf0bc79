"""No connection at all: refused, unknown names, certificates that do not hold."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tokfluence_async import APIConnectionError, TokfluenceClient

from .conftest import GOOD_POST, POST_ID, TOKEN, ids, raw_rig


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
        from tokfluence_async import Sandbox

        sandbox = Sandbox(token=TOKEN, port=port, indexed=0.0)
        import asyncio

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
