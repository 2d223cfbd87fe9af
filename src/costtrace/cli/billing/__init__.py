"""Commands for money: prices, tenants, periods, budgets."""
