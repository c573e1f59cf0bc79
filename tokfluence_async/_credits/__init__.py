"""What may be spent and what was: budgets, the ledger, estimates.

`budget` says whether a request may be sent, `halt` whether the job goes on, `ledger` what was
charged, and `estimate` what a job would cost. `reads` tells when a post is read after its analysis.
`shared` is one budget for several processes, and `shared_store` its record in Redis. Read `budget`
first.

This wing does not know requests, and prices are the wire's (`_wire.prices`). Nothing in it waits
and nothing asks for the time, but for the two rooms of the shared budget.
"""
