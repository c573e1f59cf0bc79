"""One call: its attempts, the retries between them, and the wire.

Knows aiohttp, by its documented API only, and event loops. Does not know posts, comments or
journals: a call is a method, a target, a price and a shape to decode into.

Read `engine` first: `Engine.perform` is the loop over the attempts of a call. `call` holds what a
call needs between its steps, `charge` what its request id has cost. `transport` makes one attempt;
`attempt` is that attempt's slot and clock, `connector` chooses its connection, `failures` turns
aiohttp's errors into ours. `retry` decides what follows; `outage` lets jobs wait while no
connection can be made at all. `concurrency` has the two waits before the throttle, `loops` what
belongs to one event loop, `keys` what belongs to one key in it. `foreign_server` notices that
something else than the API answers, `log` is `TOKFLUENCE_LOG`, `telemetry` is OpenTelemetry.
"""
