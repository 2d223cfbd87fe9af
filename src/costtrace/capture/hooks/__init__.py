"""Wrapping an engine's functions once they are imported, and checking that they are as a plugin expects."""
