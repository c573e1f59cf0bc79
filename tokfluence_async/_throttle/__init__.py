"""When a request may leave: budgets of requests per time, shared by every client in the process.

This wing hands out *slots*. A caller takes one right before the bytes of one request leave, and
tells it whether the service refused that request. It does not know URLs, statuses or credits.

Read `throttle` first (what users see), then `lanes` (what a client calls), `origin` (how waiting
callers get slots) and `pacer` (the arithmetic). The design is in docs/design/throttle.md.

Several processes may share their budgets: `shared` asks a store for slots, by the rules of
`schedule`. Only who names a store loads these rooms. See docs/design/shared-throttle.md.
"""
