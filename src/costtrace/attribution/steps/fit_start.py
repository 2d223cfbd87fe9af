"""Where an engine's step model begins to learn: the prior of its model on its devices."""

from costtrace.attribution.steps.cost_model import GENERIC_SHAPE, prior
from costtrace.attribution.steps.device_peaks import peak_of
from costtrace.attribution.steps.fit import StepFit
from costtrace.core.events import EngineStarted


def first_fit(started: EngineStarted) -> StepFit:
    """Where learning begins: the prior of this model on these devices, as far as both are known."""
    first = started.devices[0] if started.devices else None
    name, kind = (first.name, first.kind) if first is not None else ("", "gpu")
    peak, devices = peak_of(name, kind), max(1, len(started.devices))
    own = prior(started.shape, kind, devices, peak)
    start = own or prior(GENERIC_SHAPE, kind, devices, peak)
    assert start is not None
    return StepFit(start, known=own is not None, device=peak.name, generic=peak.generic)
