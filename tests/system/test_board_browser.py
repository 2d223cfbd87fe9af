"""The board page in a real browser: no request, no complaint, readable in light and dark, two pages of paper."""

import json
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from costtrace_board import roi
from costtrace_board.figures import rounded, significant
from costtrace_lab.engines import rack_month

from costtrace.cli.app import cli

pytestmark = pytest.mark.heavy
LADDER = ("--peak", "0.02", "--peak-price", "1.95", "--benchmark-mix", "1024:1024", "--basis", "total")
WORDS = {
    "rack": (*LADDER, "--list-price", "gpt-oss-120b=0.05/0.20", "--list-price", "deepseek-r1=0.10/0.50"),
    "demo": (*LADDER, "--list-price", "tiny-model=2/9"),
}


class World(NamedTuple):
    """A ledger, and what the board is asked for on top of it."""

    name: str
    home: Path

    @property
    def words(self):
        return ["--home", str(self.home), *WORDS[self.name]]


@pytest.fixture(scope="module", params=[pytest.param("demo", marks=pytest.mark.vllm), "rack"])
def world(request, tmp_path_factory):
    """A simulated month of a rack, and the ledger that `costtrace demo` makes of a real server's requests."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "rack":
        rack_month.write(folder)
        return World("rack", folder)
    environment, model = (request.getfixturevalue(name) for name in ("vllm_environment", "tiny_model"))
    words = ["demo", "--vllm-env", environment, "--model", model, "--out", folder]
    done = subprocess.run(
        [sys.executable, "-m", "costtrace", *map(str, words)], capture_output=True, text=True, check=False, timeout=270
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return World("demo", folder / "home")


@pytest.fixture(scope="module")
def seen(browse, world, shots):
    folder = shots / world.name
    folder.mkdir(exist_ok=True)
    page = folder / "board.html"
    made = CliRunner().invoke(cli, ["board", *world.words, "--out", str(page)])
    assert made.exit_code == 0, made.output
    return browse("board_browser.py", page, folder) | {"page": page.as_uri()}


def test_the_page_asks_nobody_for_anything_and_complains_of_nothing(seen):
    assert set(seen["requests"]) == {seen["page"]}
    assert seen["console"] == []


def test_axe_finds_nothing_in_light_and_in_dark(seen):
    assert seen["violations"] == {"light": [], "dark": []}
    assert seen["background_light"] != seen["background_dark"]


def test_nothing_is_wider_than_the_window_on_a_desk_or_a_phone_and_no_table_on_a_desk(seen):
    assert seen["overflow"] == {"light": 0, "dark": 0, "phone": 0, "tables, light": 0, "tables, dark": 0}


def test_it_prints_on_two_pages_of_paper(seen):
    assert seen["pages"] == 2


def test_every_assumption_can_be_reached_by_keyboard(seen):
    wanted = [f"in-{name}" for name in roi.Assumptions._fields]
    # A short page is gone through twice.
    reached = {name for name in seen["focus"] if name in wanted}
    assert sorted(reached) == sorted(wanted)


def test_the_figures_on_the_screen_are_those_of_report(seen, world):
    done = CliRunner().invoke(cli, ["report", "--home", str(world.home), "--format", "json"])
    (everything,) = [line for line in json.loads(done.output)["summary"] if line["kind"] == "everything"]
    due = [
        f"{significant(Fraction(everything[f'cost_per_million_{basis}_tokens']))} USD" for basis in ("output", "total")
    ]
    assert seen["tiles"][:2] == due


def test_the_requests_of_each_workload_have_their_cost(world):
    done = CliRunner().invoke(cli, ["board", *world.words, "--format", "json"])
    rows = {row["workload"].partition(" (bundle")[0]: row for row in json.loads(done.output)["transactions"]}
    more = {"demo": {"(none)"}, "rack": {"coding agent"}}[world.name]
    assert set(rows) == {"assistant", "search", "batch summaries"} | more
    assert all(Decimal(row["cost_per_request"]) > 0 for row in rows.values())


def test_the_calculator_of_the_page_works_as_the_one_in_python(seen, world):
    done = CliRunner().invoke(cli, ["board", *world.words, "--format", "json"])
    rows = json.loads(done.output)["return_on_investment"]
    given = {row["name"]: Decimal(row["value"]) for row in rows if row["kind"] == "assumption"}
    given["gpus"], given["years"] = int(given["gpus"]), int(given["years"])
    first = roi.compute(roi.Assumptions(**given)).over_purchase_price
    half = Decimal("0.5")
    second = roi.compute(roi.Assumptions(**{**given, "utilisation": half, "price_decline": half})).over_purchase_price
    assert [Decimal(text) for text in seen["return"]] == [rounded(first, 2), rounded(second, 2)]
