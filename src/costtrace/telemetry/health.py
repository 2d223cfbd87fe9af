"""Figures of costtrace's own health, for metrics."""

import threading
from collections.abc import Callable

from costtrace.core import semconv as s


class Health:
    """Figures by the short names of `semconv.HEALTH`; any other name is a ValueError. Any thread may set them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, float] = {}
        self._live: dict[str, Callable[[], float]] = {}

    def follow(self, name: str, read: Callable[[], float]) -> None:
        """Have a figure read by *read* whenever it is asked for, instead of being set."""
        self._check(name)
        self._live[name] = read

    def set(self, name: str, value: float) -> None:
        """Set a gauge, or a counter to its running total."""
        self._check(name)
        with self._lock:
            self._values[name] = value

    def add(self, name: str, value: float = 1) -> None:
        """Add to a counter."""
        self._check(name)
        with self._lock:
            self._values[name] = self._values.get(name, 0) + value

    def get(self, name: str) -> float | None:
        """The figure now; None: it was never set."""
        self._check(name)
        if name in self._live:
            return self._live[name]()
        with self._lock:
            return self._values.get(name)

    @staticmethod
    def _check(name: str) -> None:
        if name not in s.HEALTH:
            raise ValueError(f"{name!r} is not a figure of costtrace's health. There are: {', '.join(s.HEALTH)}.")
