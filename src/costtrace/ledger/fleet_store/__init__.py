"""The fleet store: the ledgers of many nodes in one ClickHouse, asked by the same queries as a node's own.

`schema` is its tables, `store` reads it (the second dialect of `ledger.query`), `push` fills it from a node's ledger.
The library is the extra `fleet`.
"""
