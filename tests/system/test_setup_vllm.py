import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from costtrace_lab.demo.processes import kill_session, wait_until
from vllm_server import BUILD, VERSIONS, need, oldest_and_newest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

SETUP = Path(__file__).resolve().parents[2] / "tools" / "setup_vllm.py"


def command(folder, *more):
    return [sys.executable, str(SETUP), "--cpu", "--version", VERSIONS[0], "--dir", str(folder), *more]


def output(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True, cwd="/").stdout.strip()


@pytest.fixture
def scratch(tmp_path):
    yield tmp_path / "vllm"
    shutil.rmtree(tmp_path, ignore_errors=True)


@oldest_and_newest
def test_the_environment_is_what_its_description_says(vllm_environment):
    written = json.loads((vllm_environment / "env.json").read_text())
    version = vllm_environment.name.removeprefix("vllm-")
    assert written == {
        "python": str(vllm_environment / "venv" / "bin" / "python"),
        "vllm_version": version,
        "kind": "cpu",
    }
    assert output(vllm_environment / "venv" / "bin" / "vllm", "--version").splitlines()[-1] == f"{version}+cpu"


@oldest_and_newest
def test_costtrace_and_its_plugin_are_installed_in_it_and_not_linked(vllm_environment):
    probe = (
        "import costtrace; from importlib.metadata import version; print(costtrace.__file__, version('costtrace-vllm'))"
    )
    path, version = output(vllm_environment / "venv" / "bin" / "python", "-c", probe).split()
    assert Path(path).is_relative_to(vllm_environment / "venv")
    assert version


def test_a_second_run_changes_nothing_and_says_nothing(vllm_environment):
    before = (vllm_environment / "env.json").stat()
    done = subprocess.run(command(vllm_environment), capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert (vllm_environment / "env.json").stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.heavy
def test_an_interrupted_set_up_is_taken_up_again_and_two_at_once_take_turns(scratch):
    need(BUILD / "cache", "setup-vllm")  # else this fetches everything again
    with subprocess.Popen(command(scratch), stderr=subprocess.DEVNULL, start_new_session=True) as first:
        assert wait_until(lambda: any(scratch.glob("venv/lib/python*/site-packages/torch*")), 300)
        first.send_signal(signal.SIGKILL)
    kill_session(first.pid)
    assert not (scratch / "env.json").exists()

    runs = [subprocess.Popen(command(scratch), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert sum("installing vLLM" in text for text in said) == 1, said
    assert sum("waiting for it to end" in text for text in said) == 1, said
    assert output(scratch / "venv" / "bin" / "vllm", "--version").splitlines()[-1] == f"{VERSIONS[0]}+cpu"


@pytest.mark.heavy
def test_an_existing_vllm_is_used_and_left_untouched(vllm_environment, scratch):
    below = vllm_environment / "venv"
    before = sorted(path.name for path in below.glob("lib/python*/site-packages/*"))
    subprocess.run(
        [
            sys.executable,
            SETUP,
            "--use-existing",
            "--python",
            below / "bin" / "python",
            "--version",
            "0",
            "--dir",
            scratch,
        ],
        check=True,
        capture_output=True,
    )
    written = json.loads((scratch / "env.json").read_text())
    assert (written["kind"], written["vllm_version"]) == ("existing", VERSIONS[0])
    probe = "import vllm, costtrace; print(vllm.__file__, costtrace.__file__)"
    vllm_path, costtrace_path = output(written["python"], "-c", probe).splitlines()[-1].split()
    assert Path(vllm_path).is_relative_to(below)
    assert Path(costtrace_path).is_relative_to(scratch)
    assert sorted(path.name for path in below.glob("lib/python*/site-packages/*")) == before
