"""Public data that some tests read where it is: COSTTRACE_TEST_DATA, else `shared/data` beside the checkout."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("COSTTRACE_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def needs(name: str) -> pytest.MarkDecorator:
    """Skip, and say what is missing, where the data has no such file or folder."""
    return pytest.mark.skipif(
        not (DATA / name).exists(), reason=f"{DATA} has no {name}: name its place in COSTTRACE_TEST_DATA"
    )
