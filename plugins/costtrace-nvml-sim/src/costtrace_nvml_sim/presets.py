"""What is known about the power sensors of NVIDIA's GPUs: one preset for each product, each figure with its source.

A preset is a starting point: a scenario can override every figure. Where ``provenance`` says *assumed*, no measurement
is published; do not conclude anything about that product from the simulation.

Sources
    YANG   Yang, Adamek, Armour, "Part-time Power Measurements: nvidia-smi's Lack of Attention" (arXiv 2312.02741, SC24)
           and its results sheet (JimZeyuYang/GPU_Power_Benchmark, Overall_Results.xlsx): update period and averaging
           window by architecture. On A100 and H100 the sensor sees 25 ms of every 100 ms.
    NVML   nvml.h of NVML 13: nvmlDeviceGetPowerUsage is averaged over 1 s "on Ampere (except GA100) or newer", instant
           before; field 185 exists from Ampere (except GA100) on; module power samples start with Grace Hopper.
    ZEUS   ml-energy/zeus: counter granularity of about 100 ms (blog on thermally stable profiling); the counter of a
           GH200 is that of the whole module (pull request 172).
    DATA   the product's data sheet: memory, default power limit.

Not documented: whether the hardware's counter integrates everything (``ideal``) or only what the part-time sensor sees
(``part_time``). Both can be simulated; ``ideal`` is the default, and an evaluation should report both.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One product and its power sensor."""

    name: str
    architecture: int
    """NVML's own number: 4 Pascal, 5 Volta, 6 Turing, 7 Ampere, 8 Ada, 9 Hopper, 10 Blackwell."""
    compute_capability: tuple[int, int]
    pci_device_id: int
    sms: int
    memory_mib: int
    idle_w: int
    """Typical draw with nothing loaded. Not from a data sheet."""
    limit_w: int
    min_limit_w: int
    sm_clock_mhz: int
    mem_clock_mhz: int
    update_period_ms: int = 100
    window_ms: int
    average_ms: int = 1000
    power_usage: Literal["instant", "average"]
    """Which power nvmlDeviceGetPowerUsage returns."""
    has_average_field: bool
    has_counter: bool = True
    """Whether it has an energy counter: Volta and newer do (NVML)."""
    counter_update_ms: int = 100
    counter_scope: Literal["gpu", "module"] = "gpu"
    module_extra_w: int | None = None
    """Power of the rest of the module (CPU and its memory); None where the GPU is not a superchip."""
    provenance: str


PRESETS: dict[str, Preset] = {
    "H100": Preset(
        name="NVIDIA H100 80GB HBM3",
        architecture=9,
        compute_capability=(9, 0),
        pci_device_id=0x233010DE,
        sms=132,
        memory_mib=81559,
        idle_w=70,
        limit_w=700,
        min_limit_w=200,
        sm_clock_mhz=1980,
        mem_clock_mhz=2619,
        window_ms=25,
        power_usage="average",
        has_average_field=True,
        provenance="sensor 25/100 ms, power.draw 1 s: YANG; counter 100 ms: ZEUS; limit: DATA",
    ),
    "H200": Preset(
        name="NVIDIA H200",
        architecture=9,
        compute_capability=(9, 0),
        pci_device_id=0x233510DE,
        sms=132,
        memory_mib=143771,
        idle_w=75,
        limit_w=700,
        min_limit_w=200,
        sm_clock_mhz=1980,
        mem_clock_mhz=3201,
        window_ms=25,
        power_usage="average",
        has_average_field=True,
        provenance="sensor: as the H100's, the same die (YANG); counter 100 ms: ZEUS; limit: DATA",
    ),
    "GH200": Preset(
        name="NVIDIA GH200 480GB",
        architecture=9,
        compute_capability=(9, 0),
        pci_device_id=0x234210DE,
        sms=132,
        memory_mib=97871,
        idle_w=80,
        limit_w=900,
        min_limit_w=100,
        sm_clock_mhz=1980,
        mem_clock_mhz=2619,
        window_ms=25,
        power_usage="average",
        has_average_field=True,
        counter_scope="module",
        module_extra_w=90,
        provenance="sensor 25/100 ms: YANG (GH100 die); counter of the whole module: ZEUS; CPU share of 90 W: assumed",
    ),
    "B200": Preset(
        name="NVIDIA B200",
        architecture=10,
        compute_capability=(10, 0),
        pci_device_id=0x290110DE,
        sms=148,
        memory_mib=183359,
        idle_w=140,
        limit_w=1000,
        min_limit_w=200,
        sm_clock_mhz=1965,
        mem_clock_mhz=3996,
        window_ms=25,
        power_usage="average",
        has_average_field=True,
        provenance="sensor: assumed as Hopper's; power.draw 1 s: NVML; limit: DATA",
    ),
    "GB200": Preset(
        name="NVIDIA GB200",
        architecture=10,
        compute_capability=(10, 0),
        pci_device_id=0x294110DE,
        sms=152,
        memory_mib=189471,
        idle_w=150,
        limit_w=1200,
        min_limit_w=200,
        sm_clock_mhz=2062,
        mem_clock_mhz=3996,
        window_ms=25,
        power_usage="average",
        has_average_field=True,
        counter_scope="module",
        module_extra_w=100,
        provenance="sensor: assumed as Hopper's; counter of the module: assumed as the GH200's; CPU share: assumed",
    ),
    "A100": Preset(
        name="NVIDIA A100-SXM4-80GB",
        architecture=7,
        compute_capability=(8, 0),
        pci_device_id=0x20B210DE,
        sms=108,
        memory_mib=81920,
        idle_w=50,
        limit_w=400,
        min_limit_w=100,
        sm_clock_mhz=1410,
        mem_clock_mhz=1593,
        window_ms=25,
        power_usage="instant",
        has_average_field=False,
        provenance="sensor 25/100 ms: YANG; no average: NVML; counter 100 ms: ZEUS; limit: DATA",
    ),
    "L40S": Preset(
        name="NVIDIA L40S",
        architecture=8,
        compute_capability=(8, 9),
        pci_device_id=0x26B910DE,
        sms=142,
        memory_mib=46068,
        idle_w=35,
        limit_w=350,
        min_limit_w=100,
        sm_clock_mhz=2520,
        mem_clock_mhz=9001,
        window_ms=100,
        power_usage="average",
        has_average_field=True,
        provenance="sensor 100/100 ms, power.draw 1 s: YANG (Ada); counter 100 ms: ZEUS; limit: DATA",
    ),
    "RTX4090": Preset(
        name="NVIDIA GeForce RTX 4090",
        architecture=8,
        compute_capability=(8, 9),
        pci_device_id=0x268410DE,
        sms=128,
        memory_mib=24564,
        idle_w=20,
        limit_w=450,
        min_limit_w=150,
        sm_clock_mhz=3105,
        mem_clock_mhz=10501,
        window_ms=100,
        power_usage="average",
        has_average_field=True,
        provenance="sensor 100/100 ms, power.draw 1 s: YANG (Ada); counter 100 ms: ZEUS; limit: DATA",
    ),
    "RTX3090": Preset(
        name="NVIDIA GeForce RTX 3090",
        architecture=7,
        compute_capability=(8, 6),
        pci_device_id=0x220410DE,
        sms=82,
        memory_mib=24576,
        idle_w=25,
        limit_w=350,
        min_limit_w=100,
        sm_clock_mhz=2100,
        mem_clock_mhz=9751,
        window_ms=100,
        power_usage="average",
        has_average_field=True,
        provenance="sensor 100/100 ms, power.draw 1 s: YANG (GA10x); counter 100 ms: ZEUS; limit: DATA",
    ),
    "T4": Preset(
        name="Tesla T4",
        architecture=6,
        compute_capability=(7, 5),
        pci_device_id=0x1EB810DE,
        sms=40,
        memory_mib=15360,
        idle_w=10,
        limit_w=70,
        min_limit_w=60,
        sm_clock_mhz=1590,
        mem_clock_mhz=5001,
        window_ms=100,
        power_usage="instant",
        has_average_field=False,
        provenance="sensor 100/100 ms: YANG (Turing); counter 100 ms: ZEUS; limit: DATA",
    ),
    "V100": Preset(
        name="Tesla V100-SXM2-32GB",
        architecture=5,
        compute_capability=(7, 0),
        pci_device_id=0x1DB510DE,
        sms=80,
        memory_mib=32768,
        idle_w=40,
        limit_w=300,
        min_limit_w=150,
        sm_clock_mhz=1530,
        mem_clock_mhz=877,
        update_period_ms=20,
        window_ms=10,
        power_usage="instant",
        has_average_field=False,
        counter_update_ms=20,
        provenance="sensor 10/20 ms: YANG (Volta); counter 20 ms: assumed from the sensor; limit: DATA",
    ),
    "P100": Preset(
        name="Tesla P100-SXM2-16GB",
        architecture=4,
        compute_capability=(6, 0),
        pci_device_id=0x15F910DE,
        sms=56,
        memory_mib=16384,
        idle_w=30,
        limit_w=300,
        min_limit_w=150,
        sm_clock_mhz=1480,
        mem_clock_mhz=715,
        update_period_ms=20,
        window_ms=10,
        power_usage="instant",
        has_average_field=False,
        has_counter=False,
        counter_update_ms=20,
        provenance="sensor 10/20 ms: YANG (Pascal); no counter before Volta: NVML; limit: DATA",
    ),
}
