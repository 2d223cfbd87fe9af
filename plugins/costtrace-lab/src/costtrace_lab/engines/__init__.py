"""Instruments for tests and benchmarks: an engine that is not there, as real events and as real journals.

`random_engine` decides who is in which batch, by a seed. `schedules` turns that into the events of a life, at once and
in invented time. `engine` plays it in real time through the real recorder and journal, in a process that can be killed.

All that they make is marked ``simulated``: it is no measurement.
"""

from costtrace_lab.engines.random_engine import Profile, RandomEngine
from costtrace_lab.engines.schedules import Life, random_life

__all__ = ["Life", "Profile", "RandomEngine", "random_life"]
"""Names that tests of other projects may rely on."""
