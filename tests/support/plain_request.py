"""A request that is like all others of its tenant and model."""

from costtrace.core.units import NS_PER_MS, NS_PER_S

KEY = ("acme", "m")
PLAIN = {
    **dict.fromkeys(("record_id", "request_id", "request_key", "engine_id", "role", "tenant_source", "operation",
                     "traceparent", "energy_source", "method", "finality", "currency", "price_book"), ""),
    "tenant": "acme", "model": "m", "arrived_ns": NS_PER_S, "scheduled_ns": NS_PER_S + NS_PER_MS, "decode_ns_at": 2,
    "ended_ns": 2 * NS_PER_S, "gpu_ns": 1_000, "prefill_ns": 500, "decode_ns": 500, "wasted_ns": 0,
    "energy_unknown_ns": 1_000, "energy_uj": None,
    "input_tokens": 100, "cached_tokens": 50, "output_tokens": 40, "computed_tokens": 90, "sequences": 1, "steps": 40,
    "batch_milli": 8_000, "preemptions": 0, "finish_reasons": ("stop",), "cost_nano": None, "prefill_nano": None,
    "decode_nano": None,
}  # fmt: skip
