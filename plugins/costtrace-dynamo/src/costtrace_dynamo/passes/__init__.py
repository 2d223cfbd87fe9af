"""Dynamo's own records of forward passes and requests, beside what the ledger has."""
