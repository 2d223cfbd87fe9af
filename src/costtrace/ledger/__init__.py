"""The bill at rest: postings, meter rows and usage records in one SQLite file, written by one agent.

Comes in: rated rows, in one transaction with the agent's cursor (`booking`, `store`). Goes out: rows that answer a
question (`reader`, `queries`), closed periods (`periods`), and the proof that everything adds up (`verify`).
`fleet_store` is the same for many nodes, in ClickHouse.

May import: core, config, pricing.
"""

from costtrace.ledger.store import Ledger

__all__ = ["Ledger"]
