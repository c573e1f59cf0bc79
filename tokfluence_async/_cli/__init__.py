"""The `tokfluence` command: arguments in, data on standard output, all else on standard error.

It knows the library as it is, private rooms included, and none of the service's rules: those are
taken from the wings below. Read `app` first: it lists the commands and the room of each. Then
`runtime` (one run from client to exit status), `session` (what a command works with), `inputs` and
`output` (lines in, rows out), `screen`, `display` and `snapshot` (what people see).
"""
