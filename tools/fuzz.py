"""Fuzz the parsers: `tools/fuzz.py [TARGET ...] --seconds 600`. Prints the smallest input that breaks one, and fails.

The targets are those of tests/test_fuzz.py, which tries each a few times.
"""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from fuzz_targets import TARGETS, Target, attempt  # noqa: E402 - the path is set first
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402

from costtrace.core import guard  # noqa: E402

MEMORY_BYTES = 4 << 30
"""A parser that wants more than this for such small inputs is broken."""
ROUND = 500
"""Tries between two looks at the clock."""


def fuzz(name: str, target: Target, seconds: float, first_seed: int) -> int:
    """Try *target* for *seconds*; the number of tries. Raises: what it finds, made as small as it can be."""
    tries = 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="costtrace-fuzz-") as folder:
        while time.monotonic() - begun < seconds:

            @seed(first_seed + tries)
            @settings(
                max_examples=ROUND,
                deadline=None,
                database=None,
                derandomize=False,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            )
            @given(target.inputs)
            def run(value: object) -> None:
                nonlocal tries
                tries += 1
                if time.monotonic() - begun < seconds:
                    attempt(target, value, Path(folder))

            run()
    took = time.monotonic() - begun
    print(f"{name}: {tries} inputs in {took:.0f} s, no fault", flush=True)
    return tries


def main() -> int:
    """Run the targets that are named, or all, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=600, help="for each target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable(logging.CRITICAL)
    guard.strict(True)
    broken = 0
    for name in arguments.targets or TARGETS:
        try:
            fuzz(name, TARGETS[name], arguments.seconds, arguments.seed)
        except Exception as error:  # noqa: BLE001 - whatever a parser lets out is what is looked for
            broken += 1
            print(f"{name}: {type(error).__name__}: {error}", *getattr(error, "__notes__", ()), sep="\n  ", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
