"""What a sensor is, and several as one.

A sensor belongs to one thread, the agent's sensor thread. It raises nothing: what fails becomes a `Reading` without
energy that says why, a missing device, or a notice for the operator.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from costtrace.core.clock import Anchor
from costtrace.core.events import DeviceSeen, Reading

Notice = tuple[str, str]
"""(subject, message) for the operator."""
Clocks = Callable[[], Anchor]
"""Reads both clocks."""


class Sensor(Protocol):
    """Reads the energy of devices. One thread calls it; `devices` and `take_notices` may be called by any."""

    @property
    def calls(self) -> int:
        """Calls into the driver (or reads of files) so far."""
        ...

    def open(self) -> None:
        """Look for devices. If there are none a notice says why, and `upkeep` looks again."""

    def read(self, devices: Collection[str] | None = None) -> list[Reading]:
        """Read these devices (None: all) now. Unknown devices are skipped."""
        ...

    def upkeep(self) -> None:
        """Do what is due at a low rate: look for devices, read clocks and limits. Returns at once if nothing is due."""

    def devices(self) -> Sequence[DeviceSeen]:
        """The devices, as last seen."""
        ...

    def take_notices(self) -> list[Notice]:
        """Notices since the last call."""
        ...

    def close(self) -> None:
        """Release the driver."""


class Several:
    """Several sensors as one: the GPUs' and the host's. Of no sensors: energy is not read."""

    def __init__(self, sensors: Sequence[Sensor]) -> None:
        self._sensors = tuple(sensors)

    @property
    def calls(self) -> int:
        """Calls of all sensors."""
        return sum(sensor.calls for sensor in self._sensors)

    def open(self) -> None:
        """Open all."""
        for sensor in self._sensors:
            sensor.open()

    def read(self, devices: Collection[str] | None = None) -> list[Reading]:
        """Read these devices (None: all)."""
        return [reading for sensor in self._sensors for reading in sensor.read(devices)]

    def upkeep(self) -> None:
        """Upkeep of all."""
        for sensor in self._sensors:
            sensor.upkeep()

    def devices(self) -> Sequence[DeviceSeen]:
        """The devices of all."""
        return [device for sensor in self._sensors for device in sensor.devices()]

    def take_notices(self) -> list[Notice]:
        """The notices of all."""
        return [notice for sensor in self._sensors for notice in sensor.take_notices()]

    def close(self) -> None:
        """Close all."""
        for sensor in self._sensors:
            sensor.close()
