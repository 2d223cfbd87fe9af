"""A simulated inference server: an instrument for evaluation and planning, never a source of measured numbers.

It schedules as continuous batching does (chunked prefill, prefix cache, preemption with recomputation, drafts), asks
somebody else how long each batch takes, and records what an engine's plugin would: ordinary journal events, marked
``simulated``, on which the whole pipeline runs unchanged.
"""

from costtrace.simulator.serving import Batch, Limits, Member, Offered, Server
from costtrace.simulator.step_time import RooflineTime

__all__ = ["Batch", "Limits", "Member", "Offered", "RooflineTime", "Server"]
