"""The tables of the ledger, and how older ledgers become newer ones."""
