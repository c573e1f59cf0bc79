"""What an error status says of the request that got it. The one place that knows statuses.

To give a status another meaning, or one of its codes, change its row or add one. Without a row, a
4xx is final and was charged, as the API page says of "other 4xx"; a 3xx is a proxy's, and nothing
was done; a 5xx may have been done, and is not tried again.

Source: the Tokfluence API page, *Errors*, *Credits*, *Idempotency* [public, seed].
"""

from __future__ import annotations

from enum import Flag

from msgspec import Struct

__all__ = ["Meaning", "Past", "meaning_of"]


class Past(Flag):
    """What a request id has been through."""

    FRESH = 0  # nothing: it was not sent, or the request was wrong
    REFUSED = 1  # not begun; whether a refusal uses the id up is not documented
    MAYBE = 2  # begun, as far as anybody knows


class Meaning(Struct, frozen=True, gc=False):
    """What an error answer says.

    Attributes:
        charged: The price was debited and not given back, as far as anybody knows.
        adds: To the past of its request id.
        passes: The same request may fare better later.
        crowded: It may mean that the service takes no more analyze batches at once.
    """

    charged: bool
    adds: Past
    passes: bool = False
    crowded: bool = False


_FINAL = Meaning(charged=True, adds=Past.FRESH)
_UNKNOWN = Meaning(charged=True, adds=Past.MAYBE)
_AT_THE_DOOR = Meaning(charged=False, adds=Past.FRESH)
_IN_BETWEEN = Meaning(charged=True, adds=Past.MAYBE, passes=True)

# By status and code; a row without a code holds for every other code, and for none.
_MEANINGS: dict[tuple[int, str | None], Meaning] = {
    (401, None): _AT_THE_DOOR,
    (402, None): Meaning(charged=False, adds=Past.REFUSED),
    (408, None): _IN_BETWEEN,  # a proxy's
    (409, None): _AT_THE_DOOR,  # what it means besides, `retry.decide` reads in the id's history
    (425, None): _IN_BETWEEN,  # a proxy's
    (429, None): Meaning(charged=False, adds=Past.REFUSED, passes=True, crowded=True),
    (500, None): _IN_BETWEEN,
    # The API's own is refunded; without that code it is a proxy's.
    (502, "upstream_error"): Meaning(charged=False, adds=Past.REFUSED, passes=True),
    (502, None): _IN_BETWEEN,
    (503, None): Meaning(charged=True, adds=Past.MAYBE, passes=True, crowded=True),
    (504, None): _IN_BETWEEN,
}


def meaning_of(status: int, code: str | None) -> Meaning:
    """What an error answer with this status and code says. Where the page does not say, it is taken
    as charged."""
    found = _MEANINGS.get((status, code)) or _MEANINGS.get((status, None))
    if found is not None:
        return found
    if status >= 500:
        return _UNKNOWN
    return _AT_THE_DOOR if 300 <= status < 400 else _FINAL
