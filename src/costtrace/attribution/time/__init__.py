"""Who has which device when: an engine's time in segments, and devices that several engines use."""
