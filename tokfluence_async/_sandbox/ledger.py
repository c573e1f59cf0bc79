"""What the sandbox has seen and charged: keys with their wallets, request ids, and every request as
it was received."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

__all__ = ["ANALYZE", "COMMENTS", "POST", "Entry", "Key", "Ledger", "RequestIds"]

POST = "GET /v1/posts/:id"
COMMENTS = "GET /v1/posts/:id/comments"
ANALYZE = "POST /v1/posts/analyze"

_TOKEN = re.compile(r"tkf_live_[A-Za-z0-9]{32}", re.ASCII)


def is_token(text: str) -> bool:
    """`tkf_live_` and 32 alphanumerics."""
    return _TOKEN.fullmatch(text) is not None


class RequestIds:
    """The request ids of one key: those at work, and those processed in the last `remember`
    seconds."""

    __slots__ = ("_at_work", "_done", "remember")

    def __init__(self, remember: float) -> None:
        self.remember = remember
        self._at_work: Counter[str] = Counter()
        self._done: dict[str, float] = {}

    def known(self, request_id: str, now: float) -> bool:
        if request_id in self._at_work:
            return True
        at = self._done.get(request_id)
        return at is not None and now - at < self.remember

    def begin(self, request_id: str) -> None:
        self._at_work[request_id] += 1

    def end(self, request_id: str, now: float, *, used_up: bool) -> None:
        """The request under this id has ended; from here on the id is known only if it was used
        up."""
        self._at_work[request_id] -= 1
        if not self._at_work[request_id]:
            del self._at_work[request_id]
        if used_up:
            self.use_up(request_id, now)

    def use_up(self, request_id: str, now: float) -> None:
        done = self._done
        done.pop(request_id, None)
        # Oldest first, so forgetting is looking at the front. Two at a time keeps up with one
        # coming in.
        for old in list(islice(done, 2)):
            if now - done[old] < self.remember:
                break
            del done[old]
        done[request_id] = now

    def __len__(self) -> int:
        return len(self._done)


class Key:
    """An API key with its wallet. Change `credits` or set `revoked` at any time: the next request
    sees it."""

    __slots__ = ("credits", "ids", "prefix", "revoked", "spent", "token")

    def __init__(self, token: str, credits: int, remember_ids: float) -> None:
        if not is_token(token):
            raise ValueError("a token is tkf_live_ and 32 alphanumerics")
        self.token = token
        self.prefix = token[:13]
        self.credits = credits
        self.spent = 0
        self.revoked = False
        self.ids = RequestIds(remember_ids)

    def __repr__(self) -> str:
        revoked = " revoked" if self.revoked else ""
        return f"<Key {self.prefix} credits={self.credits} spent={self.spent}{revoked}>"


@dataclass(slots=True, eq=False)
class Entry:
    """One request as it was received, and what became of it."""

    number: int
    """1 for the first request the sandbox ever received."""
    time: float
    """When its head had arrived, on the loop's clock."""
    method: str
    path: str
    """Without the query, not decoded."""
    query: str
    route: str
    """`GET /v1/posts/:id` and so on; for anything else the method and the path."""
    ip: str
    headers: dict[str, str]
    """As received; names in lower case."""
    key: str | None = None
    """The display prefix of its key, or None if it had no valid one."""
    request_id: str | None = None
    """As sent by the client; None if it sent none."""
    connection: int = 0
    """Requests that the same connection carried before this one: 0 means a fresh connection."""
    body: bytes = b""
    post_ids: list[str] = field(default_factory=list[str])
    """The posts it was about; for analyze one per URL submitted, duplicates included."""
    fresh: list[str] = field(default_factory=list[str])
    """Analyze only: the submitted ids that came back `fresh`."""
    charged: int = 0
    refunded: int = 0
    status: int | None = None
    """The status of the answer that was made, sent or not; None while at work, or if there never
    was one."""
    code: str | None = None
    """The error code of that answer, if it was an error of the API's own."""
    done: bool = False
    """Whether the work asked for was done."""
    answered: bool = False
    """Whether the whole of that answer was handed to the connection."""
    fault: str | None = None
    """The kind of the scripted fault that hit it."""
    ended: float | None = None
    """When the sandbox was through with it."""

    def as_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "time": self.time,
            "ended": self.ended,
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "route": self.route,
            "ip": self.ip,
            "key": self.key,
            "request_id": self.request_id,
            "connection": self.connection,
            "post_ids": self.post_ids,
            "fresh": self.fresh,
            "charged": self.charged,
            "refunded": self.refunded,
            "status": self.status,
            "code": self.code,
            "done": self.done,
            "answered": self.answered,
            "fault": self.fault,
        }


class Ledger:
    """Everything received. `keep` bounds the entries kept (None: all, 0: none); the counters are
    kept always."""

    def __init__(self, keep: int | None) -> None:
        self.entries: deque[Entry] = deque(maxlen=keep)
        self.keep = keep
        self.received = 0
        self.spent = 0
        self.statuses: Counter[int] = Counter()
        self.routes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        # Per (route, post id): credits, and how many times. Only with entries kept, or memory would
        # grow with the job.
        self._credits: Counter[tuple[str, str]] = Counter()
        self._times: Counter[tuple[str, str]] = Counter()
        self._in_flight: Counter[str] = Counter()
        self._peaks: Counter[str] = Counter()

    def receive(self, entry: Entry) -> None:
        self.received += 1
        self.routes[entry.route] += 1
        flying = self._in_flight[entry.route] + 1
        self._in_flight[entry.route] = flying
        if flying > self._peaks[entry.route]:
            self._peaks[entry.route] = flying
        if self.keep != 0:
            self.entries.append(entry)

    def end(self, entry: Entry, now: float) -> None:
        entry.ended = now
        self._in_flight[entry.route] -= 1
        if entry.status is not None:
            self.statuses[entry.status] += 1
        if entry.fault is not None:
            self.faults[entry.fault] += 1

    def charge(self, entry: Entry, credits: int, each: int) -> None:
        """Book `credits` for `entry`, `each` for every one of its posts."""
        entry.charged += credits
        self.spent += credits
        if self.keep != 0:
            for post_id in entry.post_ids:
                self._credits[entry.route, post_id] += each
                self._times[entry.route, post_id] += 1

    def refund(self, entry: Entry, each: int) -> None:
        """Book back all that `entry` was charged."""
        self.spent -= entry.charged - entry.refunded
        entry.refunded = entry.charged
        if self.keep != 0:
            for post_id in entry.post_ids:
                self._credits[entry.route, post_id] -= each
                self._times[entry.route, post_id] -= 1

    def charged(self, post_id: str, to: str | None) -> int:
        if to is not None:
            return self._credits[to, post_id]
        return sum(credits for (_, id_), credits in self._credits.items() if id_ == post_id)

    def times_charged(self, to: str) -> dict[str, int]:
        return {id_: times for (route, id_), times in self._times.items() if route == to and times}

    def in_flight(self, to: str | None) -> int:
        return sum(self._in_flight.values()) if to is None else self._in_flight[to]

    def peak_in_flight(self, to: str) -> int:
        return self._peaks[to]


def peak(times: Iterable[float], window: float) -> int:
    """The most of `times` that lie in any half-open window (t - window, t]."""
    ordered = sorted(times)
    return max(
        (i + 1 - bisect_right(ordered, t - window) for i, t in enumerate(ordered)), default=0
    )
