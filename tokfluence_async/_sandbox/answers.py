"""Answers as values: the bytes of a body, and the headers the service puts on every answer."""

from __future__ import annotations

import json
from typing import NamedTuple
from uuid import uuid4

from .ledger import Entry, Key

__all__ = ["JSON", "Reply", "encode", "error", "error_body", "reply"]

JSON = "application/json; charset=utf-8"


class Reply(NamedTuple):
    """An answer before it is sent."""

    status: int
    body: bytes
    headers: dict[str, str]


def encode(value: object) -> bytes:
    """JSON as the service writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def error_body(code: str, message: str) -> bytes:
    return encode({"error": {"code": code, "message": message}})


def reply(
    entry: Entry,
    key: Key | None,
    status: int,
    body: bytes,
    headers: dict[str, str] | None = None,
) -> Reply:
    """The answer to `entry`, with the wallet's balance and the request id.

    Without a valid key there is no wallet: the balance is 0, as every answer carries the header.
    """
    entry.status = status
    head = {
        "X-Credits-Remaining": str(0 if key is None else key.credits),
        "X-Request-Id": entry.request_id or str(uuid4()),
    }
    return Reply(status, body, {**head, **(headers or {})})


def error(
    entry: Entry,
    key: Key | None,
    status: int,
    code: str,
    message: str,
    headers: dict[str, str] | None = None,
) -> Reply:
    """An error of the API's own."""
    entry.code = code
    return reply(entry, key, status, error_body(code, message), headers)
