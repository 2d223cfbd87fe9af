"""Fuzz targets: files that people and other programs write.

Each target is a strategy for a file's bytes and a function that reads them as its command does. A reader may refuse a
file by a `CosttraceError`; any other exception, a hang, or a value that breaks its invariant is a fault.
"""

import contextlib
import csv
import io
import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import islice, pairwise

import yaml
from costtrace_board.commands.benchmarks import read_file
from costtrace_board.figures import price_all
from costtrace_board.load_generators import aiperf_ids
from costtrace_board.load_tests import ServerHardware
from costtrace_board.published import TIERS
from costtrace_board.tables import benchmark_tables
from costtrace_dynamo.passes.trace_files import read_passes, read_served
from costtrace_lab.simulator.kernel_tables import KernelTables
from costtrace_lab.simulator.models import Model, read_model
from costtrace_lab.simulator.servegen import ServeGenOptions, clients_in, draw
from costtrace_lab.simulator.workload import read_workload
from costtrace_nvml_sim.errors import NvmlSimError
from costtrace_nvml_sim.scenario import load_scenario
from costtrace_statements.commands.billing_options import read_quotas
from costtrace_statements.provider_bill import read_bill
from costtrace_statements.provider_bill_file import read_focus
from hypothesis import strategies as st
from mutations import csv_files, damaged, documents, json_files, json_lines

from costtrace.config.load import load
from costtrace.config.yaml_file import load_mapping
from costtrace.core.errors import ConfigError, CosttraceError
from costtrace.ledger.answers import Period
from costtrace.ledger.budgets.file import load_budgets
from costtrace.pricing.carbon_file import load_intensity
from costtrace.pricing.price_book_file import load_price_book
from costtrace.reports.output.render import render
from costtrace.reports.usage.organisation_file import load_tenants

refusal = contextlib.suppress(CosttraceError)


def _put(folder, name, data):
    path = folder / name
    path.write_bytes(data)
    return path


# -- workloads

_AZURE = csv_files(
    ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    ("2023-11-16 18:15:46.6805900", 374, 44),
    ("2024-05-10 00:00:00.009930+00:00", 2162, 5),
)
_PLAIN = csv_files(("at_s", "prompt_tokens", "output_tokens", "tenant"), (0, 10, 5, "bee"), (2.5, 20, 7, ""))
_MOONCAKE = {"timestamp": 1500, "input_length": 900, "output_length": 3, "hash_ids": [4, 9]}
_QWEN = {
    "chat_id": 1, "parent_chat_id": -1, "timestamp": 61.114, "input_length": 33, "output_length": 3, "type": "text",
    "turn": 1, "hash_ids": [4, 9, 11],
}  # fmt: skip


def _workload(path):
    with refusal:
        arrivals = read_workload(path)
        assert arrivals[0].at_s == 0
        assert all(math.isfinite(one.at_s) for one in arrivals)
        assert all(one.at_s <= after.at_s for one, after in pairwise(arrivals))
        assert all(1 <= one.prompt_tokens <= 10**9 and 1 <= one.output_tokens <= 10**9 for one in arrivals)
        assert all(one.tenant.isprintable() for one in arrivals)


def workload_csv(data, folder):
    _workload(_put(folder, "load.csv", data))


def workload_lines(data, folder):
    _workload(_put(folder, "load.jsonl", data))


_WINDOWS = {
    "0": {"input_tokens": "{5: 0.25, 7: 0.75}", "output_tokens": "{3: 1.0}"},
    "21600": {"input_tokens": "{}", "output_tokens": "{}"},
}
_SERVEGEN = st.tuples(
    csv_files(("0", "0", "0", "", "0", "0"), (600, 2.0, 1.0, "Gamma", 1.0, 0.5), (1200, 1.0, 1.0, "Weibull", 1.0, 1.0)),
    json_files(_WINDOWS),
)


def servegen(files, folder):
    _put(folder, "c-0-trace.csv", files[0])
    _put(folder, "c-0-dataset.json", files[1])
    with refusal:
        for _, at_s, prompt, output in islice(draw(clients_in(folder), ServeGenOptions(seconds=5)), 1_000):
            assert math.isfinite(at_s)
            assert at_s >= 0
            assert prompt >= 1
            assert output >= 1


_CONFIG = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 128, "vocab_size": 512, "_name_or_path": "m",
}  # fmt: skip


def model_config(data, folder):
    with refusal:
        model = read_model(str(_put(folder, "config.json", data)))
        assert all(size >= 1 for size in model if isinstance(size, int))


_MODEL = Model("m", 64, 2, 4, 2, 16, 128, 512)
_HEAD = ("framework", "device", "gemm_dtype", "kv_cache_dtype", "attn_dtype")


def _table(extra, *rows):
    head = ("vllm", "H200", "bfloat16", "bfloat16", "bfloat16")
    return csv_files((*_HEAD, *extra), *((*head, *row) for row in rows))


_KERNELS = st.tuples(
    _table(("m", "n", "k", "latency"), *((m, n, k, m / 1e3) for n, k in _MODEL.gemms() for m in (1, 64))),
    _table(
        ("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "beam_width", "step", "latency"),
        *((b, 1, 4, 2, 16, 1, s, b / 1e3) for b in (1, 8) for s in (0, 128)),
    ),
    _table(
        ("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "beam_width", "step", "latency"),
        *((1, n, 4, 2, 16, 1, 0, n / 1e3) for n in (1, 64)),
    ),
)


def kernel_tables(files, folder):
    names = ("gemm", "generation_attention", "context_attention")
    for name, data in zip(names, files, strict=True):
        _put(folder, f"{name}_perf.csv", data)
    with refusal:
        tables = KernelTables(folder, _MODEL, max_tokens=64, max_sequences=8)
        assert all(math.isfinite(value) and value >= 0 for value in (*tables.layers_s, *tables.logits_s))


# -- benchmarks

_BENCHMARKS = (
    [{
        "Suite": "datacenter", "Submitter": "S", "Availability": "available", "Category": "closed", "version": "v5.1",
        "System": "rack", "Model": "deepseek-r1", "Scenario": "Offline", "Accelerator": "NVIDIA GB200", "a#": 4,
        "Nodes": 18, "Performance_Result": 7200.5, "Performance_Units": "Tokens/s",
    }],
    [{
        "hw": "gb200", "model": "dsr1", "tput_per_gpu": 100, "output_tput_per_gpu": 80, "input_tput_per_gpu": 300,
        "disagg": True, "num_prefill_gpu": 4, "num_decode_gpu": 12, "conc": 64, "median_tpot": 0.02, "isl": 1024,
        "osl": 1024, "power_valid": 1, "avg_total_gpu_power_w": 4000,
    }],
    {
        "date": "20261125", "backend": "openai-chat", "model_id": "m", "max_concurrency": 8, "failed": 0,
        "completed": 10, "num_prompts": 10, "total_input_tokens": 100, "output_throughput": 800.0,
        "total_token_throughput": 2400.0, "median_tpot_ms": 12.5,
    },
    {
        "aiperf_version": "0.13.0", "output_token_throughput": {"unit": "tokens/sec", "avg": 800},
        "total_token_throughput": {"unit": "tokens/sec", "avg": 2400},
        "output_token_throughput_per_user": {"avg": 80}, "error_request_count": {"avg": 0}, "was_cancelled": False,
        "input_config": {"models": {"items": [{"name": "m"}]}, "phases": [{"concurrency": 8}]},
    },
    {"benchmarks": [{
        "config": {"backend": {"model": "m"}},
        "metrics": {
            "output_tokens_per_second": {"successful": {"mean": 800}},
            "tokens_per_second": {"successful": {"mean": 2400}},
            "prompt_tokens_per_second": {"successful": {"mean": 1600}},
            "request_totals": {"successful": 20, "errored": 0, "incomplete": 0, "total": 20},
        },
    }]},
)  # fmt: skip
_BENCHMARK_CSV = st.one_of(
    csv_files(
        ("model", "hardware", "gpus_total", "tokens_per_s", "token_basis", "interactivity", "watts"),
        ("m", "H200", 8, 1234.5, "total", 80, 4000),
        ("m", "B200", 8, '"1,234"', "output", "", ""),
    ),
    csv_files(
        ("model", "hardware", "gpus_total", "concurrency", "system_output_throughput"), ("m", "H200", 8, 64, 1234.5)
    ),
)


def _benchmark(path):
    with refusal:
        imported = read_file(path, ServerHardware("H200", 8))
        for basis in ("total", "input", "output"):
            priced, refused = price_all(imported, TIERS["neocloud"], basis)
            assert all(one.per_million > 0 and one.figure.gpus >= 1 for one in priced)
            assert len(priced) + len(refused) == len(imported.figures) + len(imported.refusals)
            json.loads(render(benchmark_tables(priced, refused), "json"))


def benchmark_json(data, folder):
    _benchmark(_put(folder, "agg.json", data))


def benchmark_csv(data, folder):
    _benchmark(_put(folder, "figures.csv", data))


def aiperf_records(data, folder):
    del folder
    with refusal, contextlib.suppress(UnicodeDecodeError):
        assert all(isinstance(one, str) and one for one in aiperf_ids(data.decode()))


# -- Dynamo's traces

_PASS = {"timestamp": 1, "event": {
    "schema": "dynamo.fpm.trace.v1", "capture_mode": "full", "observed_at_unix_ms": 1_700_000_000_100, "fpm": {
        "version": 1, "worker_id": "7", "dp_rank": 0, "counter_id": 1, "wall_time": "0.010000001",
        "scheduled_requests": {"num_prefill_requests": 0, "sum_prefill_tokens": 0, "num_decode_requests": 1},
    },
}}  # fmt: skip
_SERVED = {"timestamp": 1, "event": {
    "schema": "dynamo.request.trace.v1", "event_type": "request_end", "event_time_unix_ms": 1_700_000_000_131,
    "request": {
        "request_id": "r", "input_tokens": 9, "output_tokens": 8, "request_received_ms": 1_700_000_000_000,
        "ttft_ms": 20.5, "total_time_ms": 130.25, "worker": {"prefill_worker_id": 7, "decode_worker_id": 7},
    },
}}  # fmt: skip


def _trace(read, seed):
    def check(data, folder):
        with refusal:
            found = read([_put(folder, "trace.jsonl", data)])
            assert found.damaged + len(found.records) <= data.count(b"\n") + 1
            for record in found.records:
                numbers = [value for value in record if isinstance(value, int)]
                assert all(0 <= number < 2**63 for number in numbers)

    return json_lines(seed), check


# -- bills and carbon

_BILL = csv_files(
    ("BilledCost", "BillingCurrency", "ChargePeriodStart", "ServiceName"),
    ("12.345", "USD", "2026-11-05T00:00:00Z", "EC2"),
    ("0.1", "EUR", "2026-11-06T00:00:00+00:00", "EC2"),
)
_NOVEMBER = Period(
    int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()) * 10**9,
    int(datetime(2026, 12, 1, tzinfo=UTC).timestamp()) * 10**9,
)


def bill(data, folder):
    with refusal:
        read = read_bill(read_focus(_put(folder, "bill.csv", data)), _NOVEMBER, "BilledCost", ())
        assert all(len(currency) == 3 and currency.isascii() and currency.isupper() for currency in read.nano)
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
        assert read.rows + read.skipped == len(rows)


def bill_gzip(data, folder):
    with refusal:
        read_bill(read_focus(_put(folder, "bill.csv.gz", data)), _NOVEMBER, "BilledCost", ())


def bill_parquet(data, folder):
    with refusal:
        read_bill(read_focus(_put(folder, "bill.parquet", data)), _NOVEMBER, "BilledCost", ())


def intensity(data, folder):
    path = _put(folder, "grid.csv", data)
    with refusal:
        points = load_intensity(str(path), Decimal(1)).points
        assert all(0 <= point.grams_per_kwh <= 3_000 and -(2**63) <= point.from_ns < 2**63 for point in points)
        assert all(one.from_ns < after.from_ns for one, after in pairwise(points))


def intensity_text(text, folder):
    del folder
    with refusal:
        load_intensity(text, Decimal(1))


# -- YAML

_PRICES = {
    "version": "2026-11", "currency": "EUR",
    "devices": [{"match": "NVIDIA H100*", "per_gpu_hour": 2.10, "includes_energy": False, "from": "2026-11-01"}],
    "electricity": [{"per_kwh": 0.14, "pue": 1.25, "from": "2026-11-01", "until": "2027-01-01T12:00:00+01:00"}],
}  # fmt: skip
_BUDGETS = {
    "currency": "USD",
    "budgets": [
        {"name": "acme", "tenant": "acme", "amount": 0.01, "rolling_days": 3},
        {"name": "all", "amount": 1000, "period": "month", "soft_percent": 50},
    ],
}
_TENANTS = {"tenants": [{"name": "acme", "team": "search", "cost_centre": "0417"}]}
_QUOTAS = {"quotas": [{"tenant": "acme", "share": 0.25}, {"tenant": "blue", "share": 0.5, "pool": "NVIDIA H100"}]}
_SETTINGS = {
    "window_s": 60, "prometheus_port": 9464, "tenant_default": "acme", "carbon_intensity": 380, "prices": "p.yaml",
    "tenant_models": {"lora": "acme"}, "tenant_trusted_peers": ["127.0.0.1"], "journal_cap_bytes": 40_000_000,
}  # fmt: skip


@st.composite
def _yaml_files(draw, *seeds):
    """YAML text of changed documents: as a library writes it, or in flow form, with anchors and tags thrown in."""
    document = draw(documents(*seeds))
    try:
        text = yaml.safe_dump(document, default_flow_style=draw(st.booleans()), allow_unicode=True, sort_keys=False)
    except (yaml.YAMLError, UnicodeError):
        text = json.dumps(document)
    data = text.encode(errors="surrogateescape") if "\udc80" in text else text.encode(errors="replace")
    return draw(st.one_of(st.just(data), damaged(data)))


def _yaml(seed, read):
    def check(data, folder):
        with refusal:
            read(_put(folder, "it.yaml", data))

    return _yaml_files(seed), check


def _mapping(path):
    found = load_mapping(path, ConfigError, "it")
    assert all(isinstance(key, str) for key in found)


def _settings(path):
    settings = load(env={"COSTTRACE_CONFIG": str(path), "HOME": str(path.parent)})
    assert 3_600 % settings.window_s == 0


def scenario(data, folder):
    with contextlib.suppress(NvmlSimError), refusal:
        load_scenario(_put(folder, "scenario.yaml", data))


_SCENARIO = {
    "seed": 1,
    "devices": [{"preset": "H100", "power": {"kind": "constant", "watts": 300}, "sensor": {"gain": 1.02}}],
}


@st.composite
def _written_numbers(draw):
    return draw(st.text(alphabet="0123456789_:.eExob+-", min_size=1, max_size=8))


def price_as_written(text, folder):
    """A price is the decimal number that is written, or an error."""
    entry = f"{{match: x, per_gpu_hour: {text}, includes_energy: true, from: 2026-11-01}}"
    book = f"version: a\ncurrency: USD\ndevices:\n  - {entry}\n"
    with refusal:
        read = load_price_book(_put(folder, "p.yaml", book.encode())).devices[0].per_gpu_hour
        assert Fraction(read) == Fraction(Decimal(text))


FILE_TARGETS = {
    "workload-csv": (st.one_of(_AZURE, _PLAIN), workload_csv),
    "workload-lines": (json_lines(_MOONCAKE, _QWEN), workload_lines),
    "servegen": (_SERVEGEN, servegen),
    "model-config": (json_files(_CONFIG), model_config),
    "kernel-tables": (_KERNELS, kernel_tables),
    "benchmark-json": (json_files(*_BENCHMARKS), benchmark_json),
    "benchmark-csv": (_BENCHMARK_CSV, benchmark_csv),
    "aiperf-records": (json_lines({"metadata": {"x_request_id": "a", "error": None}}), aiperf_records),
    "dynamo-passes": _trace(read_passes, _PASS),
    "dynamo-served": _trace(read_served, _SERVED),
    "bill": (_BILL, bill),
    "intensity": (
        csv_files(("time", "g_per_kwh"), ("2026-11-01T00:00Z", 380), ("2026-11-01T01:00Z", 290.5)),
        intensity,
    ),
    "intensity-text": (st.one_of(st.text(max_size=20), _written_numbers()), intensity_text),
    "yaml": _yaml(_SETTINGS, _mapping),
    "prices": _yaml(_PRICES, load_price_book),
    "price-as-written": (_written_numbers(), price_as_written),
    "budgets": _yaml(_BUDGETS, load_budgets),
    "tenants": _yaml(_TENANTS, load_tenants),
    "quotas": _yaml(_QUOTAS, read_quotas),
    "settings": _yaml(_SETTINGS, _settings),
    "scenario": (_yaml_files(_SCENARIO), scenario),
}
