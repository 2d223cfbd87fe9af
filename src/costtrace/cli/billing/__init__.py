"""Commands for money: prices, statements, periods, budgets, the fleet store."""
