"""Where energy is read: what a sensor is, and the sensors by name.

A sensor belongs to one thread, the agent's sensor thread. It raises nothing: what goes wrong becomes a `Reading`
without energy that says why, a device that is not there, or a notice for the operator.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from costtrace.core.clock import Anchor
from costtrace.core.events import DeviceSeen, Reading

Notice = tuple[str, str]
"""(subject, message) for the operator."""
Clocks = Callable[[], Anchor]
"""Both clocks, read now."""


class Sensor(Protocol):
    """Reads the energy of devices. All of it in one thread, but `devices`."""

    @property
    def calls(self) -> int:
        """Calls into the driver (or reads of files) so far."""
        ...

    def open(self) -> None:
        """Look for devices. Where there are none a notice says why; `upkeep` looks again."""

    def read(self, devices: Collection[str] | None = None) -> list[Reading]:
        """Read these devices (None: all) now. Unknown ones are left out."""
        ...

    def upkeep(self) -> None:
        """What is due at a low rate: devices that came or went, clocks and limits. Returns at once if nothing is."""

    def devices(self) -> Sequence[DeviceSeen]:
        """The devices, as they were when last looked at. Any thread may ask."""
        ...

    def take_notices(self) -> list[Notice]:
        """What an operator has to know, since the last call. Any thread may ask."""
        ...

    def close(self) -> None:
        """Let go of the driver."""


class Nowhere:
    """The sensor of a host whose energy is not read: it has no devices."""

    calls = 0

    def open(self) -> None:
        """Nothing to do."""

    def read(self, devices: Collection[str] | None = None) -> list[Reading]:  # noqa: ARG002 - as every sensor
        """Read nothing."""
        return []

    def upkeep(self) -> None:
        """Nothing to do."""

    def devices(self) -> Sequence[DeviceSeen]:
        """No devices."""
        return ()

    def take_notices(self) -> list[Notice]:
        """Nothing to say."""
        return []

    def close(self) -> None:
        """Nothing to do."""


class Several:
    """Sensors side by side: the GPUs' and the host's."""

    def __init__(self, sensors: Sequence[Sensor]) -> None:
        self._sensors = tuple(sensors)

    @property
    def calls(self) -> int:
        """Of all of them."""
        return sum(sensor.calls for sensor in self._sensors)

    def open(self) -> None:
        """Open all."""
        for sensor in self._sensors:
            sensor.open()

    def read(self, devices: Collection[str] | None = None) -> list[Reading]:
        """Read these devices (None: all)."""
        return [reading for sensor in self._sensors for reading in sensor.read(devices)]

    def upkeep(self) -> None:
        """Do what is due."""
        for sensor in self._sensors:
            sensor.upkeep()

    def devices(self) -> Sequence[DeviceSeen]:
        """The devices of all."""
        return [device for sensor in self._sensors for device in sensor.devices()]

    def take_notices(self) -> list[Notice]:
        """What all of them have to say."""
        return [notice for sensor in self._sensors for notice in sensor.take_notices()]

    def close(self) -> None:
        """Close all."""
        for sensor in self._sensors:
            sensor.close()
