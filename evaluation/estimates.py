"""How far estimates in answers are from the final figures. SIMULATED.

    python evaluation/estimates.py TRACE [--requests 6000] [--speed 1.0] [--history 500]

One run of the simulator: each request after the first `--history` is estimated by the mean per token of all that ended
before it (`costtrace.capture.node_files.cost_estimates`), and compared with its device time. Under one price that is
the ratio of costs.
"""

import argparse
from pathlib import Path

from costtrace_lab.simulator import SchedulerConfig
from prefix_sharing import attributed, simulated

from costtrace.attribution.engine import Policy
from costtrace.capture.node_files.cost_estimates import Used, estimate
from costtrace.core.rows import Means

WINDOW_S = 60
PERCENTILES = (5, 25, 50, 75, 95)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--requests", type=int, default=6_000)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--history", type=int, default=500)
    parser.add_argument("--model", default="qwen3-8b")
    parser.add_argument("--device", default="NVIDIA H200")
    parser.add_argument("--kv-tokens", type=int, default=SchedulerConfig().kv_tokens, help="that the cache holds")
    args = parser.parse_args()
    records, _ = attributed(simulated(args), Policy(), WINDOW_S)
    by_end = sorted(records.values(), key=lambda record: record.ended_ns)
    pairs = compared(by_end, args.history)
    ratios = sorted(one / final for one, final in pairs)
    shown = ", ".join(f"{ratios[p * (len(ratios) - 1) // 100]:.2f}" for p in PERCENTILES)
    batch = sum(record.batch_milli for record in by_end) / len(by_end) / 1_000
    print(f"SIMULATED: {len(pairs):,} requests of {args.trace.name}, in batches of {batch:.1f} in the mean")
    print(f"all estimates over all final figures: {sum(e for e, _ in pairs) / sum(f for _, f in pairs):.3f}")
    print(f"of each, percentiles {', '.join(map(str, PERCENTILES))}: {shown}")


def compared(by_end, history):
    """Estimate and final figure (ns) of each request but the first *history*, by those that ended before it."""
    pairs, sums = [], [0] * 5
    for place, record in enumerate(by_end):
        inputs, cached, outputs, *spent = sums
        if place >= history:
            means = Means(
                *(record.model, "", "USD", place, 0, 0, inputs, cached, outputs),
                *(*spent, *spent, None, None, True),
            )
            made = estimate(means, Used(record.input_tokens, record.cached_tokens, record.output_tokens))
            if made is not None:
                pairs.append((made.nano, record.gpu_ns))
        own = (
            *(record.input_tokens, record.cached_tokens, record.output_tokens),
            *(record.prefill_ns, record.decode_ns),
        )
        sums = [total + more for total, more in zip(sums, own, strict=True)]
    return pairs


if __name__ == "__main__":
    main()
