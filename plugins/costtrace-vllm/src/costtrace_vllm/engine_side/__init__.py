"""Hooks in the engine core: what the engine is, each of its steps, and the events that they become in the journal."""
