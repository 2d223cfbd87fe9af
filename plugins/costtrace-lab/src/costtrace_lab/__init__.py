"""The laboratory: a serving simulator, replay, what-if plans, made-up engines, and the demo."""
