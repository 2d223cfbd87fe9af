"""The words that everything else is written in.

Units, clocks, errors, the events of the journal, the rows of the ledger, and every name that is emitted. Nothing comes
in and nothing goes out: this is vocabulary.

May import: nothing of ours.
"""
