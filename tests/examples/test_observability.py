"""Rules and dashboards ask for metrics and labels that there are; each file is fresh, and Grafana can import it."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from costtrace.core import semconv

ROOT = Path(__file__).parents[2]
RULES = [ROOT / "examples" / "prometheus" / name for name in ("recording-rules.yaml", "alerts.yaml")]
DASHBOARDS = sorted((ROOT / "examples" / "grafana").glob("*.json"))
METRICS = [value for value in vars(semconv).values() if isinstance(value, semconv.Metric)]
METRICS += [*semconv.HEALTH.values(), *semconv.BUDGET_METRICS]
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
NAMES = {one.prometheus + suffix for one in METRICS for suffix in SUFFIXES[one.instrument]}


def asked(expression):
    """Metrics that a PromQL expression asks the agent for; recorded ones have colons."""
    return set(re.findall(r"(?<![\w:])(?:costtrace|hw)_\w+(?![\w:])", expression))


def rules():
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def panels():
    return [panel for path in DASHBOARDS for panel in json.loads(path.read_text())["panels"]]


def test_rules_and_panels_ask_for_metrics_that_there_are():
    expressions = [rule["expr"] for rule in rules()]
    expressions += [panel["targets"][0]["expr"] for panel in panels() if panel["datasource"]["type"] == "prometheus"]
    names = set().union(*map(asked, expressions))
    assert len(names) > 20
    assert names <= NAMES, names - NAMES


def test_alerts_ask_for_rules_that_are_recorded_and_say_what_to_do():
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    alerts = [rule for rule in rules() if "alert" in rule]
    used = set().union(*(re.findall(r"costtrace:[\w:]+", rule["expr"]) for rule in alerts))
    assert used
    assert used <= recorded, used - recorded
    assert all(rule["annotations"]["remedy"] and rule["annotations"]["summary"] for rule in alerts)


def test_the_dashboards_are_fresh(monkeypatch):
    tool = ROOT / "tools" / "gen_dashboards.py"
    done = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    monkeypatch.syspath_prepend(tool.parent)
    module = importlib.import_module("gen_dashboards")
    assert {path.stem for path in DASHBOARDS} == {board.uid for board in module.BOARDS}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_grafana_can_import_it_and_no_panel_covers_another(path):
    board = json.loads(path.read_text())
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= board.keys()
    assert len(board["uid"]) <= 40
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells
        assert panel["targets"][0]["datasource"]["uid"] in {"prometheus", "tempo"}


def test_traceql_compares_costs_with_doubles():
    queries = [panel["targets"][0]["query"] for panel in panels() if panel["datasource"]["type"] == "tempo"]
    assert queries
    for query in queries:
        for number in re.findall(r"cost\.amount\s*[<>]=?\s*([\w.]+)", query):
            assert "." in number, "an integer literal matches no double attribute"
