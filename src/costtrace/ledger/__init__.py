"""The bill at rest: postings, meter rows and usage records in one SQLite file, written by one agent.

Input: rated rows, in one transaction with the agent's positions and state (`booking`, `store`). Output: rows that
answer a question (`reader`, `queries`), closed periods (`periods`), and the proof that everything adds up (`verify`).

May import: core, config, pricing.
"""

from costtrace.ledger.store import Ledger

__all__ = ["Ledger"]
