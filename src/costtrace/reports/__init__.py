"""The bill as tables.

Comes in: rows that a store answers (`ledger.answers`). Goes out: tables (`output.tables`) and what they are written as:
text, CSV, JSON. `usage` is by tenant, model and time, `requests` is single requests, `evidence` what shows that the
figures are right. What a tenant or finance is sent is the distribution `costtrace-statements`.

May import: core, config, pricing, ledger. Pure, but for `output` and the `*_file` modules.
"""
