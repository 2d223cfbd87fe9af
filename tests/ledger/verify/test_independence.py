"""`verify` proves what others computed: it imports none of their code, and its rules agree with theirs."""

import ast
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from costtrace.core.rows import is_known
from costtrace.ledger import verify
from costtrace.ledger.verify.lines import energy_must_be_known

ALLOWED = {
    "costtrace.core.rows": {"KINDS"},
    "costtrace.core.wall_time": {"show_time"},
    "costtrace.ledger.answers": {"Period"},
    "costtrace.ledger.reader": {"Row", "Store"},
    "costtrace.ledger.schema.closing": {"HOUR"},
    "costtrace.ledger.schema.columns": {"column_of", "columns_of"},
}
"""What it may import of costtrace, beside its own modules: names of things, and how the ledger is read."""


def test_verify_imports_nothing_of_attribution_booking_or_rating():
    for path in Path(verify.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("costtrace") for alias in node.names), path
            elif isinstance(node, ast.ImportFrom):
                names, module = {alias.name for alias in node.names}, node.module or ""
                if module.startswith("costtrace") and not module.startswith("costtrace.ledger.verify"):
                    assert names <= ALLOWED.get(module, set()), (path, module)


@given(st.integers(-3, 50), st.none() | st.integers(-5, 5), st.integers(-3, 50))
def test_the_rule_of_unknown_energy_is_the_one_that_attribution_has(gpu_ns, energy_uj, unknown_ns):
    assert energy_must_be_known(gpu_ns, energy_uj, unknown_ns) == is_known(gpu_ns, energy_uj or 0, unknown_ns)
