"""The loader in real processes: MPI spawns by mpi4py, both of upstream's ways, and `mpiexec`; with the real .pth file.

The package `tensorrt_llm` is a stub with the names of the contract. Real are the interpreters, the .pth file that is
installed in this environment, MPI, mpi4py's pool, pickling.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
PTH = Path(sys.prefix).glob("lib/python*/site-packages/costtrace-tensorrt-llm.pth")
pytestmark = [
    pytest.mark.skipif(shutil.which("mpiexec", path=BIN) is None, reason="mpich is not installed: run `make setup`"),
    pytest.mark.skipif(not list(PTH), reason="the plugin is not installed with its .pth file: run `make setup`"),
]

PACKAGE = {
    "__init__.py": "",
    "version.py": '__version__ = "1.3.0"\n',
    "_torch/__init__.py": "",
    "_torch/pyexecutor/__init__.py": "",
    "_torch/pyexecutor/llm_request.py": "class LlmRequest: pass\n",
    "_torch/pyexecutor/executor_request_queue.py": """
        import dataclasses
        from typing import Optional

        @dataclasses.dataclass
        class RequestQueueItem:
            id: int
            request: Optional[object] = None
            _ = dataclasses.KW_ONLY
            child_req_ids: Optional[list] = None
        """,
    "_torch/pyexecutor/py_executor.py": """
        from tensorrt_llm._torch.pyexecutor.executor_request_queue import RequestQueueItem
        from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest

        class PyExecutor:
            def _forward_step(self, scheduled_requests, new_tensors_device=None): return "forward"
            def _sample_async(self, scheduled_batch, batch_outputs): return "sample"
            def _handle_responses(self): return []
            def _handle_errors(self, error_msg=None, *, requests=None): return None
            def _process_iter_stats(self, finished_requests, active_requests, batch_state): return None
            def _append_iter_stats(self, stats, req_stats=None, gpu_forward_time_ms=None): return None
            def start_worker(self): return None
            def shutdown(self): return None
        """,
}
WORKER = """
import os, sys

def probe(index):
    before = sorted(name for name in sys.modules if name.startswith("costtrace"))
    from tensorrt_llm._torch.pyexecutor.py_executor import PyExecutor
    executor = PyExecutor()
    executor.__dict__["_costtrace"] = None  # nothing is recorded: no GPU here
    hooked = sorted(name for name in vars(PyExecutor) if hasattr(getattr(PyExecutor, name), "__wrapped__"))
    answer = executor._forward_step([])
    after = sorted(name for name in sys.modules if name.startswith("costtrace"))
    return {"pid": os.getpid(), "before": before, "hooked": hooked, "answer": answer, "after": after}
"""
SPAWN = """
import json, os, sys, time
from mpi4py.futures import MPIPoolExecutor
from worker import probe

if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    with MPIPoolExecutor(max_workers=2, path=sys.path, **options) as pool:
        answers, deadline = {}, time.monotonic() + 60
        while len(answers) < 2 and time.monotonic() < deadline:
            for answer in pool.map(probe, range(8)):
                answers.setdefault(answer["pid"], answer)
    print(json.dumps(list(answers.values())))
"""
STEPS = [
    "_append_iter_stats", "_forward_step", "_handle_errors", "_handle_responses", "_process_iter_stats",
    "_sample_async", "shutdown", "start_worker",
]  # fmt: skip
BOOTSTRAP = ["-c", "from mpi4py.futures.server import main; main()"]


@pytest.fixture
def place(tmp_path):
    for name, text in PACKAGE.items():
        path = tmp_path / "tensorrt_llm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "spawn.py").write_text(SPAWN)
    return tmp_path


def call(place, *words, **env):
    clean = {name: value for name, value in os.environ.items() if "COSTTRACE" not in name}
    clean |= {"PATH": f"{BIN}:{clean.get('PATH', '')}", "PYTHONPATH": str(place), "HYDRA_LAUNCHER": "fork"}
    done = subprocess.run(
        words,
        env=clean | env,
        cwd=place,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def spawned(place, options, **env):
    answers = json.loads(call(place, sys.executable, "spawn.py", json.dumps(options), **env).splitlines()[-1])
    assert len(answers) == 2, "two workers were spawned, and both have answered"
    return answers


def loaded(names):
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="as 1.2 spawns"),
        pytest.param({"python_args": BOOTSTRAP}, id="as main spawns", marks=pytest.mark.heavy),
    ],
)
def test_the_hooks_are_in_place_in_every_spawned_worker_before_their_first_use(place, options):
    for answer in spawned(place, options, TRTLLM_COSTTRACE_ENABLED="1"):
        assert answer["before"] == ["costtrace_tensorrt_llm_autoload"]
        assert answer["hooked"] == STEPS
        assert answer["answer"] == "forward"


@pytest.mark.heavy
def test_a_setting_that_only_mpi4py_forwards_comes_after_the_pth_file_and_is_still_in_time(place):
    for answer in spawned(place, {"env": {"TRTLLM_COSTTRACE_ENABLED": "1"}}):
        assert answer["hooked"] == STEPS


@pytest.mark.parametrize(
    "env",
    [
        pytest.param({}, id="unset"),
        pytest.param(
            {"COSTTRACE_ENABLED": "0", "TRTLLM_COSTTRACE_ENABLED": "1"}, id="switched off", marks=pytest.mark.heavy
        ),
    ],
)
def test_disabled_nothing_is_hooked_and_nothing_is_imported(place, env):
    for answer in spawned(place, {}, **env):
        assert answer["hooked"] == []
        assert answer["after"] == ["costtrace_tensorrt_llm_autoload"]
        assert answer["answer"] == "forward"


def test_the_pth_file_imports_nothing_that_the_interpreter_has_not_loaded_anyway(place):
    program = "import sys, json; print(json.dumps(sorted(sys.modules)))"
    assert "costtrace_tensorrt_llm_autoload" in call(place, sys.executable, "-c", program)
    source = Path(sys.prefix).glob("lib/python*/site-packages/costtrace_tensorrt_llm_autoload.py")
    alone = f"import sys; sys.path.insert(0, {str(next(source).parent)!r}); import costtrace_tensorrt_llm_autoload"
    added = set(json.loads(call(place, sys.executable, "-S", "-c", f"{alone}; {program}", COSTTRACE_ENABLED="1")))
    bare = set(json.loads(call(place, sys.executable, "-S", "-c", program)))
    assert added - bare == {"costtrace_tensorrt_llm_autoload"}


def test_a_plugin_that_cannot_be_loaded_does_not_keep_the_engine_from_starting(place):
    (place / "costtrace").mkdir()
    (place / "costtrace" / "__init__.py").write_text("raise RuntimeError('planted')")
    answer = call(
        place, sys.executable, "-c", "from worker import probe; print(probe(0)['answer'])", COSTTRACE_ENABLED="1"
    )
    assert answer == "forward\n"


NODE = """
import json, os, sys
before = sorted(name for name in sys.modules if name.startswith("costtrace") and "autoload" not in name)
from worker import probe

answer = probe(0)
with open(f"node-{os.getpid()}.json", "w") as out:
    json.dump(answer, out)
"""


def test_the_nodes_that_trtllm_llmapi_launch_starts_are_hooked(place):
    """It runs a module of the package itself, under mpirun, with the launcher's own variables taken out."""
    (place / "tensorrt_llm" / "llmapi").mkdir()
    (place / "tensorrt_llm" / "llmapi" / "__init__.py").touch()
    (place / "tensorrt_llm" / "llmapi" / "mgmn_worker_node.py").write_text(NODE)
    module = "tensorrt_llm.llmapi.mgmn_worker_node"
    call(place, "mpiexec", "-n", "2", sys.executable, "-m", module, TRTLLM_COSTTRACE_ENABLED="1")
    answers = [json.loads(path.read_text()) for path in place.glob("node-*.json")]
    assert [answer["hooked"] for answer in answers] == [STEPS, STEPS]


POOL = """
import json, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from worker import probe

if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=get_context(sys.argv[1])) as pool:
        print(json.dumps(pool.submit(probe, 0).result()))
"""


@pytest.mark.parametrize("way", ["spawn", "forkserver"])
def test_processes_that_python_starts_are_hooked(place, way):
    """As postprocessing workers are, and Ray's: a new interpreter of the same environment with the same variables."""
    (place / "pool.py").write_text(POOL)
    answer = json.loads(call(place, sys.executable, "pool.py", way, TRTLLM_COSTTRACE_ENABLED="1"))
    assert answer["hooked"] == STEPS


BROADCAST = """
import json, sys
from mpi4py import MPI
from tensorrt_llm._torch.pyexecutor.py_executor import RequestQueueItem
from costtrace_tensorrt_llm.server_side import requests
from costtrace_tensorrt_llm.process import process
from costtrace_tensorrt_llm.request_context import RequestContext, decode, encode

comm = MPI.COMM_WORLD
item = None
if comm.rank == 0:
    requests._queueing.text = encode(RequestContext("key", "acme", "header"))
    item = RequestQueueItem(8, "request", child_req_ids=[9])
item = comm.bcast(item, root=0)
tenants = [decode(process.contexts.of(name, -1, -1)).tenant for name in (8, 9)]
answer = comm.gather([comm.rank, tenants, item == RequestQueueItem(8, "request", child_req_ids=[9])], root=0)
if comm.rank == 0:  # lines of two ranks could mix
    print(json.dumps(answer), flush=True)
"""


def test_under_mpiexec_the_tenant_comes_to_every_rank_with_the_broadcast_request(place):
    (place / "broadcast.py").write_text(BROADCAST)
    answer = call(place, "mpiexec", "-n", "2", sys.executable, "broadcast.py", TRTLLM_COSTTRACE_ENABLED="1")
    assert json.loads(answer) == [[0, ["acme", "acme"], True], [1, ["acme", "acme"], True]]
