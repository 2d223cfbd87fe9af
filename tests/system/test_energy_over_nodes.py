"""An engine over two nodes: its agent books its time on all devices, the other node's agent reads the devices there.

Two agents with two homes on one machine stand for two nodes. The second has a host name, a boot id and a monotonic
clock of its own. Engine and GPUs are simulated; all that lies between is the product.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing

import msgspec
import pytest
from costtrace_lab.demo.processes import wait_until
from costtrace_nvml_sim.runner import prepare
from costtrace_nvml_sim.scenario import parse_scenario
from home import Home

from costtrace.core.events import SENSORS, Reading
from costtrace.core.rows import ROUNDING_NS
from costtrace.journal.reader import JournalReader

pytestmark = [pytest.mark.heavy, pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")]
WAVE = {"kind": "square", "low_w": 120, "high_w": 640, "period_s": 0.7}
HERE = "GPU-aaaaaaaa-0000-4000-8000-000000000001"
THERE = "GPU-bbbbbbbb-0000-4000-8000-000000000002"
ELSEWHERE = f"""
import sys, time
import costtrace.core.clock
now = time.monotonic_ns
time.monotonic_ns = lambda: now() + {7_777 * 10**9}
costtrace.core.clock.boot_id = lambda: "22222222-0000-4000-8000-000000000000"
from costtrace.cli import main
sys.argv[1:] = ["agent"]
main()
"""
"""The other node's agent: its monotonic clock is hours away from this node's."""


class Nodes:
    """Two nodes, and how far the other one's home is seen from here."""

    def __init__(self, directory):
        self.here, self.there = Home(directory / "here"), Home(directory / "there")
        self.mount = directory / "mount"
        self.environments = {
            home: self._environment(directory, home, uuid, host)
            for home, uuid, host in ((self.here, HERE, "node-a"), (self.there, THERE, "node-b"))
        }
        self.environments[self.here] |= {"COSTTRACE_REMOTE_HOMES": str(self.mount), "COSTTRACE_REMOTE_WAIT_S": "600"}
        self.pending = self.shown_pending = None

    @staticmethod
    def _environment(directory, home, uuid, host):
        own = directory / f"double-{host}"
        own.mkdir()
        double = prepare(parse_scenario({"devices": [{"preset": "H100", "uuid": uuid, "power": WAVE}]}), own)
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "COSTTRACE_"))},
            **double.variables(),
            "COSTTRACE_HOME": str(home.path),
            "COSTTRACE_HOST": host,
            "COSTTRACE_WINDOW_S": "2",
            "COSTTRACE_SENSOR": "nvml",
            "COSTTRACE_PROMETHEUS_PORT": "0",
        }


def readings(home, device):
    """What a node's sensors said of a device, with a value, in order."""
    readings = []
    for path in sorted((home.path / "journal").glob(f"{SENSORS}-*")):
        reader = JournalReader(path)
        while batch := reader.read(10_000).events:
            readings += [each for each in batch if isinstance(each, Reading) and each.device == device]
    return [each for each in readings if each.energy_uj is not None]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """The engine has served, while the other node was away and after it came; all of it has ended."""
    made = Nodes(tmp_path_factory.mktemp("nodes"))
    python = [sys.executable, "-m"]
    with ExitStack() as stack:

        def start(home, *words):
            process = subprocess.Popen(words, env=made.environments[home], stdout=subprocess.DEVNULL)
            stack.callback(lambda: process.poll() is None and process.kill())
            return process

        agents = {made.there: start(made.there, sys.executable, "-c", ELSEWHERE)}
        agents[made.here] = start(made.here, *python, "costtrace", "agent")
        for home, device in ((made.there, THERE), (made.here, HERE)):
            assert wait_until(lambda h=home, d=device: readings(h, d), 120)
        devices = ["--device", HERE, "--device", f"{THERE}@node-b"]
        engine = start(made.here, *python, "costtrace_lab.engines.engine", "--home", str(made.here.path), *devices)
        waits = "SELECT coalesce(sum(device_ns), 0) FROM pending WHERE host = 'node-b'"
        assert wait_until(lambda: (made.here.one(waits) or 0) > 4 * 10**9, 120), "its energy is pending"
        made.pending = [tuple(row) for row in made.here.rows("SELECT device, host FROM pending")]
        made.rows_meanwhile = made.here.one("SELECT count(*) FROM meter")
        made.shown_pending = [made.here.command(*words).stdout for words in (("energy",), ("report",))]
        made.mount.symlink_to(made.there.path)
        assert wait_until(lambda: made.here.one("SELECT count(*) FROM meter WHERE energy_uj > 0"), 120)
        engine.terminate()
        assert engine.wait(120) == 0
        assert wait_until(lambda: made.here.one("SELECT count(*) FROM position WHERE done = 1"), 120)
        for home in (made.here, made.there):
            agents[home].send_signal(signal.SIGTERM)
            assert agents[home].wait(60) == 0
    return made


def kept(home, device):
    """What the agent keeps of a device's meter."""
    with closing(sqlite3.connect(f"file:{home.path / 'ledger.sqlite'}?mode=ro", uri=True)) as ledger:
        [(state,)] = ledger.execute("SELECT value FROM state WHERE name = 'meters'")
    (meter,) = (value for key, value in msgspec.json.decode(state)["by_device"].items() if key.endswith(f"/{device}"))
    return meter


def test_until_the_other_node_is_seen_its_energy_is_pending_and_no_row_says_zero(nodes):
    assert set(nodes.pending) == {(THERE, "node-b")}
    assert nodes.rows_meanwhile == 0, "nothing was booked without it"
    energy, report = nodes.shown_pending
    assert "pending" in energy
    assert "node-b" in energy
    assert "PENDING" in report


def test_afterwards_the_rows_are_both_counters_to_the_microjoule(nodes):
    for home, device in ((nodes.here, HERE), (nodes.there, THERE)):
        log, meter = readings(home, device), kept(nodes.here, device)
        values = [each.energy_uj for each in log]
        assert meter["last_uj"] in values
        on_rows = nodes.here.one("SELECT sum(energy_uj) FROM meter WHERE device = ?", device)
        assert on_rows == meter["attributed_uj"] > 0
        assert on_rows + meter["outside_uj"] == meter["last_uj"] - values[0]
    posted = nodes.here.one("SELECT sum(energy_uj) FROM posting")
    assert posted == nodes.here.one("SELECT sum(energy_uj) FROM meter")
    nodes.here.verify()


def test_nothing_is_pending_or_unknown_in_the_end(nodes):
    assert nodes.here.rows("SELECT * FROM pending") == []
    assert nodes.here.one("SELECT sum(gap_ns) FROM meter") == 0
    # Who was last to close may have a ns of what others' shares were rounded by, and no energy for it.
    measured = nodes.here.rows("SELECT energy_uj FROM usage WHERE gpu_ns > ?", ROUNDING_NS)
    assert measured
    assert all(row["energy_uj"] is not None for row in measured)


def test_each_window_says_who_read_it_and_how_uncertain_its_place_is(nodes):
    said = nodes.here.rows("SELECT DISTINCT device, host, clock_ns, source, gain, simulated FROM window_sensor")
    assert {tuple(row) for row in said} == {
        (HERE, "", 0, "nvml_counter", "1", 1),
        (THERE, "node-b", 10_000_000, "nvml_counter", "1", 1),
    }
    rows = json.loads(nodes.here.command("energy", "--format", "json").stdout)["energy"]
    assert {(row["device"], row["host"]) for row in rows} == {(HERE, ""), (THERE, "node-b")}


def test_the_other_node_has_no_bill_for_what_this_one_books(nodes):
    assert nodes.there.rows("SELECT * FROM posting") == []
