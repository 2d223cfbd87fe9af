"""The trial balance: rows of a ledger in, discrepancies out. Every comparison is ``==`` between integers.

`meters` compares postings with the time and the energy of devices, `money` every charge with its rate, `records` every
usage record with its postings, `adjustments` and `seals` what was changed later. `audit` reads the rows.

It imports nothing of what it proves (attribution, booking, rating): each rule is written here a second time.
"""

from costtrace.ledger.verify.lines import Discrepancy

__all__ = ["Discrepancy"]
