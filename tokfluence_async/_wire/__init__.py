"""Requests and answers as values: what the service's API page says, and nothing else.

Knows msgspec and the API page. Does not know sockets, tasks or time: every function here is pure
(but for `request_ids`, which draws random bits once a process).

Read `calls` first (what can be asked, and its price), then `answers` (what came back, or an error).
`prices` says what a call costs, `statuses` what an error status says of its request. `bodies` are
the documented bodies as types, and `shapes` decodes into them: `checks` refuses the dangerous ones
before, `repair` mends odd fields after, and `nearly_json` makes JSON of what is nearly that. `ids`
decides what names a post, `lines` makes the lines of a crawl's files, and `secret` holds what may
not be shown.
"""
