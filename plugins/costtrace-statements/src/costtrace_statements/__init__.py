"""What is sent to a tenant or to finance: statements, settlements of idle time, FOCUS, provider bills.

`query` asks a store for a period, `settlement` settles it under a policy of `idle_policies`, `provider_bill` adds the
difference to an invoice. `statement` and `focus` make documents and rows of it, `output` writes them.
"""
