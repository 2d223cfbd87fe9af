"""Makes `build/<name>`: other projects' programs that the heavy tests compare costtrace with.

    python tools/setup_others.py peers|aiperf|backends|victoria-metrics

Each lot has an environment of its own (tests/requirements-<name>.txt): they bring hundreds of packages, and pin what
the tests need newer. VictoriaMetrics is unpacked from a Debian package. A second run does nothing until what is wanted
changes. Stdlib only.
"""

import argparse
import shutil
import sys

import debian
from environment import bring_up_to_date
from setup_common import ROOT, run_main

WHAT = {
    "peers": "Zeus, nvitop, OpenLIT, Playwright and axe",
    "aiperf": "AIPerf",
    "backends": "MLflow and Arize Phoenix",
}
VICTORIA_METRICS = "victoria-metrics"
SUITE = "trixie"
"""The oldest one of Debian whose VictoriaMetrics takes OTLP metrics."""


def set_up(name: str, python: str) -> None:
    """Bring the environment `build/<name>` up to date; by uv, as pip does not finish resolving some of these."""
    if name == VICTORIA_METRICS:
        debian.unpack(VICTORIA_METRICS, SUITE, ROOT / "build" / VICTORIA_METRICS)
        return
    requirements = ROOT / "tests" / f"requirements-{name}.txt"
    bring_up_to_date(
        f"setup-{name}",
        ROOT / "build" / name,
        python=python,
        decided_by=[requirements],
        words=["-r", requirements],
        what=WHAT[name],
        installer_kind="uv",
    )


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("name", choices=[*WHAT, VICTORIA_METRICS])
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_args()
    python = shutil.which(given.python) or given.python
    return run_main(lambda: set_up(given.name, python))


if __name__ == "__main__":
    raise SystemExit(main())
