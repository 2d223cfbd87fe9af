"""The board's figures are the ledger's: they add up to what `report` says, and its page loads nothing."""

import json
import os
import re
from contextlib import closing
from datetime import UTC
from decimal import Decimal
from fractions import Fraction
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner
from costtrace_board import query as board_query
from costtrace_board.cells import BY, Cell, annotations, cells_of, group, revenue
from costtrace_lab.engines import rack_month
from honest_ledger import write as write_honest

from costtrace.cli.app import cli
from costtrace.core.errors import CosttraceError
from costtrace.ledger import Ledger
from costtrace.ledger.answers import Period
from costtrace.ledger.queries import ended, used
from costtrace.ledger.reader import SqliteStore
from costtrace.pricing.list_prices import ListPrice
from costtrace.reports.usage.summary import EVERYTHING, Line, summarize

ALWAYS = Period(0, 2**62)
PLAN = rack_month.Plan(days=3, release_day=1, price_day=2)


@pytest.fixture(scope="module")
def rack(tmp_path_factory):
    home = tmp_path_factory.mktemp("rack")
    rack_month.write(home, PLAN)
    return home


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    home = tmp_path_factory.mktemp("honest")
    write_honest(home)
    return home


def of(home):
    with closing(Ledger(home / "ledger.sqlite", read_only=True)) as ledger:
        store = SqliteStore(ledger)
        summary = summarize(BY, used(store, ALWAYS, BY), ended(store, ALWAYS, BY), UTC)
        engines = board_query.engines(store)
        return summary, engines, cells_of(summary, engines), board_query.prices(store, ALWAYS)


def command(home, *words):
    done = CliRunner().invoke(cli, ["board", "--home", str(home), *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def report(home, *words):
    done = CliRunner().invoke(cli, ["report", "--home", str(home), "--format", "json", *words])
    return json.loads(done.output)["summary"]


@pytest.mark.parametrize("which", ["rack", "honest"])
def test_the_cells_add_up_to_everything_that_the_ledger_holds(which, request):
    summary, _, board_cells, _ = of(request.getfixturevalue(which))
    everything = [line for line in summary.totals if line.kind == EVERYTHING]
    for name in ("gpu_ns", "energy_unknown_ns", "cost_unknown_ns", "wasted_ns"):
        due = sum(getattr(line, name) for line in everything)
        assert sum(getattr(c.direct, name) + getattr(c.idle, name) for c in board_cells) == due
    for name in ("energy_uj", "cost_nano", "device_cost_nano"):
        due = sum(getattr(line, name) or 0 for line in everything)
        assert sum((getattr(c.direct, name) or 0) + (getattr(c.idle, name) or 0) for c in board_cells) == due
    for name in ("requests", "input_tokens", "output_tokens"):
        assert sum(getattr(c.direct, name) for c in board_cells) == sum(getattr(line, name) for line in everything)


def test_the_simulated_rack_is_in_balance(rack):
    done = CliRunner().invoke(cli, ["verify", "--home", str(rack)])
    assert done.exit_code == 0, done.output
    assert "in balance" in done.output


def test_what_the_board_says_is_what_report_says(rack):
    rows = json.loads(command(rack, "--format", "json"))["cost_per_million_tokens"]
    lines = report(rack, "--by", "model,device,month")
    direct = {(line["model"], line["device"], line["month"]): line for line in lines if line["kind"] == "request"}
    months = [row for row in rows if row["model"] != "all"]
    assert len(months) == len(direct) == 2
    for row in months:
        line = direct[row["model"], row["fleet"], row["month"]]
        assert row["cost_without_idle_nano"] == line["cost_nano"]
        assert (row["input_tokens"], row["output_tokens"]) == (line["input_tokens"], line["output_tokens"])
        for basis in ("total", "input", "output"):
            name = f"cost_per_million_{basis}_tokens"
            assert row[f"{name}_without_idle"] == line[name]
    (everything,) = [line for line in lines if line["kind"] == "everything"]
    (whole,) = [row for row in rows if row["model"] == "all"]
    assert whole["cost_with_idle_nano"] == everything["cost_nano"]
    assert whole["cost_per_million_output_tokens_with_idle"] == everything["cost_per_million_output_tokens"]
    assert sum(row["cost_with_idle_nano"] for row in months) == everything["cost_nano"]


def test_an_unknown_cost_is_unknown_on_the_board_and_not_0(honest):
    rows = json.loads(command(honest, "--format", "json"))["cost_per_million_tokens"]
    unpriced = [row for row in rows if row["currency"] == "" and row["model"] != "all"]
    assert unpriced
    assert all(row["cost_with_idle_nano"] is None for row in unpriced)
    assert all(row["cost_per_million_output_tokens_with_idle"] is None for row in unpriced)


def cell(model="m", *, ns=0, nano=None, unknown_ns=0, idle_nano=None, inputs=0, outputs=0):
    direct = Line((), "request", gpu_ns=ns, cost_nano=nano, cost_unknown_ns=unknown_ns)
    direct = direct._replace(input_tokens=inputs, output_tokens=outputs)
    return Cell(model, "gpu", "2026-11-01", "USD", direct, Line((), "idle", cost_nano=idle_nano))


def test_a_cost_that_is_known_in_part_is_no_cost():
    assert cell(nano=5, unknown_ns=1, outputs=1).per_million("output", with_idle=False) is None
    assert cell(nano=5, outputs=0).per_million("output", with_idle=False) is None
    with_idle = cell(nano=2 * 10**9, idle_nano=10**9, inputs=3_000_000, outputs=1_000_000)
    assert with_idle.per_million("output", with_idle=False) == 2
    assert with_idle.per_million("output", with_idle=True) == 3
    assert with_idle.per_million("total", with_idle=True) == Fraction(3, 4)


def test_idle_of_a_day_goes_to_the_models_of_that_engine_and_day_by_their_device_time():
    lines = [
        Line(("e", "a", "gpu", "d1"), "request", currency="USD", gpu_ns=3, cost_nano=30),
        Line(("e", "b", "gpu", "d1"), "request", currency="USD", gpu_ns=1, cost_nano=10),
    ]
    rest = [
        Line(("e", "", "gpu", "d1"), "idle", currency="USD", gpu_ns=10, cost_nano=102),
        Line(("e", "", "gpu", "d2"), "idle", currency="USD", gpu_ns=5, cost_nano=50),
    ]
    summary = summarize((), [], [], UTC)._replace(lines=lines, rest=rest)
    engines = {"e": rack_engine("e", "served")}
    idle_cost = {(c.model, c.period): c.idle.cost_nano for c in cells_of(summary, engines)}
    assert idle_cost == {("a", "d1"): 77, ("b", "d1"): 25, ("served", "d2"): 50}


def rack_engine(name, model, *, version="1", started=0, settings=None):
    from costtrace_board.cells import EngineInfo

    return EngineInfo(name, "vllm", version, model, "gpu", ("G",), settings or {}, False, started)


def test_changes_of_price_software_and_model_are_annotated_once(rack):
    _, engines, _, prices = of(rack)
    kinds = [(one.kind, one.text) for one in annotations(engines.values(), prices)]
    assert kinds == [
        ("software", "deepseek-r1: simulator 0.33.0"),
        ("software", "gpt-oss-120b: simulator 0.33.0"),
        ("price", "NVIDIA GB200: 2.75 USD -> 2.45 USD per GPU-hour"),
    ]
    hour = 3_600 * 10**9
    later = [
        rack_engine("a", "m"),
        rack_engine("b", "m", settings={"x": "1"}, started=hour),
        rack_engine("c", "new", started=2 * hour),
    ]
    assert [one.text for one in annotations(later, [])] == ["m: vllm 1, other settings", "gpu: new is new"]


def test_revenue_is_tokens_at_list_price_and_unknown_without_one():
    sold = cell(inputs=2_000_000, outputs=1_000_000)
    assert revenue(sold, ListPrice("m", Decimal("0.5"), Decimal(2), from_ns=0)) == 3
    assert revenue(sold, None) is None


def test_the_margin_of_everything_is_unknown_where_a_model_has_no_price(rack):
    words = ("--list-price", "gpt-oss-120b=0.05/0.20", "--format", "json")
    rows = json.loads(command(rack, *words))["cost_per_million_tokens"]
    by_model = {row["model"]: row for row in rows}
    assert by_model["all"]["revenue"] is None
    assert by_model["deepseek-r1"]["margin"] is None
    one = by_model["gpt-oss-120b"]
    due = (Decimal("0.05") * one["input_tokens"] + Decimal("0.20") * one["output_tokens"]) / 1_000_000
    assert Decimal(one["revenue"]) == due
    assert Decimal(one["margin"]) == due - Decimal(one["cost_with_idle_nano"]).scaleb(-9)


def test_a_given_revenue_is_used_where_it_is_known_and_makes_the_margin_of_everything(rack):
    words = ("--list-price", "gpt-oss-120b=0.05/0.20", "--revenue", "deepseek-r1=1000.50", "--format", "json")
    made = json.loads(command(rack, *words))
    by_model = {row["model"]: row for row in made["cost_per_million_tokens"]}
    assert Decimal(by_model["deepseek-r1"]["revenue"]) == Decimal("1000.50")
    whole = by_model["all"]
    assert Decimal(whole["revenue"]) == Decimal("1000.50") + Decimal(by_model["gpt-oss-120b"]["revenue"])
    assert Decimal(whole["margin"]) == Decimal(whole["revenue"]) - Decimal(whole["cost_with_idle_nano"]).scaleb(-9)
    assert Decimal(whole["revenue_per_rack"]) == Decimal(whole["revenue"])
    price = next(row for row in made["return_on_investment"] if row["name"] == "price_per_million")
    assert price["source"] == "the revenue given over output tokens"
    text = command(rack, "--revenue", "gpt-oss-120b=1", "--revenue", "deepseek-r1=2.5")
    assert "3.50 USD" in text
    assert "72 GPUs of 72" in text


def test_a_revenue_of_a_model_on_several_lines_is_in_the_sum_only(tmp_path):
    rack_month.write(tmp_path, rack_month.Plan(days=20, release_day=1, price_day=2))
    made = json.loads(
        command(tmp_path, "--revenue", "gpt-oss-120b=9", "--revenue", "deepseek-r1=1", "--format", "json")
    )
    rows = made["cost_per_million_tokens"]
    assert {row["month"] for row in rows} == {"2026-08", "2026-09", ""}
    assert [row["revenue"] for row in rows[:-1]] == [None] * 4
    assert Decimal(rows[-1]["revenue"]) == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--revenue", "5"), "MODEL=AMOUNT"),
        (("--revenue", "gpt-oss-120b=1", "--revenue", "gpt-oss-120b=2"), "once for each model"),
        (("--revenue", "gpt-oss-120b=-1"), "not a number from 0 up"),
        (("--revenue", "gpt-oss=1"), "There are: deepseek-r1, gpt-oss-120b"),
    ],
)
def test_a_revenue_that_cannot_be_is_refused(rack, words, message):
    with pytest.raises(CosttraceError, match=message):
        command(rack, *words)


def test_the_mean_cost_of_a_conversation_is_below_the_table(rack):
    made = json.loads(command(rack, "--format", "json"))
    rows = [row for row in made["transactions"] if row["workload"] != "(none)"]
    mean = sum(Decimal(row["cost_nano"]) for row in rows).scaleb(-9) / len(rows)
    (note,) = [note for note in made["notes"] if "on average" in note]
    assert note.startswith("4 values of `workload`: ")
    assert abs(Decimal(note.split()[4].replace(",", "")) / mean - 1) < Decimal("0.005")


BOOK = """
version: sold
currency: USD
devices:
  - {match: "*", per_gpu_hour: 2.75, includes_energy: true, from: 2020-01-01}
models:
  - {match: "*", per_million_input: 0.05, per_million_output: 0.20, per_million_cached: 0.01, from: 2026-08-01}
"""


def test_list_prices_of_a_price_book_count_cached_tokens_at_theirs_and_may_not_change_on_the_way(rack, tmp_path):
    book = tmp_path / "book.yaml"
    book.write_text(BOOK)
    rows = json.loads(command(rack, "--price-book", str(book), "--format", "json"))["cost_per_million_tokens"]
    for row in rows:
        fresh = row["input_tokens"] - row["cached_tokens"]
        due = Decimal("0.05") * fresh + Decimal("0.01") * row["cached_tokens"] + Decimal("0.20") * row["output_tokens"]
        assert abs(Decimal(row["revenue"]) - due / 1_000_000) < Decimal("1e-8")
    book.write_text(BOOK + '  - {match: "*", per_million_input: 0.04, per_million_output: 0.1, from: 2026-08-15}\n')
    with pytest.raises(CosttraceError, match="changes within the period"):
        command(rack, "--price-book", str(book))


def test_cells_are_grouped_without_losing_any():
    many = [cell("a", nano=1, outputs=1), cell("b", nano=2, outputs=2)]
    assert [c.direct.cost_nano for c in group(many, ())] == [3]
    assert [(c.model, c.period) for c in group(many, ("model", "month"))] == [("a", "2026-11"), ("b", "2026-11")]


# -- the page


class Reader(HTMLParser):
    """Collects what a browser could be made to fetch, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.fetches, self.text, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "action", "data", "poster", "srcset"} and not (value or "").startswith("#"):
                self.fetches.append((tag, name, value))
            if name == "id":
                self.ids.append(value)
            assert not name.startswith("on"), (tag, name)
            assert name != "style", tag

    def handle_data(self, data):
        self.text.append(data)


LADDER = ("--peak", "0.02", "--peak-price", "1.95", "--benchmark-mix", "1024:1024", "--basis", "total")


def test_the_page_is_one_file_that_loads_nothing(rack):
    text = command(rack, *LADDER, "--list-price", "gpt-oss-120b=0.05/0.20")
    page = Reader(text)
    assert page.fetches == []
    assert not re.search(r"url\((?!#)|@import|https?://", text)
    assert "default-src 'none'" in text
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("script") == 1
    assert page.tags.count("h1") == 1
    assert "SIMULATED" in text


def test_the_content_policy_names_the_style_and_the_script_that_are_on_the_page(rack):
    import base64
    import hashlib

    text = command(rack)
    for tag in ("style", "script"):
        (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in text


def test_names_of_models_tenants_and_labels_are_escaped(tmp_path, monkeypatch):
    evil = "<script>alert(1)</script>\"'&"
    monkeypatch.setattr(rack_month, "WORKLOADS", dict.fromkeys(rack_month.TENANTS, evil))
    both = [rack_month.Engine(0, evil, 60_000, str(k), 5 * k, 5 * k + 5) for k in range(2)]
    monkeypatch.setattr(rack_month, "_engines", lambda plan: iter(both))
    rack_month.write(tmp_path, rack_month.Plan(days=1))
    text = command(tmp_path, *LADDER, "--peak-name", evil)
    assert "<script>alert" not in text
    assert Reader(text).tags.count("script") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_the_page_says_the_same_figures_as_json(rack):
    page = " ".join(Reader(command(rack, *LADDER)).text)
    (whole,) = [
        row for row in json.loads(command(rack, "--format", "json"))["cost_per_million_tokens"] if row["model"] == "all"
    ]
    from costtrace_board.figures import significant

    for name in ("cost_per_million_output_tokens_with_idle", "cost_per_million_total_tokens_with_idle"):
        assert f"{significant(Fraction(whole[name]))} USD" in page


def test_the_page_of_a_ledger_without_requests_can_be_made(tmp_path):
    Ledger(tmp_path / "ledger.sqlite").close()
    assert "holds nothing" in command(tmp_path)


def test_the_page_is_written_for_its_owner_only(rack, tmp_path):
    new, old = tmp_path / "board.html", tmp_path / "old.html"
    old.touch(mode=0o644)
    for file in (new, old):
        command(rack, "--out", str(file))
        assert file.stat().st_mode & 0o777 == 0o600


def test_the_mode_of_what_is_no_file_is_left_alone(rack, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o640)
    mode = pipe.stat().st_mode
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        command(rack, "--format", "csv", "--out", str(pipe))
        assert os.read(reader, 5) == b"model"
    finally:
        os.close(reader)
    assert pipe.stat().st_mode == mode


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--list-price", "free"), "MODEL=INPUT/OUTPUT"),
        (("--peak", "cheap"), "not a number"),
        (("--peak", "0.02", "--model", "none"), "no requests of it"),
        (("--benchmark", "x.json"), "needs --tier"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(rack, words, message):
    with pytest.raises(CosttraceError, match=message):
        command(rack, *words)


def test_csv_holds_one_line_for_each_model_fleet_and_month(rack):
    lines = command(rack, "--format", "csv").splitlines()
    assert len(lines) == 1 + 2 + 1
    assert "cost_per_million_output_tokens_with_idle" in lines[0]
