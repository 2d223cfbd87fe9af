"""The shape of a model, from the field names of Hugging Face's configurations. A field that is not there gives 0."""

from typing import Any

from costtrace.core.events import ModelShape


def shape_of(
    config: Any,  # noqa: ANN401 - any model's
    weight_bytes: int,
    *,
    element_bytes: int = 2,
    kv_element_bytes: int = 2,
) -> ModelShape:
    """Shape of the model with *config*. *weight_bytes* 0: estimated from the configuration."""
    hidden = whole(config, "hidden_size", "n_embd", "d_model")
    layers = whole(config, "num_hidden_layers", "n_layer", "num_layers")
    heads = whole(config, "num_attention_heads", "n_head")
    kv_heads = whole(config, "num_key_value_heads", "num_kv_heads") or heads
    head_size = whole(config, "head_dim") or (hidden // heads if heads else 0)
    experts = whole(config, "num_local_experts", "num_experts", "n_routed_experts")
    chosen = whole(config, "num_experts_per_tok", "moe_top_k", "num_experts_per_token") if experts else 0
    latent = whole(config, "kv_lora_rank")
    kv_width = latent + whole(config, "qk_rope_head_dim") if latent else 2 * kv_heads * head_size
    active = _active_params(config, hidden, layers, heads * head_size, kv_heads * head_size, experts, chosen)
    routed = 3 * hidden * _expert_width(config, hidden) * experts * layers
    total = active + routed * (experts - chosen) // experts if experts else active
    weight_bytes = weight_bytes or total * element_bytes
    return ModelShape(
        weight_bytes=weight_bytes,
        active_params=active,
        layers=layers,
        kv_bytes_per_token=layers * kv_width * kv_element_bytes,
        hidden_size=hidden,
        heads=heads,
        head_size=head_size,
        experts=experts,
        experts_per_token=chosen,
        expert_bytes=weight_bytes * routed // total if total else 0,
        **_sliding(config, layers),
    )


def _sliding(config: Any, layers: int) -> dict[str, int]:  # noqa: ANN401 - as above
    """`window` and `sliding_layers` of the shape; empty where no layer has a sliding window."""
    window = whole(config, "sliding_window")
    if not window or getattr(config, "use_sliding_window", True) is False:
        return {}
    kinds, pattern = getattr(config, "layer_types", None), whole(config, "sliding_window_pattern")
    if isinstance(kinds, (list, tuple)) and kinds:
        sliding = sum("sliding" in str(kind) for kind in kinds)
    elif pattern:  # Gemma 3, Command R7B: every pattern-th layer has no window
        sliding = layers - layers // pattern
    else:  # Qwen2: the first `max_window_layers` have none
        sliding = max(0, layers - whole(config, "max_window_layers"))
    return {"window": window, "sliding_layers": sliding} if sliding else {}


def whole(config: Any, *names: str) -> int:  # noqa: ANN401 - as above
    """The first of *names* that is a positive whole number; 0 where none is."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def _active_params(config: Any, hidden: int, layers: int, q: int, kv: int, experts: int, chosen: int) -> int:  # noqa: ANN401 - as above
    """Parameters in one token's forward pass: projections, gated MLP (or the chosen experts), output head."""
    mlp = 3 * hidden * _mlp_width(config, hidden)
    if experts:
        width = _expert_width(config, hidden)
        shared = whole(config, "n_shared_experts")
        mlp = 3 * hidden * width * (chosen + shared) + hidden * experts
    attention = 2 * hidden * q + 2 * hidden * kv
    return layers * (attention + mlp) + hidden * whole(config, "vocab_size")


def _mlp_width(config: Any, hidden: int) -> int:  # noqa: ANN401 - as above
    return whole(config, "intermediate_size", "ffn_hidden_size", "n_inner") or 4 * hidden


def _expert_width(config: Any, hidden: int) -> int:  # noqa: ANN401 - as above
    return whole(config, "moe_intermediate_size") or _mlp_width(config, hidden)
