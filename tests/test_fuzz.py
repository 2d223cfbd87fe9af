"""Every parser of what a client, an operator or a disk can write, with a few changed inputs (`tools/fuzz.py`: many)."""

import pytest
from fuzz_targets import TARGETS, attempt
from hypothesis import HealthCheck, given, settings


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_parser_refuses_what_it_cannot_read_and_never_breaks(name, tmp_path):
    target = TARGETS[name]

    @settings(suppress_health_check=list(HealthCheck))
    @given(target.inputs)
    def run(value):
        attempt(target, value, tmp_path)

    run()
