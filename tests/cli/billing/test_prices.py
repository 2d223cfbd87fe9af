"""`costtrace prices`: what a person sees of a price book."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from costtrace.cli.billing.prices import prices

EXAMPLES = Path(__file__).parents[3] / "examples" / "prices"
SAMPLE = str(EXAMPLES / "sample-2026-11.yaml")


@pytest.fixture
def run(monkeypatch):
    monkeypatch.delenv("COSTTRACE_PRICES", raising=False)

    def call(*arguments, **env):
        return CliRunner().invoke(prices, arguments, env=env)

    return call


def test_a_sound_book_is_called_sound_and_its_label_is_said(run):
    done = run("check", SAMPLE)
    assert done.exit_code == 0
    assert "sound" in done.stdout
    assert "`sample`" in done.stdout


def test_a_book_that_is_not_sound_fails_with_what_is_wrong(run, tmp_path):
    (tmp_path / "p.yaml").write_text("version: 1\ncurrency: USD\nprices: []\n")
    done = run("check", str(tmp_path / "p.yaml"))
    assert done.exit_code == 1
    assert "'prices'" in done.stderr


def test_a_book_that_bills_energy_without_a_tariff_is_said_to(run, tmp_path):
    (tmp_path / "p.yaml").write_text(
        "version: 1\ncurrency: USD\ndevices:\n- {match: x, per_gpu_hour: 1, includes_energy: false, from: 2020-01-01}\n"
    )
    done = run("check", str(tmp_path / "p.yaml"))
    assert done.exit_code == 0
    assert "no electricity price" in done.stdout


def test_show_prints_what_holds_for_a_device_on_a_day(run):
    done = run("show", "--book", SAMPLE, "--device", "NVIDIA H100 80GB HBM3", "--at", "2026-05-01")
    assert done.exit_code == 0
    assert "1.69" in done.stdout
    assert "1.30" not in done.stdout
    assert "[sample]" in done.stdout


def test_show_takes_the_book_of_the_settings_and_prints_json(run):
    done = run("show", "--format", "json", COSTTRACE_PRICES=SAMPLE)
    rows = json.loads(done.stdout)["prices"]
    assert {"per_gpu_hour": "1.69", "match": "NVIDIA H100*", "tier": "neocloud"}.items() <= next(
        row for row in rows if row["tier"] == "neocloud"
    ).items()


OWN = EXAMPLES / "own-devices-2026-11.yaml"


def test_show_says_the_currency_of_each_price_and_what_it_is_worth(run):
    done = run("show", "--book", str(OWN), "--at", "2026-11-15", "--format", "json")
    assert [row["currency"] for row in json.loads(done.stdout)["prices"]] == ["USD", "USD", "EUR", "USD", "USD"]
    shown = run("show", "--book", str(OWN), "--at", "2026-11-15").stdout
    assert next(line for line in shown.splitlines() if " 0.95" in line).split().count("EUR") == 1
    assert "1 EUR is 1.08 USD from 2026-11-01 on" in shown
    assert "region" not in shown, "a column that says nothing"
    assert "EUR" not in run("show", "--book", str(OWN), "--device", "NVIDIA H100").stdout


def test_show_says_that_no_price_holds(run):
    done = run("show", "--book", str(OWN), "--at", "2020-01-01T12:00:00")
    assert (done.exit_code, done.stdout.strip().endswith("on 2020-01-01T12:00:00Z, USD: no price holds")) == (0, True)


def test_diff_names_only_what_differs_of_the_terms(run, tmp_path):
    new = tmp_path / "new.yaml"
    new.write_text(OWN.read_text().replace("purchase: 30000", "purchase: 31000"))
    done = run("diff", str(OWN), str(new))
    assert "purchase 30000 -> 31000  <- changes the past" in done.stdout
    assert "Decimal" not in done.stdout
    assert "life_years" not in done.stdout
    owned = OWN.read_text()
    begin, end = owned.index("    owned:"), owned.index("    includes_energy: false")
    new.write_text(owned[:begin] + "    per_gpu_hour: 1.2\n" + owned[end:])
    assert "terms owned -> none" in run("diff", str(OWN), str(new)).stdout


def test_show_fails_for_a_device_or_day_without_a_price(run):
    for options in (["--device", "TPU"], ["--device", "NVIDIA H100", "--at", "2020-01-01"]):
        done = run("show", "--book", SAMPLE, *options)
        assert done.exit_code == 1
        assert "unknown" in done.stderr


def test_without_any_book_it_says_how_to_name_one(run):
    done = run("show")
    assert done.exit_code == 2
    assert "COSTTRACE_PRICES" in done.stderr
