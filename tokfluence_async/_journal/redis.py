"""The journal in Redis or Valkey, for any number of processes at once.

Promises, besides those of every journal: a post is in one batch at a time, whoever asks; a batch
is sent by its owner alone; what a dead owner left in doubt is taken over under its old request id
within 30 seconds; a live owner's posts are waited for.

Relies on the store to run each of `scripts` in one step, and on its durability: `appendfsync
always`, or what was paid for can be forgotten.

Hard: a process may be stopped between any two lines, and come back an hour later. Whatever it does
then is compared in the store with what it knew: `sending` is refused where a post has been taken or
settled since, and no request leaves while the journal's heartbeat may have ended. See
`docs/design/shared-journal.md`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

import msgspec

from .._errors import ConfigurationError
from .._models import Analysis, Outcome
from .._wire.ids import PostRef, parse_post_id
from .._wire.request_ids import check_request_id
from .._wire.secret import Secret
from .journal import Journal
from .records import DUPLICATE, Doubt, Entry, TakenError
from .redis_store import Session, check_job, split_url

__all__ = ["RedisJournal"]

# Seconds between two looks at posts that are waited for.
_LOOK = 2.0
_REF = re.compile(r"([1-9][0-9]{0,19})(@[A-Za-z0-9._-]{1,64})\Z", re.ASCII)


class RedisCall(Journal):
    """A Redis journal as one call has it.

    A claim belongs to a call. Two calls of one process are as foreign to each other as those of two
    machines: what one has looked up, the other may send in the meantime.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._owners: dict[str, str] = {}  # request id -> owner, of this call's batches
        # Records that only a 409 speaks for, as this call has looked them up, by post. Whoever
        # looked may find one wanting, and replace it. Nothing is added when a batch is settled: it
        # may be one of a dead process, and this call have its posts among its own inputs, too.
        self._seen: dict[str, str] = {}

    # --- batches ----------------------------------------------------------------------------------

    async def sending(
        self, request_id: str, posts: Sequence[PostRef], *, replaces: str | None
    ) -> None:
        """See `Journal.sending`. Refused if a post is in another batch, or has been settled since
        this call looked.

        Raises:
            TakenError: Nothing was written; the posts that are not free.
        """
        owner = self._session.next_claim()
        seen = [part for ref in posts for part in (ref.post_id, self._seen.get(ref.post_id, ""))]
        taken = await self._session.call(
            "sending",
            request_id,
            owner,
            replaces or "",
            self._owners.get(replaces or "", ""),
            ",".join(ref.post_id + ref.user for ref in posts),
            *seen,
        )
        if taken:
            raise TakenError(taken)
        self._owners[request_id] = owner
        self._owners.pop(replaces or "", None)
        for ref in posts:
            self._seen.pop(ref.post_id, None)

    async def sending_again(self, request_id: str) -> None:
        """See `Journal.sending_again`."""
        await self._confirm(request_id, again=True)

    async def confirm(self, request_id: str) -> None:
        """See `Journal.confirm`."""
        await self._confirm(request_id, again=False)

    async def _confirm(self, request_id: str, *, again: bool) -> None:
        owner = self._owners.get(request_id, "")
        [state] = await self._session.call("confirm", request_id, owner, "1" if again else "")
        if state != "held":
            self._owners.pop(request_id, None)
            raise TakenError([])

    @property
    def holds(self) -> bool:
        """See `Journal.holds`."""
        return self._session.holds

    async def settled(
        self,
        request_id: str,
        outcomes: Sequence[Outcome[Analysis]],
        *,
        unsure: bool = False,
        age: float = 0.0,
    ) -> None:
        """See `Journal.settled`."""
        rows: list[str] = []
        for outcome in outcomes:
            if outcome.post_id is None:
                continue
            value = outcome.value
            # A post that a 200 left out was charged. Reading it will tell what became of it.
            known = ("", None) if value is None else (value.status, value.url)
            sure = value is not None and not unsure
            rows += [outcome.post_id, "1" if sure else "0", msgspec.json.encode(known).decode()]
        await self._session.call(
            "settled", request_id, self._owners.get(request_id, ""), max(age, 0.0), *rows
        )
        self._owners.pop(request_id, None)

    async def released(self, request_id: str) -> None:
        """See `Journal.released`."""
        owner = self._owners.pop(request_id, None)
        if owner is not None:
            await self._session.call("released", request_id, owner)

    def forgotten(self, request_id: str) -> None:
        """See `Journal.forgotten`."""
        owner = self._owners.pop(request_id, None)
        if owner is not None:
            self._session.forget(request_id, owner)

    async def unsettled(self) -> list[Doubt]:
        """The batches in doubt whose owners are dead, oldest first."""
        return await self._doubts("", ())

    async def take_up(self, posts: Sequence[str] = ()) -> list[Doubt]:
        """See `Journal.take_up`."""
        owner = self._session.next_claim()
        doubts = await self._doubts(owner, posts)
        self._owners.update((doubt.request_id, owner) for doubt in doubts)
        return doubts

    async def _doubts(self, owner: str, posts: Sequence[str]) -> list[Doubt]:
        found = await self._session.call("take_up", owner, *posts)
        now = self._session.time()
        doubts = [self._doubt(*pair, now) for pair in zip(found[::2], found[1::2], strict=True)]
        return sorted(doubts, key=lambda doubt: doubt.sent_at)

    def _doubt(self, request_id: str, batch: str, now: float) -> Doubt:
        try:
            _, sent, again, text = batch.split(" ")
            refs = [_ref(part) for part in text.split(",")]
            first, last = float(sent), float(again)
            check_request_id(request_id)
        except ValueError:
            raise self._session.foreign("a batch") from None
        return Doubt(request_id, refs, first, max(now - first, 0.0), max(now - last, 0.0))

    async def wait_for(self, posts: Sequence[str]) -> None:
        """See `Journal.wait_for`."""
        while await self._session.call("busy", *posts):  # noqa: ASYNC110 - another process tells no event
            await asyncio.sleep(_LOOK)

    # --- posts ------------------------------------------------------------------------------------

    async def look_up(self, post_id: str) -> Entry | None:
        """What is known of a post's analysis."""
        [record] = await self._session.call("look_up", post_id)
        if not record:
            return None
        try:
            sure, request_id, at, text = record.split(" ", 3)
            status, url = msgspec.json.decode(text, type=tuple[str, str | None])
            entry = Entry(status, url, sure != "1", float(at))
            check_request_id(request_id)
        except (ValueError, msgspec.MsgspecError):
            raise self._session.foreign(f"the record of post {post_id}") from None
        if entry.unsure or entry.status == DUPLICATE:
            self._seen[post_id] = request_id
        return entry

    async def is_new(self) -> bool:
        """Never: another process may have begun."""
        return False

    async def known(self) -> list[str]:
        """See `Journal.known`."""
        found = await self._session.call("known")
        try:
            return [parse_post_id(post_id) for post_id in found]
        except ValueError:
            raise self._session.foreign("a post") from None

    def age(self, at: float | None) -> float:
        """See `Journal.age`."""
        return 0.0 if at is None else max(self._session.time() - at, 0.0)

    # --- what was learnt --------------------------------------------------------------------------

    async def learnt(self) -> dict[str, float]:
        """See `Journal.learnt`."""
        found = await self._session.call("learnt")
        with suppress(ValueError):
            return {name: float(value) for name, value in zip(found[::2], found[1::2], strict=True)}
        raise self._session.foreign("what was learnt")

    def learn(self, **values: float) -> None:
        """See `Journal.learn`."""
        self._session.learn(values)


class RedisJournal(RedisCall):
    """The record of what was submitted and paid for, in a Redis, shared by any number of processes.

        async with RedisJournal("redis://127.0.0.1:6379/0", "posts-of-may") as journal:
            report = await client.posts.analyze(urls, journal=journal)

    All that name the same server and job share one record: nothing is analyzed twice, whoever asks.
    Wherever `journal=` is taken, `"redis://127.0.0.1:6379/0?job=posts-of-may"` will do.

    Args:
        url: `redis://`, `rediss://` or `unix://`, with a password perhaps, which is never shown.
        job: The name of the record; it may stand in the URL instead, as `?job=NAME`.

    Raises:
        ConfigurationError: The URL or the name cannot be used, or redis-py is missing.

    Raises, when it is opened:
        JournalError: The server cannot be reached, refuses the password, or holds something else
            under the job's keys.

    It is as durable as its server, and warns if that may forget. One event loop at a time can have
    it open.
    """

    def __init__(self, url: str, job: str | None = None) -> None:
        address, named = split_url(url)
        if job is not None and named not in (None, job):
            raise ConfigurationError(
                "The URL of the journal names one job and the argument another. Nothing was sent."
            )
        super().__init__(Session(Secret(address), check_job(named if job is None else job)))

    def __repr__(self) -> str:
        return f"<RedisJournal {self._session.shown}, {self._session.state}>"

    async def open(self) -> Self:
        """Reach the server, or do nothing if it is open. Returns the journal itself."""
        await self._session.open()
        return self

    async def aclose(self) -> None:
        """Give up what is left in doubt, and close. Idempotent."""
        await self._session.aclose()

    def for_call(self) -> Journal:
        """See `Journal.for_call`."""
        return RedisCall(self._session)


def _ref(text: str) -> PostRef:
    """A post as `sending` wrote it; `ValueError` if nobody of ours did."""
    match = _REF.match(text)
    if match is None:
        raise ValueError(text)
    return PostRef(parse_post_id(match[1]), match[2])
