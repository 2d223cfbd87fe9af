"""Board-level figures: cost per million tokens of benchmarks and of the ledger, and what lies between them.

`figures` defines a benchmark's figure; `csv_files`, `load_tests` and `mlperf` read figures from files. `published` and
`claims` hold what was published. `query` reads the ledger, `cells` computes production's figures, `ladder` compares the
two, `board_tables` and `page` show them. A figure always names its token basis.
"""
