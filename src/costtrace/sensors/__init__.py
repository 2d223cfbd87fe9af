"""Reading energy: NVML, RAPL, and the thread and journal of the sensors.

Comes in: the counters of drivers, at up to 20 Hz. Goes out: `Reading` events, in a journal of their own. A sensor
raises nothing: what fails becomes a reading without energy that says why, a missing device, or a notice.

May import: core, journal.
"""
