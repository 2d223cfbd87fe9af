"""Lost hooks and swallowed errors of live processes are counted for metrics."""

import json
import os

from costtrace.agent.node_health import plugins


def test_lost_hooks_and_errors_of_living_processes_are_counted(tmp_path):
    assert plugins(tmp_path) == (0, 0)
    run = tmp_path / "run"
    run.mkdir()
    for name, pid in (("engine", os.getpid()), ("frontend", os.getpid()), ("gone", 2**22 + 1)):
        status = {"pid": pid, "lost_hooks": {"delivered": "no such method"}, "swallowed_errors": {"vllm.http": 2}}
        (run / f"{name}-{pid}.json").write_text(json.dumps(status))
    assert plugins(tmp_path) == (2, 4)
    (run / "engine-1.json").write_text("{")
    (run / "engine-2.json").write_text('{"pid": 1}')
    assert plugins(tmp_path) == (2, 4)
