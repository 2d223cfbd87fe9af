"""The worked example of docs/method/rules.md, through the real code: three requests, four steps, one bill.

Times are microseconds after the engine began; the coefficients are those of the text. The figures here are compared
with the tables of the document, so that neither can change alone.
"""

import re
from pathlib import Path

import pytest
from attributed import check
from costtrace_lab.engines.schedules import header, started

from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.attribution.steps.cost_model import Coefficients
from costtrace.core.events import EngineReady, EngineStopped, SequenceAdded, SequenceFinished, Step
from costtrace.pricing.rating import Rate, Rater

US = 1_000
T0 = 10**9
COEFFICIENTS = Coefficients(600e-6, 10e-6, 1200e-6, 0.1e-6, 0.01e-6, 5e-6)
A, B, C1, C2 = range(4)
EXAMPLE = (Path(__file__).parents[3] / "docs/method/rules.md").read_text(encoding="utf-8").partition("## 12 ")[2]


def at(us):
    return T0 + round(us * US)


def added(slot, key, prompt):
    return SequenceAdded(slot, at(5_000), f"s{slot}", key, key, key, prompt, "m", key, "header")


EVENTS = [
    added(A, "A", 200),
    added(B, "B", 20),
    added(C1, "C", 10),
    added(C2, "C", 10),
    Step(0, at(6_000), at(9_000), (), (), ((A, 200, 0),)),
    Step(1, at(9_500), at(13_164), (), ((A, 200),), ((B, 20, 0),)),
    Step(2, at(12_000), at(15_007.1), (), ((B, 20),), ((C1, 10, 0), (C2, 10, 0))),
    SequenceFinished(C1, at(15_007.1), 2, "stop", 1),
    SequenceFinished(B, at(15_500), 3, "abort", 1),
    Step(3, at(15_000), at(16_845.4), (), ((C2, 10),), ()),
    SequenceFinished(A, at(16_845.4), 3, "stop", 4),
    SequenceFinished(C2, at(16_845.4), 3, "stop", 2),
    EngineStopped(at(20_000)),
]


@pytest.fixture(scope="module")
def rows():
    pipeline = Pipeline(Policy("roofline"), 3_600 * 10**9)
    pipeline.add("e", header("e", T0))
    for event in (header("e", T0), started(("GPU-0",), T0), EngineReady(at(5_000))):
        pipeline.take("e", event)
    pipeline.sweep(T0)
    pipeline.engines["e"].attribution.coefficients = COEFFICIENTS
    for event in EVENTS:
        pipeline.take("e", event)
    pipeline.sweep(1 << 62)
    rows = pipeline.take_rows()
    check(rows, pipeline.all_engine_rows())
    return rows


@pytest.mark.parametrize(
    ("key", "prefill_ns", "decode_ns", "wasted_ns"),
    [("A", 3_000_000, 3_100_300, 0), ("B", 1_814_000, 1_214_100, 3_028_100), ("C", 611_000, 606_000, 0)],
)
def test_each_request_owes_what_the_text_says(rows, key, prefill_ns, decode_ns, wasted_ns):
    (record,) = [record for record in rows.records if record.request_key == key]
    assert record.prefill_ns == pytest.approx(prefill_ns, abs=2)
    assert record.decode_ns == pytest.approx(decode_ns, abs=2)
    assert record.wasted_ns == pytest.approx(wasted_ns, abs=3)


def test_overhead_and_idle_are_what_is_left_of_twenty_milliseconds(rows):
    kinds = {p.kind: p.gpu_ns for p in rows.postings if p.kind != "request"}
    assert kinds == {"overhead": 5_000_000, "idle": 4_654_600}
    assert sum(p.gpu_ns for p in rows.postings) == 20_000_000


def test_the_head_fees_are_told_apart(rows):
    """A's: its part of step 0, 900 scaled by 2 in step 1, 600 in steps 2 and 3."""
    (record,) = [record for record in rows.records if record.request_key == "A"]
    # Step 0 costs F + c_t x 200 (beyond the knee) + s + q x 200 x 100 = 600 + 2000 + 5 + 200 and took 3000.
    of_step_0 = 1_800 / 2_805 * 3_000
    assert record.head_ns == pytest.approx((of_step_0 + 1_800 + 600 + 600) * US, abs=3)


# -- the document says the same


def table(first_column):
    """Rows of the table of the example whose head begins with *first_column*, as lists of cells."""
    lines = EXAMPLE.splitlines()
    begin = next(i for i, line in enumerate(lines) if re.match(rf"\| *{first_column} *\|", line))
    rows = []
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def whole(text):
    return int(text.replace(",", "")) if text else None


def test_the_steps_are_those_of_the_document():
    steps = [event for event in EVENTS if isinstance(event, Step)]
    (_, _, ready, _, _), *written, (_, end, *_) = table("")
    assert (at(float(ready) * 1_000), at(float(end) * 1_000)) == (at(5_000), EVENTS[-1].at_ns)
    assert [row[0] for row in written] == [f"step {step.index}" for step in steps]
    done_ns = T0
    for step, (_, dispatched, done, owned, _) in zip(steps, written, strict=True):
        assert (at(float(dispatched) * 1_000), at(float(done) * 1_000)) == (step.scheduled_ns, step.done_ns)
        owned_ns = step.done_ns - max(done_ns, step.scheduled_ns)
        assert round(float(owned.split()[-1]) * 1_000_000) == owned_ns
        done_ns = step.done_ns


def test_the_coefficients_are_those_of_the_document():
    names = {"F": "launch", "c_t": "token", "W": "weights", "k_b": "context", "q": "attention", "s": "sequence"}
    written = dict(re.findall(r"\$(\w+) = ([\d.]+)\$", EXAMPLE))
    assert written.keys() == names.keys()
    for name, field in names.items():
        assert float(written[name]) * 1e-6 == pytest.approx(getattr(COEFFICIENTS, field), rel=1e-12)


def test_the_bill_is_that_of_the_document(rows):
    """Time to the few ns that the last bits of floats can move; money at 3.60 USD an hour, in the order of posting."""
    records = {record.request_key: record for record in rows.records}
    rate, rater, charged = Rate("r", "book", "USD", "GPU", 1, 1_000, 0, 0, includes_energy=True), Rater(), {}
    names = {record.record_id: key for key, record in records.items()}
    for posting in rows.postings:
        name = names.get(posting.record_id, posting.kind)
        charged[name] = charged.get(name, 0) + rater.charge("e", rate, posting.gpu_ns, None).cost_nano
    *lines, total = [[name, *map(whole, amounts)] for name, *amounts in table("row")]
    assert [line[0] for line in lines] == [*sorted(records), "overhead", "idle"]
    for name, prefill_ns, decode_ns, gpu_ns, wasted_ns, nano in lines:
        assert charged[name] == pytest.approx(nano, abs=1)
        if name not in records:
            assert gpu_ns == sum(p.gpu_ns for p in rows.postings if p.kind == name)
            continue
        record = records[name]
        assert (record.prefill_ns, record.decode_ns, record.gpu_ns, record.wasted_ns) == pytest.approx(
            (prefill_ns, decode_ns, gpu_ns, wasted_ns), abs=3
        )
    assert (total[3], total[5]) == (sum(line[3] for line in lines), sum(line[5] for line in lines))
    assert (total[3], total[5]) == (sum(p.gpu_ns for p in rows.postings), sum(charged.values()))
