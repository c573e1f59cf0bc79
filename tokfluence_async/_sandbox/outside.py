"""What is served beside the API: its description, and the doors for tests in other processes.
Unthrottled and not billed."""

from __future__ import annotations

import json
from typing import Any, Protocol

from aiohttp import web

from .answers import Reply, encode, error_body
from .faults import Fault
from .openapi import describe
from .scripting import SCRIPTABLE
from .world import Json

__all__ = ["Inspected", "answer_outside"]

_NETWORK = ("lose_connections", "lose_network")


class Inspected(Protocol):
    """What is asked of a sandbox here; faults are scripted by the methods that `SCRIPTABLE`
    names."""

    @property
    def url(self) -> str: ...

    @property
    def pending_faults(self) -> list[Fault]: ...

    def summary(self, *, entries: bool = False) -> Json: ...


async def answer_outside(sandbox: Inspected, request: web.BaseRequest) -> Reply:
    """Answer what is not under `/v1`."""
    path, _, query = request.raw_path.partition("?")
    match request.method, path:
        case "GET", "/openapi.json":
            return Reply(200, encode(describe(sandbox.url)), {})
        case "GET", "/_sandbox/ledger":
            return Reply(200, encode(sandbox.summary(entries="entries" in query)), {})
        case "GET", "/_sandbox/faults":
            armed = [{**_described(fault), "hits": fault.hits} for fault in sandbox.pending_faults]
            return Reply(200, encode({"armed": armed}), {})
        case "POST", "/_sandbox/faults":
            return _script(sandbox, await request.read())
        case _:
            return Reply(404, error_body("not_found", "The API is under /v1."), {})


def _script(sandbox: Inspected, body: bytes) -> Reply:
    try:
        wanted: dict[str, Any] = json.loads(body)
        name = wanted.pop("fault")
        if name not in SCRIPTABLE and name not in _NETWORK:
            raise ValueError(f"no such fault: {name!r}")
        made = getattr(sandbox, name)(**wanted)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return Reply(422, error_body("invalid_fault", repr(error)), {})
    return Reply(201, encode(_described(made) if isinstance(made, Fault) else {"kind": name}), {})


def _described(fault: Fault) -> Json:
    return {"kind": fault.kind, "to": fault.to, "times": fault.times}
