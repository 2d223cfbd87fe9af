"""The ledger: the bill. Postings, meter rows and usage records in one SQLite file, written by one agent.

`schema` is the tables, `store` writes them, `query` reads them. Spans, metrics and reports are views of it.
"""

from costtrace.ledger.store import Ledger

__all__ = ["Ledger"]
