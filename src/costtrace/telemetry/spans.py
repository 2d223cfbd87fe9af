"""A usage record as spans. Pure: the same record makes the same spans.

``costtrace.request`` carries all figures. Its children ``costtrace.queue``, ``.prefill`` and ``.decode`` carry those of
their phase under other names (``costtrace.phase.*``), so that a sum of ``costtrace.cost.amount`` over all spans counts
nothing twice. A phase that the record did not reach has no span.
"""

import json
from typing import Literal

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, Status, StatusCode

from costtrace.core import semconv as s
from costtrace.core.rows import EngineRow, UsageCost, UsageRecord
from costtrace.core.units import NANO_PER_UNIT, NS_PER_S, TOKENS_PER_MILLION, UJ_PER_J
from costtrace.pricing.carbon import UG_PER_G, CarbonIntensity, request_ug
from costtrace.telemetry.span_ids import SpanIds, context, span_ids

Profile = Literal["gen_ai_cost", "llm_cost", "langfuse"]
PROFILES: tuple[Profile, ...] = ("gen_ai_cost", "llm_cost", "langfuse")
DEFAULT_PROFILES: frozenset[Profile] = frozenset(("gen_ai_cost", "llm_cost"))
"""Copies of the cost under names that backends read. They mean USD, so other currencies are never copied."""

Value = str | bool | int | float | tuple[str, ...]
Attributes = dict[str, Value]

_UNSET = Status(StatusCode.UNSET)


class SpanBuilder:
    """Makes spans of usage records, for one resource and one set of profiles."""

    def __init__(
        self,
        resource: Resource,
        profiles: frozenset[Profile] = DEFAULT_PROFILES,
        version: str | None = None,
        carbon: CarbonIntensity | None = None,
    ) -> None:
        self._carbon = carbon
        self._resource = resource
        self._profiles = profiles
        self._scope = InstrumentationScope(s.SCOPE, version)

    def build(self, record: UsageRecord, cost: UsageCost, engine: EngineRow | None) -> list[ReadableSpan]:
        """The record's spans, its request first; none if its caller did not sample the trace."""
        ids = span_ids(record)
        if ids is None:
            return []
        parent = context(ids.trace_id, ids.parent_id, remote=True) if ids.parent_id else None
        request = context(ids.trace_id, ids.request)
        start = max(0, record.arrived_ns or record.scheduled_ns or record.ended_ns)
        end = max(start, record.ended_ns)
        attributes = request_attributes(record, cost, engine, self._profiles)
        if self._carbon is not None:
            attributes.update(_carbon_attributes(record, self._carbon))
        spans = [self._span(s.SPAN_REQUEST.name, request, parent, attributes, start, end)]
        for name, span_id, begin, until, figures in _phases(record, cost, ids, start, end):
            spans.append(self._span(name, context(ids.trace_id, span_id), request, figures, begin, until))
        return spans

    def _span(
        self, name: str, span: SpanContext, parent: SpanContext | None, attributes: Attributes, start: int, end: int
    ) -> ReadableSpan:
        return ReadableSpan(
            name=name,
            context=span,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            status=_UNSET,
            start_time=start,
            end_time=end,
            instrumentation_scope=self._scope,
        )


def _phases(
    record: UsageRecord, cost: UsageCost, ids: SpanIds, start: int, end: int
) -> list[tuple[str, int, int, int, Attributes]]:
    """(name, span id, start, end, attributes) of the phases that the record reached, in order and without gaps."""
    if not record.scheduled_ns:
        return [(s.SPAN_QUEUE.name, ids.queue, start, end, {})]
    scheduled = min(max(start, record.scheduled_ns), end)
    phases: list[tuple[str, int, int, int, Attributes]] = [(s.SPAN_QUEUE.name, ids.queue, start, scheduled, {})]
    decode_start = min(max(scheduled, record.decode_ns_at), end) if record.decode_ns_at else end
    if record.prefill_ns or not record.decode_ns:
        figures = _phase_attributes(record.prefill_ns, record.prefill_uj, cost.prefill_nano)
        phases.append((s.SPAN_PREFILL.name, ids.prefill, scheduled, decode_start, figures))
    else:
        decode_start = scheduled  # its prompt was computed elsewhere: all its time here is decode
    if record.decode_ns:
        figures = _phase_attributes(record.decode_ns, record.decode_uj, cost.decode_nano)
        phases.append((s.SPAN_DECODE.name, ids.decode, decode_start, end, figures))
    return phases


def _phase_attributes(gpu_ns: int, energy_uj: int | None, nano: int | None) -> Attributes:
    attributes: Attributes = {s.PHASE_TIME.name: gpu_ns / NS_PER_S}
    if energy_uj is not None:
        attributes[s.PHASE_ENERGY.name] = energy_uj / UJ_PER_J
    if nano is not None:
        attributes[s.PHASE_COST.name] = nano / NANO_PER_UNIT
    return attributes


def _carbon_attributes(record: UsageRecord, intensity: CarbonIntensity) -> Attributes:
    ug = request_ug(intensity, record.energy_uj, record.energy_unknown_ns, record.ended_ns)
    return {} if ug is None else {s.CARBON.name: ug / UG_PER_G, s.CARBON_METHOD.name: intensity.method}


def request_attributes(
    record: UsageRecord, cost: UsageCost, engine: EngineRow | None, profiles: frozenset[Profile]
) -> Attributes:
    """All attributes of a ``costtrace.request`` span."""
    counts = record.counts()
    attributes: Attributes = {
        s.RECORD_ID.name: record.record_id,
        s.TENANT.name: record.tenant,
        s.TENANT_SOURCE.name: record.tenant_source,
        s.OPERATION.name: record.operation,
        s.MODEL.name: record.model,
        s.RESPONSE_ID.name: record.request_id,
        s.INPUT_TOKENS.name: counts.input_tokens,
        s.OUTPUT_TOKENS.name: counts.output_tokens,
        s.CACHED_TOKENS.name: counts.cached_tokens,
        s.FINISH_REASONS.name: record.finish_reasons,
        s.GPU_TIME.name: record.gpu_ns / NS_PER_S,
        s.GPU_TIME_PREFILL.name: record.prefill_ns / NS_PER_S,
        s.GPU_TIME_DECODE.name: record.decode_ns / NS_PER_S,
        s.WASTED_TIME.name: record.wasted_ns / NS_PER_S,
        s.ENERGY_SOURCE.name: record.energy_source,
        s.METHOD.name: record.method,
        s.FINALITY.name: record.finality,
        s.REQUEST_KEY.name: record.request_key,
        s.PART.name: record.part,
        s.ATTEMPT.name: record.attempt,
        s.ROLE.name: record.role,
        s.SEQUENCES.name: record.sequences,
        s.STEPS.name: record.steps,
        s.MEAN_BATCH.name: record.batch_milli / 1_000,
        s.COMPUTED_TOKENS.name: record.computed_tokens,
        s.PREEMPTIONS.name: record.preemptions,
        s.ENGINE_ID.name: record.engine_id,
    }
    if record.user:
        attributes[s.USER.name] = record.user
    for key, value in record.labels.items():
        attributes[s.LABEL_PREFIX + key] = value
    if engine is not None:
        attributes.update(_engine_attributes(engine))
    if record.simulated:
        attributes[s.SIMULATED.name] = True
    _add_energy(attributes, record)
    _add_cost(attributes, record, cost, profiles)
    return attributes


def _engine_attributes(engine: EngineRow) -> Attributes:
    attributes: Attributes = {
        s.PROVIDER.name: engine.engine,
        s.ENGINE_VERSION.name: engine.version,
        s.ENGINE_HOST.name: engine.host,
        s.ENGINE_RANK.name: engine.dp_rank,
        s.DEVICE_NAME.name: engine.device_name,
        s.DEVICE_KIND.name: engine.device_kind,
        s.DEVICE_COUNT.name: len(engine.devices),
    }
    if engine.device_kind == "cpu":
        attributes[s.STAND_IN.name] = True
    if engine.simulated:
        attributes[s.SIMULATED.name] = True
    return attributes


def _add_energy(attributes: Attributes, record: UsageRecord) -> None:
    if record.energy_uj is not None and record.energy_unknown_ns:
        attributes[s.ENERGY_UNMETERED.name] = record.energy_unknown_ns / NS_PER_S
    if record.energy_uj is not None:
        attributes[s.ENERGY.name] = record.energy_uj / UJ_PER_J
    if record.prefill_uj is not None:
        attributes[s.ENERGY_PREFILL.name] = record.prefill_uj / UJ_PER_J
    if record.decode_uj is not None:
        attributes[s.ENERGY_DECODE.name] = record.decode_uj / UJ_PER_J


def _add_cost(attributes: Attributes, record: UsageRecord, cost: UsageCost, profiles: frozenset[Profile]) -> None:
    if cost.cost_nano is None:
        return
    total = cost.cost_nano / NANO_PER_UNIT
    attributes[s.COST.name] = total
    attributes[s.CURRENCY.name] = cost.currency
    attributes[s.PRICE_BOOK.name] = cost.price_book
    _, prompt, _, output = record.counts()
    if prompt + output:
        attributes[s.PER_MILLION_TOTAL.name] = total / (prompt + output) * TOKENS_PER_MILLION
    if cost.prefill_nano is not None and record.prefill_ns and prompt:
        each = cost.prefill_nano / NANO_PER_UNIT / prompt
        attributes[s.PER_TOKEN_INPUT.name] = each
        attributes[s.PER_MILLION_INPUT.name] = each * TOKENS_PER_MILLION
    if cost.decode_nano is not None and record.decode_ns and output:
        each = cost.decode_nano / NANO_PER_UNIT / output
        attributes[s.PER_TOKEN_OUTPUT.name] = each
        attributes[s.PER_MILLION_OUTPUT.name] = each * TOKENS_PER_MILLION
    if cost.currency == "USD":
        _add_copies(attributes, cost, total, profiles)


def _add_copies(attributes: Attributes, cost: UsageCost, total: float, profiles: frozenset[Profile]) -> None:
    prefill = None if cost.prefill_nano is None else cost.prefill_nano / NANO_PER_UNIT
    decode = None if cost.decode_nano is None else cost.decode_nano / NANO_PER_UNIT
    if "gen_ai_cost" in profiles:
        attributes[s.GEN_AI_COST.name] = total
    if "llm_cost" in profiles:
        attributes[s.LLM_COST_TOTAL.name] = total
        if prefill is not None:
            attributes[s.LLM_COST_PROMPT.name] = prefill
        if decode is not None:
            attributes[s.LLM_COST_COMPLETION.name] = decode
    if "langfuse" in profiles:
        details = {"input": prefill, "output": decode, "total": total}
        attributes[s.LANGFUSE_COST.name] = json.dumps({k: v for k, v in details.items() if v is not None})
