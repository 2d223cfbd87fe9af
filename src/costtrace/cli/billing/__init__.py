"""Commands for money: prices, statements, periods, budgets."""
