"""How long a refused client waits: the `Retry-After` header, or a pause of our own.

Reads what strangers wrote, so every text gives a number of seconds or None, and none is an error.
What the service asks for is never shortened. Relies on nothing but the standard library.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["parse_date", "parse_retry_after", "plan_pause"]

_SECONDS = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
# Without Retry-After: the first pause, doubled for each further refusal in a row, up to a period.
_FIRST_PAUSE = 1.0


def parse_retry_after(text: str | None, now_epoch: float) -> float | None:
    """Seconds to wait from a `Retry-After` header, or None where it cannot be followed.

    Seconds may have a fraction and an exponent. What no float can hold is the largest float, and
    so a wait that does not end. An HTTP date is taken relative to `now_epoch` (seconds since 1970);
    it gives 0.0 when it is past. A missing header, a negative number and anything else give None.

    Source: the Tokfluence API page, *Throttles* ("`Retry-After` in seconds" [public]); RFC 9110,
    10.2.3 for dates.
    """
    if text is None:
        return None
    text = text.strip(" \t")
    if _SECONDS.fullmatch(text):
        # An absurd wait is honoured as well: the gate tries it once a day.
        return min(float(text), sys.float_info.max)
    moment = parse_date(text)
    return None if moment is None else max(0.0, moment - now_epoch)


def parse_date(text: str | None) -> float | None:
    """Seconds since 1970 from an HTTP date, or None where it is none. Source: RFC 9110, 5.6.7."""
    if not text or not text[0].isalpha():  # parsedate takes much that is no date, "-5" included
        return None
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:  # "-0000", or an asctime date: UTC, says the RFC
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        # The parser reads numbers of any length, and fails in all these ways.
        return None


def plan_pause(retry_after: float | None, refusals: int, period: float) -> float:
    """Seconds a gate stays closed: what was asked, else 1, 2, 4, ... by `refusals` in a row, at
    most `period`."""
    if retry_after is not None and retry_after >= 0.0:
        return retry_after
    return min(_FIRST_PAUSE * 2.0 ** min(max(refusals, 1) - 1, 30), period)
