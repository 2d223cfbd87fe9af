"""Commands that say what was used, by whom, and prove it."""
