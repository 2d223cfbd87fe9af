"""The fleet store: the ledgers of many nodes in one ClickHouse database, read by the same queries as a node's ledger.

`tables`, `schema` and `views` define it, `store` reads and writes it, `push` fills it from a node's ledger. The
reading commands open it by the entry point `fleet` of `costtrace.stores`.
"""
