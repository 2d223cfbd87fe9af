import csv
import json
from pathlib import Path

import balance
import ledger_tables
import pytest
from costtrace_lab.simulator import (
    Arrival,
    Disturbances,
    Disturbed,
    Load,
    Roofline,
    SchedulerConfig,
    Simulator,
    journal_events,
    read_model,
    read_workload,
    write_journal,
)
from costtrace_lab.simulator.journals import Setting
from costtrace_lab.simulator.kernel_tables import KernelTables
from public_data import DATA, needs

from costtrace.agent.loop import Agent
from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.attribution.steps.step_work import Membership
from costtrace.config.settings import Settings
from costtrace.core.errors import CosttraceError
from costtrace.core.events import SequenceFinished, Step
from costtrace.journal.reader import JournalReader

MODEL = read_model("qwen3-8b")
TIMES = Roofline(MODEL, "NVIDIA H100 80GB HBM3")
SETTING = Setting(MODEL, "NVIDIA H100 80GB HBM3", TIMES.source, 1_780_000_000_000_000_000)
LOADS = [
    SchedulerConfig(),
    SchedulerConfig(token_budget=300, max_sequences=64),
    SchedulerConfig(kv_tokens=3_000),
    SchedulerConfig(drafts=3),
    SchedulerConfig(drafts=2, kv_tokens=3_000, token_budget=500, max_sequences=50),
]


def workload(count=80):
    sizes = [(37 * i % 900 + 1, 13 * i % 60 + 1) for i in range(count)]
    return [Arrival(i * 0.03, prompt, output, f"tenant-{i % 3}") for i, (prompt, output) in enumerate(sizes)]


def simulate(config, arrivals=None, times=TIMES):
    return list(journal_events(Simulator(arrivals or workload(), times, config), SETTING, "sim"))


def rows_of(events, policy=Policy()):  # noqa: B008 - immutable
    pipeline = Pipeline(policy, 60 * 10**9)
    pipeline.add("sim", events[0])
    for event in events:
        pipeline.take("sim", event)
    pipeline.sweep(1 << 62)
    return pipeline.take_rows()


@pytest.mark.parametrize("config", LOADS, ids=["plain", "chunks", "preempted", "drafts", "all"])
def test_every_request_is_served_in_full_and_the_rows_add_up(config):
    rows = rows_of(simulate(config))
    records = sorted(rows.records, key=lambda record: int(record.request_key.removeprefix("sim-")))
    assert [(r.input_tokens, r.output_tokens, r.tenant) for r in records] == [a[1:4] for a in workload()]
    assert all(record.simulated for record in records)
    assert sum(m.request_ns for m in rows.meter) == sum(p.gpu_ns for p in rows.postings if p.kind == "request")
    if config.kv_tokens == 3_000:
        assert sum(record.preemptions for record in records) > 0
        assert sum(record.wasted_ns for record in records) > 0


@pytest.mark.parametrize("config", LOADS)
def test_no_step_is_larger_than_the_budget_and_the_cache_never_overflows(config):
    membership, longest = Membership(), 0
    for event in simulate(config):
        if isinstance(event, Step):
            work = membership.take(event)
            longest = max(longest, work.tokens)
            held = work.cohort_context + work.cohort_count + sum(context + tokens for _, tokens, context in event.items)
            assert work.tokens <= config.token_budget
            assert held <= config.kv_tokens
    assert longest > 1


def test_a_chunked_prompt_takes_as_many_steps_as_it_has_chunks():
    config = SchedulerConfig(token_budget=100, max_sequences=10)
    steps = [e for e in simulate(config, [Arrival(0.0, 250, 3)]) if isinstance(e, Step)]
    assert [step.items for step in steps[:3]] == [((1, 100, 0),), ((1, 100, 100),), ((1, 50, 200),)]
    assert (steps[3].enters, len(steps)) == (((1, 250),), 5)


def test_what_the_prefix_cache_has_is_not_computed_again():
    arrivals = [Arrival(0.0, 1_100, 2, "a", (1, 2)), Arrival(10.0, 1_100, 2, "b", (1, 2)), Arrival(20.0, 600, 2, "c")]
    records = {record.tenant: record for record in rows_of(simulate(SchedulerConfig(), arrivals)).records}
    assert [records[tenant].cached_tokens for tenant in "abc"] == [0, 1_024, 0]
    cold = rows_of(simulate(SchedulerConfig(prefix_cache=False), arrivals)).records
    assert [record.cached_tokens for record in cold] == [0, 0, 0]


def test_a_block_has_as_many_tokens_as_its_trace_says(tmp_path):
    path = tmp_path / "qwen.jsonl"
    rows = [
        {"timestamp": 1.0, "input_length": 1600, "output_length": 2, "tenant": "a", "hash_ids": [*range(100)]},
        {"timestamp": 21.0, "input_length": 3200, "output_length": 2, "tenant": "b", "hash_ids": [*range(200)]},
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    arrivals = read_workload(path)
    records = {record.tenant: record for record in rows_of(simulate(SchedulerConfig(), arrivals)).records}
    assert [records[tenant].cached_tokens for tenant in "ab"] == [0, 1600]
    # 100 blocks of 16 tokens: a cache of 3,203 keeps them all until the second request
    small = rows_of(simulate(SchedulerConfig(kv_tokens=3_203), arrivals)).records
    assert sum(record.cached_tokens for record in small) == 1600
    mixed = [*arrivals, Arrival(30.0, 512, 1, "c", (1,))]
    with pytest.raises(CosttraceError, match="blocks of 16 and of 512 tokens"):
        simulate(SchedulerConfig(), mixed)


def test_accepted_drafts_make_fewer_steps():
    def steps(drafts, acceptance):
        config = SchedulerConfig(drafts=drafts, acceptance=acceptance)
        return sum(isinstance(e, Step) for e in simulate(config, [Arrival(0.0, 10, 61)]))

    assert (steps(0, 0), steps(2, 1.0), steps(2, 0.0)) == (61, 21, 61)


def test_the_same_workload_makes_the_same_events():
    config = LOADS[-1]
    assert simulate(config) == simulate(config)


def test_the_agent_books_a_simulated_journal_like_any_other(tmp_path):
    simulator = Simulator(workload(), TIMES, LOADS[0])
    directory = write_journal(tmp_path, simulator, SETTING, "sim")
    reader = JournalReader(directory)
    assert reader.read().events == simulate(LOADS[0])
    reader.close()
    Agent(Settings(home=tmp_path)).run_once()
    ledger_tables.check_settled(tmp_path)
    usage = balance.table(tmp_path, "usage")
    assert (len(usage), {row["simulated"] for row in usage}) == (80, {1})
    (engine,) = balance.table(tmp_path, "engine")
    assert (engine["device_name"], engine["simulated"]) == ("Simulated NVIDIA H100 80GB HBM3", 1)


def test_a_snapshot_of_a_simulated_journal_lets_a_reader_go_on_after_a_lost_segment(tmp_path, monkeypatch):
    monkeypatch.setattr("costtrace_lab.simulator.journals.FRAME_EVENTS", 50)
    monkeypatch.setattr("costtrace.journal.writer.SEGMENT_NS", 0)
    directory = write_journal(tmp_path, Simulator(workload(), TIMES, LOADS[0]), SETTING, "sim")
    segments = sorted(directory.glob("*.ctj"))
    assert len(segments) > 5
    segments[3].unlink()
    events = JournalReader(directory).read().events
    rows = rows_of(events)
    assert sum(m.request_ns for m in rows.meter) == sum(p.gpu_ns for p in rows.postings if p.kind == "request")
    assert sum(m.unobserved_ns for m in rows.meter) > 0
    assert events[-1] == simulate(LOADS[0])[-1]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (SchedulerConfig(token_budget=10), "does not hold 256 decodes"),
        (SchedulerConfig(kv_tokens=500), "needs 91"),
        (SchedulerConfig(kv_tokens=0), "at least 1"),
    ],
)
def test_a_configuration_that_cannot_serve_the_workload_is_refused(config, words):
    with pytest.raises(CosttraceError, match=words):
        simulate(config)


def test_disturbances_come_on_top_and_are_remembered():
    load = Load(4, 4, 400, [(100, 0)])
    clean = TIMES.seconds(load, 0.0)
    throttled = Disturbed(TIMES, Disturbances(throttle_after_s=5.0, throttle_factor=2.0))
    assert [throttled.seconds(load, at_s) for at_s in (4.0, 5.0)] == [clean, 2 * clean]
    paused = Disturbed(TIMES, Disturbances(pause_chance=1.0))
    assert paused.seconds(load, 0.0) == clean + paused.pauses[0] > clean + 0.05


# -- kernel tables ------------------------------------------------------------------------------------------------


def tables(folder: Path):
    """Small ones as CSV: a product costs 1 us a row, attention 1 us a token read."""
    head = {"device": "NVIDIA Test", "gemm_dtype": "bfloat16"}
    attention = {"num_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "kv_cache_dtype": "bfloat16"}
    products = [{**head, "m": m, "n": n, "k": k, "latency": m / 1e3} for n, k in MODEL.gemms() for m in (1, 64, 8192)]
    decode = [
        {**attention, "window_size": 0, "batch_size": b, "isl": 1, "step": s, "latency": b * (1 + s) / 1e3}
        for b in (1, 8)
        for s in (1, 127, 1023)
    ]
    context = [
        {**attention, "window_size": 0, "batch_size": 1, "isl": i, "step": 0, "latency": i / 1e3} for i in (1, 1024)
    ]
    for name, rows in (("gemm", products), ("generation_attention", decode), ("context_attention", context)):
        with (folder / f"{name}_perf.csv").open("w", newline="") as lines:
            writer = csv.DictWriter(lines, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return folder


def test_a_step_is_the_sum_of_its_kernels_between_the_measured_points(tmp_path):
    times = KernelTables(tables(tmp_path), MODEL)
    us, layers = 1e-6, MODEL.layers
    head = MODEL.vocabulary * MODEL.hidden / max(n * k for n, k in MODEL.gemms())
    expected = 600 + layers * (5 * 36 + 6 * 300 + 30) + head * 7
    assert times.seconds(Load(6, 6, 6 * 300, [(30, 0)]), 0.0) == pytest.approx(expected * us, rel=1e-6)
    assert times.chunk(20, 100) == pytest.approx(layers * 20 * us)


def test_a_padded_batch_computes_the_next_captured_size(tmp_path):
    plain, padded = (KernelTables(tables(tmp_path), MODEL, padded=padded) for padded in (False, True))
    assert [padded.pad(count) for count in (1, 3, 9, 16, 513, 700)] == [1, 4, 16, 16, 513, 700]
    nine, sixteen = (Load(9, count, 900, []) for count in (9, 16))
    assert padded.seconds(nine, 0.0) == plain.seconds(sixteen, 0.0) > plain.seconds(nine, 0.0)


def test_what_is_missing_of_the_tables_is_named(tmp_path):
    with pytest.raises(CosttraceError, match="no table \\*gemm_perf"):
        KernelTables(tmp_path, MODEL)
    with pytest.raises(CosttraceError, match="32 heads, 4 KV heads"):
        KernelTables(tables(tmp_path), MODEL._replace(kv_heads=4))


@needs("aiconfigurator")
def test_the_published_tables_give_a_decode_step_that_reads_the_weights_at_a_plausible_speed():
    pytest.importorskip("pyarrow", reason="Parquet tables need pyarrow (the extra 'simulator')")
    times = KernelTables(DATA / "aiconfigurator", MODEL)
    took_s = times.seconds(Load(1, 1, 100, []), 0.0) - times.host_s
    assert times.device == "NVIDIA H200"
    assert 3e12 < MODEL.shape().weight_bytes / took_s < 4.8e12  # bytes per second; the peak is 4.8 TB/s


def test_a_model_is_read_from_its_configuration(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(
        '{"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096, "num_hidden_layers": 36, '
        '"intermediate_size": 12288, "vocab_size": 151936}'
    )
    assert read_model(str(path))[1:] == MODEL[1:]
    with pytest.raises(CosttraceError, match="qwen3-8b"):
        read_model("gpt-5")


def test_a_finished_request_says_how_many_tokens_it_got():
    ends = [e for e in simulate(SchedulerConfig()) if isinstance(e, SequenceFinished)]
    assert sorted(end.output_tokens for end in ends) == sorted(a.output_tokens for a in workload())


CONFIG = {
    "num_attention_heads": 32, "hidden_size": 4_096, "num_hidden_layers": 36, "num_key_value_heads": 8,
    "intermediate_size": 12_288, "vocab_size": 151_936,
}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "5", "[" * 20_000, '{"num_attention_heads": 1e999, "hidden_size": 1}'),
        *(
            json.dumps(CONFIG | change)
            for change in (
                {"num_attention_heads": 0},
                {"num_hidden_layers": -1},
                {"num_hidden_layers": True},
                {"vocab_size": 10**30},
                {"hidden_size": 3.5},
                {"intermediate_size": float("nan")},
                {"num_key_value_heads": -8},
                {"head_dim": -1},
            )
        ),
    ],
)
def test_a_config_that_is_no_model_is_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CosttraceError, match=r"config\.json is not the config"):
        read_model(str(path))


@pytest.mark.parametrize("latency", ["1,5", '"1,5"', "x", "nan", "inf", "-1", "0", "", "1_0", "1" * 140_000])
@pytest.mark.parametrize("kind", ["gemm", "generation_attention", "context_attention"])
def test_a_kernel_without_a_latency_is_refused(tmp_path, kind, latency):
    path = tables(tmp_path) / f"{kind}_perf.csv"
    *rows, last = path.read_text().splitlines()
    path.write_text("\n".join([*rows, f"{last.rpartition(',')[0]},{latency}"]) + "\n")
    with pytest.raises(CosttraceError, match=f"{kind}_perf.csv"):
        KernelTables(tmp_path, MODEL)


@pytest.mark.parametrize("kind", ["generation_attention", "context_attention"])
def test_a_kernel_of_no_sequences_is_refused(tmp_path, kind):
    path = tables(tmp_path) / f"{kind}_perf.csv"
    path.write_text(path.read_text().replace(",0,1,", ",0,0,", 1))
    with pytest.raises(CosttraceError, match=f"{kind}_perf.csv"):
        KernelTables(tmp_path, MODEL)


def test_a_table_with_too_few_points_is_refused(tmp_path):
    path = tables(tmp_path) / "generation_attention_perf.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:2]) + "\n")
    with pytest.raises(CosttraceError, match=r"generation_attention_perf\.csv"):
        KernelTables(tmp_path, MODEL)
    path = tables(tmp_path) / "gemm_perf.csv"
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *rows[::3]]) + "\n")  # each product with one row only
    assert KernelTables(tmp_path, MODEL).layers_s[64] > 0
