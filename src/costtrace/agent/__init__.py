"""The agent: one a node and home. It follows journals, attributes, rates, writes the ledger and emits.

`spawn` is the little of it that an engine process imports.
"""
