import csv
import io
import json

import pytest

from costtrace.cli.app import run

TRACE = "at_s,prompt_tokens,output_tokens,tenant\n" + "".join(
    f"{n * 0.05},{40 + 31 * n % 700},{3 + 7 * n % 40},{('=ant', 'bee$x')[n % 2]}\n" for n in range(60)
)
BOOK = """
version: test
currency: USD
devices:
  - {match: "Simulated*", kind: gpu, per_gpu_hour: 3.60, includes_energy: true, from: 2020-01-01, source: test}
"""


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(TRACE)
    return path


def replay(capsys, *words, code=0):
    assert run(["replay", *map(str, words)]) == code
    return capsys.readouterr()


def test_each_method_adds_up_to_the_same_meter(trace, tmp_path, capsys):
    prices = tmp_path / "prices.yaml"
    prices.write_text(BOOK)
    shown = replay(capsys, trace, "--methods", "roofline,tokens,equal", "--prices", prices, "--format", "json").out
    lines = json.loads(shown)["comparison"]
    assert {line["tenant"] for line in lines if line["kind"] == "request"} == {"=ant", "bee$x"}
    sums = {m: sum(line[f"gpu_ns_{m}"] for line in lines) for m in ("roofline", "tokens", "equal")}
    assert len(set(sums.values())) == 1
    costs = {m: sum(line[f"cost_nano_{m}"] for line in lines) for m in sums}
    assert set(costs.values()) == {sums["equal"] * 3_600_000_000 // (3_600 * 10**9)}
    assert all(line["simulated"] for line in lines)
    assert lines[0]["gpu_ns_roofline"] != lines[0]["gpu_ns_equal"]
    distances = json.loads(shown)["distances"]
    assert [row["method"] for row in distances] == ["tokens", "equal"]
    assert all(row["moved_ppm"] > 0 for row in distances)


def test_a_kept_journal_can_be_replayed_alone_or_as_a_home(trace, tmp_path, capsys):
    kept = tmp_path / "kept"
    first = json.loads(replay(capsys, trace, "--keep", kept, "--format", "json").out)
    for source in (kept, kept / "journal", next((kept / "journal").iterdir())):
        again = json.loads(replay(capsys, source, "--format", "json").out)
        assert again["comparison"] == first["comparison"]
    refused = replay(capsys, trace, "--keep", kept, code=2).err
    assert "empty directory" in refused


def test_who_finds_a_prefix_pays_for_it_where_that_is_the_policy(tmp_path, capsys):
    path, prompt = tmp_path / "shared.jsonl", {"input_length": 2_040, "output_length": 1, "hash_ids": [1, 2, 3, 4]}
    lines = [prompt | {"timestamp": 200 * n, "tenant": "writer" if n == 0 else "reader"} for n in range(3)]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    paid = {}
    for policy in ("payer-of-miss", "tree"):
        words = ("--methods", "tokens", "--prefix-sharing", policy, "--window-s", "3600", "--format", "json")
        lines = json.loads(replay(capsys, path, *words).out)["comparison"]
        paid[policy] = {line["tenant"]: line["gpu_ns_tokens"] for line in lines if line["kind"] == "request"}
    assert sum(paid["tree"].values()) == sum(paid["payer-of-miss"].values())
    moved_ns = paid["payer-of-miss"]["writer"] - paid["tree"]["writer"]
    # Three whole blocks of 512 tokens of its one chunk, found by two others: each of the three pays a third.
    assert moved_ns == pytest.approx(paid["payer-of-miss"]["writer"] * 1_536 / 2_040 * 2 / 3, abs=5)


def test_replay_takes_block_and_unit_from_its_options(trace, tmp_path, capsys):
    path = tmp_path / "odd.jsonl"
    prompt = {"input_length": 1600, "output_length": 1, "hash_ids": [*range(50)]}
    path.write_text("".join(json.dumps({"timestamp": at, "tenant": f"t{at}", **prompt}) + "\n" for at in (1, 21)))
    words = ("--methods", "tokens", "--format", "json")
    assert "--block-tokens (32 would fit all lines)" in replay(capsys, path, *words, code=2).err
    kept = tmp_path / "kept"
    replay(capsys, path, *words, "--block-tokens", 32, "--time-unit", "s", "--keep", kept)
    for option in (("--block-tokens", 16), ("--time-unit", "s")):
        assert "JSON lines" in replay(capsys, trace, *words, *option, code=2).err


@pytest.mark.parametrize("option", [("--speed", "0"), ("--speed", "nan"), ("--rate", "-1"), ("--seconds", "0")])
def test_a_load_that_cannot_be_is_refused(trace, capsys, option):
    assert option[0].removeprefix("--") in replay(capsys, trace, *option, code=2).err


def test_the_output_says_what_is_simulated_and_what_has_no_price(trace, capsys):
    text = replay(capsys, trace).out
    assert text.startswith("SIMULATED: own.csv (analytic roofline at 70% of the published peaks of NVIDIA H100")
    assert "How far from auto" in text
    assert "cost (" not in text


def test_a_spreadsheet_gets_no_formula_from_a_tenant(trace, capsys):
    rows = list(csv.DictReader(io.StringIO(replay(capsys, trace, "--format", "csv").out)))
    assert {row["tenant"] for row in rows} == {"'=ant", "bee$x", ""}


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_plot_is_drawn_the_same_each_time(trace, tmp_path, capsys, suffix):
    pytest.importorskip("matplotlib", reason="plots need matplotlib (the extra 'plots')")
    # The first picture of a new environment makes matplotlib look for fonts: it does not count.
    first, *paths = [tmp_path / f"{name}.{suffix}" for name in ("first", "a", "b")]
    for path in (first, *paths):
        replay(capsys, trace, "--methods", "tokens,equal", "--plot", path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    if suffix == "svg":
        assert b"SIMULATED" in paths[0].read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "magic"], "no method magic: known are auto, roofline"),
        (["--model", "gpt-5"], "no model 'gpt-5'"),
        (["--device", "abacus"], "nothing is known of a device 'abacus'"),
        (["--plot", "out.gif"], "ends with .svg"),
        (["--kv-tokens", "100"], "needs"),
        (["--speed", "0"], "greater than 0"),
        (["--requests", "0"], "not in the range"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(trace, capsys, words, message):
    assert message in replay(capsys, trace, *words, code=2).err


def test_a_journal_without_requests_is_nothing_to_compare(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "no ServeGen client" in replay(capsys, tmp_path / "empty", code=2).err
