"""What the shared throttle, the shared budget and the shared journal know of redis-py alike.

There is one room, `client`: a client for a URL, how a server is shown, and what an error means.
Read it before the stores of the three wings. It does not know what is kept in a server and how that
is changed there. Only who names a server loads redis-py (extra `[redis]`).
"""
