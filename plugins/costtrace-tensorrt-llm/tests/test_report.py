"""The report of a first run, and the files of the example: what they hold, and that they fit each other."""

import json
import re
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner
from costtrace_lab.engines.engine import JournalEngine
from costtrace_lab.engines.random_engine import Profile, RandomEngine
from costtrace_tensorrt_llm import report
from double.cuda import FakeGpu, Host
from double.hooked import hooked, plans
from double.loops import run

from costtrace.agent.loop import Agent
from costtrace.cli.app import cli
from costtrace.config import load as config
from costtrace.config.settings import Settings

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "tensorrt-llm"


@pytest.fixture
def home(tmp_path):
    """A home with the journal of an engine, from a simulated one."""
    engine = JournalEngine(
        tmp_path, RandomEngine(3, Profile(tenants=("very-secret-tenant",))), speed=0, engine_id="tensorrt-llm-1"
    )
    engine.run(rounds=60)
    (tmp_path / "run").mkdir()
    status = {"role": "rank", "pid": 1, "tier": "T1", "hooks": ["forward"], "lost_hooks": {}, "devices": ["GPU-1"]}
    (tmp_path / "run" / "rank-1.json").write_text(json.dumps(status))
    (tmp_path / "run" / "rank-2.json").write_text("{")
    return tmp_path


def test_a_report_says_how_each_engine_adds_up_and_names_no_tenant(home, tmp_path, capsys, monkeypatch):
    out = tmp_path / "report.tar.gz"
    out.touch(mode=0o644)
    monkeypatch.setattr(sys, "argv", ["costtrace-trtllm-report", "--home", str(home), "--out", str(out)])
    assert report.main() == 1, "there is no ledger to be in balance"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with tarfile.open(out) as archive:
        (member,) = archive.getmembers()
        text = archive.extractfile(member).read().decode()
    assert "very-secret-tenant" not in text
    packed = json.loads(text)
    (engine,) = packed["engines"]
    assert engine["residual_ns"] == 0
    assert sum(engine["ns_by_kind"].values()) == engine["wall_ns"] > 0
    assert engine["counts"]["Step"] > 10
    assert engine["said_goodbye"]
    assert packed["processes"] == [{"role": "rank", "tier": "T1", "hooks": ["forward"], "lost_hooks": {}}]
    assert "residual 0 ns" in capsys.readouterr().out


def test_without_a_gpu_the_report_says_so_and_is_packed_all_the_same(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    collected = report.collect(home, None, measure=True)
    assert collected["events"]["error"].startswith("ModuleNotFoundError")
    assert collected["hooks"] == []


def test_the_costs_of_an_event_are_measured_on_what_torch_has(monkeypatch):
    gpu = FakeGpu(Host())
    cuda = SimpleNamespace(Event=lambda enable_timing: gpu.event(), synchronize=lambda: None)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert report.event_cost().keys() == {"record_us", "query_us", "elapsed_time_us"}


def test_a_life_on_the_double_is_booked_balances_and_is_reported_without_a_residual(cuda, tmp_path):
    home = tmp_path / "home"
    served = hooked()(cuda, plans(), loop="overlap")
    served.start_worker()
    run(served)
    served.shutdown()
    Agent(Settings(home=home)).run_once()
    out = tmp_path / "report.tar.gz"
    collected = report.collect(home, None, measure=False)
    report.pack(collected, out)
    assert collected["balance"]["in_balance"], collected["balance"]
    (engine,) = collected["engines"]
    assert (engine["residual_ns"], engine["settings"]["metering"]) == (0, "trtllm.steps.cuda-events")
    answer = CliRunner().invoke(cli, ["report", "--home", str(home), "--by", "tenant", "--format", "json"])
    assert answer.exit_code == 0, answer.output
    assert '"requests": 4' in answer.output


# -- the example ---------------------------------------------------------------------------------------------------


def services():
    compose = yaml.safe_load((EXAMPLE / "compose.yaml").read_text(encoding="utf-8"))
    for name, service in compose["services"].items():
        env = {k: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(v)) for k, v in service["environment"].items()}
        yield name, service, env


def test_the_containers_of_the_example_have_settings_that_fit_each_other():
    loaded = {name: config.load(env=env) for name, _, env in services()}
    assert loaded["trtllm"].home == loaded["agent"].home
    assert loaded["trtllm"].host == loaded["agent"].host
    assert (loaded["trtllm"].agent, loaded["trtllm"].enabled) == ("external", True)
    assert (ROOT / "examples" / "prices" / loaded["agent"].prices.name).exists()


def test_the_containers_of_the_example_publish_on_loopback_only_and_mount_what_exists():
    for name, service, _ in services():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith(".") or (EXAMPLE / source).exists(), (name, volume)


def test_the_dockerfile_of_the_example_copies_what_exists():
    copied = re.findall(r"^COPY (.*) \S+$", (EXAMPLE / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert copied
    for source in " ".join(copied).split():
        assert (ROOT / source).exists(), source


def test_the_script_of_the_first_run_is_one_that_a_shell_can_read():
    assert subprocess.run(["bash", "-n", EXAMPLE / "first-run.sh"], check=False).returncode == 0


def test_everything_that_a_user_reads_says_that_it_has_never_run():
    readmes = [
        EXAMPLE / "README.md",
        ROOT / "docs" / "tensorrt-llm.md",
        ROOT / "plugins/costtrace-tensorrt-llm/README.md",
    ]
    for path in readmes:
        assert re.search(r"never run|Nothing here has been run", path.read_text(encoding="utf-8")), path
