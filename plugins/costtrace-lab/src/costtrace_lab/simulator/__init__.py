"""The serving simulator: an instrument for evaluation and planning.

A workload (`workload`) runs through a scheduler with continuous batching (`scheduler`). The length of its steps comes
from measured kernel tables or from the analytic model (`kernel_tables`, `step_times`). The result is an ordinary
journal (`journals`) in simulated time, with ``simulated`` on everything, which the pipeline reads like any other.
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
