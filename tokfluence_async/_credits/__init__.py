"""What may be spent and what was: budgets, the ledger, estimates.

`budget` says whether a request may be sent, `halt` whether the job goes on, `ledger` what was
charged, and `estimate` what a job would cost. Read `budget` first.

This wing does not know tasks, time or requests; prices are the wire's (`_wire.prices`).
"""
