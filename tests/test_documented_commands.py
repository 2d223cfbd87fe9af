"""Every command line of costtrace that the documents show is run, on a ledger that was closed, with files as they say.

What cannot run without a server, a fleet store or what only its reader has is in `ELSEWHERE`, with where it is run.
"""

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from documents import DOCUMENTS, commands, fenced
from golden import GOLDEN, restored

import costtrace
from costtrace.cli.app import cli
from costtrace.ledger.store import LEDGER_NAME, Ledger

ROOT = Path(__file__).parents[1]
RELEASE = GOLDEN / costtrace.__version__
REQUEST = "SELECT request_id FROM usage ORDER BY gpu_ns DESC LIMIT 1"
ELSEWHERE = {
    r"agent( --once)?$": "tests/system/test_agent_crash.py",
    r"bench( |$)": "tests/system/test_bench_vllm.py",
    r"demo( |$)": "make demo",
    r"fleet": "plugins/costtrace-fleet/tests/test_fleet_store.py",
    r"nvml-sim (run|truth)": "plugins/costtrace-nvml-sim/tests/test_command.py",
    r"dynamo (check|estimate)": "plugins/costtrace-dynamo/tests/test_command.py",
    r"benchmarks import": "plugins/costtrace-board/tests/test_load_tests.py",
    r"board .*--benchmark": "plugins/costtrace-board/tests/test_board.py",
    r"improvement --": "plugins/costtrace-board/tests/test_improvement.py",
    r"plan( --|$)": "plugins/costtrace-lab/tests/test_plan.py",
    r"doctor --engine": "tests/cli/doctor/test_examine.py",
    r"top( --(over|view) .*)?$": "plugins/costtrace-ui/tests/test_top.py",
    r"ui( |$)": "plugins/costtrace-ui/tests/test_pages.py",
    r"statement .*--bill provider.csv": "plugins/costtrace-statements/tests/test_focus.py",
    r"rerate": "tests/ledger/periods/test_close.py",
    r"compact": "tests/ledger/periods/test_close.py",
    r"close": "tests/ledger/periods/test_close.py",
}
"""Pattern of a command line -> where that command is run instead."""
SHOWN = {
    "REQUEST": REQUEST,
    "ID": REQUEST,
    "TRACE_ID": REQUEST,
    "0af7651916cd43dd8448eb211c80319c": REQUEST,
}


def lines():
    lines = {}
    for path in DOCUMENTS:
        if path.name not in {"cli.md", "CHANGELOG.md"} and path.parent.name != "decisions":
            for line in commands(path):
                lines.setdefault(line, path)
    return lines


def _typed(body):
    return [
        re.split(r"\s{2,}", line.strip())[0] for line in re.findall(r"^costtrace ([^|>&;)#\n]*)", body, re.MULTILINE)
    ]


LINES = lines()
TYPED = {line for path in DOCUMENTS for body in fenced(path.read_text("utf-8"), "sh") for line in _typed(body)}
"""Those in shell blocks: they are to be copied as they stand."""
RUN = [line for line in LINES if not any(re.match(pattern, line) for pattern in ELSEWHERE)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the files that the documents name, and a home below it."""
    folder = tmp_path_factory.mktemp("documented")
    home = folder / "home"
    home.mkdir()
    Ledger(restored(RELEASE, "closed", home / LEDGER_NAME)).close()
    shutil.copytree(RELEASE / "journal", home / "journal")
    for name in ("prices.yaml", "prices-of-last-month.yaml"):
        shutil.copyfile(RELEASE / "prices.yaml", folder / name)
    shutil.copyfile(RELEASE / "budgets.yaml", folder / "budgets.yaml")
    shutil.copytree(ROOT / "examples" / "prices", folder.parent / "prices", dirs_exist_ok=True)
    return folder


@pytest.mark.timeout(120)  # a command that goes on until it is ended belongs into ELSEWHERE
@pytest.mark.parametrize("line", RUN)
def test_it_runs(line, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    for name in [name for name in os.environ if name.startswith(("COSTTRACE_", "OTEL_"))]:
        monkeypatch.delenv(name)
    environment = {
        "COSTTRACE_HOME": str(place / "home"),
        "COSTTRACE_PRICES": str(place / "prices.yaml"),
        "COSTTRACE_TENANTS": str(RELEASE / "tenants.yaml"),
        "COSTTRACE_TENANT_KEYS": str(tmp_path / "keys.yaml"),
        "COSTTRACE_BUDGETS": str(place / "budgets.yaml"),
        "COSTTRACE_CARBON_INTENSITY": "380",
    }
    ledger = Ledger(place / "home" / LEDGER_NAME)
    words = []
    for word in shlex.split(line):
        shown = ledger.connection.execute(SHOWN[word]).fetchone()[0] if word in SHOWN else word
        shown = re.sub(r"^2026-1([12])(?=$|-\d\d$)", lambda month: f"2027-0{month[1]}", shown)
        words.append(re.sub(r"^/backup/", f"{tmp_path}/", shown))
    ledger.close()
    done = CliRunner().invoke(cli, words, env=environment, catch_exceptions=True)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    if ("Missing" in done.output or "\nCommands:" in done.output) and line not in TYPED:
        return  # a command that is talked about in a sentence: it wants more
    assert done.exit_code == 0, done.output


def test_what_is_run_elsewhere_is_shown_and_there():
    for pattern, where in ELSEWHERE.items():
        assert any(re.match(pattern, line) for line in LINES), f"nothing shows {pattern}"
        assert where.startswith("make ") or (ROOT / where).exists(), where
    assert len(RUN) > 45
