"""The settings of sensors, of other nodes' sensors, and of carbon. Part of `costtrace.config.settings.Settings`."""

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ValidationInfo, field_validator

from costtrace.config.field import absolute, setting
from costtrace.core.numbers import exact

ENERGY = "Energy"


class EnergySettings(BaseModel):
    """How energy is read, and the carbon of it."""

    sensor: Literal["auto", "nvml", "rapl", "none"] = setting(
        "auto",
        group=ENERGY,
        about="Where energy is read. `auto`: GPUs by NVML and the host's CPUs by RAPL, each where it can be read. "
        "Where it cannot, energy is unknown, not 0.",
        example="none",
    )
    sensor_gain: Mapping[str, Decimal] = setting(
        {},
        group=ENERGY,
        about="Declared correction of devices' sensors, by UUID or by a pattern of names. Readings are multiplied by "
        "it exactly, and it is recorded with them. Boards were found to read 5 % low against a meter.",
        example="NVIDIA A100*=1.05,GPU-8a1c0f9e-0b7d-5c11-9d3b-1f2e3d4c5b6a=1.062",
    )
    mig_rule: Literal["slices", "equal"] = setting(
        "slices",
        group=ENERGY,
        about="How the energy of a board is split over its MIG instances, which have no meters: by size, or evenly.",
        example="equal",
    )
    remote_homes: tuple[Path, ...] = setting(
        (),
        group=ENERGY,
        about="Homes of other nodes' agents, mounted here: for engines with devices on several nodes. Only their "
        "sensors' journals are read; read-only is enough. This node's own home may be among them.",
        example="/mnt/node-18/costtrace,/mnt/node-19/costtrace",
    )
    remote_wait_s: int = setting(
        60,
        group=ENERGY,
        about="How long the rows of such an engine wait for another node's readings. Until then their energy is "
        "pending, after that it is unknown.",
        unit="s",
        example="600",
        ge=60,
        le=3_600,
    )
    remote_clock_ms: float = setting(
        10.0,
        group=ENERGY,
        about="By how much the wall clocks of those nodes may differ from this one's: declared by their operator, and "
        "recorded with each of their windows. Their readings are placed by wall time.",
        unit="ms",
        example="1",
        ge=0,
        le=10_000,
        allow_inf_nan=False,
    )
    sensor_hz: float = setting(
        10.0,
        group=ENERGY,
        about="How often each device's sensor is read. NVML renews its values 10 to 50 times a second.",
        unit="Hz",
        example="20",
        gt=0,
        le=20,
        allow_inf_nan=False,
    )
    carbon_intensity: str = setting(
        "",
        group=ENERGY,
        about="Carbon intensity of the grid: g/kWh, or a CSV file with the columns time,g_per_kwh. If set, "
        "requests and spans carry an estimate of their CO2e, unless their energy is unknown.",
        unit="g/kWh",
        example="/etc/costtrace/grid-2026.csv",
    )
    carbon_pue: Decimal = setting(
        Decimal(1),
        group=ENERGY,
        about="For carbon: energy that the facility draws for each joule of a device.",
        example="1.2",
        ge=1,
        le=5,
    )

    @field_validator("sensor_gain")
    @classmethod
    def _gains(cls, gains: Mapping[str, Decimal]) -> Mapping[str, Decimal]:
        for name, gain in gains.items():
            if not (gain.is_finite() and Decimal("0.5") <= gain <= 2):
                raise ValueError(f"the gain of {name!r} is {gain}; one beyond 0.5 to 2 is a mistake")
        return MappingProxyType(dict(gains))

    @field_validator("remote_homes")
    @classmethod
    def _absolute_all(cls, paths: tuple[Path, ...], info: ValidationInfo) -> tuple[Path, ...]:
        return tuple(absolute(path, info) for path in paths)

    @field_validator("carbon_intensity")
    @classmethod
    def _number_or_absolute(cls, text: str, info: ValidationInfo) -> str:
        return str(absolute(Path(text), info)) if text and exact(text) is None else text
