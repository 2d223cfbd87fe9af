"""The whole way of a joule: the NVML double, the real sensor in a real agent, the journal, the ledger, what is shown.

The engines are simulated and so is the GPU (no machine of these tests has one); all that lies between is the product.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import msgspec
import pytest
from costtrace_lab.demo.processes import wait_until
from costtrace_nvml_sim.runner import prepare
from costtrace_nvml_sim.scenario import parse_scenario
from home import Home
from simulated_engines import PRICES

from costtrace.capture.node_files.agent_lock import running
from costtrace.core.events import SENSORS, Reading
from costtrace.journal.reader import JournalReader

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
WAVE = {"kind": "square", "low_w": 120, "high_w": 640, "period_s": 0.7}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two boards; two engines share the first, one has the second; the agent is killed once. All of it has ended."""
    directory = tmp_path_factory.mktemp("energy")
    double = prepare(
        parse_scenario({"devices": [{"preset": "H100", "power": WAVE}, {"preset": "H100", "power": 300}]}), directory
    )
    (directory / "prices.yaml").write_text(PRICES)
    home = Home(directory / "home", {"COSTTRACE_PRICES": str(directory / "prices.yaml")})
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "COSTTRACE_"))},
        **double.variables(),
        "COSTTRACE_HOME": str(home.path),
        "COSTTRACE_PRICES": str(directory / "prices.yaml"),
        "COSTTRACE_WINDOW_S": "2",
        "COSTTRACE_SENSOR": "nvml",
        "COSTTRACE_PROMETHEUS_PORT": "0",
        "COSTTRACE_AGENT_IDLE_EXIT_S": "2",
    }
    boards = [device.uuid for device in double.compiled.devices]
    command, engine = [sys.executable, "-m", "costtrace"], [sys.executable, "-m", "costtrace_lab.engines.engine"]
    with (directory / "agents.log").open("w") as log:

        def agent():
            """Start one as an engine does: it ends by itself when there is nothing left to do."""
            subprocess.run([*command, "agent", "--spawned"], env=environment, stdout=log, stderr=log, check=True)

        agent()
        home.wait_for_agent()
        # Before an engine begins, each board has been read: all of its time can have energy, however slow this machine.
        assert wait_until(lambda: all(known(readings(home).get(board, [])) for board in boards), 60)
        engines = [
            subprocess.Popen(
                [*engine, "--home", home.path, "--seed", str(seed), "--device", board],
                env=environment,
                stdout=subprocess.DEVNULL,
            )
            for seed, board in ((1, boards[0]), (2, boards[0]), (3, boards[1]))
        ]
        measured = "SELECT count(*) FROM posting WHERE energy_uj > 0"
        assert wait_until(lambda: home.one(measured), 120)
        killed = home.kill_agent()
        agent()
        assert home.wait_for_agent(killed) != killed
        before = home.one(measured)
        assert wait_until(lambda: home.one(measured) > before + 20, 120), "the next agent goes on"
        for one in engines:
            one.terminate()
        assert [one.wait(120) for one in engines] == [0, 0, 0]
        assert wait_until(lambda: not running(home.path), 120), (directory / "agents.log").read_text()
    return home, boards


def readings(home):
    """Of all agents' sensors, by device, in the order of their times."""
    by_device = {}
    for path in sorted((home.path / "journal").glob(f"{SENSORS}-*")):
        reader = JournalReader(path)
        while batch := reader.read(10_000).events:
            for event in batch:
                if isinstance(event, Reading):
                    by_device.setdefault(event.device, []).append(event)
    return {device: sorted(those, key=lambda one: one.at_ns) for device, those in by_device.items()}


def known(log):
    """Readings that have a value."""
    return [each for each in log if each.energy_uj is not None]


def meters(home):
    """What the agent keeps of each device."""
    with closing(sqlite3.connect(f"file:{home.path / 'ledger.sqlite'}?mode=ro", uri=True)) as ledger:
        [(state,)] = ledger.execute("SELECT value FROM state WHERE name = 'meters'")
    return {key.rpartition("/")[2]: value for key, value in msgspec.json.decode(state)["by_device"].items()}


def test_the_books_balance_and_each_row_has_its_joules(world):
    home, _ = world
    home.verify()
    rows = home.rows("SELECT * FROM usage")
    assert len(rows) > 20
    measured = [row for row in rows if row["energy_uj"] is not None]
    assert len(measured) > len(rows) // 2
    assert {(row["energy_source"], row["simulated"]) for row in measured} == {("nvml_counter", 1)}
    assert all(row["energy_uj"] == row["prefill_uj"] + row["decode_uj"] for row in measured)
    assert {row[0] for row in home.rows("SELECT energy_source FROM meter WHERE energy_uj > 0")} == {"nvml_counter"}
    assert home.rows("SELECT engine_id FROM position WHERE done = 0") == []


def test_the_joules_on_the_rows_and_the_devices_own_are_the_counters_to_the_microjoule(world):
    home, boards = world
    kept, logs = meters(home), readings(home)
    assert set(logs) == set(boards)
    for board, log in logs.items():
        first, *_, last = known(log)
        counter_uj = last.energy_uj - first.energy_uj
        assert kept[board]["attributed_uj"] + kept[board]["outside_uj"] == counter_uj
        on_rows = home.one("SELECT sum(energy_uj) FROM meter WHERE device = ?", board)
        assert on_rows == kept[board]["attributed_uj"]
        assert on_rows > 0
    assert home.one("SELECT sum(energy_uj) FROM posting") == sum(one["attributed_uj"] for one in kept.values())


def test_no_device_bills_more_than_it_drew_though_two_engines_share_it(world):
    home, boards = world
    engines = home.one("SELECT count(DISTINCT engine_id) FROM meter WHERE device = ?", boards[0])
    assert engines == 2
    wall = home.rows("SELECT min(start_ns), max(end_ns) FROM meter WHERE device = ?", boards[0])[0]
    assert (
        home.one("SELECT sum(energy_uj) FROM meter WHERE device = ?", boards[0]) <= 640 * (wall[1] - wall[0]) // 1_000
    )


def test_the_money_of_the_joules_is_the_tariff_times_the_pue(world):
    home, _ = world
    sums = (
        "SELECT sum(energy_uj) uj, sum(energy_nano) nano FROM posting WHERE energy_nano IS NOT NULL GROUP BY engine_id"
    )
    for row in home.rows(sums):
        due = row["uj"] * 31 * 12 * 10**9 // (100 * 10 * 3_600_000 * 10**6)
        assert row["nano"] == due


def test_every_table_that_shows_its_joules_says_simulated(world):
    home, _ = world
    for words in (("report",), ("requests", "--limit", "5"), ("verify",)):
        shown = home.command(*words).stdout
        lines = [line for line in shown.splitlines() if " J" in line or " kJ" in line]
        assert lines, shown
        assert all("SIMULATED" in line for line in lines if "energy" not in line), shown
    report = json.loads(home.command("report", "--format", "json").stdout)
    assert all(row["simulated"] for row in report["summary"] if row["energy_uj"])


def test_what_was_killed_lost_no_energy_and_counted_none_twice(world):
    home, boards = world
    log = readings(home)[boards[1]]
    energy_unknown_ns = home.one("SELECT sum(gap_ns) FROM meter WHERE device = ?", boards[1])
    started_ns = home.one("SELECT min(start_ns) FROM meter WHERE device = ?", boards[1])
    first_ns = next(each.at_ns for each in log if each.energy_uj is not None)
    journals = [path for path in (home.path / "journal").iterdir() if path.name.startswith(f"{SENSORS}-")]
    assert len(journals) == 2, "of two agents"
    # The counter went on while no agent was there: only what was before its first reading is unknown.
    assert energy_unknown_ns == max(0, first_ns - started_ns)
