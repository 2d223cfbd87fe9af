"""The prices of one step: what each sequence pays for what it used."""

from typing import NamedTuple


class Prices(NamedTuple):
    """What a step charges, in any unit: only their proportions matter, the sum is scaled to what was measured."""

    head: float
    """For a whole head fee."""
    sequence: float
    """For each sequence in the step."""
    token: float
    """For each token computed."""
    context: float
    """For each KV token that a decode reads."""
    attention: float
    """For each unit of prefill attention work (chunk tokens x context tokens)."""
    method: str
    expert: float = 0.0
    """For each unit of experts' weights that a participant causes to be read (`expert_units`)."""
    encoder: float = 0.0
    """For each encoder token."""
    prompt: float = 0.0
    """For each prefill chunk: its part of what a step with any of them does once."""
    decode: float = 0.0
    """For each decode: its part of what a step with any of them does once."""
    beyond: float = 0.0
    """For each token beyond the knee that a participant outside the cohort brings about, on top of `token`."""
