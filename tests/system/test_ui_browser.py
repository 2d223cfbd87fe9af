"""The live pages in a real browser: nothing is asked of anybody else, readable on a desk and a phone, usable, live."""

import json
import sqlite3
import threading
from contextlib import closing
from datetime import UTC

import pytest
from click.testing import CliRunner
from costtrace_ui.web.responses import Responder
from costtrace_ui.web.server import AccessPolicy, Server, load_style
from honest_ledger import write

from costtrace.cli.app import cli

pytestmark = pytest.mark.heavy

MARKUP = "<img src=x onerror=alert(1)>"
"""The name of a tenant."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with closing(sqlite3.connect(write(home))) as ledger, ledger:
        for table in ("usage", "posting"):
            ledger.execute(f"UPDATE {table} SET tenant = '{MARKUP}' WHERE record_id = 'record-00004'")
    return home


@pytest.fixture(scope="module")
def seen(browse, home, shots):
    server = Server(AccessPolicy("127.0.0.1", ""), 0, Responder(home, load_style(), UTC))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        return browse("ui_browser.py", address, shots) | {"address": address}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


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
    assert MARKUP in seen["text"]
    assert not seen["marked up"]
