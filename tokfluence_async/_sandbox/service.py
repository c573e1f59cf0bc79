"""The rules every request meets, in the order in which it meets them. Where the API page leaves a
step open, what is done here stands beside it.

1. It is received: entered in the ledger, and counted by both throttles, the IP's and (if its key is
   known) the key's. "In parallel" is taken at its word: each counts every request, whatever the
   other says.
2. Token: 401 `unauthorized`. A revoked key still has its wallet, and its answer tells the balance.
3. Throttle: 429 `rate_limited`, not charged. The IP's refusal comes before the token is looked at.
4. A scripted fault that strikes before the work.
5. Request id: 409 `duplicate_request` if it was processed or is at work, not charged. Ids are per
   key and hold for all endpoints together.
6. The debit, before the work: 402 `insufficient_credits` if the wallet is too small. As validation
   errors are "not refunded", they are charged: a read its price, an analyze call 25 for every item
   of a `urls` list, whatever the items are. What cannot be counted (no JSON, no list) costs
   nothing, nor do unknown routes.
7. Validation and the work: 422, 404, or the answer. These use up the request id. Whether 402, 429,
   500 and 502 do is not documented: `refusals_burn_ids` decides; a 500 after work that was done
   always does.
8. A scripted fault that strikes after the work.

A client that goes away does not stop the work, and gets no refund. Steps 4 and 8 are carried out
in `striking`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

from aiohttp import web

from . import answers
from .answers import Reply
from .endpoints import PRICES, Endpoints, no_such_route
from .faults import Fault
from .ledger import ANALYZE, COMMENTS, POST, Entry, Key, Ledger
from .options import Options, number_of
from .requests import parse_batch, read_body
from .throttles import Lanes
from .world import post_id_of_url

__all__ = ["Service"]


class Service:
    """Steps 2, 3 and 5 to 7 of the module's docstring.

    Args:
        now: The clock.
    """

    def __init__(
        self,
        options: Options,
        endpoints: Endpoints,
        lanes: Lanes,
        ledger: Ledger,
        now: Callable[[], float],
    ) -> None:
        self.keys: dict[str, Key] = {}
        self._options = options
        self._endpoints = endpoints
        self._lanes = lanes
        self._ledger = ledger
        self._now = now

    def admit(self, entry: Entry, authorization: str | None) -> Key | Reply:
        """The key of a request that may go on, or the refusal of one that may not."""
        options = self._options
        key = None
        if authorization is not None and authorization.startswith("Bearer "):
            key = self.keys.get(authorization[7:])
        by_ip = self._lanes.allow(entry.ip, options.per_ip, options.period, entry.time)
        by_key = 0.0
        if key is not None:
            entry.key = key.prefix
            by_key = self._lanes.allow(key.token, options.per_key, options.period, entry.time)
        if by_ip:
            return self.throttled(entry, key, str(max(1, math.ceil(max(by_ip, by_key)))))
        if key is None:
            message = "The token is missing or malformed."
            return answers.error(entry, key, 401, "unauthorized", message)
        if key.revoked:
            return answers.error(entry, key, 401, "unauthorized", "This token was revoked.")
        if by_key:
            return self.throttled(entry, key, str(max(1, math.ceil(by_key))))
        return key

    def throttled(self, entry: Entry, key: Key | None, retry_after: str | None) -> Reply:
        """429, with this `Retry-After` or without any."""
        if (
            self._options.refusals_burn_ids
            and key is not None
            and entry.request_id
            and not key.ids.known(entry.request_id, entry.time)
        ):
            key.ids.use_up(entry.request_id, entry.time)
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        message = "Too many requests. Honour Retry-After."
        return answers.error(entry, key, 429, "rate_limited", message, headers)

    async def perform(
        self, request: web.BaseRequest, entry: Entry, key: Key, own_error: Fault | None
    ) -> Reply:
        """The answer, by steps 5 to 7.

        Args:
            own_error: A fault that is one of the API's own errors: those strike within the steps.
        """
        body = b""
        if entry.route == ANALYZE:
            body = await read_body(request)
            if self._ledger.keep != 0:
                entry.body = body
        request_id = entry.request_id
        if not request_id:
            return (await self._charge_and_work(entry, key, body, own_error))[0]
        if key.ids.known(request_id, self._now()):
            message = "This request id was already processed; it was not charged again."
            return answers.error(entry, key, 409, "duplicate_request", message)
        key.ids.begin(request_id)
        used_up = True
        try:
            reply, used_up = await self._charge_and_work(entry, key, body, own_error)
        finally:
            key.ids.end(request_id, self._now(), used_up=used_up)
        return reply

    async def _charge_and_work(
        self, entry: Entry, key: Key, body: bytes, own_error: Fault | None
    ) -> tuple[Reply, bool]:
        """The answer, and whether the request id is used up."""
        price = PRICES.get(entry.route)
        if price is None:
            return no_such_route(entry, key), True
        parsed: object = None
        urls: list[Any] = []
        count = 1
        if entry.route == ANALYZE:
            parsed, urls = parse_batch(body)
            entry.post_ids.extend(filter(None, map(post_id_of_url, urls)))
            count = len(urls)
        burnt = self._options.refusals_burn_ids
        if own_error is None or own_error.options.get("charged", True):
            if price * count > key.credits:
                message = "Out of API credits. Top up or wait for the next refill cycle."
                return answers.error(entry, key, 402, "insufficient_credits", message), burnt
            self._charge(entry, key, price * count, price)
        if own_error is not None and own_error.kind == "upstream_error":
            self._refund(entry, key, price)
            message = "The TikTok pipeline is unreachable. Your credits were refunded."
            return answers.error(entry, key, 502, "upstream_error", message), burnt
        if own_error is not None and own_error.when == "before":
            return _internal_error(entry, key), burnt
        reply = await self._work(entry, key, parsed, urls)
        return (reply if own_error is None else _internal_error(entry, key)), True

    def _charge(self, entry: Entry, key: Key, credits: int, each: int) -> None:
        key.credits -= credits
        key.spent += credits
        self._ledger.charge(entry, credits, each)

    def _refund(self, entry: Entry, key: Key, each: int) -> None:
        key.credits += entry.charged
        key.spent -= entry.charged
        self._ledger.refund(entry, each)

    async def _work(self, entry: Entry, key: Key, parsed: object, urls: list[Any]) -> Reply:
        latency = number_of(self._options.latency)
        if latency:
            await asyncio.sleep(latency)
        if entry.route == POST:
            return self._endpoints.get_post(entry, key)
        if entry.route == COMMENTS:
            return self._endpoints.get_comments(entry, key)
        return await self._endpoints.analyze(entry, key, parsed, urls)


def _internal_error(entry: Entry, key: Key) -> Reply:
    return answers.error(entry, key, 500, "internal_error", "Something went wrong on our side.")
