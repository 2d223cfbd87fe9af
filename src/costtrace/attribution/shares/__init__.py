"""Who pays for a step: prices, counters that make a decode step O(1), accounts, and policies."""
