"""Write what the Kubernetes example takes from other examples, or (--check) say what of it is stale.

    python tools/gen_kubernetes.py [--check] [--base examples/kubernetes/base]

Kustomize reads no file above its own folder. So rules (PrometheusRule), dashboards (ConfigMaps that Grafana's sidecar
loads) and the sample prices are written into it, and never by hand.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from generated import write_or_compare

EXAMPLES = Path(__file__).parents[1] / "examples"
RULES = ("recording-rules.yaml", "alerts.yaml", "budget-alerts.yaml")
PRICES = EXAMPLES / "prices" / "sample-2026-11.yaml"
HEAD = "# Written by tools/gen_kubernetes.py (`make docs`) from {source}: do not edit.\n"
YOURS = "# In your own copy it is yours: put in what your devices cost you.\n#\n"


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, so that a difference can be read."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def _write(source: str, *documents: dict[str, Any]) -> str:
    return HEAD.format(source=source) + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120)


def prometheus_rule() -> dict[str, Any]:
    """All groups of examples/prometheus, as the Prometheus operator takes them."""
    folder = EXAMPLES / "prometheus"
    groups = [group for name in RULES for group in yaml.safe_load((folder / name).read_text("utf-8"))["groups"]]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "costtrace", "labels": {"release": "kube-prometheus-stack"}},
        "spec": {"groups": groups},
    }


def dashboard(path: Path) -> dict[str, Any]:
    """One dashboard as a ConfigMap with the label that Grafana's sidecar looks for."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": path.stem, "labels": {"grafana_dashboard": "1"}},
        "data": {path.name: path.read_text("utf-8")},
    }


def files() -> dict[str, str]:
    """Name and content of all that is written."""
    boards = [dashboard(path) for path in sorted((EXAMPLES / "grafana").glob("*.json"))]
    return {
        "prometheusrule.yaml": _write("examples/prometheus", prometheus_rule()),
        "dashboards.yaml": _write("examples/grafana", *boards),
        "prices.yaml": HEAD.format(source=f"examples/prices/{PRICES.name}") + YOURS + PRICES.read_text("utf-8"),
    }


def main() -> int:
    """Write, or with --check compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is stale")
    parser.add_argument("--base", type=Path, default=EXAMPLES / "kubernetes" / "base")
    options = parser.parse_args()
    return write_or_compare({options.base / name: content for name, content in files().items()}, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
