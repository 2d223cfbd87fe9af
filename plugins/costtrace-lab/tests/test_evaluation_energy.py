"""The programs of the energy evaluation: they find what is known to be there, and their truth is one."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
from public_data import DATA, needs

EVALUATION = Path(__file__).parents[3] / "evaluation"


def program(name):
    """A program of the evaluation, as a module."""
    sys.path.insert(0, str(EVALUATION))
    try:
        spec = importlib.util.spec_from_file_location(f"evaluation_{name}", EVALUATION / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(EVALUATION))


@needs("power_meter/rtx3090_step")
@needs("power_meter/rtx3090_duty50")
def test_nvml_against_a_real_meter_is_late_and_low_and_a_gain_from_another_recording_mends_it():
    meter = program("power_meter")
    recordings = meter.recordings([DATA / "power_meter" / name for name in ("rtx3090_step", "rtx3090_duty50")])
    step, duty = (recordings["power.draw.instant", name] for name in ("rtx3090_step", "rtx3090_duty50"))
    average = recordings["power.draw.average", "rtx3090_step"]
    assert 60 <= step.lag_ms <= 120
    assert 500 <= average.lag_ms <= 700
    assert step.period_ms == pytest.approx(100, abs=1)
    assert -7 < step.error() < -3
    assert abs(duty.error(step.gain)) < 1


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_costtrace_is_nearer_to_the_truth_than_other_rules_and_adds_up(tmp_path):
    energy = program("energy")
    served = energy.serve(7, 3.0, 25.0, base_ns=energy.BASE_NS, device=energy.DEVICE)
    assert sum(share for _, share in served.spans[-5].shares) == pytest.approx(1) or not served.spans[-5].shares
    case = energy.play(served, energy.SENSORS["ideal counter"], tmp_path)
    scores = {rule: energy.score(case, estimate(case)) for rule, estimate in energy.RULES.items()}
    ours = scores.pop("costtrace, its own shares")
    scores.pop("costtrace, true shares")
    assert all(ours.mean < other.mean for other in scores.values()), scores
