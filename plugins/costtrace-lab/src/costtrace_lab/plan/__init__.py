"""``costtrace plan``: the ledger's traffic in the serving simulator, under another price, device, limit or fleet."""
