"""Reading energy: NVML, RAPL, and the thread and journal of the sensors.

Comes in: the counters of drivers, at up to 20 Hz. Goes out: `Reading` events, in a journal of their own. A sensor
raises nothing: what goes wrong is a reading without energy that says why, a device that is not there, or a notice.

May import: core, journal.
"""
