"""Budgets of tenants, and where each of them is."""
