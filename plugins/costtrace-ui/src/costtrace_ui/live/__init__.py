"""The figures of the live pages."""
