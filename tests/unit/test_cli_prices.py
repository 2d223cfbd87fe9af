"""`costtrace prices`: what a person sees of a price book."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from costtrace.cli.prices import prices

EXAMPLES = Path(__file__).parents[2] / "examples" / "prices"
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


def test_show_fails_for_a_device_or_day_without_a_price(run):
    for more in (["--device", "TPU"], ["--device", "NVIDIA H100", "--at", "2020-01-01"]):
        done = run("show", "--book", SAMPLE, *more)
        assert done.exit_code == 1
        assert "unknown" in done.stderr


def test_without_any_book_it_says_how_to_name_one(run):
    done = run("show")
    assert done.exit_code == 2
    assert "COSTTRACE_PRICES" in done.stderr
