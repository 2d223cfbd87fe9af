"""Every benchmark, evaluation and example starts by itself, from any directory: what it imports is where it looks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEED_AN_ENGINE = {"bench_recorder.py"}
"""Import vLLM at once: `make bench` runs them in its environment."""
PROGRAMS = sorted(
    path
    for path in (
        *(ROOT / "benchmarks").glob("*.py"),
        *(ROOT / "evaluation").glob("*.py"),
        *(ROOT / "examples").rglob("*.py"),
    )
    if "__main__" in path.read_text(encoding="utf-8") and path.name not in NEED_AN_ENGINE
)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_a_program_starts_and_says_what_it_does(program, tmp_path):
    done = subprocess.run(
        [sys.executable, program, "--help"],
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("usage: ")
