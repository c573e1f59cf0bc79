"""The record of what was submitted and paid for, and of what a crawl has written.

This wing knows SQLite, and Redis where that is asked for. It knows request ids, posts and lines of
files. It does not know HTTP, credits, or what a batch is in doubt about; that is in `_bulk`.

Read `journal` first: what every journal promises. Then `sqlite`, the journal in a file, and below
it `writer` (how records share a commit), `store` (what runs in the thread), `outputs` (files that
grow in step) and `schema`. `redis` is the journal of several processes: `redis_store` is its
connection, `scripts` what it does in the store. `opening` opens whatever a call was given. The
reasons are in `docs/design/journal.md`.
"""
