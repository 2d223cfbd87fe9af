"""Every name that costtrace emits: spans, attributes, metrics, with type, unit and meaning, as data.

No other module spells such a name; `docs/telemetry.md` is made from these tables (`tools/telemetry_page.py`).
Costtrace's names begin with ``costtrace.``; others are OpenTelemetry's (``gen_ai.*``, ``hw.*``) or what a backend reads
for cost today (``compat``). Doubles are in SI units. No second, joule or ratio is ever under ``gen_ai.usage.``:
Langfuse reads every number there as a count of tokens.
"""

from typing import Literal, NamedTuple

Stability = Literal["stable", "development", "compat"]
"""stable: its meaning does not change within a major version. development: it may (all of gen_ai.*, hw.*).
compat: a copy of a figure under the name that a backend reads; it follows that backend."""


class Attribute(NamedTuple):
    """One attribute of a span, a resource or a metric."""

    name: str
    type: str
    unit: str
    """UCUM unit, or empty where there is none."""
    brief: str
    stability: Stability = "stable"
    label: str = ""
    """Its label on the Prometheus endpoint; empty: it is on no metric."""


class Span(NamedTuple):
    """One kind of span."""

    name: str
    brief: str
    attributes: tuple[Attribute, ...]


class Metric(NamedTuple):
    """One metric: `name` on OTLP, `prometheus` on the Prometheus endpoint."""

    name: str
    instrument: Literal["counter", "gauge", "histogram"]
    unit: str
    brief: str
    attributes: tuple[Attribute, ...] = ()
    prometheus: str = ""
    """Its family name: dots become underscores, the base unit is a suffix; counters add ``_total``."""
    stability: Stability = "stable"


SCOPE = "costtrace"
DEFAULT_SERVICE = "costtrace"
OTHER_TENANT = "__other__"
"""All tenants beyond the cardinality limit, on metrics only."""

# --- attributes: who and what ----------------------------------------------------------------------------------------
TENANT = Attribute("tenant.id", "string", "", "Who pays.", label="tenant")
TENANT_SOURCE = Attribute(
    "costtrace.tenant.source", "string", "", "Where the tenant is from: `header`, `default`, `rejected:<why>`, ..."
)
USER = Attribute("user.id", "string", "", "End user within the tenant, where a trusted peer names one.", "development")
LABEL_PREFIX = "costtrace.label."
LABEL = Attribute(f"{LABEL_PREFIX}<key>", "string", "", "A label that a trusted peer gave the request (team, job).")
OPERATION = Attribute(
    "gen_ai.operation.name", "string", "", "`chat`, `text_completion`, `embeddings`, ...", "development", "operation"
)
PROVIDER = Attribute("gen_ai.provider.name", "string", "", "The engine: `vllm`, `tensorrt-llm`, ...", "development")
MODEL = Attribute("gen_ai.request.model", "string", "", "Model (or adapter) asked for.", "development", "model")
RESPONSE_ID = Attribute("gen_ai.response.id", "string", "", "The id that the client saw.", "development")
FINISH_REASONS = Attribute(
    "gen_ai.response.finish_reasons", "string[]", "", "Why each sequence ended (`stop`, `abort`).", "development"
)
INPUT_TOKENS = Attribute(
    "gen_ai.usage.input_tokens", "int", "{token}", "Prompt tokens, cached ones included.", "development"
)
OUTPUT_TOKENS = Attribute("gen_ai.usage.output_tokens", "int", "{token}", "Generated tokens.", "development")
CACHED_TOKENS = Attribute(
    "gen_ai.usage.cache_read.input_tokens", "int", "{token}", "Prompt tokens read from the prefix cache.", "development"
)

# --- attributes: how much --------------------------------------------------------------------------------------------
GPU_TIME = Attribute("costtrace.gpu.time", "double", "s", "Device-seconds that the request used: its exact share.")
GPU_TIME_PREFILL = Attribute("costtrace.gpu.time.prefill", "double", "s", "Of these, for its prompt.")
GPU_TIME_DECODE = Attribute("costtrace.gpu.time.decode", "double", "s", "Of these, for its output.")
WASTED_TIME = Attribute(
    "costtrace.wasted.gpu_time",
    "double",
    "s",
    "The part of `costtrace.gpu.time` that served nobody: recomputed after preemption, after the end, aborted.",
)
ENERGY = Attribute("costtrace.energy", "double", "J", "Energy of its share. Absent where not known: never 0.")
ENERGY_PREFILL = Attribute("costtrace.energy.prefill", "double", "J", "Of this, for its prompt.")
ENERGY_DECODE = Attribute("costtrace.energy.decode", "double", "J", "Of this, for its output.")
ENERGY_UNMETERED = Attribute(
    "costtrace.energy.unmetered_time",
    "double",
    "s",
    "The part of `costtrace.gpu.time` whose energy is not known: all energies here are of the rest. Absent: none.",
)
ENERGY_SOURCE = Attribute(
    "costtrace.energy.source",
    "string",
    "",
    "`nvml_counter`, `power_integral`, `rapl`, or `none`: not measured. After `estimated:` where it is the part of a "
    "board that a MIG instance is given by rule.",
)
CARBON = Attribute(
    "costtrace.carbon.emissions",
    "double",
    "g",
    "ESTIMATE of its CO2e, where the setting `carbon_intensity` is. Absent where any of its energy, or the grid's "
    "intensity, is not known: never 0.",
)
CARBON_METHOD = Attribute(
    "costtrace.carbon.method", "string", "", "How that was estimated: what is in it, by which intensity and PUE."
)
COST = Attribute("costtrace.cost.amount", "double", "{currency}", "Direct cost. Absent where no price applies.")
CURRENCY = Attribute("costtrace.cost.currency", "string", "", "ISO 4217 code of the amounts.", label="currency")
PRICE_BOOK = Attribute("costtrace.cost.price_book", "string", "", "Version of the price book that rated it.")
PER_TOKEN_INPUT = Attribute(
    "costtrace.cost.per_token.input", "double", "{currency}", "Cost of prefill over input tokens (idle not in it)."
)
PER_TOKEN_OUTPUT = Attribute(
    "costtrace.cost.per_token.output", "double", "{currency}", "Cost of decode over output tokens (idle not in it)."
)
PER_MILLION_INPUT = Attribute(
    "costtrace.cost.per_million_tokens.input", "double", "{currency}", "Cost of prefill per million input tokens."
)
PER_MILLION_OUTPUT = Attribute(
    "costtrace.cost.per_million_tokens.output", "double", "{currency}", "Cost of decode per million output tokens."
)
PER_MILLION_TOTAL = Attribute(
    "costtrace.cost.per_million_tokens.total", "double", "{currency}", "Its cost per million input and output tokens."
)

# --- attributes: why, and how it is known ----------------------------------------------------------------------------
RECORD_ID = Attribute("costtrace.record.id", "string", "", "The row of the ledger; receivers may deduplicate by it.")
FINALITY = Attribute("costtrace.record.finality", "string", "", "`provisional` or `final`.")
METHOD = Attribute(
    "costtrace.attribution.method",
    "string",
    "",
    "`roofline`, `affine`, `tokens` or `equal`; `estimated:...` where the steps themselves are an estimate.",
)
REQUEST_KEY = Attribute("costtrace.request.key", "string", "", "Joins the parts of one request.")
PART = Attribute("costtrace.request.part", "int", "", "1 where the part counts its request, 2 where another one does.")
ATTEMPT = Attribute("costtrace.request.attempt", "int", "", "Number of the attempt, from 1.")
ROLE = Attribute(
    "costtrace.request.role",
    "string",
    "",
    "`aggregated`, `prefill`, `decode`, or `stage` (a later stage of a pipeline).",
    label="role",
)
SEQUENCES = Attribute("costtrace.request.sequences", "int", "{sequence}", "Sequences of the part (`n=4` is four).")
STEPS = Attribute("costtrace.request.steps", "int", "{step}", "Engine steps that it took part in.")
MEAN_BATCH = Attribute("costtrace.request.mean_batch", "double", "{sequence}", "Mean batch size in these steps.")
COMPUTED_TOKENS = Attribute(
    "costtrace.request.computed_tokens", "int", "{token}", "Tokens computed, recomputed and rejected drafts included."
)
PREEMPTIONS = Attribute("costtrace.request.preemptions", "int", "{preemption}", "Times it lost its place in the batch.")
ENGINE_ID = Attribute("costtrace.engine.id", "string", "", "The engine as the ledger names it.")
ENGINE_VERSION = Attribute("costtrace.engine.version", "string", "", "Version of the engine.")
ENGINE_HOST = Attribute("costtrace.engine.host", "string", "", "Node of its scheduler.")
ENGINE_RANK = Attribute("costtrace.engine.dp_rank", "int", "", "Data-parallel rank.")
DEVICE_NAME = Attribute("costtrace.device.name", "string", "", "What the price book matches on.", label="device")
DEVICE_KIND = Attribute(
    "costtrace.device.kind", "string", "", "`gpu`, `mig`, or `cpu`: a stand-in for a GPU.", label="device_kind"
)
DEVICE_COUNT = Attribute("costtrace.device.count", "int", "{device}", "Devices of the engine.")
STAND_IN = Attribute("costtrace.device.stand_in", "boolean", "", "True where a CPU stands in for a GPU.")
SIMULATED = Attribute(
    "costtrace.simulated",
    "boolean",
    "",
    "True where time or energy come from a simulator of costtrace's; absent otherwise.",
    label="simulated",
)
PHASE_TIME = Attribute("costtrace.phase.gpu_time", "double", "s", "Device-seconds of this phase.")
PHASE_ENERGY = Attribute("costtrace.phase.energy", "double", "J", "Energy of this phase; absent where not known.")
PHASE_COST = Attribute("costtrace.phase.cost", "double", "{currency}", "Cost of this phase; absent where not known.")

# --- attributes: copies for backends ---------------------------------------------------------------------------------
GEN_AI_COST = Attribute(
    "gen_ai.usage.cost", "double", "USD", "Profile `gen_ai_cost`: read by Langfuse and OpenLIT. USD only.", "compat"
)
LLM_COST_TOTAL = Attribute("llm.cost.total", "double", "USD", "Profile `llm_cost`: read by Arize.", "compat")
LLM_COST_PROMPT = Attribute("llm.cost.prompt", "double", "USD", "Profile `llm_cost`: of prefill.", "compat")
LLM_COST_COMPLETION = Attribute("llm.cost.completion", "double", "USD", "Profile `llm_cost`: of decode.", "compat")
LANGFUSE_COST = Attribute(
    "langfuse.observation.cost_details",
    "string",
    "",
    'Profile `langfuse` (opt-in): JSON `{"input": ..., "output": ..., "total": ...}`. USD only.',
    "compat",
)

# --- attributes of metrics -------------------------------------------------------------------------------------------
KIND = Attribute(
    "costtrace.kind", "string", "", "`request`, `idle`, `overhead` or `unobserved`: together, the meter.", label="kind"
)
REASON = Attribute("costtrace.reason", "string", "", "Of overhead and unobserved: what it was.", label="reason")
PHASE = Attribute("costtrace.phase", "string", "", "`prefill` or `decode`; empty outside requests.", label="phase")
COMPONENT = Attribute("costtrace.cost.component", "string", "", "`device` or `energy`.", label="component")
TOKEN_TYPE = Attribute(
    "costtrace.token.type",
    "string",
    "",
    "`input` (not from the cache), `cached` (input from the cache) or `output`: their sum is all tokens.",
    label="type",
)
OUTCOME = Attribute("costtrace.outcome", "string", "", "Finish reasons, sorted, joined by `+`.", label="outcome")
HW_ID = Attribute("hw.id", "string", "", "Device UUID.", "development", "device_id")
HW_NAME = Attribute("hw.name", "string", "", "Device name.", "development", "device")
HW_TYPE = Attribute("hw.type", "string", "", "`gpu`, or `cpu` for the stand-in.", "development", "device_kind")

HISTOGRAM_ATTRIBUTES = (TENANT, MODEL, OPERATION)
_WHERE = (KIND, REASON, TENANT, MODEL, PHASE, DEVICE_NAME, DEVICE_KIND, SIMULATED)

# --- spans -----------------------------------------------------------------------------------------------------------
_ROOT_ATTRIBUTES = (
    *(TENANT, TENANT_SOURCE, USER, LABEL, OPERATION, PROVIDER, MODEL, RESPONSE_ID, FINISH_REASONS),
    *(INPUT_TOKENS, OUTPUT_TOKENS, CACHED_TOKENS),
    *(GPU_TIME, GPU_TIME_PREFILL, GPU_TIME_DECODE, WASTED_TIME),
    *(ENERGY, ENERGY_PREFILL, ENERGY_DECODE, ENERGY_UNMETERED, ENERGY_SOURCE, CARBON, CARBON_METHOD),
    *(COST, CURRENCY, PRICE_BOOK, PER_TOKEN_INPUT, PER_TOKEN_OUTPUT),
    *(PER_MILLION_INPUT, PER_MILLION_OUTPUT, PER_MILLION_TOTAL),
    *(RECORD_ID, FINALITY, METHOD, REQUEST_KEY, PART, ATTEMPT, ROLE),
    *(SEQUENCES, STEPS, MEAN_BATCH, COMPUTED_TOKENS, PREEMPTIONS),
    *(ENGINE_ID, ENGINE_VERSION, ENGINE_HOST, ENGINE_RANK),
    *(DEVICE_NAME, DEVICE_KIND, DEVICE_COUNT, STAND_IN, SIMULATED),
    *(GEN_AI_COST, LLM_COST_TOTAL, LLM_COST_PROMPT, LLM_COST_COMPLETION, LANGFUSE_COST),
)
_PHASE_ATTRIBUTES = (PHASE_TIME, PHASE_ENERGY, PHASE_COST)

SPAN_REQUEST = Span(
    "costtrace.request",
    "One part of a request, from its arrival until no engine step holds it any more. A child of the caller's "
    "`traceparent`; without one, of its own trace.",
    _ROOT_ATTRIBUTES,
)
SPAN_QUEUE = Span("costtrace.queue", "From arrival to its first engine step.", ())
SPAN_PREFILL = Span("costtrace.prefill", "From its first engine step until its prompt is computed.", _PHASE_ATTRIBUTES)
SPAN_DECODE = Span("costtrace.decode", "From there to the end of the request.", _PHASE_ATTRIBUTES)
SPANS = (SPAN_REQUEST, SPAN_QUEUE, SPAN_PREFILL, SPAN_DECODE)

# --- metrics: what was used ------------------------------------------------------------------------------------------
M_GPU_TIME = Metric(
    "costtrace.gpu.time",
    "counter",
    "s",
    "Device-seconds by what they were spent on. The sum over all label sets is the metered time.",
    _WHERE,
    "costtrace_gpu_time_seconds",
)
M_ENERGY = Metric(
    "costtrace.energy",
    "counter",
    "J",
    "Energy by what it was spent on. The sum over all label sets is the counter's; unmetered time adds nothing here.",
    _WHERE,
    "costtrace_energy_joules",
)
M_COST = Metric(
    "costtrace.cost",
    "counter",
    "{currency}",
    "Money by what it was spent on, in the currency of its label. Unpriced time adds nothing here.",
    (KIND, REASON, TENANT, MODEL, COMPONENT, CURRENCY, DEVICE_NAME, DEVICE_KIND, SIMULATED),
    "costtrace_cost",
)
M_TOKENS = Metric(
    "costtrace.tokens",
    "counter",
    "{token}",
    "Tokens by type, when their part has closed: each once, whatever engines had it.",
    (TENANT, MODEL, TOKEN_TYPE, ROLE),
    "costtrace_tokens",
)
M_REQUESTS = Metric(
    "costtrace.requests",
    "counter",
    "{request}",
    "Requests that have closed, each once whatever engines of a node it was on.",
    (TENANT, MODEL, OPERATION, OUTCOME, ROLE),
    "costtrace_requests",
)
M_WASTED = Metric(
    "costtrace.wasted.gpu_time",
    "counter",
    "s",
    "The part of requests' device-seconds that served nobody. Not on top of `costtrace.gpu.time`.",
    (TENANT, MODEL, DEVICE_NAME, DEVICE_KIND, SIMULATED),
    "costtrace_wasted_gpu_time_seconds",
)
M_UNMETERED = Metric(
    "costtrace.unmetered.gpu_time",
    "counter",
    "s",
    "Device-seconds whose energy is not known.",
    (DEVICE_NAME, DEVICE_KIND),
    "costtrace_unmetered_gpu_time_seconds",
)
M_UNPRICED = Metric(
    "costtrace.unpriced.gpu_time",
    "counter",
    "s",
    "Device-seconds whose cost is not known: the price book lacks the device or the tariff.",
    (DEVICE_NAME, DEVICE_KIND),
    "costtrace_unpriced_gpu_time_seconds",
)
M_DEVICE_TIME = Metric(
    "costtrace.device.time",
    "counter",
    "s",
    "The meter itself: wall seconds of each device by kind. Its sum equals that of `costtrace.gpu.time`.",
    (HW_ID, KIND),
    "costtrace_device_time_seconds",
)
_DEVICE = (HW_ID, HW_NAME, HW_TYPE, SIMULATED)
M_HW_ENERGY = Metric(
    "hw.energy",
    "counter",
    "J",
    "Energy counter of a device, as its sensor gives it.",
    _DEVICE,
    "hw_energy_joules",
    "development",
)
M_HW_POWER = Metric("hw.power", "gauge", "W", "Power of a device.", _DEVICE, "hw_power_watts", "development")
M_IDLE_POWER = Metric(
    "costtrace.device.idle_power",
    "gauge",
    "W",
    "Power of a device when nothing runs on it, as fitted from its counter.",
    _DEVICE,
    "costtrace_device_idle_power_watts",
)
M_RESIDUAL = Metric(
    "costtrace.device.energy_residual",
    "gauge",
    "1",
    "Share by which a device's integrated power exceeds its energy counter; others allow 0.05.",
    _DEVICE,
    "costtrace_device_energy_residual_ratio",
)
M_MODEL_ERROR = Metric(
    "costtrace.device.energy_model_error",
    "gauge",
    "1",
    "Mean error of the energy model over a device's last counter windows. It moves energy within a window only.",
    _DEVICE,
    "costtrace_device_energy_model_error_ratio",
)
M_SENSOR_LAG = Metric(
    "costtrace.device.sensor_lag",
    "gauge",
    "s",
    "How old a device's counter is when it is read, as found from its load.",
    _DEVICE,
    "costtrace_device_sensor_lag_seconds",
)
M_TENANTS_FOLDED = Metric(
    "costtrace.tenants.folded",
    "gauge",
    "{tenant}",
    f"Tenants that metrics show together as `{OTHER_TENANT}`; the ledger has each.",
    (),
    "costtrace_tenants_folded",
)

# --- metrics: one request --------------------------------------------------------------------------------------------
H_COST = Metric(
    "costtrace.request.cost",
    "histogram",
    "{currency}",
    "Cost of a part, where known.",
    (*HISTOGRAM_ATTRIBUTES, CURRENCY),
    "costtrace_request_cost",
)
H_GPU_TIME = Metric(
    "costtrace.request.gpu_time",
    "histogram",
    "s",
    "Device-seconds of a part.",
    HISTOGRAM_ATTRIBUTES,
    "costtrace_request_gpu_time_seconds",
)
H_ENERGY = Metric(
    "costtrace.request.energy",
    "histogram",
    "J",
    "Energy of a part, where known.",
    HISTOGRAM_ATTRIBUTES,
    "costtrace_request_energy_joules",
)
H_PER_MILLION_OUTPUT = Metric(
    "costtrace.request.cost_per_million_output_tokens",
    "histogram",
    "{currency}",
    "Cost of decode per million output tokens of a part, where known.",
    (*HISTOGRAM_ATTRIBUTES, CURRENCY),
    "costtrace_request_cost_per_million_output_tokens",
)
HISTOGRAMS = (H_COST, H_GPU_TIME, H_ENERGY, H_PER_MILLION_OUTPUT)


# --- metrics: costtrace's own health ---------------------------------------------------------------------------------
def _health(
    name: str, instrument: Literal["counter", "gauge"], unit: str, suffix: str, brief: str
) -> tuple[str, Metric]:
    prometheus = f"costtrace_{name.replace('.', '_')}{suffix}"
    return name, Metric(f"costtrace.{name}", instrument, unit, brief, (), prometheus)


HEALTH = dict(
    (
        _health("journal.lag", "gauge", "By", "_bytes", "Journal not read yet."),
        _health("journal.delay", "gauge", "s", "_seconds", "Age of the oldest event not read yet."),
        _health("journals.failed", "gauge", "{journal}", "", "Journals that are not read: see the doctor."),
        _health("recorder.dropped_steps", "counter", "{step}", "", "Steps lost by the recorder: `unobserved` time."),
        _health("recorder.lost_events", "counter", "{event}", "", "Other events lost by the recorder."),
        _health("agent.loop.time", "gauge", "s", "_seconds", "Duration of the agent's last round."),
        _health("agent.busy.time", "counter", "s", "_seconds", "Time that the agent has worked, waiting not included."),
        _health("sensor.calls", "counter", "{call}", "", "Calls into the driver to read the devices' sensors."),
        _health("sensor.cpu.time", "counter", "s", "_seconds", "CPU time of the sensor thread."),
        _health("sensor.stalled", "gauge", "s", "_seconds", "For how long a read of a sensor hangs; 0: none does."),
        _health(
            "model.error", "gauge", "1", "_ratio", "Mean error of the step models' predictions, the worst engine's."
        ),
        _health(
            "model.coverage", "gauge", "1", "_ratio", "Part of step time shared by a fitted model, the worst engine's."
        ),
        _health(
            "plugin.lost_hooks",
            "gauge",
            "{hook}",
            "",
            "Hooks that do not fit an engine; `costtrace doctor` names them.",
        ),
        _health("engine.unrecorded", "gauge", "{engine}", "", "vLLM engines seen to run without costtrace's plugin."),
        _health("plugin.errors", "gauge", "{error}", "", "Errors in hooks that were kept from live engines."),
        _health(
            "client.texts.cut",
            "counter",
            "{sequence}",
            "",
            "Sequences whose client sent an id or a name of more than 256 characters: it was cut, with a hash.",
        ),
        _health("admission.refused", "counter", "{request}", "", "Requests refused because a hard budget is spent."),
        _health(
            "ledger.reratings",
            "gauge",
            "{run}",
            "",
            "Re-ratings of the ledger. Costs on spans and metrics are the old ones; the ledger has the new ones.",
        ),
        _health("agent.errors", "counter", "{error}", "", "Errors that were contained; the log has each."),
        _health(
            "records.unsent", "gauge", "{record}", "", "Usage records that the receiver of spans does not have yet."
        ),
        _health("records.delay", "gauge", "s", "_seconds", "Age of the oldest of these."),
        _health("records.sent", "counter", "{record}", "", "Usage records sent as spans."),
        _health("records.unsampled", "counter", "{record}", "", "Usage records whose caller does not sample: no span."),
        _health("records.refused", "counter", "{record}", "", "Usage records refused for good; notices name them."),
        _health("spans.rejected", "counter", "{span}", "", "Spans that a receiver rejected of batches that it took."),
        _health("points.rejected", "counter", "{data_point}", "", "The same of metrics' data points, over OTLP."),
        _health("export.failures", "counter", "{failure}", "", "Exports of spans that failed; they are repeated."),
        _health("export.up", "gauge", "1", "", "1 while the receiver of spans takes them, else 0."),
    )
)
"""Metrics of costtrace itself, by the short names that `telemetry.health.Health` uses."""

TOTALS = (
    *(M_GPU_TIME, M_ENERGY, M_COST, M_TOKENS, M_REQUESTS, M_WASTED, M_UNMETERED, M_UNPRICED),
    *(M_DEVICE_TIME, M_HW_ENERGY, M_HW_POWER, M_IDLE_POWER, M_RESIDUAL, M_MODEL_ERROR, M_SENSOR_LAG, M_TENANTS_FOLDED),
)
BUDGET = Attribute("costtrace.budget.name", "string", "", "Name of a budget.", label="budget")
_OF_BUDGET = (BUDGET, TENANT, MODEL, CURRENCY)


def _budget(name: str, unit: str, suffix: str, brief: str) -> Metric:
    family = "costtrace_" + name.replace(".", "_") + suffix
    return Metric(f"costtrace.{name}", "gauge", unit, brief, _OF_BUDGET, family, "development")


BUDGET_METRICS = (
    _budget("budget.amount", "{currency}", "", "What may be spent in the budget's period."),
    _budget("budget.spent", "{currency}", "", "What requests have cost in it so far."),
    _budget(
        "budget.forecast", "{currency}", "", "What they will have cost at its end; absent where that is not known."
    ),
    _budget("budget.forecast.high", "{currency}", "", "Upper end of the forecast's 95 % interval."),
    _budget("budget.used", "1", "_ratio", "Spent, as a part of the budget."),
)
"""What `costtrace budgets --format prometheus` writes; the agent does not emit them."""
METRICS = (*TOTALS, *HISTOGRAMS, *HEALTH.values())


def attributes() -> tuple[Attribute, ...]:
    """Every attribute, each once, in the order of first use."""
    used = [attribute for span in SPANS for attribute in span.attributes]
    used += [attribute for metric in METRICS for attribute in metric.attributes]
    return tuple(dict.fromkeys(used))
