"""What devices can do at best, by the name that their vendor gives them: the step model's prior is made from it.

Figures are the vendors' published ones: dense 16-bit matrix throughput (half of a figure "with sparsity") and memory
bandwidth. They set proportions only, and a fit on measured steps replaces them. A device that is not in the table gets
generic figures, and everything made from them says so.
"""

from typing import NamedTuple


class DevicePeak(NamedTuple):
    """What a device can do at best."""

    name: str
    flops: float
    """Dense, 16 bit (bfloat16), per second."""
    bytes_per_s: float
    source: str
    generic: bool = False
    """True: nothing is known of this device, these are another's figures."""


GENERIC_GPU = DevicePeak(
    "generic GPU", 9.9e14, 3.35e12, "no figures of this device: those of an H100 SXM", generic=True
)
GENERIC_CPU = DevicePeak("generic CPU", 2.0e12, 1.0e11, "a round guess for a server processor", generic=True)

_TABLE: tuple[tuple[tuple[str, ...], DevicePeak], ...] = (
    (("GB300",), DevicePeak("NVIDIA GB300", 2.5e15, 8.0e12, "NVIDIA GB300 NVL72 datasheet, a 72nd")),
    (("B300",), DevicePeak("NVIDIA B300", 2.25e15, 8.0e12, "NVIDIA HGX B300 datasheet, an eighth")),
    (("GB200",), DevicePeak("NVIDIA GB200", 2.5e15, 8.0e12, "NVIDIA GB200 NVL72 datasheet, a 72nd")),
    (("B200",), DevicePeak("NVIDIA B200", 2.25e15, 8.0e12, "NVIDIA DGX B200 datasheet, an eighth")),
    (("H200", "NVL"), DevicePeak("NVIDIA H200 NVL", 8.355e14, 4.8e12, "NVIDIA H200 datasheet, NVL")),
    (("H200",), DevicePeak("NVIDIA H200 SXM", 9.895e14, 4.8e12, "NVIDIA H200 datasheet, SXM")),
    (("H100", "NVL"), DevicePeak("NVIDIA H100 NVL", 8.355e14, 3.9e12, "NVIDIA H100 datasheet, NVL")),
    (("H100", "PCIE"), DevicePeak("NVIDIA H100 PCIe", 7.56e14, 2.0e12, "NVIDIA H100 PCIe product brief")),
    (("H100",), DevicePeak("NVIDIA H100 SXM", 9.895e14, 3.35e12, "NVIDIA H100 datasheet, SXM")),
    (("A100", "40GB"), DevicePeak("NVIDIA A100 40GB", 3.12e14, 1.555e12, "NVIDIA A100 datasheet, 40GB")),
    (("A100", "PCIE"), DevicePeak("NVIDIA A100 80GB PCIe", 3.12e14, 1.935e12, "NVIDIA A100 datasheet, 80GB PCIe")),
    (("A100",), DevicePeak("NVIDIA A100 80GB SXM", 3.12e14, 2.039e12, "NVIDIA A100 datasheet, 80GB SXM")),
    (("L40S",), DevicePeak("NVIDIA L40S", 3.62e14, 8.64e11, "NVIDIA L40S datasheet")),
    (("MI300X",), DevicePeak("AMD Instinct MI300X", 1.3074e15, 5.3e12, "AMD Instinct MI300X datasheet")),
)
"""Words that a device's name must hold, and its figures. The first entry that fits counts."""

_MEMORY_EIGHTHS = {1: 1, 2: 2, 3: 4, 4: 4, 7: 8}
"""NVIDIA MIG user guide: memory slices (of 8) that go with so many compute slices (of 7)."""


def peak_of(name: str, kind: str) -> DevicePeak:
    """Figures of a device by its vendor's name and kind (``gpu``, ``mig``, ``cpu``); generic where it is not known.

    An instance of a MIG board gets its slices' part where its name has them (``... MIG 3g.40gb``). One whose name is
    the board's gets the board's figures: its compute and its bandwidth are then too large by about the same factor.
    """
    if kind == "cpu":
        return GENERIC_CPU
    words = name.upper()
    peak = next((peak for needles, peak in _TABLE if _holds(words, needles)), GENERIC_GPU)
    slices = _mig_slices(words)
    if slices is None:
        return peak
    return peak._replace(
        name=f"{peak.name}, {slices} of 7 slices",
        flops=peak.flops * slices / 7,
        bytes_per_s=peak.bytes_per_s * _MEMORY_EIGHTHS[slices] / 8,
    )


def _holds(words: str, needles: tuple[str, ...]) -> bool:
    model, *rest = needles
    # GH200 is not an H200, and B200 is not a GB200: the model has to be a word by itself.
    separate = words.replace("-", " ").replace("_", " ").split()
    return model in separate and all(needle in words for needle in rest)


def _mig_slices(words: str) -> int | None:
    _, mig, profile = words.partition("MIG ")
    slices, g, _ = profile.partition("G.")
    return int(slices) if mig and g and slices.isdigit() and int(slices) in _MEMORY_EIGHTHS else None


def known_peaks() -> tuple[DevicePeak, ...]:
    """All devices of the table, for documents and checks."""
    return tuple(peak for _, peak in _TABLE)
