"""The live pages in a real browser: nothing is asked of anybody else, readable on a desk and a phone, usable, live."""

import json
import os
import shutil
import subprocess
import sys
import threading
from datetime import UTC
from pathlib import Path

import pytest
from click.testing import CliRunner

from costtrace.cli.app import cli
from costtrace.ui.answers import Answers
from costtrace.ui.server import Door, Server, own_style

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from honest_ledger import write

CHROMIUM = shutil.which("chromium")
PYTHON = os.environ.get("COSTTRACE_PEERS_PYTHON", sys.executable)
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    write(home)
    return home


@pytest.fixture(scope="module")
def seen(home, tmp_path_factory):
    done = subprocess.run([PYTHON, "-c", "import playwright, axe_playwright_python"], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"playwright is not installed in {PYTHON}: run python tools/setup_peers.py")
    folder = Path(os.environ.get("COSTTRACE_TEST_SCREENSHOTS") or tmp_path_factory.mktemp("shots"))
    server = Server(Door("127.0.0.1", ""), 0, Answers(home, own_style(), UTC))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        words = [PYTHON, Path(__file__).with_name("ui_browser.py"), CHROMIUM, address, folder]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]) | {"address": address}


def test_it_asks_nobody_else_complains_of_nothing_and_fits_desk_and_phone_in_light_and_dark(seen):
    assert [url for url in seen["requests"] if not url.startswith((seen["address"], "data:,"))] == []
    assert seen["console"] == []
    assert seen["violations"] == [], "axe"
    assert len(seen["wider"]) == 24
    assert set(seen["wider"].values()) == {0}


def test_it_reads_again_by_itself_is_frozen_searched_and_explains_with_the_figures_of_the_commands(seen, home):
    def printed(*words):
        return json.loads(CliRunner().invoke(cli, [*words, "--home", str(home), "--format", "json"]).stdout)

    due = [row["cost_nano"] for row in printed("report")["summary"] if row["kind"] == "everything" and row["currency"]]
    assert [int(value) for value in seen["costs"]] == due
    assert seen["frozen"] == "true"
    (explained,) = printed("explain", "record-00004")["explanations"]
    assert seen["why"] == explained["sentences"]
