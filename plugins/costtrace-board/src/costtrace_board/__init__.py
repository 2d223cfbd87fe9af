"""Board-level figures, pure: cost per million tokens of benchmarks and of the ledger, and what lies between them.

`figures` is what a benchmark figure is, `importers` (by format) and `tables` make them, `published` and `claims` hold
what was published, `ladder` compares, `board`, `page` and `charts` show. A figure always names its token basis.
"""
