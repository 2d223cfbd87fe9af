"""An engine's step model at both ends: where learning begins, and what was learned as a row of the ledger."""

from costtrace.attribution.steps.cost_model import GENERIC_SHAPE, prior
from costtrace.attribution.steps.device_peaks import peak_of
from costtrace.attribution.steps.fit import StepFit
from costtrace.core.events import EngineStarted
from costtrace.core.rows import METHODS, FitRow

ATTO = 1e18
PPM = 1_000_000


def fit_row(engine_id: str, fit: StepFit, method: str) -> FitRow:
    """A step model as a row. Its coefficients are those of *method*: the roofline's, unless that is ``affine``."""
    c = fit.coefficients(method)
    errors = {
        f"{rung}_error_ppm": None if (mean := fit.errors.mean(place)) is None else round(mean * PPM)
        for place, rung in enumerate(METHODS)
    }
    return FitRow(
        engine_id=engine_id,
        method=method,
        device=fit.device,
        device_known=not fit.generic,
        shape_known=fit.known,
        fitted=fit.trusted(),
        knee_tokens=0 if method == "affine" else round(fit.knees[fit.knee]),
        launch_as=round(c.launch * ATTO),
        token_as=round(c.token * ATTO),
        weights_as=round(c.weights * ATTO),
        context_as=round(c.context * ATTO),
        attention_as=round(c.attention * ATTO),
        sequence_as=round(c.sequence * ATTO),
        encoder_as=round(c.encoder * ATTO),
        expert_ppm=round(c.expert_part * PPM),
        coverage_ppm=fit.fitted_ns * PPM // fit.step_ns if fit.step_ns else None,
        observations=fit.observations,
        outliers=fit.outliers,
        changes=fit.changes,
        moves=fit.moves,
        prompt_as=round(c.prompt * ATTO),
        decode_as=round(c.decode * ATTO),
        **errors,
    )


def first_fit(started: EngineStarted) -> StepFit:
    """A step model that has seen nothing: the prior of this model on these devices, as far as both are known."""
    first = started.devices[0] if started.devices else None
    name, kind = (first.name, first.kind) if first is not None else ("", "gpu")
    peak, devices = peak_of(name, kind), max(1, len(started.devices))
    of_shape = prior(started.shape, kind, devices, peak)
    start = of_shape or prior(GENERIC_SHAPE, kind, devices, peak)
    assert start is not None
    return StepFit(start, known=of_shape is not None, device=peak.name, generic=peak.generic)
