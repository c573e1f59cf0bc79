"""A strict local stand-in of the Tokfluence API, written from the API page alone.

It does not know the client: nothing here imports anything else of this package, and the client
meets it only over HTTP. A shared codec would share its mistakes.

Read `service` first: its docstring has the rules every request meets, in their order. `sandbox` is
what users see; `world` makes the posts, `throttles` counts, `ledger` remembers, `scripting` and
`faults` say what goes wrong, `striking` and `server` make it go wrong.
"""
