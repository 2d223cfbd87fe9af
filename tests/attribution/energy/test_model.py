"""Within a step: what an engine's devices draw is shared alike, however many they are and however the step is cut."""

import pytest

from costtrace.attribution.energy.model import EnergyModel, Load, energy_prices
from costtrace.attribution.steps.cost_model import Coefficients, Features, step_prices, step_total
from costtrace.attribution.time.grants import Grant
from costtrace.attribution.time.segments import Segment
from costtrace.core.events import Step

FEATURES = Features(4, 4, 67, 3_000, 0, 0, 0)
COEFFICIENTS = Coefficients(1e-3, 1e-6, 5e-3, 1e-8, 0.0, 1e-6)
STEP_NS = 10_000_000


@pytest.fixture
def model():
    """A device that draws 100 W, 300 W more when busy, 20 mJ a token and 1 J a step."""
    made = EnergyModel()
    for n in range(200):
        load = Load(1e8, 1e8 * (n % 5) / 5, float(n * 7 % 90), 0.0, 0.0, float(n % 3))
        drawn_uj = 0.1 * load.ns + 0.3 * load.busy_ns + 20_000 * load.tokens + 1e6 * load.steps
        made.observe(load, round(drawn_uj))
    return made


def grant(devices, pieces=1):
    step = Segment(0, STEP_NS, "busy", step=Step(0, 0, STEP_NS))
    length = STEP_NS // pieces
    return Grant(step, 0, length, 0, (length,) * devices, last=pieces == 1)


def proportions(model, one):
    """Of the parts of a step's energy, as they are shared."""
    time = step_prices(COEFFICIENTS, "roofline", FEATURES)
    prices = energy_prices(model.regression.coefficients(), time, FEATURES, sum(one.device_ns) / one.device_steps)
    return (prices.head / prices.token, prices.context / prices.token)


@pytest.mark.parametrize(("devices", "pieces"), [(8, 1), (1, 4), (8, 4)])
def test_a_step_is_shared_alike_on_one_device_and_on_many_and_in_pieces(model, devices, pieces):
    assert proportions(model, grant(devices, pieces)) == pytest.approx(proportions(model, grant(1)))


def test_a_step_without_length_is_whole():
    step = Segment(5, 5, "busy", step=Step(0, 5, 5))
    assert Grant(step, 5, 5, 0, (0, 0), last=True).device_steps == 2


def test_what_a_step_takes_once_is_told_from_power_of_busy_time_though_both_go_nearly_together(model):
    coefficients = model.regression.coefficients()
    assert coefficients == pytest.approx([0.1, 0.3, 20_000, 0.0, 0.0, 1e6], rel=0.01)


def test_what_a_step_takes_once_is_shared_as_its_fixed_time_is():
    time = step_prices(COEFFICIENTS, "roofline", FEATURES)
    prices = energy_prices((0.0, 0.0, 0.0, 0.0, 0.0, 1e6), time, FEATURES, STEP_NS)
    assert prices.head * FEATURES.heads == pytest.approx(1e6)
    assert (prices.token, prices.sequence, prices.context) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("method", ["tokens", "equal"])
def test_where_time_has_no_fixed_part_it_is_shared_as_all_of_the_time_is(method):
    time = step_prices(None if method == "tokens" else COEFFICIENTS, method, FEATURES)
    prices = energy_prices((0.0, 0.0, 0.0, 0.0, 0.0, 1e6), time, FEATURES, STEP_NS)
    assert step_total(prices, FEATURES) == pytest.approx(1e6)
    assert prices.head == 0.0
