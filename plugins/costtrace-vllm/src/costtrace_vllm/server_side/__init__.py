"""Hooks in the API server: who asks, who is refused, what the client got, and what its answer probably cost."""
