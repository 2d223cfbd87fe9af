"""Does a device's energy counter agree with its own power, integrated over time? Pure.

Their difference is published and changes no row. InferenceX allows 5 %. A counter that integrates
only what a part-time sensor sees, and one-second averages of power, differ by more for a while and less over time.
"""

import msgspec

from costtrace.core.units import NS_PER_S

LONGEST_NS = 5 * NS_PER_S // 2
"""Readings further apart than this are not compared: nothing is known of the power between them."""
MEMORY_NS = 600 * NS_PER_S
"""After so much compared time all sums are halved, so that older readings count less."""


class CrossCheck(msgspec.Struct):
    """One device's counter and its integrated power, over the same windows."""

    compared_ns: int = 0
    counted_uj: int = 0
    integrated_uj: int = 0

    def window(self, length_ns: int, counted_uj: int, power_mw: tuple[int | None, int | None]) -> None:
        """Take a counter window, with the power at its start and at its end."""
        before_mw, after_mw = power_mw
        if before_mw is None or after_mw is None or not 0 < length_ns <= LONGEST_NS:
            return
        if self.compared_ns > MEMORY_NS:
            self.compared_ns, self.counted_uj, self.integrated_uj = (
                value // 2 for value in (self.compared_ns, self.counted_uj, self.integrated_uj)
            )
        self.compared_ns += length_ns
        self.counted_uj += counted_uj
        self.integrated_uj += (before_mw + after_mw) * length_ns // 2_000_000

    def residual(self) -> float | None:
        """By what share integrated power exceeds the counter; None: fewer than 10 s have been compared."""
        if self.compared_ns < 10 * NS_PER_S or not self.counted_uj:
            return None
        return self.integrated_uj / self.counted_uj - 1
