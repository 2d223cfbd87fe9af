"""The bill as tables and documents.

Comes in: rows that a store answers (`ledger.answers`). Goes out: tables (`output.tables`) and what they are written as:
text, CSV, JSON, HTML, PDF, Parquet. `usage` is by tenant, model and time, `requests` is single requests,
`statements` what a tenant or finance is sent, `evidence` what shows that the figures are right.

May import: core, config, pricing, ledger. Pure, but for `output` and the `*_file` modules.
"""
