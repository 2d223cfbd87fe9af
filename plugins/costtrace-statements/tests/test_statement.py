"""A month: statements, idle, overhead and unobserved are the bill, with ==, under every policy."""

import base64
import csv
import io
import json
import re
import shutil
import sqlite3
import stat
import zlib
from contextlib import closing
from datetime import UTC
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner
from costtrace_statements.commands.billing_options import billing_period
from costtrace_statements.idle_policies import POLICIES, Pot
from costtrace_statements.query import load
from costtrace_statements.settlement import IdlePolicy, Quota, SettlementLine, settle, to_cents
from costtrace_statements.statement import lines_table
from costtrace_statements.statement_columns import Carbon
from month import END_NS, NASTY, NASTY_MODELS, POOLS, START_NS, TENANTS, raised_prices, write_month

from costtrace.cli.app import cli
from costtrace.core.errors import CosttraceError
from costtrace.ledger import Ledger
from costtrace.ledger.answers import Period
from costtrace.ledger.periods.close import close_period
from costtrace.ledger.periods.rerate import rerate
from costtrace.ledger.reader import SqliteStore
from costtrace.ledger.verify.audit import Audit

MONTH = Period(START_NS, END_NS)
QUOTAS = (Quota("tenant-3", Decimal("0.4"), "NVIDIA H100"), Quota("tenant-4", Decimal("0.3")))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("month")
    write_month(home)
    return home


@pytest.fixture(scope="module")
def month(tmp_path_factory):
    home = tmp_path_factory.mktemp("month")
    made = write_month(home)
    with closing(Ledger(home / "ledger.sqlite", read_only=True)) as ledger:
        made.store = SqliteStore(ledger)
        yield made


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    home = tmp_path_factory.mktemp("hostile")
    write_month(home, tenants=NASTY, models=NASTY_MODELS)
    return home


def settled(month, policy, period=MONTH, zone=UTC):
    return settle(load(month.store, period, zone, slots=True), IdlePolicy(policy, quotas=QUOTAS))


def cost(lines):
    return sum(line.pot.cost_nano or 0 for line in lines)


def run(home, *words):
    done = CliRunner().invoke(cli, [*words, "--home", str(home)], catch_exceptions=False, standalone_mode=False)
    return done.stdout, done.return_value


def test_the_month_is_in_balance(month):
    assert list(Audit(month.store).discrepancies()) == []


@pytest.mark.parametrize("policy", POLICIES)
def test_statements_idle_overhead_and_unobserved_are_the_bill(month, policy):
    settlement = settled(month, policy)
    statements = {tenant: cost(lines) for tenant, lines in settlement.by_tenant().items()}
    rests = {kind: cost(c for c in settlement.rests() if c.kind == kind) for kind in ("idle", "overhead", "unobserved")}
    assert set(statements) == set(TENANTS)
    assert sum(statements.values()) + sum(rests.values()) == month.bill()
    assert [tie.off for tie in settlement.ties] == [0] * len(settlement.ties)
    assert rests["unobserved"] > 0
    assert (rests["idle"] > 0) == (policy in {"separate", "reserved"})


@pytest.mark.parametrize("policy", POLICIES)
def test_time_and_energy_are_handed_out_as_the_money_is(month, policy):
    settlement = settled(month, policy)
    posted = next(month.store.rows("SELECT sum(gpu_ns), sum(energy_uj), sum(gap_ns) FROM posting"))
    assert sum(line.pot.gpu_ns for line in settlement.lines) == posted[0]
    assert sum(line.pot.energy_uj or 0 for line in settlement.lines) == posted[1]
    assert sum(line.pot.energy_unknown_ns for line in settlement.lines) == posted[2]


@pytest.mark.parametrize("policy", POLICIES)
def test_cents_add_up_from_lines_to_statements_to_the_bill(month, policy):
    settlement = settled(month, policy)
    due = (2 * month.bill() + 10**7) // (2 * 10**7)
    assert sum(line.cost_cents for line in settlement.lines if line.cost_cents is not None) == due
    for line in settlement.lines:
        if line.cost_cents is not None:
            assert abs(line.cost_cents * 10**7 - line.pot.cost_nano) < 10**7


@pytest.mark.parametrize("closed", [False, True])
def test_after_re_rating_it_is_the_corrected_bill_under_every_policy(tmp_path, closed):
    made = write_month(tmp_path)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    if closed:
        close_period(ledger, "2026-11", MONTH, END_NS + 1)
    rerate(ledger, raised_prices(), MONTH, "a correction", END_NS + 86_400 * 10**9)
    made.store = SqliteStore(ledger)
    (due,) = next(made.store.rows("SELECT sum(device_nano) + sum(energy_nano) FROM line"))
    assert due > made.bill()
    for policy in POLICIES:
        whole = settled(made, policy, Period(START_NS, END_NS + 2 * 86_400 * 10**9))
        november = settled(made, policy)
        assert cost(whole.lines) == due
        assert cost(november.lines) == (made.bill() if closed else due)
        assert not any(tie.off for settlement in (whole, november) for tie in settlement.ties)
    ledger.close()


def test_idle_is_paid_within_its_pool(month):
    settlement = settled(month, "weighted")
    for pool in POOLS:
        (whole,) = month.store.rows(
            "SELECT sum(p.gpu_ns) FROM posting p JOIN engine e ON e.engine_id = p.engine_id "
            "WHERE p.kind = 'idle' AND e.device_name = :pool",
            {"pool": pool},
        )
        assert sum(c.pot.gpu_ns for c in settlement.lines if c.kind == "idle" and c.pool == pool) == whole[0]


def test_a_month_is_the_sum_of_its_halves_in_any_zone(month):
    middle = START_NS + 15 * 86_400 * 10**9
    for zone in (UTC, ZoneInfo("Asia/Kolkata")):
        whole = settled(month, "separate", zone=zone)
        halves = [settled(month, "separate", p, zone) for p in (Period(START_NS, middle), Period(middle, END_NS))]
        assert cost(whole.lines) == sum(cost(half.lines) for half in halves)
        assert sum(c.requests for c in whole.lines) == sum(c.requests for half in halves for c in half.lines)


def test_tokens_and_requests_are_those_of_the_records(month):
    settlement = settled(month, "even")
    due = next(month.store.rows("SELECT sum(input_tokens), sum(output_tokens), sum(part = 1) FROM usage"))
    names = ("input_tokens", "output_tokens", "requests")
    assert tuple(sum(getattr(line, name) for line in settlement.lines) for name in names) == due


def test_lines_that_lost_a_row_do_not_tie_out(month):
    source = load(month.store, MONTH, UTC)
    settlement = settle(source._replace(used=source.used[1:]), IdlePolicy())
    assert any(tie.off for tie in settlement.ties)


def test_cents_of_negative_and_tiny_amounts_add_up_too():
    lines = [
        SettlementLine("t", "d", "p", "m", "request", "", "USD", Pot(cost_nano=nano))
        for nano in (-15, 4_999_999, 10**7, 1)
    ]
    assert sum(line.cost_cents for line in to_cents(lines)) == 1


DIGITS = {"JPY": 0, "KRW": 0, "USD": 2, "KWD": 3, "BHD": 3}


@pytest.mark.parametrize(("currency", "digits"), DIGITS.items())
@pytest.mark.parametrize(
    "nanos",
    [(-15, 499_999_999, 10**9, 1), (10**9 // 3,) * 3, (5 * 10**8, 10**9, -(10**9) // 2), (1_235 * 10**6, 1, -1)],
)
def test_lines_add_up_in_the_currencys_smallest_unit(currency, digits, nanos):
    unit = 10 ** (9 - digits)
    dollars = SettlementLine("t", "d", "p", "m", "request", "", "USD", Pot(cost_nano=4_999_999))
    lines = [dollars, *(dollars._replace(currency=currency, pot=Pot(cost_nano=nano)) for nano in nanos)]
    dollar, *rounded = to_cents(lines)
    if currency != "USD":
        assert dollar.cost_cents == 0
        assert sum(line.cost_cents for line in rounded) == (2 * sum(nanos) + unit) // (2 * unit)
    assert all(abs(line.cost_cents * unit - line.pot.cost_nano) < unit for line in rounded)
    assert len({type(line.cost_cents) for line in rounded} | {int}) == 1


@pytest.fixture(scope="module", params=DIGITS)
def abroad(request, home, tmp_path_factory):
    """The month with its prices in another currency, and that currency."""
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copy(home / "ledger.sqlite", folder / "ledger.sqlite")
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as connection, connection:
        for table in ("rate", "usage"):
            connection.execute(f"UPDATE {table} SET currency = ?", (request.param,))
    return folder, request.param


def text_of_pdf(data):
    """What the pages of a PDF that reportlab made draw."""
    streams = re.findall(rb"stream\r?\n(.*?)~>\s*endstream", data, re.DOTALL)
    assert streams
    return "".join(zlib.decompress(base64.a85decode(stream)).decode("latin-1") for stream in streams)


def test_statements_and_policies_have_the_minor_units_of_their_currency(abroad, month, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is missing: install costtrace-core[reports]")
    folder, currency = abroad
    digits, unit = DIGITS[currency], 10 ** (9 - DIGITS[currency])
    due = Decimal((2 * month.bill() + unit) // (2 * unit)).scaleb(-digits)
    words = ("--all", "--period", "2026-11", "--policy", "weighted", "--out", str(tmp_path))
    _, code = run(folder, "statement", *words, "--format", "html,csv,json,table,pdf,parquet")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "fleet-2026-11.csv").read_text())))
    costs = [row["cost_rounded"] for row in rows if row["cost_rounded"]]
    assert {len(text.partition(".")[2]) for text in costs} == {digits}
    assert sum(map(Decimal, costs)) == due
    assert any(row["cost_cents"] for row in rows) == (digits == 2)
    in_json = json.loads((tmp_path / "fleet-2026-11.json").read_text())["lines"]
    assert [row["cost_rounded"] for row in in_json] == [row["cost_rounded"] or None for row in rows]
    typed = parquet.read_table(tmp_path / "fleet-2026-11.parquet").to_pylist()
    assert sum(row["cost_rounded"] or 0 for row in typed) == due
    comparison, _ = run(folder, "policies", "--period", "2026-11", "--format", "csv")
    total = next(row for row in csv.DictReader(io.StringIO(comparison)) if row["what"] == "total")
    assert {Decimal(total[f"{policy}_cost_rounded"]) for policy in POLICIES if policy != "reserved"} == {due}
    table, _ = run(folder, "policies", "--period", "2026-11")
    differences = re.findall(r"\((-?[\d,]+(?:\.\d+)?)\)", table)
    assert differences
    forms = {name: (tmp_path / f"fleet-2026-11.{name}").read_text() for name in ("html", "txt")}
    forms |= {"pdf": text_of_pdf((tmp_path / "fleet-2026-11.pdf").read_bytes()), "policies": table}
    for text in forms.values():
        amounts = re.findall(rf"-?[\d,]+(?:\.\d+)?(?= {currency}\b)", text)
        assert f"{due:,}" in amounts
        assert {len(shown.partition(".")[2]) for shown in (*amounts, *differences)} == {digits}


def test_carbon_is_unknown_unless_it_is_declared(month):
    settlement = settled(month, "separate")
    rows = lines_table(settlement, settlement.lines, Carbon()).rows
    assert {row["carbon_ug"] for row in rows} == {None}
    rows = lines_table(settlement, settlement.lines, Carbon(Decimal(360), "a test")).rows
    assert all(row["carbon_ug"] == (row["energy_uj"] + 5_000) // 10_000 for row in rows if row["energy_uj"])


def test_all_writes_every_form_and_ties_out(home, tmp_path):
    words = ("--all", "--period", "2026-11", "--policy", "weighted", "--out", str(tmp_path / "out"))
    text, code = run(home, "statement", *words, "--format", "html,pdf,csv,parquet,json,table")
    assert (code, "\nties out\n" in text) == (0, True)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(files) == 6 * (len(TENANTS) + 1)
    assert all(stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) == 0o600 for name in files)
    cents = 0
    for tenant in TENANTS:
        assert (tmp_path / "out" / f"statement-2026-11-{tenant}.pdf").read_bytes().startswith(b"%PDF")
        rows = json.loads((tmp_path / "out" / f"statement-2026-11-{tenant}.json").read_text())["lines"]
        cents += sum(row["cost_cents"] or 0 for row in rows)
    whole = list(csv.DictReader(io.StringIO((tmp_path / "out" / "fleet-2026-11.csv").read_text())))
    rests = sum(int(row["cost_cents"] or 0) for row in whole if not row["tenant"])
    assert cents + rests == sum(int(row["cost_cents"] or 0) for row in whole)


def test_parquet_holds_what_csv_holds(home, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is missing: install costtrace-core[reports]")
    words = ("--tenant", "tenant-3", "--period", "2026-11", "--policy", "peak", "--out", str(tmp_path))
    run(home, "statement", *words, "--format", "csv,parquet")
    table = parquet.read_table(tmp_path / "statement-2026-11-tenant-3.parquet").to_pylist()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "statement-2026-11-tenant-3.csv").read_text())))
    assert [row["cost_nano"] for row in table] == [int(row["cost_nano"]) for row in rows]
    assert {row["kind"] for row in table} == {"request", "idle", "overhead"}
    assert sum(row["share_ratio"] is not None for row in table) == sum(row["kind"] != "request" for row in table)


def test_hostile_names_stay_in_their_folder_and_apart(hostile, tmp_path):
    out = tmp_path / "deep" / "out"
    _, code = run(hostile, "statement", "--all", "--period", "2026-11", "--out", str(out), "--format", "html,csv,pdf")
    assert code == 0
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} == {out}
    names = [path.name for path in out.iterdir()]
    assert len(names) == len({name.casefold() for name in names}) == 3 * (len(NASTY) + 1)
    assert all(name.isascii() and len(name) < 120 for name in names)


def test_hostile_names_run_in_no_browser_and_no_spreadsheet(hostile, tmp_path):
    run(hostile, "statement", "--all", "--period", "2026-11", "--out", str(tmp_path), "--format", "html,csv,json")
    for path in tmp_path.glob("*.html"):
        text = path.read_text()
        assert "<script" not in text
        assert "<img" not in text
        assert 'onload="' not in text
        assert "\u202e" not in text
        assert "Content-Security-Policy" in text
    for path in tmp_path.glob("*.csv"):
        for row in csv.reader(io.StringIO(path.read_text(), newline="")):
            assert not any(cell[:1] in {"=", "+", "@", "\t"} for cell in row)
            assert not any(cell.startswith("-") and not cell[1:].isdigit() for cell in row)
    text, _ = run(hostile, "report", "--by", "tenant,model,workload", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert {row["model"] for row in rows} > {"'@SUM(1+1)*cmd|'/C calc'!A0", "../m"}
    assert not any(row[key][:1] in {"=", "+", "-", "@"} for row in rows for key in ("tenant", "model", "workload"))
    assert any(row["workload"] == "'=w-1" for row in rows)
    page = (tmp_path / "fleet-2026-11.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_link_in_the_folder_is_replaced_and_not_followed(home, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "statement-2026-11-tenant-1.csv").symlink_to(victim)
    words = ("--tenant", "tenant-1", "--period", "2026-11", "--out", str(tmp_path / "out"), "--format", "csv")
    run(home, "statement", *words)
    assert victim.read_text() == "mine"


def test_a_statement_on_the_terminal_says_policy_method_book_and_that_it_is_simulated(home):
    text, code = run(home, "statement", "--tenant", "tenant-1", "--period", "2026-11", "--policy", "even")
    assert code == 0
    for words in ("SIMULATED", "even: the same for each tenant", "roofline 100.0 %", "2026-11", "unknown: no carbon"):
        assert words in text


@pytest.mark.parametrize("simulated", [("NVIDIA H100", "NVIDIA L40S"), ("NVIDIA L40S",), ()])
def test_energies_of_a_statement_are_labelled_where_a_simulated_device_is_in_them(home, tmp_path, simulated):
    shutil.copy(home / "ledger.sqlite", tmp_path / "ledger.sqlite")
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection, connection:
        names = ", ".join(f"'{name}'" for name in simulated)
        connection.execute(f"UPDATE engine SET simulated = device_name IN ({names})")
    words = ("--tenant", "tenant-1", "--period", "2026-11", "--policy", "even")
    text, _ = run(tmp_path, "statement", *words)
    shares = text[text.index("Share of idle and overhead") : text.index("Usage by day")].splitlines()
    for pool in POOLS:
        lines = [line for line in shares if pool in line]
        assert {"SIMULATED" in line for line in lines} == {pool in simulated}
    totals = [line for line in text.splitlines() if line.startswith("total") and "kWh" in line]
    assert {"SIMULATED" in line for line in totals} == {bool(simulated)}


def test_a_statement_says_whether_its_figures_can_still_change(home, tmp_path, monkeypatch):
    shutil.copy(home / "ledger.sqlite", tmp_path / "ledger.sqlite")
    monkeypatch.setattr("time.time_ns", lambda: END_NS + 1)
    hashed, _ = run(tmp_path, "close", "2026-11-01", "--open-engines")
    closed, _ = run(tmp_path, "statement", "--all", "--period", "2026-11-01")
    assert f"Books: closed with 2026-11-01: {hashed.splitlines()[-1]}" in closed
    assert "Books:" not in run(tmp_path, "statement", "--all", "--period", "2026-11-02")[0]
    monkeypatch.setattr("time.time_ns", lambda: END_NS - 1)
    begun, _ = run(tmp_path, "statement", "--tenant", "tenant-1", "--period", "2026-11")
    assert "Books: the period is not over: these are the figures so far" in begun


@pytest.mark.parametrize("words", [("statement", "--all"), ("focus",)])
def test_a_period_of_which_there_is_nothing_is_said_to_be_so(home, words):
    done = CliRunner().invoke(cli, [*words, "--period", "2026-09", "--home", str(home)])
    assert done.exit_code == 0
    assert "nothing of 2026-09: it has 2026-11-01 00:00:00.000Z to 2026-1" in done.stderr


def test_the_policies_stand_side_by_side_and_add_up_to_the_same(home, tmp_path):
    quotas = tmp_path / "quotas.yaml"
    quotas.write_text(
        "quotas:\n- {tenant: tenant-3, share: 0.5}\n- {tenant: nobody-yet, share: 0.25, pool: NVIDIA H100}\n"
    )
    text, code = run(home, "policies", "--period", "2026-11", "--quotas", str(quotas), "--format", "csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(text)))
    total = next(row for row in rows if row["what"] == "total")
    for policy in POLICIES:
        assert total[f"{policy}_cost_cents"] == total["separate_cost_cents"]
        assert sum(int(row[f"{policy}_cost_nano"]) for row in rows) == 2 * int(total["separate_cost_nano"])
    assert int(next(row for row in rows if row["what"] == "nobody-yet")["reserved_cost_nano"]) > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("statement", "--period", "2026-11"), "--tenant NAME or --all"),
        (("statement", "--all", "--period", "november"), "cannot read the period"),
        (("statement", "--all", "--period", "2026-13"), "cannot read the period"),
        (("statement", "--tenant", "nobody", "--period", "2026-11"), "used nothing"),
        (("statement", "--tenant", "tenant-1", "--period", "2026-11", "--format", "doc"), "no format"),
        (("statement", "--tenant", "tenant-1", "--period", "2026-11", "--format", "pdf"), "need a folder"),
        (("statement", "--all", "--period", "2026-11", "--policy", "reserved"), "needs --quotas"),
        (("statement", "--all", "--period", "2026-11", "--share", "unobserved"), "--share takes"),
        (("statement", "--all", "--period", "2026-11", "--carbon-intensity", "much"), "grams per kWh"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_remedy(home, words, message):
    with pytest.raises(CosttraceError, match=message):
        run(home, *words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quotas: 3", "a list is needed"),
        ("quotas:\n- {tenant: a}", "needs `tenant` and `share`"),
        ("quotas:\n- {tenant: a, share: 1.5}", "from 0 to 1"),
        ("quotas:\n- {tenant: a, share: 0.7}\n- {tenant: b, share: 0.4, pool: x}", "1 at most"),
    ],
)
def test_quotas_that_cannot_be_are_refused(home, tmp_path, text, message):
    (tmp_path / "q.yaml").write_text(text)
    with pytest.raises(CosttraceError, match=message):
        run(home, "policies", "--period", "2026-11", "--quotas", str(tmp_path / "q.yaml"))


def test_periods_are_days_months_quarters_and_years():
    day = 86_400 * 10**9
    lengths = {"2026-11-23": 1, "2026-11": 30, "2026-12": 31, "2026-Q4": 92, "2026": 365, "2024-02": 29}
    for words, days in lengths.items():
        begin, end = billing_period(words, UTC)
        assert end - begin == days * day
    berlin = billing_period("2026-10-25", ZoneInfo("Europe/Berlin"))
    assert berlin.until_ns - berlin.since_ns == 25 * 3600 * 10**9


@pytest.mark.parametrize("words", ["1600", "1677", "2262", "2400", "2400-02", "9999", "9999-12-31"])
def test_a_period_that_64_bits_of_nanoseconds_cannot_hold_is_refused(words):
    with pytest.raises(CosttraceError, match="cannot read the period"):
        billing_period(words, UTC)
