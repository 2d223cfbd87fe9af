"""``docs/telemetry.md``, made from the tables of `semconv`."""

from collections.abc import Iterable

from costtrace.core.semconv import (
    BUDGET_METRICS,
    HEALTH,
    HISTOGRAMS,
    METRICS,
    OTHER_TENANT,
    SPANS,
    TOTALS,
    Attribute,
    Metric,
)


def telemetry_markdown() -> str:
    """The text of ``docs/telemetry.md``."""
    lines = ["# What costtrace emits", "", *_INTRODUCTION, "## Spans", ""]
    lines += _table(("span", "meaning"), ((f"`{span.name}`", span.brief) for span in SPANS))
    for span in SPANS:
        if span.attributes:
            lines += ["", f"### Attributes of `{span.name}`", "", *_attribute_table(span.attributes)]
    lines += ["", "## Metrics", "", *_METRICS_NOTE]
    for title, metrics in (
        ("Totals", TOTALS),
        ("One request", HISTOGRAMS),
        ("costtrace itself", tuple(HEALTH.values())),
        ("Budgets, as `costtrace budgets --format prometheus` writes them", BUDGET_METRICS),
    ):
        lines += ["", f"### {title}", "", *_metric_table(metrics)]
    used = dict.fromkeys(attribute for metric in METRICS for attribute in metric.attributes)
    lines += ["", "### Attributes of metrics", "", *_attribute_table(tuple(used), labels=True)]
    return "\n".join(lines) + "\n"


_INTRODUCTION = (
    "Made from `costtrace.core.semconv`: do not edit. The ledger is the bill; spans and metrics are views of it.",
    "A figure that is not known is absent, never 0. Amounts are doubles in the unit shown; the ledger has them exact.",
    "",
    "`stable`: the meaning does not change within a major version. `development`: OpenTelemetry's own, which may",
    "still change there. `compat`: a copy under the name that a backend reads for cost.",
    "",
    "## Delivery",
    "",
    "- OTLP goes where OpenTelemetry's own variables say (`OTEL_EXPORTER_OTLP_ENDPOINT` and its kin, headers, TLS,",
    "  timeout, compression, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`). Without an endpoint nothing is sent.",
    "  Without `OTEL_EXPORTER_OTLP_PROTOCOL`, port 4317 means gRPC and any other HTTP. `OTEL_SDK_DISABLED=true`,",
    "  `OTEL_TRACES_EXPORTER=none` and `OTEL_METRICS_EXPORTER=none` switch off.",
    "- Spans are read from the ledger behind a cursor, one for each receiver: a receiver that is down gets them when",
    "  it is back, a new one gets the ledger from its beginning. The cursor moves once a batch has been taken. An",
    "  agent that dies in between sends the batch again, with the same trace and span ids and the same content.",
    "- A record that the receiver refuses for good, while it takes others, is left out and named in a notice. A",
    "  receiver that takes nothing is waited for. Nothing here ever holds up the agent.",
    "- A caller that does not sample its trace (flag 00) gets no span; ledger and metrics have the request.",
    "- Metrics are exported every `OTEL_METRIC_EXPORT_INTERVAL` ms: cumulative, or as deltas where",
    "  `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=delta` asks for them (Datadog, Dynatrace). What a receiver of",
    "  deltas has acknowledged is noted in the ledger, so nothing is counted again after a restart: a delta that was not",
    "  taken is part of the next one, and a receiver without a note gets the ledger from its beginning. Histograms that",
    "  were not taken are sent again while the agent runs, at most 60 exports. An agent that is killed between the",
    "  receiver's answer and its note sends that export again, and what `costtrace compact` has summed counts as sent.",
    "",
)
_METRICS_NOTE = (
    "Counters continue after a restart of the agent: they are read from the ledger, but for `hw.energy` and costtrace's",
    "own health, which begin with the agent.",
    "Histograms are of the running agent; over OTLP they are exponential and carry exemplars that point to the",
    "request's span. The Prometheus endpoint has the same figures under the names and labels shown, and in OpenMetrics",
    "when each series began ([what that needs](operations.md#prometheus)).",
    f"Tenants beyond the cardinality limit are shown together as `{OTHER_TENANT}`.",
)


def _attribute_table(rows: Iterable[Attribute], *, labels: bool = False) -> list[str]:
    head = ("attribute", "type", "unit", "stability", "meaning")
    body = ((f"`{a.name}`", a.type, _unit(a.unit), a.stability, a.brief) for a in rows)
    if not labels:
        return _table(head, body)
    return _table((*head, "Prometheus label"), ((*cells, f"`{a.label}`") for cells, a in zip(body, rows, strict=True)))


def _metric_table(metrics: Iterable[Metric]) -> list[str]:
    return _table(
        ("metric", "instrument", "unit", "Prometheus", "attributes", "meaning"),
        (
            (
                f"`{m.name}`",
                m.instrument,
                _unit(m.unit),
                f"`{m.prometheus}{'_total' if m.instrument == 'counter' else ''}`",
                ", ".join(f"`{a.name}`" for a in m.attributes),
                m.brief,
            )
            for m in metrics
        ),
    )


def _unit(unit: str) -> str:
    return f"`{unit}`" if unit else ""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    cells = [head, tuple("---" for _ in head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells]
