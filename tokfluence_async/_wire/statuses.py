"""What an error status says of the request that got it. The one place that knows statuses.

A status is either not in the table, and then it is final and was charged, as the API page says of
"other 4xx", or it has a row. To give a status another meaning, or one of its codes, change a row.

Source: the Tokfluence API page, *Errors*, *Credits*, *Idempotency* [public, seed].
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

__all__ = ["Meaning", "Work", "is_charged", "meaning_of"]


class Work(Enum):
    """Whether the work was begun, and with it whether the request id was used."""

    NONE = "none"  # nothing of the kind: the request was wrong
    REFUSED = "refused"  # not begun; whether a refusal uses the request id up is not documented
    POSSIBLE = "possible"  # begun, as far as anybody knows


class Meaning(Struct, frozen=True, gc=False):
    """What an error answer says.

    Attributes:
        charged: The price was debited and not given back, as far as anybody knows.
        work: What became of the work.
        passes: The same request may fare better later.
        crowded: It may mean that the service takes no more analyze batches at once.
    """

    charged: bool
    work: Work
    passes: bool = False
    crowded: bool = False


_FINAL = Meaning(charged=True, work=Work.NONE)
_UNKNOWN = Meaning(charged=True, work=Work.POSSIBLE)
_AT_THE_DOOR = Meaning(charged=False, work=Work.NONE)
_IN_BETWEEN = Meaning(charged=True, work=Work.POSSIBLE, passes=True)

# By status and code; a row without a code holds for every other code, and for none.
_MEANINGS: dict[tuple[int, str | None], Meaning] = {
    (401, None): _AT_THE_DOOR,
    (402, None): Meaning(charged=False, work=Work.REFUSED),
    (408, None): _IN_BETWEEN,  # a proxy's
    (409, None): _AT_THE_DOOR,  # what it means besides, `retry.decide` reads in the id's history
    (425, None): _IN_BETWEEN,  # a proxy's
    (429, None): Meaning(charged=False, work=Work.REFUSED, passes=True, crowded=True),
    (500, None): _IN_BETWEEN,
    # The API's own is refunded; without that code it is a proxy's.
    (502, "upstream_error"): Meaning(charged=False, work=Work.REFUSED, passes=True),
    (502, None): _IN_BETWEEN,
    (503, None): Meaning(charged=True, work=Work.POSSIBLE, passes=True, crowded=True),
    (504, None): _IN_BETWEEN,
}


def meaning_of(status: int, code: str | None) -> Meaning:
    """What an error answer with this status and code says."""
    found = _MEANINGS.get((status, code)) or _MEANINGS.get((status, None))
    if found is not None:
        return found
    if status >= 500:
        return _UNKNOWN
    return _AT_THE_DOOR if 300 <= status < 400 else _FINAL


def is_charged(status: int, code: str | None) -> bool:
    """Whether a request that ended in an error status was charged. Where the page does not say, it
    is taken as charged."""
    return meaning_of(status, code).charged
