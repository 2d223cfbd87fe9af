"""The vocabulary of all other packages.

Units, clocks, errors, the events of the journal, the rows of the ledger, every name that is emitted, and the little
arithmetic that several packages share.

May import: no other package of costtrace.
"""
