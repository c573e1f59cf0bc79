"""A strict local stand-in of the Tokfluence API, written from the API page alone and met only over
loopback.

`Sandbox` is the whole of it for most; `throttles` holds the ways of counting requests, and
`heavy_tailed` makes realistic analysis times. It shares no code with the client: a shared codec
would share its mistakes.
"""

from __future__ import annotations

from .faults import Fault
from .ledger import ANALYZE, COMMENTS, POST, Entry, Key
from .server import DEFAULT_TOKEN, Sandbox, serve, serve_forever
from .world import heavy_tailed

__all__ = [
    "ANALYZE",
    "COMMENTS",
    "DEFAULT_TOKEN",
    "POST",
    "Entry",
    "Fault",
    "Key",
    "Sandbox",
    "heavy_tailed",
    "serve",
    "serve_forever",
]
