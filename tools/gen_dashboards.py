"""Write the Grafana dashboards, or (--check) say which of them are stale.

    python tools/gen_dashboards.py [--check]

Plain JSON of Grafana's dashboard model, made here because panels differ in a few words only. The tests run each query
against a real Prometheus that has scraped a real agent, and hold every metric against `costtrace.core.semconv`.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from generated import write_or_compare

FOLDER = Path(__file__).parents[1] / "examples" / "grafana"
WIDTH = 24
HEIGHT = 8
RATE = "[$__rate_interval]"
PICK = 'tenant=~"$tenant",model=~"$model"'
REQUEST = f'kind="request",{PICK}'


class Panel(NamedTuple):
    """One panel: its title says what, its unit in which."""

    title: str
    query: str
    unit: str
    legend: str = ""
    kind: str = "timeseries"
    about: str = ""
    width: int = 12
    source: str = "prometheus"


class Board(NamedTuple):
    """One dashboard."""

    uid: str
    title: str
    panels: tuple[Panel, ...]
    picks: bool = True
    """Has variables for tenant and model."""


def per_million(token_type: str, by: str) -> str:
    """Direct cost of all over the tokens of one type."""
    return (
        f"1e6 * sum by ({by}, currency) (rate(costtrace_cost_total{{{REQUEST}}}{RATE}))"
        f' / on ({by}) group_left () sum by ({by}) (rate(costtrace_tokens_total{{{PICK},type="{token_type}"}}{RATE}))'
    )


def share(kind: str) -> str:
    """Part of the devices' time that is of a kind."""
    of_kind = f'sum(rate(costtrace_device_time_seconds_total{{kind="{kind}"}}{RATE}))'
    return f"({of_kind} or vector(0)) / sum(rate(costtrace_device_time_seconds_total{RATE}))"


FLEET = Board(
    "costtrace-fleet",
    "costtrace: fleet",
    (
        Panel(
            "Cost per hour, by what it was for",
            f"sum by (kind, currency) (rate(costtrace_cost_total{RATE})) * 3600",
            "none",
            "{{kind}} ({{currency}})",
            about="Requests, idle, overhead and unobserved time together are the bill.",
        ),
        Panel(
            "Device seconds per second, by kind",
            f"sum by (kind) (rate(costtrace_device_time_seconds_total{RATE}))",
            "none",
            "{{kind}}",
            about="Stacked, it is the number of devices.",
        ),
        Panel("Idle, part of the device time", share("idle"), "percentunit", kind="stat", width=6),
        Panel("Unobserved, part of the device time", share("unobserved"), "percentunit", kind="stat", width=6),
        Panel(
            "Cost in the shown time, all kinds",
            "sum by (currency) (increase(costtrace_cost_total[$__range]))",
            "none",
            "{{currency}}",
            "stat",
            width=6,
        ),
        Panel(
            "Requests in the shown time",
            "sum(increase(costtrace_requests_total[$__range]))",
            "none",
            "",
            "stat",
            width=6,
        ),
        Panel(
            "The most expensive tenants, cost per hour",
            f'topk(10, sum by (tenant, currency) (rate(costtrace_cost_total{{kind="request"}}{RATE}))) * 3600',
            "none",
            "{{tenant}} ({{currency}})",
        ),
        Panel(
            "Tokens per second, by type",
            f"sum by (type) (rate(costtrace_tokens_total{RATE}))",
            "none",
            "{{type}}",
        ),
    ),
    picks=False,
)

TENANT = Board(
    "costtrace-tenant",
    "costtrace: tenants",
    (
        Panel(
            "Cost per hour (direct: idle is on no tenant)",
            f"sum by (tenant, currency) (rate(costtrace_cost_total{{{REQUEST}}}{RATE})) * 3600",
            "none",
            "{{tenant}} ({{currency}})",
        ),
        Panel("Cost per million output tokens", per_million("output", "tenant"), "none", "{{tenant}} ({{currency}})"),
        Panel(
            "Tokens per second",
            f"sum by (tenant, type) (rate(costtrace_tokens_total{{{PICK}}}{RATE}))",
            "none",
            "{{tenant}} {{type}}",
        ),
        Panel(
            "Wasted, part of the tenant's device time",
            f"sum by (tenant) (rate(costtrace_wasted_gpu_time_seconds_total{{{PICK}}}{RATE}))"
            f" / sum by (tenant) (rate(costtrace_gpu_time_seconds_total{{{REQUEST}}}{RATE}))",
            "percentunit",
            "{{tenant}}",
            about="Recomputed after preemption, after the end, or aborted.",
        ),
        Panel(
            "Cost of a request, 95th percentile",
            "histogram_quantile(0.95, "
            f"sum by (tenant, currency, le) (rate(costtrace_request_cost_bucket{{{PICK}}}{RATE})))",
            "none",
            "{{tenant}} ({{currency}})",
            about="Dots are exemplars: each leads to the request's trace.",
        ),
        Panel(
            "The most expensive requests (Tempo)",
            '{ name = "costtrace.request" && span.tenant.id =~ "$tenant" && span.costtrace.cost.amount > 0.0001 }',
            "none",
            kind="table",
            source="tempo",
        ),
    ),
)

MODEL = Board(
    "costtrace-model",
    "costtrace: models and engines",
    (
        Panel("Cost per million output tokens", per_million("output", "model"), "none", "{{model}} ({{currency}})"),
        Panel("Cost per million input tokens", per_million("input", "model"), "none", "{{model}} ({{currency}})"),
        Panel(
            "Device seconds per second, by phase",
            f"sum by (model, phase) (rate(costtrace_gpu_time_seconds_total{{{REQUEST}}}{RATE}))",
            "none",
            "{{model}} {{phase}}",
        ),
        Panel(
            "Requests per second, by how they ended",
            f"sum by (model, outcome) (rate(costtrace_requests_total{{{PICK}}}{RATE}))",
            "none",
            "{{model}} {{outcome}}",
        ),
        Panel(
            "Input found in the prefix cache",
            f'sum by (model) (rate(costtrace_tokens_total{{{PICK},type="cached"}}{RATE}))'
            f' / sum by (model) (rate(costtrace_tokens_total{{{PICK},type=~"cached|input"}}{RATE}))',
            "percentunit",
            "{{model}}",
        ),
        Panel(
            "Error of the step models, the worst engine's", "costtrace_model_error_ratio", "percentunit", "{{instance}}"
        ),
    ),
)

ENERGY = Board(
    "costtrace-energy",
    "costtrace: energy",
    (
        Panel("Power of the devices", "hw_power_watts", "watt", "{{device_id}} {{device}}"),
        Panel(
            "Power of the devices, by their energy counters",
            f"rate(hw_energy_joules_total{RATE})",
            "watt",
            "{{device_id}} {{device}}",
        ),
        Panel(
            "Power, by what it was for",
            f"sum by (kind) (rate(costtrace_energy_joules_total{RATE}))",
            "watt",
            "{{kind}}",
        ),
        Panel(
            "Joules per output token",
            f'sum by (model) (rate(costtrace_energy_joules_total{{kind="request"}}{RATE}))'
            f' / sum by (model) (rate(costtrace_tokens_total{{type="output"}}{RATE}))',
            "joule",
            "{{model}}",
        ),
        Panel(
            "Device seconds per second whose energy is unknown",
            f"sum(rate(costtrace_unmetered_gpu_time_seconds_total{RATE})) or vector(0)",
            "none",
            "unknown",
        ),
        Panel("Idle power", "costtrace_device_idle_power_watts", "watt", "{{device_id}}"),
        Panel(
            "Counter against integrated power", "costtrace_device_energy_residual_ratio", "percentunit", "{{device_id}}"
        ),
        Panel("How old a counter is when it is read", "costtrace_device_sensor_lag_seconds", "s", "{{device_id}}"),
    ),
    picks=False,
)

HEALTH = Board(
    "costtrace-health",
    "costtrace: its own health",
    (
        Panel("Journal not read yet: age", "costtrace_journal_delay_seconds", "s", "{{instance}}"),
        Panel("Journal not read yet: size", "costtrace_journal_lag_bytes", "bytes", "{{instance}}"),
        Panel("Records that the receiver of spans does not have", "costtrace_records_unsent", "none", "{{instance}}"),
        Panel(
            "The agent's part of a core",
            f"rate(costtrace_agent_busy_time_seconds_total{RATE})",
            "percentunit",
            "{{instance}}",
        ),
        Panel("Hooks that do not fit", "costtrace_plugin_lost_hooks", "none", "{{instance}}", "stat", width=6),
        Panel("Errors kept from engines", "costtrace_plugin_errors", "none", "{{instance}}", "stat", width=6),
        Panel(
            "Steps lost by recorders", "costtrace_recorder_dropped_steps_total", "none", "{{instance}}", "stat", width=6
        ),
        Panel(
            "Spans that the receiver rejected",
            "costtrace_spans_rejected_total",
            "none",
            "{{instance}}",
            "stat",
            width=6,
        ),
        Panel("Journals that are not read", "costtrace_journals_failed", "none", "{{instance}}", "stat", width=6),
        Panel("Tenants shown together", "costtrace_tenants_folded", "none", "{{instance}}", "stat", width=6),
    ),
    picks=False,
)

BOARDS = (FLEET, TENANT, MODEL, ENERGY, HEALTH)


def variables(board: Board) -> list[dict[str, Any]]:
    """Tenant and model to pick from, where the dashboard has them."""
    return [
        {
            "name": name,
            "type": "query",
            "datasource": {"type": "prometheus", "uid": "prometheus"},
            "query": {"query": f"label_values(costtrace_requests_total, {name})", "refId": name},
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }
        for name in (("tenant", "model") if board.picks else ())
    ]


def panel_json(panel: Panel, number: int, at: tuple[int, int]) -> dict[str, Any]:
    """Grafana's form of a panel at a place (x, y)."""
    source = {"type": panel.source, "uid": panel.source}
    target: dict[str, Any] = {"refId": "A", "datasource": source}
    if panel.source == "tempo":
        target |= {"queryType": "traceql", "query": panel.query, "limit": 50, "tableType": "spans"}
    else:
        target |= {"expr": panel.query, "legendFormat": panel.legend or "__auto", "exemplar": "_bucket" in panel.query}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": source,
        "gridPos": {"x": at[0], "y": at[1], "w": panel.width, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [target],
    }


def dashboard(board: Board) -> dict[str, Any]:
    """Grafana's form of a dashboard; panels are laid out in rows of `WIDTH`."""
    panels, x, y = [], 0, 0
    for number, panel in enumerate(board.panels, 1):
        if x + panel.width > WIDTH:
            x, y = 0, y + HEIGHT
        panels.append(panel_json(panel, number, (x, y)))
        x += panel.width
    return {
        "uid": board.uid,
        "title": board.title,
        "tags": ["costtrace"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
        "templating": {"list": variables(board)},
        "panels": panels,
    }


def main() -> int:
    """Write, or with --check compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is stale")
    options = parser.parse_args()
    boards = {FOLDER / f"{board.uid}.json": json.dumps(dashboard(board), indent=1) + "\n" for board in BOARDS}
    return write_or_compare(boards, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
