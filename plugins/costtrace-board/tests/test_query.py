"""What the board reads of a ledger counts each request and token once, whatever engines they were on."""

from costtrace_board.query import billed, blocks, transactions
from otlp_receiver import engine, record, turn, write

from costtrace.ledger import Ledger
from costtrace.ledger.answers import Period
from costtrace.ledger.reader import Filter, open_ledger

ALL = Period(0, 1 << 62)


def test_a_request_whose_sequences_are_spread_over_engines_is_one(tmp_path):
    """n = 3 with a prompt of 84 tokens and 9 tokens each: two sequences on one engine, one on the other."""
    both = {
        "tenant": "acme",
        "request_key": "4f1d0c",
        "request_id": "cmpl-1",
        "input_tokens": 84,
        "labels": {"job": "x"},
    }
    first = record(1, **both, cached_tokens=4, output_tokens=18)
    second = record(2, **both, cached_tokens=80, output_tokens=9, part=2, counted_input=0, counted_cached=0)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    write(ledger, turn([first, second]), engine())
    ledger.close()
    with open_ledger(tmp_path) as store:
        (by_job,) = transactions(store, ALL, "job")
        strata = list(blocks(store, ALL, Filter()))
        bill = billed(store, lambda name: name == "cmpl-1", 0)
    assert by_job[2:] == (1, 60_000, first.gpu_ns + second.gpu_ns, 84, 27)
    assert [sum(getattr(block, name) for block in strata) for name in BLOCK] == [1, 84, 27, 60_000]
    assert (bill.requests, bill.input_tokens, bill.output_tokens, bill.cost_nano) == (1, 84, 27, 60_000)


BLOCK = ("requests", "input_tokens", "output_tokens", "cost_nano")
