"""The serving simulator: an instrument for evaluation and planning. It serves nobody.

A workload (`workload`) runs through a scheduler with continuous batching (`scheduler`), whose steps take what measured
kernel tables or the analytic model say (`kernel_tables`, `step_times`). What comes out is an ordinary journal
(`journals`), in simulated time, with ``simulated`` on everything: the pipeline runs on it as it is.
"""

from costtrace_lab.simulator.journals import journal_events, write_journal
from costtrace_lab.simulator.models import MODELS, Model, read_model
from costtrace_lab.simulator.scheduler import SchedulerConfig, Simulator
from costtrace_lab.simulator.step_times import Disturbances, Disturbed, Load, Roofline, StepTimes
from costtrace_lab.simulator.workload import Arrival, read_workload

__all__ = [
    "MODELS",
    "Arrival",
    "Disturbances",
    "Disturbed",
    "Load",
    "Model",
    "Roofline",
    "SchedulerConfig",
    "Simulator",
    "StepTimes",
    "journal_events",
    "read_model",
    "read_workload",
    "write_journal",
]
