"""Rows of InferenceX (``agg_*.json``) as figures: flat ones, and agentic ones with nested ``request_metrics``.

``tput_per_gpu`` is *total* tokens over all GPUs. The output (input) figure of a run on several nodes is over decode
(prefill) GPUs only, if it has such; here it becomes tokens/s of the whole system, so that a cost per output token
includes the prefill GPUs. In an agentic row all figures per GPU are over all of them.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from costtrace_board.figures import Figure, FigureRefused, Provenance
from costtrace_board.record_fields import (
    Record,
    all_served,
    count,
    flag,
    inner,
    measured,
    number,
    positive,
    text,
    whole,
)

NESTED = "request_metrics"


class _Gpus(NamedTuple):
    total: int
    prefill: int
    """Those over which the row's input figure is; `decode`: its output figure."""
    decode: int
    stages: tuple[tuple[str, int], ...]
    """(Hardware, GPUs) of each stage that names its hardware."""
    stated: bool = True


def fits(row: Record) -> bool:
    """Whether it looks like a row of InferenceX."""
    return "tput_per_gpu" in row or isinstance(row.get(NESTED), Mapping)


def figure(row: Record, file: str, where: str) -> Figure:
    """One row. Raises: FigureRefused."""
    gpus = _gpus(row)
    total, inputs, outputs = _nested(row, gpus.total) if NESTED in row else _flat(row, gpus)
    kinds = _kinds(gpus)
    lengths = text(row, "isl"), text(row, "osl")
    disaggregated = f"disaggregated: {gpus.prefill} prefill and {gpus.decode} decode GPUs, all of them in every cost"
    return Figure(
        Provenance("inferencex", file, where, "InferenceX result row", text(row, "date")),
        model=text(row, "infmax_model_prefix") or text(row, "model"),
        hardware=" + ".join(kinds) if len(kinds) > 1 else text(row, "hw").upper() or "".join(kinds),
        gpus=gpus.total,
        total=total,
        input=inputs,
        output=outputs,
        interactivity=_interactivity(row),
        concurrency=whole(row, "conc"),
        scenario="/".join(lengths) if all(lengths) else text(row, "scenario_type"),
        software=text(row, "framework"),
        precision=text(row, "precision"),
        watts=_watts(row, gpus),
        notes=(disaggregated,) if flag(row, "disagg") else (),
        stages=tuple(kinds.items()) if len(kinds) > 1 else (),
    )


def _gpus(row: Record) -> _Gpus:
    """The GPUs of the system, each counted once. Raises: FigureRefused, where the row leaves them open."""
    disagg, prefill, decode = flag(row, "disagg"), count(row, "num_prefill_gpu"), count(row, "num_decode_gpu")
    staged, stated = disagg or flag(row, "is_multinode"), whole(row, "num_gpus")
    if disagg and (prefill is None or decode is None or not prefill + decode):
        raise FigureRefused("a disaggregated run without num_prefill_gpu and num_decode_gpu: its GPUs are unknown")
    sizes = [whole(row, key) for key in ("tp", "pp", "pcp_size")]
    if not prefill and not decode:
        tp, pp, pcp = (size or 1 for size in sizes)
        total = stated or tp * pp * pcp
        return _Gpus(total, total, total, (), stated is not None or any(sizes))
    if staged or not (prefill and decode):
        total = (prefill or 0) + (decode or 0)
    elif prefill == decode:  # one node's GPUs, which do both
        total = decode
    else:
        raise FigureRefused(
            f"one node with {prefill} prefill and {decode} decode GPUs that is not disaggregated: which is it?"
        )
    if stated not in {None, total}:
        raise FigureRefused(f"num_gpus is {stated}, but its stages have {total} GPUs")
    if not staged:
        return _Gpus(total, total, total, ())
    stages = [(text(row, f"{name}_hw").upper(), gpus) for name, gpus in (("prefill", prefill), ("decode", decode))]
    return _Gpus(total, prefill or total, decode or total, tuple((kind, gpus) for kind, gpus in stages if gpus))


def _kinds(gpus: _Gpus) -> dict[str, int]:
    """GPUs by kind of hardware; empty where the stages name none. Raises: FigureRefused, where only one names it."""
    kinds: dict[str, int] = {}
    for kind, number_of in gpus.stages:
        kinds[kind] = kinds.get(kind, 0) + number_of
    if "" in kinds and len(kinds) > 1:
        raise FigureRefused("only one of prefill_hw and decode_hw is stated: the other GPUs have no price")
    return {kind: number_of for kind, number_of in kinds.items() if kind}


Rates = tuple[Decimal, Decimal | None, Decimal | None]
"""Total, input and output tokens/s of the system."""


def _flat(row: Record, gpus: _Gpus) -> Rates:
    output_rate, input_rate = number(row, "output_tput_per_gpu"), number(row, "input_tput_per_gpu")
    return (
        positive(row, "tput_per_gpu") * gpus.total,
        None if input_rate is None else input_rate * gpus.prefill,
        None if output_rate is None else output_rate * gpus.decode,
    )


def _nested(row: Record, gpus: int) -> Rates:
    accounting, throughput = inner(row, "request_accounting"), inner(row, NESTED, "throughput")
    failed, served = number(accounting, "records_error_dropped"), number(accounting, "records_profiled")
    all_served(failed, None if failed is None or served is None else failed + served)

    def rate(name: str) -> Decimal | None:
        of_system, per_gpu = inner(throughput, name), inner(throughput, "per_gpu")
        stated, each = number(of_system, "tokens_per_second"), number(per_gpu, f"{name}_tput_tps")
        return stated if stated is not None or each is None else each * gpus

    total = rate("total")
    if total is None or total <= 0:
        raise FigureRefused(f"no throughput in {NESTED}: total tokens_per_second above 0 are needed")
    return total, rate("input"), rate("output")


def _interactivity(row: Record) -> Decimal | None:
    """Tokens/s/user: as stated, else the reciprocal of the median time per output token (s)."""
    latency = inner(row, NESTED, "latency")
    stated, tpot = measured(row, "median_intvty"), measured(row, "median_tpot")
    if NESTED in row:
        stated, tpot = measured(inner(latency, "intvty"), "p50"), measured(inner(latency, "tpot"), "p50")
    return stated if stated is not None else 1 / tpot if tpot is not None else None


def _watts(row: Record, gpus: _Gpus) -> Decimal | None:
    """Power of the system, where the writer calls it valid; of an unknown number of GPUs: None."""
    if not flag(row, "power_valid") or not gpus.stated:
        return None
    of_system, each = measured(row, "avg_total_gpu_power_w"), measured(row, "avg_power_w")
    return of_system if of_system is not None or each is None else each * gpus.total
