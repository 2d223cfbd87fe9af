"""The laboratory: a serving simulator, replay, what-if plans, engines that are not there, and the demo."""
