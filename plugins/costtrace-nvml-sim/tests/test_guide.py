"""docs/nvml-sim.md names every key of a scenario and every command."""

import re
from pathlib import Path

import pytest
from costtrace_nvml_sim import faults, scenario, waves
from costtrace_nvml_sim.command import nvml_sim
from costtrace_nvml_sim.presets import PRESETS
from pydantic import BaseModel

PAGE = (Path(__file__).parents[3] / "docs" / "nvml-sim.md").read_text()
MODELS = {
    model
    for module in (faults, scenario, waves)
    for model in vars(module).values()
    if isinstance(model, type) and issubclass(model, BaseModel) and model is not BaseModel
}


@pytest.mark.parametrize("model", sorted(MODELS, key=lambda model: model.__name__))
def test_every_key_of_a_scenario_is_on_the_page(model):
    missing = [key for key in model.model_fields if f"`{key}" not in PAGE and key != "kind"]
    assert not missing


def test_every_command_is_on_the_page():
    assert [name for name in nvml_sim.commands if not re.search(rf"nvml-sim {name}\b|`{name}\b", PAGE)] == []


def test_every_kind_of_curve_and_fault_is_on_the_page():
    kinds = [model.model_fields["kind"].annotation.__args__[0] for model in MODELS if "kind" in model.model_fields]
    assert len(kinds) == 15
    assert [kind for kind in kinds if f"| `{kind}` |" not in PAGE] == []


def test_every_preset_says_where_its_figures_come_from():
    assert all(re.search(r"YANG|NVML|ZEUS|DATA|assumed", preset.provenance) for preset in PRESETS.values())
