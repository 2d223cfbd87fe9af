"""A request that engines of two nodes shared, in the fleet store.

In a file of its own: chdb has one store in a process at a time.
"""

import pytest
from costtrace_fleet.push import Cursor, push
from costtrace_fleet.schema import Layout
from costtrace_fleet.store import open_store
from otlp_receiver import engine, record, turn, write

from costtrace.ledger import Ledger
from costtrace.ledger.answers import Period
from costtrace.ledger.queries import ORDERS, ended
from costtrace.ledger.reader import Filter as Only
from costtrace.ledger.reader import open_ledger
from costtrace.ledger.wholes import whole_habits, whole_requests

pytestmark = pytest.mark.heavy


ENDED = ("requests", "input_tokens", "cached_tokens", "output_tokens")


def test_a_request_that_engines_of_two_nodes_shared_counts_once_in_the_store(tmp_path):
    """n = 3 with a prompt of 84 tokens: two sequences on one node, one on the other."""
    pytest.importorskip("chdb", reason="chdb is missing: install costtrace-fleet[test]")
    both = {"tenant": "acme", "request_key": "4f1d0c", "request_id": "cmpl-4f1d0c", "input_tokens": 84}
    elsewhere = {"part": 2, "counted_input": 0, "counted_cached": 0}
    halves = {
        "one": record(1, **both, cached_tokens=4, output_tokens=18, record_id="r-1", engine_id="engine-one"),
        "two": record(
            2, **both, cached_tokens=80, output_tokens=9, record_id="r-2", engine_id="engine-two", **elsewhere
        ),
    }
    with open_store(f"chdb://{tmp_path / 'store'}") as fleet:
        fleet.create(Layout())
        for name, half in halves.items():
            home = tmp_path / name
            home.mkdir()
            ledger = Ledger(home / "ledger.sqlite")
            other = record(30, request_key=f"s-{name}", record_id=f"s-{name}", engine_id=f"engine-{name}")
            write(ledger, turn([half, other]), engine(f"engine-{name}"), engine())
            ledger.close()
            with open_ledger(home) as store:
                push(store, fleet, Cursor(home, fleet.where))
        always = Period(0, 1 << 62)
        sums = [sum(getattr(row, name) for row in ended(fleet, always, ("engine",))) for name in ENDED]
        assert sums == [3, 84 + 200, 4 + 64, 27 + 100]
        for order in ORDERS:
            whole = next(r for r in whole_requests(fleet, always, Only(), order, 9) if r.request_key == "4f1d0c")
            assert (whole.parts, whole.input_tokens, whole.output_tokens, whole.cost_nano) == (2, 84, 27, 60_000)
            assert len(whole_requests(fleet, always, Only(), order, 9)) == 3
        assert sorted(habit.input_tokens for habit in whole_habits(fleet, always, 9)) == [84, 100, 100]
