"""Many calls as one: analyze, resolve, read many, walk comments.

What to do next is decided by small rooms that neither wait nor send: `planner` (how large the next
batch is), `visibility` (when a read pays) and `recent` (which comments are new). `batch` knows what
a batch's request ids have been through. `analyze`, `resolve` and `comments` are the loops around
them, and `job` is what all bulk calls open and close alike. Read `job` first, then `analyze`.

This wing does not know statuses (`_http.retry` judges errors), sockets, files or screens.
"""
