"""`tokfluence sandbox`."""

from __future__ import annotations

import json
import signal
import subprocess

import msgspec
import pytest

from .support import (
    ENV,
    ID,
    Run,
    command_line,
)


@pytest.mark.real_time
def test_the_sandbox_is_served_and_the_commands_find_it() -> None:
    """Two terminals: the stand-in in one, the command in the other."""
    with subprocess.Popen(
        command_line("sandbox"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV
    ) as server:
        assert server.stdout is not None
        where = json.loads(server.stdout.readline())
        env = ENV | {"TOKFLUENCE_TOKEN": where["token"], "TOKFLUENCE_BASE_URL": where["url"]}
        result = subprocess.run(command_line("post", ID), env=env, capture_output=True, check=False)
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate()

    assert (result.returncode, server.returncode) == (0, 0)
    assert msgspec.json.decode(result.stdout)["post_id"] == ID
    assert b"1 request, 1 credit charged" in errors


@pytest.mark.real_time
def test_a_port_that_is_taken_is_status_2(run: Run) -> None:
    """One line, not a traceback."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        result = run("sandbox", "--port", taken.getsockname()[1])

    assert result.exit_code == 2
    assert "cannot listen" in result.stderr
