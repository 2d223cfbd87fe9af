"""Within a step: what an engine's devices draw is shared alike, however many they are and however the step is cut."""

import pytest

from costtrace.energy_model import EnergyModel, Load
from costtrace.events import Step
from costtrace.step_model import Coefficients, Features, step_prices
from costtrace.timeline import Grant, Segment

FEATURES = Features(4, 4, 67, 3_000, 0, 0, 0)
COEFFICIENTS = Coefficients(1e-3, 1e-6, 5e-3, 1e-8, 0.0, 1e-6)
STEP_NS = 10_000_000


@pytest.fixture
def model():
    """A device that draws 100 W, 300 W more when busy, and 20 mJ a token."""
    made = EnergyModel()
    for n in range(200):
        load = Load(1e8, 1e8 * (n % 5) / 5, float(n * 7 % 90), 0.0, 0.0)
        made.observe(load, round(0.1 * load.ns + 0.3 * load.busy_ns + 20_000 * load.tokens))
    return made


def grant(devices, pieces=1):
    step = Segment(0, STEP_NS, "busy", step=Step(0, 0, STEP_NS))
    length = STEP_NS // pieces
    return Grant(step, 0, length, 0, (length,) * devices, last=pieces == 1)


def proportions(model, one):
    """Of the parts of a step's energy, as they are shared."""
    time = step_prices(COEFFICIENTS, "roofline", FEATURES)
    own = model.step_prices(time, FEATURES, sum(one.device_ns) / one.device_steps)
    return (own.head / own.token, own.context / own.token)


@pytest.mark.parametrize(("devices", "pieces"), [(8, 1), (1, 4), (8, 4)])
def test_a_step_is_shared_alike_on_one_device_and_on_many_and_in_pieces(model, devices, pieces):
    assert proportions(model, grant(devices, pieces)) == pytest.approx(proportions(model, grant(1)))


def test_a_step_without_length_is_whole():
    step = Segment(5, 5, "busy", step=Step(0, 5, 5))
    assert Grant(step, 5, 5, 0, (0, 0), last=True).device_steps == 2
