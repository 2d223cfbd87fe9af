"""Grams of CO2e: exact from joules, by the time at which they were drawn, and unknown where either is not known."""

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from click.testing import CliRunner
from honest_ledger import WALL_NS, write

from costtrace.cli.app import cli
from costtrace.core.errors import CosttraceError
from costtrace.ledger.answers import Period
from costtrace.ledger.queries import used
from costtrace.ledger.reader import Filter, open_ledger
from costtrace.pricing.carbon import CarbonIntensity, Intensity, request_ug, show_grams
from costtrace.pricing.carbon_file import load_intensity

KWH_UJ = 3_600_000 * 10**6
ALL = Period(0, 2**62)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    write(home)
    return home


def carbon(home, *words):
    done = CliRunner().invoke(
        cli, ["carbon", *words, "--home", str(home)], catch_exceptions=False, standalone_mode=False
    )
    return done.stdout


def test_a_kilowatt_hour_has_the_grids_grams_times_the_pue():
    grid = CarbonIntensity([Intensity(0, Decimal("380.5"))], pue=Decimal("1.2"))
    assert grid.micrograms(KWH_UJ, 5) == Fraction(4566, 10) * 10**6


def test_an_intensity_holds_until_the_next_and_before_the_first_it_is_unknown():
    grid = CarbonIntensity([Intensity(10, Decimal(100)), Intensity(20, Decimal(50))])
    assert [grid.at(at) for at in (9, 10, 19, 20, 99)] == [None, 100, 100, 50, 50]
    assert grid.micrograms(1, 9) is None


def test_the_lines_add_up_and_what_is_not_measured_is_said(home):
    rows = json.loads(carbon(home, "--intensity", "400", "--pue", "1.25", "--format", "json"))["carbon"]
    with open_ledger(home) as store:
        energy_uj = sum(row.energy_uj or 0 for row in used(store, ALL, (), Filter()))
    *lines, total = rows
    assert total["kind"] == "everything"
    assert total["energy_uj"] == sum(row["energy_uj"] or 0 for row in lines) == energy_uj
    assert total["carbon_ug"] == round(Fraction(energy_uj) * 400 * 10**6 * 5 / (4 * KWH_UJ))
    assert any(row["carbon_ug"] is None for row in lines), "engines without a sensor"
    assert all(row["estimate"] for row in rows)
    table = carbon(home, "--intensity", "400")
    assert "ESTIMATE" in table
    assert "unknown" in table


def test_a_series_is_taken_by_the_time_at_which_the_energy_was_drawn(home, tmp_path):
    path = tmp_path / "grid.csv"
    # Nothing is drawn before; and a point in the far future changes nothing.
    path.write_text("time,g_per_kwh\n2020-01-01T00:00Z,400\n2190-01-01T00:00+01:00,1\n")
    series = json.loads(carbon(home, "--intensity", str(path), "--format", "json"))["carbon"]
    constant = json.loads(carbon(home, "--intensity", "400", "--format", "json"))["carbon"]
    assert series == constant
    assert load_intensity(str(path), Decimal(1)).at(WALL_NS) == 400


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("time,g\n2026-01-01,1\n", "time,g_per_kwh"),
        ("time,g_per_kwh\n", "at least one line"),
        ("time,g_per_kwh\n2026-01-01,400\n2025-01-01,300\n", "in order"),
        ("time,g_per_kwh\nyesterday,400\n", "line 2: time"),
        ("time,g_per_kwh\n2026-01-01,lots\n", "line 2: g_per_kwh"),
        ("time,g_per_kwh\n2026-01-01,380,5\n", "line 2: g_per_kwh"),
        ("time,g_per_kwh\n2026-01-01,400000\n", "another unit"),
        ("time,g_per_kwh\n2026-01-01,-1\n", "cannot be"),
    ],
)
def test_a_bad_file_is_named_with_line_and_remedy(tmp_path, content, says):
    path = tmp_path / "grid.csv"
    path.write_text(content)
    with pytest.raises(CosttraceError) as error:
        load_intensity(str(path), Decimal(1))
    assert str(path) in str(error.value)
    assert says in str(error.value)


def test_no_file_and_no_number_says_what_to_give(tmp_path):
    with pytest.raises(CosttraceError, match="g/kWh"):
        load_intensity(str(tmp_path / "none.csv"), Decimal(1))


def test_masses_are_shown_in_units_that_people_read():
    assert [show_grams(ug) for ug in (None, 1_500, 2_500_000, 7_890_000_000)] == [
        "unknown",
        "1.500 mg",
        "2.500 g",
        "7.890 kg",
    ]


def requests_of(home, *words, **environment):
    done = CliRunner(env=environment).invoke(
        cli, ["requests", *words, "--home", str(home)], catch_exceptions=False, standalone_mode=False
    )
    return done.stdout


def test_a_request_has_the_grams_of_its_joules_where_an_intensity_is_stated(home):
    words = {"COSTTRACE_CARBON_INTENSITY": "400", "COSTTRACE_CARBON_PUE": "1.25"}
    rows = json.loads(requests_of(home, "--format", "json", **words))["requests"]
    known = [row for row in rows if row["energy_uj"] is not None and not row["gap_ns"]]
    assert known
    for row in rows:
        due = round(Fraction(500) * row["energy_uj"] * 10**6 / KWH_UJ) if row in known else None
        assert row["carbon_ug"] == due
    assert {row["carbon_method"] for row in rows} == {
        "estimate: operational, location-based, devices only; 400 g/kWh, stated; PUE 1.25"
    }
    assert "gCO2e (estimate)" in requests_of(home, **words)


def test_without_an_intensity_no_request_says_anything_of_carbon(home):
    rows = json.loads(requests_of(home, "--format", "json"))["requests"]
    assert all("carbon_ug" not in row for row in rows)
    assert "CO2e" not in requests_of(home)


@pytest.mark.parametrize(
    ("intensity", "energy_uj", "energy_unknown_ns"),
    [
        (CarbonIntensity([Intensity(0, Decimal(400))]), None, 0),
        (CarbonIntensity([Intensity(0, Decimal(400))]), 10**6, 1),
        (CarbonIntensity([Intensity(9, Decimal(400))]), 10**6, 0),
        (None, 10**6, 0),
    ],
    ids=["energy unknown", "energy known in part", "intensity not known yet", "no intensity"],
)
def test_a_request_of_which_anything_is_unknown_has_no_grams_and_not_0(intensity, energy_uj, energy_unknown_ns):
    assert request_ug(intensity, energy_uj, energy_unknown_ns, 5) is None


def test_the_intensity_of_the_command_is_the_settings_unless_it_is_given(home, monkeypatch):
    monkeypatch.setenv("COSTTRACE_CARBON_INTENSITY", "400")
    monkeypatch.setenv("COSTTRACE_CARBON_PUE", "1.25")
    assert carbon(home, "--format", "json") == carbon(home, "--intensity", "400", "--pue", "1.25", "--format", "json")
    monkeypatch.delenv("COSTTRACE_CARBON_INTENSITY")
    with pytest.raises(CosttraceError, match="COSTTRACE_CARBON_INTENSITY"):
        carbon(home)


def test_grams_of_simulated_joules_say_so():
    assert show_grams(1_500, simulated=True) == "1.500 mg SIMULATED"
