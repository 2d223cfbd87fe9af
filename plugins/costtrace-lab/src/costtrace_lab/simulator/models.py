"""Shapes of the models that can be simulated: a few by name, any other dense one by its ``config.json``."""

import json
from pathlib import Path
from typing import NamedTuple

from costtrace.core.errors import CosttraceError
from costtrace.core.events import ModelShape
from costtrace_lab.simulator.trace_numbers import count

BYTES = 2
"""Bytes of a weight or of a KV entry: 16 bits."""


class Model(NamedTuple):
    """A dense decoder in 16 bits, on one device."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int

    def gemms(self) -> tuple[tuple[int, int], ...]:
        """(n, k) of the matrix products of one layer: QKV, output, gate, up, down."""
        heads, kv = self.heads * self.head_size, self.kv_heads * self.head_size
        mlp = (self.intermediate, self.hidden)
        return (heads + 2 * kv, self.hidden), (self.hidden, heads), mlp, mlp, (self.hidden, self.intermediate)

    def head_gemm(self) -> tuple[int, int]:
        """(n, k) of the product that makes logits, once for each sequence that gets a token."""
        return self.vocabulary, self.hidden

    def shape(self) -> ModelShape:
        """The shape that a real engine would write into its journal."""
        params = self.layers * sum(n * k for n, k in self.gemms()) + self.vocabulary * self.hidden
        kv_bytes = 2 * self.layers * self.kv_heads * self.head_size * BYTES
        return ModelShape(BYTES * params, params, self.layers, kv_bytes, self.hidden, self.heads, self.head_size)


MODELS = {
    model.name: model
    for model in (
        Model("qwen3-8b", 4_096, 36, 32, 8, 128, 12_288, 151_936),
        Model("llama-3.1-8b", 4_096, 32, 32, 8, 128, 14_336, 128_256),
        Model("qwen3-14b", 5_120, 40, 40, 8, 128, 17_408, 151_936),
    )
}
"""From the models' published configurations."""


def read_model(name: str) -> Model:
    """A model by its name here, or from a Hugging Face ``config.json``. Raises: CosttraceError."""
    if (known := MODELS.get(name.lower())) is not None:
        return known
    path = Path(name)
    if not path.is_file():
        raise CosttraceError(
            f"there is no model {name!r}: use one of {', '.join(MODELS)}, or the path of a model's config.json"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        heads, hidden = count(config["num_attention_heads"]), count(config["hidden_size"])
        model = Model(
            str(config.get("_name_or_path") or path.parent.name or "model"),
            hidden,
            count(config["num_hidden_layers"]),
            heads,
            count(config.get("num_key_value_heads") or heads),
            count(config.get("head_dim") or hidden // heads),
            count(config["intermediate_size"]),
            count(config["vocab_size"]),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        raise CosttraceError(f"{path} is not the config.json of a dense decoder: {error!r}") from error
    if min(model[1:]) < 1:
        raise CosttraceError(f"{path} is not the config.json of a dense decoder: one of its sizes is 0")
    return model
