"""Published reference points, dated and sourced: prices of a GPU-hour by tier, costs and throughputs to compare with.

Other people's figures, not defaults and not advice. Every point names its token basis and its conditions.
"""

from decimal import Decimal
from typing import NamedTuple

from costtrace_board.figures import Tier, TierPrice

TCO_SOURCE = (
    "SemiAnalysis AI Cloud TCO model as published in the InferenceX application "
    "(SemiAnalysisAI/InferenceX-app, commit 77ca49a6, 2026-04-03, GPU_SPECS)"
)
TIER_NOTES = {
    "hyperscaler": "owns the GPU over an economic life of four years; colocation and electricity included",
    "neocloud": "owns the GPU over an economic life of four years; colocation and electricity included",
    "rental_3y": "a contract of three years, 25 % up front; all included",
}


class GpuCost(NamedTuple):
    """USD per GPU-hour by tier, and all-in provisioned power."""

    name: str
    matches: tuple[str, ...]
    hyperscaler: Decimal
    neocloud: Decimal
    rental_3y: Decimal
    kw_per_gpu: Decimal
    temporary: bool = False
    """The source marks the price as temporary: 1.2 x its predecessor's."""


def _gpu(name: str, matches: str, tiers: str, kw: str, *, temporary: bool = False) -> GpuCost:
    hyperscaler, neocloud, rental = map(Decimal, tiers.split())
    return GpuCost(name, tuple(matches.split("|")), hyperscaler, neocloud, rental, Decimal(kw), temporary)


GPU_COSTS = (
    _gpu("H100", "H100|H100-*|NVIDIA H100-SXM*|NVIDIA H100 80GB HBM3*", "1.30 1.69 1.30", "1.73"),
    _gpu("H200", "H200|H200-*|*NVIDIA H200-SXM*|NVIDIA H200", "1.41 1.74 1.60", "1.73"),
    _gpu("B200", "B200|B200-*|NVIDIA B200*", "1.95 2.34 2.90", "2.17"),
    _gpu("B300", "B300|B300-*|NVIDIA B300*", "2.34 2.808 3.48", "2.17", temporary=True),
    _gpu("GB200-NVL72", "GB200|GB200-*|NVIDIA GB200*", "2.21 2.75 3.30", "2.10"),
    _gpu("GB300-NVL72", "GB300|GB300-*|NVIDIA GB300*", "2.652 3.30 3.96", "2.10", temporary=True),
    _gpu("MI300X", "MI300X|MI300X-*|AMD Instinct MI300X*", "1.12 1.40 1.55", "1.79"),
    _gpu("MI325X", "MI325X|MI325X-*|AMD Instinct MI325X*", "1.28 1.59 1.80", "2.18"),
    _gpu("MI355X", "MI355X|MI355X-*|AMD Instinct MI355X*", "1.48 1.90 2.10", "2.65"),
)


def _tier(name: str) -> Tier:
    prices = [TierPrice(match, getattr(gpu, name), TCO_SOURCE) for gpu in GPU_COSTS for match in gpu.matches]
    return Tier(name, "USD", tuple(prices))


TIERS = {name: _tier(name) for name in TIER_NOTES}
"""The published tiers. A price of an SXM part is not applied to another form factor: H200 NVL has none."""


class PublishedPoint(NamedTuple):
    """One published figure."""

    model: str
    hardware: str
    figure: str
    """The number as it was published, with its unit."""
    basis: str
    """``total``, ``input``, ``output`` or, where the publication does not say, ``not stated``."""
    conditions: str
    date: str
    source: str


_MLPERF = "MLCommons, MLPerf Inference {}; NVIDIA, closed, available. A cost made of it is not an MLPerf metric"
_ML_ENERGY = "ML.ENERGY leaderboard, public/data (2026-02-27), vLLM, gpqa"

POINTS = (
    PublishedPoint(
        "gpt-oss-120b",
        "B200",
        "0.02 USD per million tokens",
        "total",
        "peak of the Pareto front, fixed-length random prompts without prefix cache, 100 % utilised, hyperscaler tier",
        "2025-10",
        "InferenceMAX v1 / InferenceX, as announced by NVIDIA",
    ),
    PublishedPoint(
        "gpt-oss-120b",
        "B200",
        "6,000 -> 30,000 tokens/s/GPU",
        "total",
        "100 tokens/s/user, before and after speculative decoding with Eagle3-v2 (another draft model: a model change)",
        "2025-10",
        "NVIDIA on InferenceMAX v1",
    ),
    PublishedPoint("gpt-oss-120b", "B200", "60,000 tokens/s/GPU", "total", "highest throughput", "2025-10", "NVIDIA"),
    PublishedPoint(
        "gpt-oss-120b",
        "B200",
        "0.02 to 0.31 USD per million tokens",
        "not stated",
        "the same chip and model at different operating points",
        "2025",
        "gpuaas.com",
    ),
    PublishedPoint(
        "deepseek-r1",
        "GB200 NVL72",
        "15x: 5 M USD into 75 M USD of token revenue",
        "output",
        "revenue over purchase price; four years, 100 % utilised, list price throughout",
        "2025-10",
        "NVIDIA",
    ),
    PublishedPoint(
        "deepseek-r1",
        "72 x GB200",
        "289,712 tokens/s",
        "output",
        "Offline: no latency limit",
        "2025-09",
        _MLPERF.format("v5.1"),
    ),
    PublishedPoint(
        "deepseek-r1",
        "72 x GB200",
        "523,790 tokens/s",
        "output",
        "Offline: no latency limit",
        "2026",
        _MLPERF.format("v6.1"),
    ),
    PublishedPoint(
        "gpt-oss-120b",
        "B200",
        "17,766 tokens/s/GPU",
        "output",
        "1,024 sequences at once, 21 tokens/s/user",
        "2026-02-27",
        _ML_ENERGY,
    ),
    PublishedPoint(
        "gpt-oss-120b",
        "B200",
        "1,358 tokens/s/GPU",
        "output",
        "8 sequences at once, 182 tokens/s/user",
        "2026-02-27",
        _ML_ENERGY,
    ),
    PublishedPoint(
        "gpt-oss-120b",
        "B200",
        "0.044 to 0.486 J per token",
        "output",
        "batch 1,024 to batch 8, GPU only",
        "2026-02-27",
        _ML_ENERGY,
    ),
)
