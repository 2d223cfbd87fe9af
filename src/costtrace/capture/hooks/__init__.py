"""Wrapping an engine's functions once they are imported, and checking that they are what they were."""
