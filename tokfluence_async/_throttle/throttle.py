"""How often requests may leave: the class that users make, and what can be asked of it.

Promises: one budget per origin and one per key, for every client in the process. Where the numbers
of throttles in use differ, the smaller one holds.

Relies on: `registry` for the budgets themselves; a `Throttle` only describes them.
"""

from __future__ import annotations

import math
import os

from .._redis_py.client import shown
from . import registry
from .lanes import Lanes
from .limits import Limits
from .statistics import LaneStatistics, ThrottleStatistics, describe
from .stores import check_ip, check_shared

__all__ = ["Throttle"]


class Throttle(Limits):
    """How often requests may leave: one budget per origin and one per key, for every client in the
    process.

    A `Throttle` is a description; the budgets themselves belong to the process, so two throttles,
    or ten clients, at one origin share what the service permits. Where the numbers of throttles in
    use differ, the smaller one holds.

    Args:
        per_ip: Requests per `period` and origin, more than 0; None switches this lane off.
        per_key: Requests per `period` and key, more than 0; None switches this lane off.
        period: Seconds, more than 0.
        burst: Requests that may leave at once after idleness, at least 1. At the even pace of 600 a
            minute 50 calls take five seconds; with `burst=20` the first twenty go at once, if
            nothing was sent for two seconds before. It costs no throughput, as it is paid back over
            the next period. Above 10, a service that itself counts with a small burst (nginx
            `limit_req burst=20`) may refuse some. A service that counts with a bucket of ten or
            fewer refuses a little (0.4 to 2 % under on and off demand) unless `burst` is less than
            its bucket. A process that is restarted within a second of a burst may see one refusal.
        jitter: Seconds by which two requests may bunch up between their slots and the service, 0 or
            more: the margin. A slot is used for up to half of it, while a connection opens or the
            event loop is late; so the network has the other half for certain, and nearly all of it
            otherwise. It costs `jitter / period` of the rate, 0.94 % at 0.57. That is right for
            transit times of 200 ms in the mean: where they are exponential, without bound, a
            sliding log refuses 0.45 requests an hour, fixed windows and buckets none. On a quiet
            network 0.1 gives 99.8 %.
        shared: Where processes share these budgets: the path of a file on a local disk (those of
            one machine, without a server), or the URL of a Redis or Valkey server (those of many;
            extra `[redis]`). All who name the same one share them, per key and per `ip`. By
            default `TOKFLUENCE_SHARED`, else nothing is shared. Slots of a shared budget come one
            by one: `burst` has no effect there.
        ip: A name for the address this process leaves by. One name for all is wrong only on the
            safe side (600 a minute for everybody), so only who has several addresses names them
            (`ip=socket.gethostname()`). By default `TOKFLUENCE_IP`, else "default".

    Raises:
        ConfigurationError: A number is out of its range; or `shared` is neither a file nor a Redis
            URL, or redis-py is missing. A store that does not work ends the first call with it.

    Source: the Tokfluence API page, Throttles: 600 a minute per IP, 1200 per key, the algorithm not
    documented.
    """

    def __init__(
        self,
        per_ip: float | None = 600,
        per_key: float | None = 1200,
        period: float = 60.0,
        *,
        burst: int = 10,
        jitter: float = 0.57,
        shared: str | os.PathLike[str] | None = None,
        ip: str = "default",
    ) -> None:
        super().__init__(
            per_ip,
            per_key,
            period,
            burst=burst,
            jitter=jitter,
            shared=check_shared(os.environ.get("TOKFLUENCE_SHARED") if shared is None else shared),
            ip=check_ip(os.environ.get("TOKFLUENCE_IP", ip) if ip == "default" else ip),
        )

    def __repr__(self) -> str:
        shared = ""
        if self.shared is not None:
            place = self.shared.reveal()
            place = shown(place) if "://" in place else place
            shared = f", shared={place!r}, ip={self.ip!r}"
        return (
            f"Throttle(per_ip={self.per_ip!r}, per_key={self.per_key!r}, period={self.period!r}, "
            f"burst={self.burst!r}, jitter={self.jitter!r}{shared})"
        )

    def statistics(self) -> ThrottleStatistics:
        """How many wait, the current pace and the gate, of every lane this throttle governs.

        On the clock of the running event loop; without one, on the operating system's. Costs
        nothing.
        """
        loop = registry.running_loop()
        found = registry.current
        with found.lock:
            origins = list(found.origins(loop).values())
        lanes: list[LaneStatistics] = []
        waiting, processes = 0, 1
        shared: list[bool] = []
        for origin in origins:
            with origin.lock:
                if self not in origin.ip.throttles:
                    continue
                now = origin.now(loop)
                processes = max(processes, origin.processes)
                shared.append(origin.shared)
                keys = list(origin.keys.values())
                all_waiting = origin.line.waiting + sum(key.outside for key in keys)
                waiting += all_waiting
                lanes.append(describe(origin, origin.ip, None, all_waiting, now))
                lanes += [
                    describe(origin, key, key.label, key.waiting + key.outside, now)
                    for key in keys
                    if self in key.throttles
                ]
        return ThrottleStatistics(
            waiting=waiting,
            pace=min((lane.pace for lane in lanes), default=math.inf),
            gate_closed_for=max((lane.gate_closed_for for lane in lanes), default=0.0),
            slowed=any(lane.slowed for lane in lanes),
            lanes=tuple(lanes),
            processes=processes,
            shared=bool(shared) and all(shared),
        )

    def lanes(self, origin: str, key: str) -> Lanes:
        """The budgets that a client at `origin` with the token `key` draws on. The token is hashed
        and not kept."""
        return Lanes(self, origin, key)
