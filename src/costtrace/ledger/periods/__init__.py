"""Closed periods: closing, compacting, and rating again what was booked."""
