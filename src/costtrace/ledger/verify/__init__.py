"""The trial balance, pure: rows of a ledger in, discrepancies out. Every comparison is ``==`` between integers.

`meters` holds the time and the energy of devices against the postings, `money` every posting and its price,
`records` every request against its postings. `costtrace.ledger.verify.audit` reads the rows.
"""

from costtrace.ledger.verify.lines import Discrepancy

__all__ = ["Discrepancy"]
