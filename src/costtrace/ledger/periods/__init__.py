"""Closed periods: sealing them, compacting them, and rating again what was booked."""
