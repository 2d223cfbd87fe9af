"""The agent that an engine's process starts."""

import os
import signal
import subprocess
import sys
import time

from costtrace.capture.node_files.agent_lock import RUNNING, status

START = """
import sys
from pathlib import Path
from costtrace.capture.node_files.agent_keeper import AgentKeeper
AgentKeeper(Path(sys.argv[1])).ensure_running()
"""
SHADOWED = ("msgspec", "yaml", "click", "sqlite3", "costtrace")
"""Names that a server's directory may hold a module of, by chance or by design."""


def test_the_agent_imports_nothing_from_the_servers_working_directory(tmp_path):
    home, server = tmp_path / "home", tmp_path / "server"
    server.mkdir()
    for name in SHADOWED:
        (server / f"{name}.py").write_text(
            f"open({str(tmp_path / 'imported')!r}, 'w').write({name!r})\nraise SystemExit(3)\n"
        )
    subprocess.run(
        [sys.executable, "-P", "-c", START, str(home)],
        cwd=server,
        env={**os.environ, "COSTTRACE_SENSOR": "none"},
        check=True,
        timeout=120,
    )
    deadline_s = time.monotonic() + 60
    while status(home).get("state") != RUNNING and not (tmp_path / "imported").exists():
        assert time.monotonic() < deadline_s, (home / "agent.log").read_text()
        time.sleep(0.05)
    if status(home):
        os.kill(int(status(home)["pid"]), signal.SIGTERM)
    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()
