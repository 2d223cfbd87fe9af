"""Step times today and in a scenario: from the engine's own fit, from kernel tables, or from the analytic model."""

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
"""The kinds of step times: a measured error applies only to times of the same kind."""
TERA = Decimal(10**12)


class StepTimeOptions(NamedTuple):
    """The options that make a step faster or slower."""

    shape: str | None = None
    """The model's name or config.json; None: only the ledger's fit can be used."""
    device: str | None = None
    tera_flops: Decimal | None = None
    terabytes_per_s: Decimal | None = None
    tables: Path | None = None
    today_tables: Path | None = None

    @property
    def other_device(self) -> bool:
        """Whether the scenario's device differs from today's."""
        return bool(self.device or self.tera_flops or self.terabytes_per_s)


class LabelledTimes(NamedTuple):
    """Step times with their kind."""

    kind: str
    times: StepTimes
    notes: tuple[str, ...] = ()


def today(group: EngineGroup, fit: FitRow | None, options: StepTimeOptions, limits: SchedulerConfig) -> LabelledTimes:
    """The step times of the group as it is. Raises: CosttraceError, where no source has them."""
    tables = options.today_tables or (None if options.other_device else options.tables)
    if tables is not None:
        return _tables(tables, "", group, options, limits)
    if fit is not None and (fit.fitted or fit.shape_known):
        return LabelledTimes(FIT, Analytic(coefficients(fit), _source(fit)), _notes(fit))
    if options.shape is None:
        raise CosttraceError(
            f"the ledger has no step model of {group.model} on {group.device} (`costtrace model` shows them): name the "
            "model's shape with --shape (qwen3-8b, or a config.json), and perhaps kernel tables with --today-tables"
        )
    peak = known_peak(group.device, None, None)
    return LabelledTimes(ANALYTIC, Roofline(read_model(options.shape), peak.name, devices=group.gpus_per_engine))


def scenario(
    group: EngineGroup, today_times: LabelledTimes, options: StepTimeOptions, limits: SchedulerConfig
) -> LabelledTimes:
    """The step times of the scenario's device. Raises: CosttraceError, where no source has them."""
    if options.tables is not None:
        return _tables(options.tables, options.device or "", group, options, limits)
    if not options.other_device:
        # Kernel tables are built for a scheduler's limits, so other limits need other tables.
        return today(group, None, options, limits) if today_times.kind == TABLES else today_times
    name = options.device or group.device
    peak = known_peak(name, options.tera_flops, options.terabytes_per_s)
    if today_times.kind == FIT:
        today_peak = peak_of(group.device, "gpu")
        if today_peak.generic:
            raise CosttraceError(
                f"nothing is known of today's device {group.device!r}: its fit cannot be scaled to another one. Give "
                "the other device's kernel tables with --tables and --shape."
            )
        assert isinstance(today_times.times, Analytic)
        source = (
            f"{today_times.times.source}, compute x {today_peak.flops / peak.flops:.3g} and memory x "
            f"{today_peak.bytes_per_s / peak.bytes_per_s:.3g} as {peak.name} has it ({peak.source})"
        )
        return LabelledTimes(
            FIT, Analytic(scaled(today_times.times.coefficients, today_peak, peak), source), today_times.notes
        )
    if options.shape is None:
        raise CosttraceError("another device than the tables' needs its own tables: --tables")
    given_peak = None if options.tera_flops is None and options.terabytes_per_s is None else peak
    times = Roofline(read_model(options.shape), peak.name, peak=given_peak, devices=group.gpus_per_engine)
    return LabelledTimes(ANALYTIC, times)


def known_peak(name: str, tera_flops: Decimal | None, terabytes_per_s: Decimal | None) -> DevicePeak:
    """The peaks of a device: as given, else published. Raises: CosttraceError, where one is neither."""
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
    """The coefficients on another device: compute and memory scaled by the peaks' ratios, the host's part unchanged.

    Wrong where the software comes closer to one device's peaks than to the other's.
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
    """The coefficients of an engine's step model, in s."""
    seconds = Coefficients(
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
    # The affine model adds the times of weights and compute; the roofline takes the greater of the two.
    return seconds._replace(launch=seconds.launch + seconds.weights, weights=0.0) if fit.method == "affine" else seconds


def _source(fit: FitRow) -> str:
    how = "fitted to" if fit.fitted else "the prior, not yet fitted, of"
    return f"the step model {how} engine {fit.engine_id}"


def _notes(fit: FitRow) -> tuple[str, ...]:
    if not fit.expert_ppm:
        return ()
    part = 100 * fit.expert_ppm / PPM
    return (f"A mixture of experts: {part:.0f} % of its weights are experts, taken as read in full by every step.",)


def _tables(
    path: Path, device: str, group: EngineGroup, options: StepTimeOptions, limits: SchedulerConfig
) -> LabelledTimes:
    if options.shape is None:
        raise CosttraceError("kernel tables need the model's shape: --shape qwen3-8b, or the path of its config.json")
    if group.gpus_per_engine != 1:
        raise CosttraceError(
            f"kernel tables are of one device, an engine of this fleet has {group.gpus_per_engine}: communication "
            "between them is in no table. Without --tables the fit of the ledger is used."
        )
    model = read_model(options.shape)
    tables = KernelTables(
        path, model, device=device, max_tokens=limits.token_budget, max_sequences=limits.max_sequences
    )
    return LabelledTimes(TABLES, tables)
