"""The shape of a model, read from its configuration: the step model's prior is made from it."""

from types import SimpleNamespace

import pytest
from costtrace_vllm.engine_side.describe import model_shape

MOE = {
    "hidden_size": 2_048, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
    "vocab_size": 151_936, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
    "intermediate_size": 6_144,
}  # fmt: skip
DENSE = {key: value for key, value in MOE.items() if "expert" not in key and "moe" not in key}


def shape(config, weight_bytes=0):
    model = SimpleNamespace(hf_config=SimpleNamespace(**config), dtype="torch.bfloat16")
    return model_shape(SimpleNamespace(model_config=model), weight_bytes)


def test_the_experts_of_a_mixture_are_counted_among_all_weights_and_separately():
    model = shape(MOE)
    experts = 48 * 128 * 3 * 2_048 * 768
    assert model.weight_bytes == pytest.approx(2 * 30.5e9, rel=0.05), "a 30B-A3B model in 16 bits"
    assert model.active_params == pytest.approx(3.3e9, rel=0.15)
    assert model.expert_bytes == pytest.approx(2 * experts, rel=1e-6)
    assert (model.experts, model.experts_per_token) == (128, 8)


def test_weights_counted_by_the_workers_replace_the_estimate_and_the_experts_keep_their_share():
    estimate, counted = shape(MOE), shape(MOE, weight_bytes=31 * 10**9)
    assert counted.weight_bytes == 31 * 10**9
    assert counted.expert_bytes / counted.weight_bytes == pytest.approx(estimate.expert_bytes / estimate.weight_bytes)


def test_a_dense_model_has_no_experts():
    model = shape(DENSE)
    assert (model.experts, model.expert_bytes) == (0, 0)
    assert model.weight_bytes == 2 * model.active_params
