"""How long a step takes, today and in a scenario: the engine's own fit, kernel tables, or the analytic model."""

from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from costtrace.attribution.steps.cost_model import Coefficients
from costtrace.attribution.steps.device_peaks import DevicePeak, peak_of
from costtrace.attribution.steps.engine_fit import ATTO, PPM
from costtrace.core.errors import CosttraceError
from costtrace.core.rows import FitRow
from costtrace_lab.plan.figures import EngineGroup
from costtrace_lab.simulator.kernel_tables import KernelTables
from costtrace_lab.simulator.models import read_model
from costtrace_lab.simulator.scheduler import SchedulerConfig
from costtrace_lab.simulator.step_times import Analytic, Roofline, StepTimes

FIT, TABLES, ANALYTIC = "fit", "tables", "analytic"
"""Kinds of step times: a measured error says something of the same kind only."""
TERA = Decimal(10**12)


class Wanted(NamedTuple):
    """What was asked for, as far as it makes a step faster or slower."""

    shape: str | None = None
    """A model's name or config.json; None: the fit of the ledger is enough."""
    device: str | None = None
    tera_flops: Decimal | None = None
    terabytes_per_s: Decimal | None = None
    tables: Path | None = None
    today_tables: Path | None = None

    @property
    def other_device(self) -> bool:
        """The scenario's device is another one than today's."""
        return bool(self.device or self.tera_flops or self.terabytes_per_s)


class Times(NamedTuple):
    """Step times and their kind."""

    kind: str
    times: StepTimes
    notes: tuple[str, ...] = ()


def today(fleet: EngineGroup, fit: FitRow | None, wanted: Wanted, limits: SchedulerConfig) -> Times:
    """Of the fleet as it is. Raises: CosttraceError, where nothing says how long its steps take."""
    tables = wanted.today_tables or (None if wanted.other_device else wanted.tables)
    if tables is not None:
        return _tables(tables, "", fleet, wanted, limits)
    if fit is not None and (fit.fitted or fit.shape_known):
        return Times(FIT, Analytic(coefficients(fit), _source(fit)), _notes(fit))
    if wanted.shape is None:
        raise CosttraceError(
            f"the ledger has no step model of {fleet.model} on {fleet.device} (`costtrace model` shows them): name the "
            "model's shape with --shape (qwen3-8b, or a config.json), and perhaps kernel tables with --today-tables"
        )
    peak = known_peak(fleet.device, None, None)
    return Times(ANALYTIC, Roofline(read_model(wanted.shape), peak.name, devices=fleet.gpus_per_engine))


def scenario(fleet: EngineGroup, now: Times, wanted: Wanted, limits: SchedulerConfig) -> Times:
    """Of the device that was asked for, or of today's. Raises: CosttraceError."""
    if wanted.tables is not None:
        return _tables(wanted.tables, wanted.device or "", fleet, wanted, limits)
    if not wanted.other_device:
        # Tables are made for the limits of a scheduler: other limits, other tables.
        return today(fleet, None, wanted, limits) if now.kind == TABLES else now
    name = wanted.device or fleet.device
    peak = known_peak(name, wanted.tera_flops, wanted.terabytes_per_s)
    if now.kind == FIT:
        old = peak_of(fleet.device, "gpu")
        if old.generic:
            raise CosttraceError(
                f"nothing is known of today's device {fleet.device!r}: its fit cannot be scaled to another one. Give "
                "the other device's kernel tables with --tables and --shape."
            )
        assert isinstance(now.times, Analytic)
        source = (
            f"{now.times.source}, compute x {old.flops / peak.flops:.3g} and memory x "
            f"{old.bytes_per_s / peak.bytes_per_s:.3g} as {peak.name} has it ({peak.source})"
        )
        return Times(FIT, Analytic(scaled(now.times.coefficients, old, peak), source), now.notes)
    if wanted.shape is None:
        raise CosttraceError("another device than the tables' needs its own tables: --tables")
    given = None if wanted.tera_flops is None and wanted.terabytes_per_s is None else peak
    times = Roofline(read_model(wanted.shape), peak.name, peak=given, devices=fleet.gpus_per_engine)
    return Times(ANALYTIC, times)


def known_peak(name: str, tera_flops: Decimal | None, terabytes_per_s: Decimal | None) -> DevicePeak:
    """Peaks of a device, its published ones or those that are given. Raises: CosttraceError, where one is missing."""
    peak = peak_of(name, "gpu")
    if tera_flops is not None and terabytes_per_s is not None:
        return DevicePeak(name, float(tera_flops * TERA), float(terabytes_per_s * TERA), "as given")
    if peak.generic:
        raise CosttraceError(
            f"nothing is known of a device {name!r}: give both its dense 16-bit --tflops and its memory's --tb-per-s, "
            "or its kernel tables with --tables"
        )
    if tera_flops is not None:
        return peak._replace(flops=float(tera_flops * TERA), source="compute as given")
    if terabytes_per_s is not None:
        return peak._replace(bytes_per_s=float(terabytes_per_s * TERA), source="bandwidth as given")
    return peak


def scaled(c: Coefficients, old: DevicePeak, new: DevicePeak) -> Coefficients:
    """A step on another device: compute and memory by the peaks' ratios, the host's part as it is.

    Wrong by how much better or worse the other device's software comes to its peaks.
    """
    compute, memory = old.flops / new.flops, old.bytes_per_s / new.bytes_per_s
    return c._replace(
        token=c.token * compute,
        attention=c.attention * compute,
        encoder=c.encoder * compute,
        weights=c.weights * memory,
        context=c.context * memory,
    )


def coefficients(fit: FitRow) -> Coefficients:
    """The step model of an engine, in seconds."""
    found = Coefficients(
        launch=fit.launch_as / ATTO,
        token=fit.token_as / ATTO,
        weights=fit.weights_as / ATTO,
        context=fit.context_as / ATTO,
        attention=fit.attention_as / ATTO,
        sequence=fit.sequence_as / ATTO,
        encoder=fit.encoder_as / ATTO,
        prompt=fit.prompt_as / ATTO,
        decode=fit.decode_as / ATTO,
    )
    # The affine model adds weights and compute, where the roofline takes the greater one.
    return found._replace(launch=found.launch + found.weights, weights=0.0) if fit.method == "affine" else found


def _source(fit: FitRow) -> str:
    how = "fitted to" if fit.fitted else "the prior, not yet fitted, of"
    return f"the step model {how} engine {fit.engine_id}"


def _notes(fit: FitRow) -> tuple[str, ...]:
    if not fit.expert_ppm:
        return ()
    part = 100 * fit.expert_ppm / PPM
    return (f"A mixture of experts: {part:.0f} % of its weights are experts, taken as read in full by every step.",)


def _tables(path: Path, device: str, fleet: EngineGroup, wanted: Wanted, limits: SchedulerConfig) -> Times:
    if wanted.shape is None:
        raise CosttraceError("kernel tables need the model's shape: --shape qwen3-8b, or the path of its config.json")
    if fleet.gpus_per_engine != 1:
        raise CosttraceError(
            f"kernel tables are of one device, an engine of this fleet has {fleet.gpus_per_engine}: communication "
            "between them is in no table. Without --tables the fit of the ledger is used."
        )
    model = read_model(wanted.shape)
    tables = KernelTables(
        path, model, device=device, max_tokens=limits.token_budget, max_sequences=limits.max_sequences
    )
    return Times(TABLES, tables)
