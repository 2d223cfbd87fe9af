"""The sensor thread: reads the sensors at its own pace and leaves the readings for the agent's loop."""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable
from typing import NamedTuple

from costtrace.core.events import Reading
from costtrace.core.units import NS_PER_S
from costtrace.sensors.sensor import Sensor

log = logging.getLogger("costtrace.sensors")

HIGHEST_HZ = 20.0
"""Read more often, some drivers answer 0 or NOT_SUPPORTED, and each call takes the driver's lock."""
IDLE_HZ = 1.0
JITTER = 0.2
"""Intervals vary by up to this share: otherwise a load in step with the reads would be seen always or never."""
STALL_NS = 10 * NS_PER_S
WAITING = 100_000
"""Readings that may wait to be taken. A dropped reading of a counter loses no energy: the next one covers it."""


class Cost(NamedTuple):
    """What reading has cost so far."""

    cpu_ns: int
    calls: int
    readings: int
    longest_ns: int
    """Duration of the longest round."""


class Pace:
    """When each device is due: busy ones at *hz*, idle ones at *idle_hz*, with jitter."""

    def __init__(self, hz: float, rng: random.Random, idle_hz: float = IDLE_HZ) -> None:
        self._busy_ns = NS_PER_S / min(hz, HIGHEST_HZ)
        self._idle_ns = max(NS_PER_S / idle_hz, self._busy_ns)
        self._rng = rng
        self._due: dict[str, int] = {}

    def due(self, now_ns: int, devices: Iterable[str], busy: Collection[str]) -> list[str]:
        """The devices to read now. All busy ones, and all idle ones, fall due together: one round reads them."""
        factor = 1 + JITTER * (2 * self._rng.random() - 1)
        due = []
        self._due = {uuid: self._due.get(uuid, now_ns) for uuid in devices}
        for uuid, due_ns in self._due.items():
            busy_at = now_ns + max(NS_PER_S / HIGHEST_HZ, self._busy_ns * factor)
            if uuid in busy:
                # A device that has just become busy does not wait for the end of its idle interval.
                self._due[uuid] = min(due_ns, round(busy_at))
            if now_ns >= due_ns:
                due.append(uuid)
                self._due[uuid] = round(busy_at if uuid in busy else now_ns + self._idle_ns * factor)
        return due

    def wait_ns(self, now_ns: int) -> int:
        """Time until a device is due, at most an idle interval."""
        return max(0, min([*self._due.values(), now_ns + round(self._idle_ns)]) - now_ns)


class Sampler:
    """Runs a sensor in a thread of its own. All methods return at once, whatever the driver does."""

    def __init__(self, sensor: Sensor, *, hz: float, rng: random.Random | None = None) -> None:
        self.sensor = sensor
        self._pace = Pace(hz, rng or random.Random())  # noqa: S311 - jitter, no secret
        self._readings: deque[Reading] = deque(maxlen=WAITING)
        self._busy: frozenset[str] = frozenset()
        self._stop = threading.Event()
        self._round_ns = 0
        """When the present round began (monotonic); 0: none is running."""
        self._cost = Cost(0, 0, 0, 0)
        self._thread = threading.Thread(target=self._run, name="costtrace-sensors", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._round_ns = time.monotonic_ns()
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Stop. False: a call into the driver does not return; the thread is left behind and ends with the process."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def busy(self, devices: Collection[str]) -> None:
        """Set the devices that engines have (UUIDs as the sensor knows them)."""
        self._busy = frozenset(devices)

    def take(self) -> list[Reading]:
        """Readings since the last call, in order."""
        taken = []
        while self._readings:
            taken.append(self._readings.popleft())
        return taken

    def stalled_ns(self, now_ns: int) -> int:
        """For how long a read has not returned, if that is longer than `STALL_NS`; else 0."""
        began_ns = self._round_ns  # the sensor thread may set it to 0 at any time
        running_ns = now_ns - began_ns if began_ns else 0
        return running_ns if running_ns > STALL_NS else 0

    @property
    def cost(self) -> Cost:
        """What reading has cost so far."""
        return self._cost

    def _run(self) -> None:
        try:
            self.sensor.open()
            while not self._stop.is_set():
                wait_s = self._round() / NS_PER_S
                self._stop.wait(wait_s)
            self.sensor.close()
        except Exception:  # a driver's binding may raise anything; the agent goes on without energy
            log.exception("the sensor thread has failed: energy is unknown from now on, until the agent starts again")
        finally:
            self._round_ns = 0

    def _round(self) -> int:
        """Read what is due. Returns the ns to wait for the next round."""
        self._round_ns = began_ns = time.monotonic_ns()
        self.sensor.upkeep()
        boards = [device.uuid for device in self.sensor.devices() if not device.parent]
        busy = {device.parent or device.uuid for device in self.sensor.devices() if device.uuid in self._busy}
        due = self._pace.due(time.monotonic_ns(), boards, busy)
        readings = self.sensor.read(due) if due else []
        self._readings.extend(readings)
        now_ns, self._round_ns = time.monotonic_ns(), 0
        cost = self._cost
        self._cost = Cost(
            time.thread_time_ns(),
            self.sensor.calls,
            cost.readings + len(readings),
            max(cost.longest_ns, now_ns - began_ns),
        )
        return self._pace.wait_ns(now_ns)
