"""Budgets of tenants: their file, what is spent of each by a ledger, and the forecast of a period's end."""
