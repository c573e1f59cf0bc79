"""One logger, `tokfluence_async`, and `TOKFLUENCE_LOG` to switch it on.

    TOKFLUENCE_LOG=debug python my_crawler.py

prints every request with its id, status, cost and waits to standard error, and with the ids of its
trace and span where there is one. The library itself never adds a handler unless that variable is
set: a program's own logging set-up stays its own.

No token is ever given to the logger; the formatter masks whatever looks like one all the same, as a
log is what people paste into bug reports. Texts of the service are escaped (see `_text`), as a log
is read in a terminal.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from datetime import UTC, datetime

from .._errors import ConfigurationError
from .._text import one_line

__all__ = ["LEVELS", "configure", "configure_from_environment"]

logger = logging.getLogger("tokfluence_async")

LEVELS = ("debug", "info", "warning", "error", "critical")

# The first 13 characters are the key's display prefix, the only part of a token that may ever be
# shown [public].
_TOKEN = re.compile(r"(tkf_live_[A-Za-z0-9]{4})[A-Za-z0-9]+")
_lock = threading.RLock()


def mask(text: str) -> str:
    """`text` with all but the display prefix of anything that looks like a token taken out."""
    return _TOKEN.sub(r"\1…", text)


def _span_ids(record: logging.LogRecord) -> dict[str, str]:
    """The ids of the span in which a record was made, if `telemetry` has put them there."""
    trace_id: str = getattr(record, "otelTraceID", "0")
    span_id: str = getattr(record, "otelSpanID", "0")
    return {} if trace_id == "0" else {"trace_id": trace_id, "span_id": span_id}


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        ids = "".join(f" {name}={value}" for name, value in _span_ids(record).items())
        return one_line(
            mask(
                f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d} {record.levelname:<7} "
                f"{super().format(record)}{ids}"
            )
        )


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": "log",
            "message": super().format(record),
            **_span_ids(record),
        }
        return mask(json.dumps(event))


class _StandardError(logging.StreamHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Writes to whatever `sys.stderr` is now: a progress display, or a test, may have put its own
    there."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> object:
        return sys.stderr

    @stream.setter
    def stream(self, _: object) -> None:
        raise AttributeError("this handler follows sys.stderr")


def _ours() -> list[_StandardError]:
    return [handler for handler in logger.handlers if isinstance(handler, _StandardError)]


def configure(level: str = "info", *, as_json: bool = False) -> logging.Handler:
    """Print the package's log to standard error. Calling it again replaces what an earlier call set
    up.

    Args:
        level: debug (every request), info (retries, changes of pace), warning, error or critical;
            any case.
        as_json: One JSON object per line instead of text.
    Raises:
        ConfigurationError: A level that is none of these.
    """
    if level.lower() not in LEVELS:
        raise ConfigurationError(
            f"TOKFLUENCE_LOG must be one of {', '.join(LEVELS)}, not {level!r}"
        )
    handler = _StandardError()
    handler.setFormatter(_JsonLines() if as_json else _Lines())
    with _lock:
        reset()
        logger.addHandler(handler)
        logger.setLevel(level.upper())
        # Else a program with handlers of its own on the root logger would print every line twice.
        logger.propagate = False
    return handler


def configure_from_environment() -> None:
    """As `configure(TOKFLUENCE_LOG)`, once per process; does nothing without that variable. An
    unknown level is told once and taken as `info`: a typing error in a variable is no reason not to
    start."""
    level = os.environ.get("TOKFLUENCE_LOG")
    if not level or _ours():
        return
    try:
        configure(level)
    except ConfigurationError as error:
        configure("info")
        logger.warning("%s; taking info", error)


def reset() -> None:
    """Take away what `configure` set up (for tests, and for the end of a command that runs inside
    another program)."""
    with _lock:
        for handler in _ours():
            logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
