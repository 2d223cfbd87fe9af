"""Single requests: lists of them, and why one cost what it did."""
